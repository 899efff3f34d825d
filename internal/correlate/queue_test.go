package correlate

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A queue is a list of pieces with their contents, numbered.
func TestQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue()
		want := map[uint64]string{}
		released := uint64(1)
		some := rapid.IntRange(0, 3*slabPieces)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				for range some.Draw(t, "n") {
					content := fmt.Sprint("content ", q.end)
					p := piece{start: int64(q.end), size: uint32(len(content))}
					n := q.room(p.size)
					q.put(n, &p, []byte(content))
					want[n] = content
				}
			},
			"drop": func(t *rapid.T) {
				q.drop(min(q.end, q.first+uint64(some.Draw(t, "n"))))
				released = max(released, q.first)
				maps.DeleteFunc(want, func(n uint64, _ string) bool { return n < q.first })
			},
			"release": func(t *rapid.T) {
				released = min(q.end, released+uint64(some.Draw(t, "n")))
				for n := q.first; n < released; n++ {
					q.at(n).size = 0
				}
				q.release(released)
			},
			"truncate": func(t *rapid.T) {
				q.truncate(max(released, q.end-min(q.end, uint64(some.Draw(t, "n")))))
				maps.DeleteFunc(want, func(n uint64, _ string) bool { return n >= q.end })
			},
			"": func(t *rapid.T) {
				require.Len(t, want, int(q.end-q.first))
				for n := q.first; n < q.end; n++ {
					p, content := q.at(n), want[n]
					if n < released {
						content = ""
					}
					if p.number != n || p.start != int64(n) || string(q.contentOf(p)) != content {
						t.Fatalf("piece %d is %d from %d, %q", n, p.number, p.start, q.contentOf(p))
					}
				}
				slabs := 0
				for _, s := range q.slabs {
					if s.pieces != nil {
						slabs++
					}
				}
				require.LessOrEqual(t, slabs, int(q.end-q.first)/slabPieces+2, "what was dropped is given up")
			},
		})
	})
}

// An index is a list of pieces for each key of a kind. Few homes make long clusters, also
// around the end; other keys, and those of another kind, have the same low half.
func TestIndex(t *testing.T) {
	key := rapid.Custom(func(t *rapid.T) uint64 {
		home := rapid.SampledFrom([]uint64{0, 1, 2, 14, 15, 30, 31}).Draw(t, "home")
		return uint64(rapid.IntRange(0, 3).Draw(t, "high"))<<32 | uint64(rapid.IntRange(0, 3).Draw(t, "low"))<<20 | home<<kindBits | 1
	})
	type link struct {
		kind lookup
		key  uint64
	}
	kind := rapid.SampledFrom([]lookup{byRequest, byTrace})
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue()
		q.first, q.end = 1<<32-10, 1<<32-10 // numbers' low halves begin anew
		ix := index{queue: &q}
		want := map[link][]uint64{}
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				p := &piece{}
				p.keys[byRequest], p.keys[byTrace] = key.Draw(t, "by request"), key.Draw(t, "by trace")
				n := q.room(0)
				q.put(n, p, nil)
				for _, kind := range [...]lookup{byRequest, byTrace} {
					if ix.insert(kind, q.at(n)) == chained {
						want[link{kind, p.keys[kind]}] = append(want[link{kind, p.keys[kind]}], n)
					}
				}
			},
			"remove": func(t *rapid.T) {
				k := link{kind.Draw(t, "kind"), key.Draw(t, "key")}
				if len(want[k]) == 0 {
					return
				}
				i := rapid.IntRange(0, len(want[k])-1).Draw(t, "which")
				ix.remove(k.kind, q.at(want[k][i]))
				want[k] = slices.Delete(want[k], i, i+1)
			},
			"": func(t *rapid.T) {
				used := 0
				for k, pieces := range want {
					var got []uint64
					for p := ix.first(k.kind, k.key); p != nil; p = ix.next(p, k.kind) {
						got = append(got, p.number)
					}
					if !slices.Equal(pieces, got) {
						t.Fatalf("%v: %v, want %v", k, got, pieces)
					}
					if len(pieces) > 0 {
						used++
					}
				}
				require.Equal(t, used, ix.shards[0].used)
				if k := (link{kind.Draw(t, "of kind"), key.Draw(t, "another")}); len(want[k]) == 0 {
					require.Nil(t, ix.first(k.kind, k.key))
				}
			},
		})
	})
}

func TestIndexShrinks(t *testing.T) {
	q := newQueue()
	ix := index{queue: &q}
	const pieces = 2_000
	for k := range uint64(pieces) {
		p := piece{}
		p.keys[byNode] = k<<kindBits | 1
		n := q.room(0)
		q.put(n, &p, nil)
		require.Equal(t, chained, ix.insert(byNode, q.at(n)))
	}
	for n := q.first; n < q.end; n++ {
		require.Same(t, q.at(n), ix.first(byNode, q.at(n).keys[byNode]))
		ix.remove(byNode, q.at(n))
	}
	require.Len(t, ix.shards[0].slots, minTable)
}

// What is kept in an arena does not move, and what is removed is used again.
func TestArena(t *testing.T) {
	var a arena[int]
	var refs []ref
	for i := range 3 * arenaSlab {
		refs = append(refs, a.add())
		*a.at(refs[i]) = i
	}
	for _, r := range refs[:arenaSlab] {
		a.remove(r)
	}
	for range arenaSlab {
		r := a.add()
		require.Zero(t, *a.at(r))
		require.True(t, slices.Contains(refs[:arenaSlab], r))
	}
	for i, r := range refs[arenaSlab:] {
		require.Equal(t, arenaSlab+i, *a.at(r))
	}
	require.Nil(t, a.at(0))
}
