package redact

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// AppendValue appends a form of v that is the same for equal values, whatever
// the order of attributes, and differs for different ones. It is for hashing.
func AppendValue(b []byte, v pcommon.Value) []byte { return appendValue(b, v, 0) }

// maxWalk bounds how deep a value is walked; protobuf bounds it too, at 10 000.
const maxWalk = 64

func appendValue(b []byte, v pcommon.Value, depth int) []byte {
	b = append(b, byte(v.Type()))
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return AppendString(b, v.Str())
	case pcommon.ValueTypeBool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case pcommon.ValueTypeInt:
		return binary.BigEndian.AppendUint64(b, uint64(v.Int()))
	case pcommon.ValueTypeDouble:
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Double()))
	case pcommon.ValueTypeBytes:
		b = binary.AppendUvarint(b, uint64(v.Bytes().Len()))
		for _, c := range v.Bytes().All() {
			b = append(b, c)
		}
	case pcommon.ValueTypeSlice:
		b = binary.AppendUvarint(b, uint64(v.Slice().Len()))
		if depth < maxWalk {
			for _, e := range v.Slice().All() {
				b = appendValue(b, e, depth+1)
			}
		}
	case pcommon.ValueTypeMap:
		if depth < maxWalk {
			return appendMap(b, v.Map(), nil, depth+1)
		}
		b = binary.AppendUvarint(b, uint64(v.Map().Len()))
	}
	return b
}

// AppendMap appends m, sorted by key, without the attributes that skip names.
func AppendMap(b []byte, m pcommon.Map, skip func(string) bool) []byte {
	return appendMap(b, m, skip, 0)
}

func appendMap(b []byte, m pcommon.Map, skip func(string) bool, depth int) []byte {
	type attribute struct {
		name  string
		value pcommon.Value
	}
	var buf [64]attribute
	list := buf[:0]
	for name, v := range m.All() {
		if skip == nil || !skip(name) {
			list = append(list, attribute{name, v})
		}
	}
	// Stable: a sender may repeat a name, against the rules.
	slices.SortStableFunc(list, func(a, b attribute) int { return strings.Compare(a.name, b.name) })
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, a := range list {
		b = AppendString(b, a.name)
		b = appendValue(b, a.value, depth)
	}
	return b
}

// AppendString appends s with its length.
func AppendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
