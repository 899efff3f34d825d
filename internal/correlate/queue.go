package correlate

import "bytes"

// The queue of pieces is the arena too. Pieces stand in slabs in order of
// arrival, numbered from 1, and whoever refers to one keeps its number. As none
// holds a pointer the garbage collector passes over all that is pending; as they
// are forgotten in the order in which they came, slabs are used again whole.

// slabPieces is how many pieces stand in a slab: so many that the cost of a slab
// vanishes, so few that one which is partly used does not matter. With 512 of 304
// bytes it is whole pages.
const slabPieces = 512

// slab is a stretch of the queue.
type slab struct {
	pieces  *[slabPieces]piece
	content []byte // of the pieces, packed; nil once all have left
}

// maxSpare bounds what is kept to be used again, of each kind.
const maxSpare = 64

// queue holds the pieces from first up to end, end not included.
type queue struct {
	// A ring, its length a power of two: piece n stands in slabs[n/slabPieces].
	// There is none yet at end if that begins a slab.
	slabs      []slab
	first, end uint64
	released   uint64            // slabs before that of this piece have no content
	kept       map[uint64][]byte // content that stays when the slab's is released

	spare   []*[slabPieces]piece
	buffers [][]byte // for content
}

func newQueue() queue {
	return queue{slabs: []slab{{pieces: new([slabPieces]piece)}}, first: 1, end: 1, kept: make(map[uint64][]byte)}
}

// slab gives the slab in which piece n stands.
func (q *queue) slab(n uint64) *slab {
	return &q.slabs[n/slabPieces&uint64(len(q.slabs)-1)]
}

// at gives piece n of the queue. It does not move until it is dropped.
func (q *queue) at(n uint64) *piece {
	return &q.slab(n).pieces[n%slabPieces]
}

// room makes room at the end for a piece with so much content, and gives its number.
func (q *queue) room(size uint32) uint64 {
	if q.end%slabPieces == 0 {
		q.open()
	}
	s, n := q.slab(q.end), q.end
	from, to := len(s.content), len(s.content)+int(size)
	if to > cap(s.content) {
		all := to * slabPieces / int(n%slabPieces+1) // if the others are like those that are there
		s.content = append(make([]byte, 0, pages(min(all, 2*to))), s.content...)
	}
	s.pieces[n%slabPieces].content, s.content = uint32(from), s.content[:to]
	q.end++
	return n
}

// pages is the capacity for a slab's content of about n bytes. Large memory is given out in whole
// pages.
func pages(n int) int {
	const page = 8 << 10
	return (n + n/32 + page - 1) &^ (page - 1)
}

// put copies p and its content to where there is room for them.
func (q *queue) put(n uint64, p *piece, content []byte) {
	s, at := q.slab(n), q.at(n)
	from := at.content
	*at = *p
	at.number, at.content = n, from
	copy(s.content[from:], content)
}

// open makes the slab that begins at end.
func (q *queue) open() {
	if used := q.end/slabPieces - q.first/slabPieces; used == uint64(len(q.slabs)) {
		old := *q
		q.slabs = make([]slab, 2*used)
		for n := old.first; n/slabPieces < old.end/slabPieces; n += slabPieces {
			*q.slab(n) = *old.slab(n)
		}
	}
	var s slab
	if last := len(q.spare) - 1; last >= 0 {
		s.pieces, q.spare = q.spare[last], q.spare[:last]
	} else {
		s.pieces = new([slabPieces]piece)
	}
	if last := len(q.buffers) - 1; last >= 0 {
		s.content, q.buffers = q.buffers[last], q.buffers[:last]
	} else { // most are about as large as the last
		s.content = make([]byte, 0, pages(len(q.slab(q.end-1).content)))
	}
	*q.slab(q.end) = s
}

// contentOf gives a piece's content until that is released, then nil.
func (q *queue) contentOf(p *piece) []byte {
	switch {
	case p.size == 0:
		return nil
	case p.kept:
		return q.kept[p.number]
	}
	return q.slab(p.number).content[p.content:][:p.size]
}

// keep keeps a piece's content for as long as the piece.
func (q *queue) keep(p *piece) {
	q.kept[p.number] = bytes.Clone(q.contentOf(p))
	p.kept = true
}

// release gives up the content of the pieces before n, but for what is kept.
func (q *queue) release(n uint64) {
	for ; q.released/slabPieces < n/slabPieces; q.released += slabPieces {
		q.empty(q.slab(q.released))
	}
}

func (q *queue) empty(s *slab) {
	if cap(s.content) > 0 && len(q.buffers) < maxSpare {
		q.buffers = append(q.buffers, s.content[:0])
	}
	s.content = nil
}

// drop forgets the pieces before n.
func (q *queue) drop(n uint64) {
	for k := q.first / slabPieces; k < n/slabPieces; k++ {
		q.retire(q.slab(k * slabPieces))
	}
	q.first, q.released = n, max(q.released, n)
}

// truncate takes back the pieces from n on.
func (q *queue) truncate(n uint64) {
	if n == q.end {
		return
	}
	kept := q.at(n).content
	for k := (q.end - 1) / slabPieces; k > (n-1)/slabPieces; k-- {
		q.retire(q.slab(k * slabPieces))
	}
	if n%slabPieces != 0 {
		s := q.slab(n)
		s.content = s.content[:kept]
	}
	q.end = n
}

func (q *queue) retire(s *slab) {
	q.empty(s)
	if len(q.spare) < maxSpare {
		q.spare = append(q.spare, s.pieces)
	}
	*s = slab{}
}
