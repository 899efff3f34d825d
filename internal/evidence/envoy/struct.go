package envoy

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// A protoStruct is a serialized google.protobuf.Struct, read where it lies: of all
// that filters and proxies tell in such objects a few strings are kept. As in
// JSON the last of two fields of one name counts. One that is malformed is empty
// from where it is on.
type protoStruct string

// A protoValue is a serialized google.protobuf.Value.
type protoValue string

// Fields of a Value. A bool, null and what is not known are no more than there.
const (
	numberValue = 2<<3 | fixed64Type
	stringValue = 3<<3 | bytesType
	boolValue   = 4<<3 | varintType
	structValue = 5<<3 | bytesType
	listValue   = 6<<3 | bytesType
)

// fields calls f for each field, which may come again.
func (o protoStruct) fields(f func(name string, v protoValue)) {
	w := wire{s: string(o)}
	for w.more() {
		if field := w.next(); field.tag == 1<<3|bytesType {
			name, v := w.pair(field.s)
			f(name, protoValue(v))
		}
	}
}

// get gives a field, which is empty if it is absent.
func (o protoStruct) get(name string) (found protoValue) {
	o.fields(func(n string, v protoValue) {
		if n == name {
			found = v
		}
	})
	return found
}

// text gives a bounded string field, "" if it is absent or no string.
func (o protoStruct) text(name string) string {
	f := o.get(name).field()
	if f.tag != stringValue {
		return ""
	}
	return evidence.Text(f.s, evidence.MaxName)
}

// object gives a field that is one, else an empty one.
func (o protoStruct) object(name string) protoStruct { return o.get(name).object() }

func (v protoValue) object() protoStruct {
	if f := v.field(); f.tag == structValue {
		return protoStruct(f.s)
	}
	return ""
}

// field is what the value is: the last that it says.
func (v protoValue) field() (kind field) {
	w := wire{s: string(v)}
	for w.more() {
		switch f := w.next(); f.tag {
		case numberValue, stringValue, boolValue, structValue, listValue, 1<<3 | varintType:
			kind = f
		}
	}
	if w.bad {
		return field{}
	}
	return kind
}

// maxDepth of what becomes JSON: many times what claims are nested.
const maxDepth = 64

// appendJSON appends o as JSON. It is false if there is a number that JSON does
// not have, or o is nested too deep.
func (o protoStruct) appendJSON(b []byte, depth int) ([]byte, bool) {
	ok := true
	b = append(b, '{')
	begin := len(b)
	o.fields(func(name string, v protoValue) {
		if !ok {
			return
		}
		if len(b) > begin {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, name), ':')
		b, ok = v.appendJSON(b, depth)
	})
	return append(b, '}'), ok
}

func (v protoValue) appendJSON(b []byte, depth int) ([]byte, bool) {
	if depth == maxDepth {
		return b, false
	}
	switch f := v.field(); f.tag {
	case stringValue:
		return appendQuoted(b, f.s), true
	case boolValue:
		return strconv.AppendBool(b, f.v != 0), true
	case numberValue:
		n := math.Float64frombits(f.v)
		if math.IsNaN(n) || math.IsInf(n, 0) {
			return b, false
		}
		return strconv.AppendFloat(b, n, 'g', -1, 64), true
	case structValue:
		return protoStruct(f.s).appendJSON(b, depth+1)
	case listValue:
		ok := true
		b = append(b, '[')
		begin := len(b)
		w := wire{s: f.s}
		for ok && w.more() {
			if item := w.next(); item.tag == 1<<3|bytesType {
				if len(b) > begin {
					b = append(b, ',')
				}
				b, ok = protoValue(item.s).appendJSON(b, depth+1)
			}
		}
		return append(b, ']'), ok
	}
	return append(b, "null"...), true
}

// appendQuoted appends a JSON string.
func appendQuoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s) // in which broken text is replaced
			if err != nil {
				panic(err) // a string always has one
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// anyOf gives the value of a serialized google.protobuf.Any that is of a type
// of that package.
func anyOf(any, name string) (string, bool) {
	var w wire
	url, v := w.pair(any) // an Any has its fields where a map's entry has them
	url = url[strings.LastIndexByte(url, '/')+1:]
	return v, !w.bad && url == "google.protobuf."+name
}
