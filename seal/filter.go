package seal

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// The filter of a batch answers "may this batch hold a record with this
// trace id, identity, …" without decompressing it. It is for speed: verify
// computes it again, so that it cannot hide a record.

const fnvBasis = uint64(0xcbf29ce484222325)

// fnv1a continues FNV-1a 64 from the state h.
func fnv1a[T string | []byte](h uint64, s T) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return h
}

// fnvLanes is how many hashes are computed at once.
const fnvLanes = 4

// fnv1aLanes is fnv1a of several values, each from the state h.
func fnv1aLanes(h uint64, s *[fnvLanes][]byte) [fnvLanes]uint64 {
	const prime = 0x100000001b3
	n := min(len(s[0]), len(s[1]), len(s[2]), len(s[3]))
	s0 := s[0][:n]
	s1, s2, s3 := s[1][:len(s0)], s[2][:len(s0)], s[3][:len(s0)]
	h0, h1, h2, h3 := h, h, h, h
	for i := range s0 {
		h0 = (h0 ^ uint64(s0[i])) * prime
		h1 = (h1 ^ uint64(s1[i])) * prime
		h2 = (h2 ^ uint64(s2[i])) * prime
		h3 = (h3 ^ uint64(s3[i])) * prime
	}
	return [fnvLanes]uint64{fnv1a(h0, s[0][n:]), fnv1a(h1, s[1][n:]), fnv1a(h2, s[2][n:]), fnv1a(h3, s[3][n:])}
}

// FilterKey is the key of one name and value, e.g. "trace_id" and 32 hex
// digits, for Filter.MayContain.
func FilterKey(name, value string) uint64 { return fnv1a(fnv1a(fnvBasis, name+"="), value) }

// mix is the finalizer of splitmix64.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// filterBuilder makes filters; it keeps its buffer between them.
type filterBuilder struct{ slots []uint64 }

// append appends nonce || bits for the given keys, of which it keeps the
// distinct ones, in place.
func (f *filterBuilder) append(b []byte, nonce [nonceBytes]byte, keys []uint64) []byte {
	keys = f.distinct(keys, binary.LittleEndian.Uint64(nonce[:]))
	m := 64 * uint64((len(keys)*filterBitsPerKey+63)/64)
	b = append(b, nonce[:]...)
	start := len(b)
	b = slices.Grow(b, int(m/8))[:start+int(m/8)]
	field := b[start:]
	clear(field)
	for _, h := range keys {
		h1 := mix(h)
		h2 := mix(h1) | 1
		for range filterHashes {
			i := h1 % m
			field[i/8] |= 1 << (i % 8)
			h1 += h2
		}
	}
	return b
}

// distinct keeps each key once. It is a hash set with open addressing; salt
// makes its order unknown to who chose the keys, so that they cannot collide
// on purpose.
func (f *filterBuilder) distinct(keys []uint64, salt uint64) []uint64 {
	n := 1 << bits.Len(uint(2*len(keys)))
	f.slots = slices.Grow(f.slots[:0], n)[:n]
	clear(f.slots)
	kept, zero := keys[:0], false
	for _, k := range keys {
		if k == 0 { // marks an empty slot
			if !zero {
				zero = true
				kept = append(kept, k)
			}
			continue
		}
		i := mix(k^salt) & uint64(n-1)
		for f.slots[i] != 0 && f.slots[i] != k {
			i = (i + 1) & uint64(n-1)
		}
		if f.slots[i] == 0 {
			f.slots[i] = k
			kept = append(kept, k)
		}
	}
	return kept
}

// Filter is a batch's filter section, as stored.
type Filter []byte

// MayContain reports whether a record with this key may be in the batch.
// False is certain.
func (f Filter) MayContain(key uint64) bool {
	if len(f) <= nonceBytes {
		return false
	}
	bits := f[nonceBytes:]
	m := 8 * uint64(len(bits))
	h1 := mix(key)
	h2 := mix(h1) | 1
	for range filterHashes {
		i := h1 % m
		if bits[i/8]&(1<<(i%8)) == 0 {
			return false
		}
		h1 += h2
	}
	return true
}
