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

// A table is a map. Few homes make long clusters, also around the end.
func TestTable(t *testing.T) {
	key := rapid.Custom(func(t *rapid.T) uint64 {
		home := rapid.SampledFrom([]uint64{0, 1, 2, 14, 15, 30, 31}).Draw(t, "home")
		return uint64(rapid.IntRange(0, 9).Draw(t, "high"))<<20 | home<<1 | 1
	})
	rapid.Check(t, func(t *rapid.T) {
		var got table
		want := map[uint64]uint64{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				k, n := key.Draw(t, "key"), rapid.Uint64Min(1).Draw(t, "piece")
				if _, ok := want[k]; !ok {
					want[k] = n
				}
				require.Equal(t, want[k], got.add(k, n))
			},
			"change": func(t *rapid.T) {
				if k := key.Draw(t, "key"); want[k] != 0 {
					want[k]++
					got.set(k, want[k])
				}
			},
			"remove": func(t *rapid.T) {
				if k := key.Draw(t, "key"); want[k] != 0 {
					delete(want, k)
					got.remove(k)
				}
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(want), got.used)
				for k := range want {
					require.Equal(t, want[k], got.get(k))
				}
				for range 3 {
					k := key.Draw(t, "another")
					require.Equal(t, want[k], got.get(k))
				}
			},
		})
	})
}

func TestTableShrinks(t *testing.T) {
	var all table
	for k := range uint64(2_000) {
		all.add(2*k+1, k+1)
	}
	for k := range uint64(2_000) {
		require.Equal(t, k+1, all.get(2*k+1))
		all.remove(2*k + 1)
	}
	require.Len(t, all.slots, minTable)
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
