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

func shardOf(key uint64) int { return int(key >> (64 - shardBits)) }

// first gives the first piece of a key's chain, nil if there is none.
func (ix *index) first(key uint64) *piece {
	if n := ix.shards[shardOf(key)].get(key); n != 0 {
		return ix.queue.at(n)
	}
	return nil
}

// touch reads where a key stands, or would.
func (ix *index) touch(key uint64) uint64 {
	if t := &ix.shards[shardOf(key)]; len(t.slots) > 0 {
		return t.slots[t.home(key)].key
	}
	return 0
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

// insert appends p, which is newer than all in it, to the chain of a key.
func (ix *index) insert(kind lookup, key uint64, p *piece) inserted {
	at := ix.shards[shardOf(key)].add(key, p.number)
	if at == p.number {
		return chained
	}
	q := ix.queue.at(at)
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

// remove takes p out of the chain of a key, if it is there.
func (ix *index) remove(kind lookup, key uint64, p *piece) {
	t := &ix.shards[shardOf(key)]
	q := ix.first(key)
	if q == p {
		if d := p.chain[kind]; d != 0 {
			t.set(key, p.number+uint64(d))
		} else {
			t.remove(key)
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

// table is a hash table of keys that are hashes already: open addressing,
// linear probing, no tombstones. With a million pieces pending nearly every
// look-up misses the caches, and takes half as long as in Go's map.
type table struct {
	slots []slot // its length is a power of two
	used  int
}

type slot struct{ key, piece uint64 } // key 0: free

const minTable = 16

// find gives the slot of a key, or the free one where it belongs.
func (t *table) find(key uint64) *slot {
	mask := uint64(len(t.slots) - 1)
	for i := t.home(key); ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.key == key || s.key == 0 {
			return s
		}
	}
}

// home is where a key is looked for first. Its lowest bit is always set, its
// highest have chosen the shard.
func (t *table) home(key uint64) uint64 {
	return key >> 1 & uint64(len(t.slots)-1)
}

func (t *table) get(key uint64) uint64 {
	if t.used == 0 {
		return 0
	}
	return t.find(key).piece
}

// add gives the piece at a key, which is n if there was none.
func (t *table) add(key, n uint64) uint64 {
	if 3*(t.used+1) > 2*len(t.slots) {
		t.resize(max(minTable, 2*len(t.slots)))
	}
	s := t.find(key)
	if s.key == 0 {
		*s = slot{key, n}
		t.used++
	}
	return s.piece
}

func (t *table) set(key, n uint64) { t.find(key).piece = n }

func (t *table) remove(key uint64) {
	mask := uint64(len(t.slots) - 1)
	free := t.home(key)
	for t.slots[free].key != key {
		free = (free + 1) & mask
	}
	// What follows moves up, unless it stands at home or behind.
	for i := (free + 1) & mask; t.slots[i].key != 0; i = (i + 1) & mask {
		if (i-t.home(t.slots[i].key))&mask >= (i-free)&mask {
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
		if s.key != 0 {
			*t.find(s.key) = s
		}
	}
}
