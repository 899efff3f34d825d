package seal

import (
	"slices"
)

// The filter of a batch answers "may this batch hold a record with this
// trace id, identity, …" without decompressing it. It is for speed: verify
// computes it again, so that it cannot hide a record.

func filterKey[T string | []byte](name string, value T) uint64 {
	h := uint64(0xcbf29ce484222325) // FNV-1a 64
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	h = (h ^ '=') * 0x100000001b3
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * 0x100000001b3
	}
	return h
}

// FilterKey is the key of one name and value, e.g. "trace_id" and 32 hex
// digits, for Filter.MayContain.
func FilterKey(name, value string) uint64 { return filterKey(name, value) }

// mix is the finalizer of splitmix64.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// appendFilter appends nonce || bits for the given keys, which it sorts and
// deduplicates in place.
func appendFilter(b []byte, nonce [nonceBytes]byte, keys []uint64) []byte {
	slices.Sort(keys)
	keys = slices.Compact(keys)
	m := 64 * uint64((len(keys)*filterBitsPerKey+63)/64)
	b = append(b, nonce[:]...)
	start := len(b)
	b = slices.Grow(b, int(m/8))[:start+int(m/8)]
	bits := b[start:]
	clear(bits)
	for _, h := range keys {
		h1 := mix(h)
		h2 := mix(h1) | 1
		for range filterHashes {
			i := h1 % m
			bits[i/8] |= 1 << (i % 8)
			h1 += h2
		}
	}
	return b
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
