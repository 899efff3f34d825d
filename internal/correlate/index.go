package correlate

// maxChain bounds the pieces that one key leads to, and so the work that an
// adversary who repeats a request id can cause. Beyond it pieces are still
// recorded, but joins by that key are in doubt.
const maxChain = 64

// shards of the index: a worker that adds or removes pieces does so in shards of
// its own, so that none waits for another. It is a power of two.
const (
	shardBits = 6
	shards    = 1 << shardBits
)

// index finds pieces by key: a key leads to the first piece of a chain, oldest
// first, and each piece of a chain tells the next.
type index struct {
	queue  *queue
	shards [shards]table
}

// table is a hash table of keys that are hashes already: open addressing,
// linear probing, no tombstones. With a million pieces pending nearly every
// look-up misses the caches, and takes half as long as in Go's map.
type table struct {
	slots []slot // its length is a power of two
	used  int
}

// slot holds the kind of a key and a part of it, whose first piece has all of it, and the low half of
// that piece's number: the queue is never so long that this could be of two.
type slot struct{ tag, piece uint32 } // tag 0: free

// kindBits of a tag tell the kind, so that two keys of one piece never share a slot.
const kindBits = 3

func tagOf(kind lookup, key uint64) uint32 { return uint32(key)>>kindBits<<kindBits | uint32(kind+1) }

const minTable = 16

func shardOf(key uint64) int { return int(key >> (64 - shardBits)) }

func (ix *index) table(key uint64) *table { return &ix.shards[shardOf(key)] }

// home is where a tag is looked for first.
func (t *table) home(tag uint32) uint32 { return tag >> kindBits & uint32(len(t.slots)-1) }

// at gives the first piece of a slot's chain.
func (ix *index) at(s *slot) *piece {
	first := ix.queue.first
	return ix.queue.at(first + uint64(s.piece-uint32(first)))
}

// find gives where in a table that is not empty the slot of a key is, or the free one where
// it belongs.
func (ix *index) find(t *table, kind lookup, key uint64) uint32 {
	tag, mask := tagOf(kind, key), uint32(len(t.slots)-1)
	for i := t.home(tag); ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.tag == 0 || s.tag == tag && ix.at(s).keys[kind] == key {
			return i
		}
	}
}

// touch reads where a key stands, or would.
func (ix *index) touch(key uint64) uint32 {
	if t := ix.table(key); len(t.slots) > 0 {
		return t.slots[t.home(uint32(key))].tag
	}
	return 0
}

// first gives the first piece of a key's chain, nil if there is none.
func (ix *index) first(kind lookup, key uint64) *piece {
	t := ix.table(key)
	if t.used == 0 {
		return nil
	}
	if s := &t.slots[ix.find(t, kind, key)]; s.tag != 0 {
		return ix.at(s)
	}
	return nil
}

// next gives the piece after p in its chain of a kind.
func (ix *index) next(p *piece, kind lookup) *piece {
	if d := p.chain[kind]; d != 0 {
		return ix.queue.at(p.number + uint64(d))
	}
	return nil
}

// inserted is what became of a piece that was to join a chain.
type inserted uint8

const (
	chained inserted = iota
	full             // the chain is
	known            // byID: the same evidence is there
)

// insert appends p, which is newer than all in it, to the chain of its key of a kind.
func (ix *index) insert(kind lookup, p *piece) inserted {
	key := p.keys[kind]
	t := ix.table(key)
	if 3*(t.used+1) > 2*len(t.slots) {
		t.resize(max(minTable, 2*len(t.slots)))
	}
	s := &t.slots[ix.find(t, kind, key)]
	if s.tag == 0 {
		*s = slot{tagOf(kind, key), uint32(p.number)}
		t.used++
		return chained
	}
	q := ix.at(s)
	for n := 1; ; n++ {
		switch {
		case kind == byID && q.id == p.id:
			return known
		case n == maxChain:
			return full
		case q.chain[kind] == 0:
			q.chain[kind] = uint32(p.number - q.number)
			return chained
		}
		q = ix.next(q, kind)
	}
}

// remove takes p out of the chain of its key of a kind, if it is there.
func (ix *index) remove(kind lookup, p *piece) {
	q := ix.first(kind, p.keys[kind])
	if q == p {
		t := ix.table(p.keys[kind])
		at := ix.find(t, kind, p.keys[kind])
		if d := p.chain[kind]; d != 0 {
			t.slots[at].piece += d
		} else {
			t.remove(at)
		}
		return
	}
	for ; q != nil; q = ix.next(q, kind) {
		if q.chain[kind] != 0 && q.number+uint64(q.chain[kind]) == p.number {
			if q.chain[kind] = 0; p.chain[kind] != 0 {
				q.chain[kind] = uint32(p.number-q.number) + p.chain[kind]
			}
			return
		}
	}
}

// remove frees a slot.
func (t *table) remove(free uint32) {
	mask := uint32(len(t.slots) - 1)
	// What follows moves up, unless it stands at home or behind.
	for i := (free + 1) & mask; t.slots[i].tag != 0; i = (i + 1) & mask {
		if (i-t.home(t.slots[i].tag))&mask >= (i-free)&mask {
			t.slots[free] = t.slots[i]
			free = i
		}
	}
	t.slots[free] = slot{}
	t.used--
	if len(t.slots) > minTable && 8*t.used < len(t.slots) {
		t.resize(len(t.slots) / 2)
	}
}

func (t *table) resize(n int) {
	old := t.slots
	t.slots = make([]slot, n)
	for _, s := range old {
		if s.tag != 0 {
			i := t.home(s.tag)
			for t.slots[i].tag != 0 {
				i = (i + 1) & uint32(n-1)
			}
			t.slots[i] = s
		}
	}
}
