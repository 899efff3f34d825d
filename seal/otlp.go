package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Signal is what the records of a batch are.
type Signal uint8

const (
	SignalLogs Signal = iota
	SignalTraces
	SignalMetrics
	signalCount
)

func (s Signal) String() string { return [...]string{"logs", "traces", "metrics"}[s] }

// Encoding is the body encoding in the section line.
func (s Signal) encoding() string { return "otlp-" + s.String() + "+zstd" }

func signalOf(encoding string) (Signal, error) {
	for s := range signalCount {
		if encoding == s.encoding() {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown body encoding %q", clip(encoding))
}

// errEnvelope is wrapped by every refusal of an OTLP message.
var errEnvelope = errors.New("not a canonical OTLP message")

func envelopef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errEnvelope, fmt.Sprintf(format, args...))
}

// Protobuf wire types.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// uvarint reads a minimal varint.
func uvarint(b []byte) (v uint64, n int, err error) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1, nil
	}
	v, n = binary.Uvarint(b)
	if n <= 0 {
		return 0, 0, envelopef("varint is cut or too long")
	}
	if b[n-1] == 0 {
		return 0, 0, envelopef("varint is not minimal")
	}
	return v, n, nil
}

// field is one field of a protobuf message. For wireBytes val is the payload,
// for the fixed sizes the little-endian bytes.
type field struct {
	tag  uint64 // field number
	wire uint8
	val  []byte
	size int // of the whole field, tag included
}

// nextField reads the field at the start of b.
func nextField(b []byte) (f field, err error) {
	// Nearly all: a short payload, or a time, in a field of a low number.
	if len(b) >= 2 && b[0] < 0x80 && b[0]>>3 != 0 {
		switch b[0] & 7 {
		case wireBytes:
			if n := 2 + int(b[1]); b[1] < 0x80 && n <= len(b) {
				return field{uint64(b[0] >> 3), wireBytes, b[2:n], n}, nil
			}
		case wire64:
			if len(b) >= 9 {
				return field{uint64(b[0] >> 3), wire64, b[1:9], 9}, nil
			}
		}
	}
	return nextAnyField(b)
}

func nextAnyField(b []byte) (f field, err error) {
	key, n, err := uvarint(b)
	if err != nil {
		return f, err
	}
	f.tag, f.wire = key>>3, uint8(key&7)
	if f.tag == 0 || f.tag >= 1<<29 {
		return f, envelopef("field number %d", f.tag)
	}
	switch f.wire {
	case wireVarint:
		_, m, err := uvarint(b[n:])
		if err != nil {
			return f, err
		}
		f.size = n + m
	case wire64, wire32:
		w := 8
		if f.wire == wire32 {
			w = 4
		}
		if len(b)-n < w {
			return f, envelopef("field %d is cut", f.tag)
		}
		f.val, f.size = b[n:n+w], n+w
	case wireBytes:
		l, m, err := uvarint(b[n:])
		if err != nil {
			return f, err
		}
		n += m
		if l > uint64(len(b)-n) {
			return f, envelopef("field %d is cut", f.tag)
		}
		f.val, f.size = b[n:n+int(l)], n+int(l)
	default:
		return f, envelopef("field %d has wire type %d", f.tag, f.wire)
	}
	return f, nil
}

// Record is one record of a batch, with what it was reported under. The byte
// slices point into the message.
type Record struct {
	Resource, ResourceSchemaURL []byte
	Scope, ScopeSchemaURL       []byte
	Bytes                       []byte // the LogRecord, Span or Metric
}

// reported is what all records of one scope share.
type reported struct {
	resource, resourceURL, scope, scopeURL []byte
}

// context is SHA-256 over len32be(x) || x for each part.
func (r *reported) context() Hash {
	h := sha256.New()
	var l [4]byte
	for _, x := range [...][]byte{r.resource, r.resourceURL, r.scope, r.scopeURL} {
		binary.BigEndian.PutUint32(l[:], uint32(len(x)))
		h.Write(l[:])
		h.Write(x)
	}
	return Hash(h.Sum(nil))
}

// scanScopes walks an Export{Logs,Trace,Metrics}ServiceRequest, whose three
// forms have the same field numbers down to the record, and calls fn for each
// scope with the scope's message. Fields may come in any order; each singular
// one at most once; anything else is refused.
func scanScopes(msg []byte, fn func(*reported, []byte) error) error {
	for len(msg) > 0 {
		f, err := nextField(msg)
		if err != nil {
			return err
		}
		if f.tag != 1 || f.wire != wireBytes {
			return envelopef("request has field %d, wire type %d", f.tag, f.wire)
		}
		msg = msg[f.size:]
		var r reported
		if err := singular(f.val, "resource", &r.resource, &r.resourceURL); err != nil {
			return err
		}
		for rest := f.val; len(rest) > 0; {
			f, err := nextField(rest)
			if err != nil {
				return err
			}
			rest = rest[f.size:]
			if f.tag != 2 {
				continue
			}
			s := reported{resource: r.resource, resourceURL: r.resourceURL}
			if err := singular(f.val, "scope", &s.scope, &s.scopeURL); err != nil {
				return err
			}
			if err := fn(&s, f.val); err != nil {
				return err
			}
		}
	}
	return nil
}

// singular checks the fields of a message that has an object in field 1, a
// schema URL in field 3, each at most once, and a repeated field 2; nothing
// else. Absent equals empty.
func singular(msg []byte, name string, object, url *[]byte) error {
	var seen [4]bool
	for len(msg) > 0 {
		f, err := nextField(msg)
		if err != nil {
			return err
		}
		if f.tag > 3 || f.wire != wireBytes {
			return envelopef("%s level has field %d, wire type %d", name, f.tag, f.wire)
		}
		if f.tag != 2 && seen[f.tag] {
			return envelopef("%s level has field %d twice", name, f.tag)
		}
		seen[f.tag] = true
		switch f.tag {
		case 1:
			*object = f.val
		case 3:
			*url = f.val
		}
		msg = msg[f.size:]
	}
	return nil
}

// scanRecords calls fn for every record of a scope's message, in byte order.
// The message has passed singular.
func scanRecords(scope []byte, fn func(record []byte) error) error {
	for len(scope) > 0 {
		f, err := nextField(scope)
		if err != nil {
			return err
		}
		scope = scope[f.size:]
		if f.tag == 2 {
			if err := fn(f.val); err != nil {
				return err
			}
		}
	}
	return nil
}

// index is what a batch's header and filter say of its records: the span of
// their event times and the filter's keys.
type index struct {
	min, max uint64
	keys     []uint64 // FNV-1a 64 of "name=value"
	waiting  [keyNames]struct {
		n      int
		values [fnvLanes][]byte // trace ids as they are, not yet as digits
	}
}

// key notes a value for the filter. Each byte of an FNV hash waits for the one
// before it, so values are hashed several at once, those of one name together
// because they are about as long.
func (x *index) key(name keyName, value []byte) {
	w := &x.waiting[name]
	w.values[w.n] = value
	if w.n++; w.n == fnvLanes {
		x.hash(name)
	}
}

// hash makes keys of the values that wait under a name.
func (x *index) hash(name keyName) {
	w := &x.waiting[name]
	values, n := w.values, w.n
	w.n = 0
	if name == traceIDKey {
		var digits [fnvLanes][32]byte
		for i := range n {
			hex.Encode(digits[i][:], values[i])
			values[i] = digits[i][:]
		}
	}
	if n == fnvLanes {
		keys := fnv1aLanes(nameStates[name], &values)
		x.keys = append(x.keys, keys[:]...)
		return
	}
	for _, v := range values[:n] {
		x.keys = append(x.keys, fnv1a(nameStates[name], v))
	}
}

// finish makes keys of all values that wait.
func (x *index) finish() {
	for name := range keyNames {
		x.hash(name)
	}
}

func (x *index) time(t uint64) {
	if t == 0 {
		return
	}
	if x.min == 0 || t < x.min {
		x.min = t
	}
	x.max = max(x.max, t)
}

// Where a record keeps its times, trace id and attributes.
type recordFields struct{ time, fallback, end, traceID, attributes uint64 }

var fieldsOf = [...]recordFields{
	SignalLogs:   {time: 1, fallback: 11, traceID: 9, attributes: 6},
	SignalTraces: {time: 7, end: 8, traceID: 1, attributes: 9},
}

// keyName is a name that the filter has keys under.
type keyName uint8

const (
	traceIDKey keyName = iota
	recordIDKey
	requestIDKey
	decisionIDKey
	spiffeIDKey
	userIDKey
	evidenceIDKey
	keyNames
)

// nameStates are the states of the key hash after "name=".
var nameStates = [keyNames]uint64{
	traceIDKey:    fnv1a(fnvBasis, "trace_id="),
	recordIDKey:   fnv1a(fnvBasis, "record_id="),
	requestIDKey:  fnv1a(fnvBasis, "request_id="),
	decisionIDKey: fnv1a(fnvBasis, "decision_id="),
	spiffeIDKey:   fnv1a(fnvBasis, "spiffe_id="),
	userIDKey:     fnv1a(fnvBasis, "user_id="),
	evidenceIDKey: fnv1a(fnvBasis, "evidence_id="),
}

// attributeKey is the name that an attribute has in a batch's filter; its
// string values are keys there.
func attributeKey(attribute []byte) (name keyName, indexed bool) {
	switch string(attribute) {
	case "audit.record.id", "mesh.amends":
		return recordIDKey, true
	case "mesh.join.request_id":
		return requestIDKey, true
	case "mesh.join.decision_id", "mesh.authz.decision.id":
		return decisionIDKey, true
	case "mesh.source.spiffe.id", "mesh.destination.spiffe.id":
		return spiffeIDKey, true
	case "user.id":
		return userIDKey, true
	case "mesh.evidence.id":
		return evidenceIDKey, true
	}
	return 0, false
}

func (x *index) add(sig Signal, rec []byte) error {
	if sig == SignalMetrics {
		return x.addMetric(rec)
	}
	fields := &fieldsOf[sig]
	var at, fallback uint64
	attribute := byte(fields.attributes<<3 | wireBytes)
	for len(rec) > 0 {
		if len(rec) >= 2 && rec[0] == attribute && rec[1] < 0x80 { // most fields are such
			if n := 2 + int(rec[1]); n <= len(rec) {
				if err := x.attribute(rec[2:n]); err != nil {
					return err
				}
				rec = rec[n:]
				continue
			}
		}
		f, err := nextField(rec)
		if err != nil {
			return err
		}
		rec = rec[f.size:]
		switch {
		case f.wire == wire64:
			t := binary.LittleEndian.Uint64(f.val)
			switch f.tag {
			case fields.time:
				at = t
			case fields.fallback:
				fallback = t
			case fields.end:
				x.time(t)
			}
		case f.wire != wireBytes:
		case f.tag == fields.traceID:
			if len(f.val) == 16 && !bytes.Equal(f.val, zero16[:]) {
				x.key(traceIDKey, f.val)
			}
		case f.tag == fields.attributes:
			if err := x.attribute(f.val); err != nil {
				return err
			}
		}
	}
	if at == 0 {
		at = fallback
	}
	x.time(at)
	return nil
}

var zero16 [16]byte

func (x *index) attribute(kv []byte) error {
	// Nearly all: a short key and a short value, the value first or last.
	if a, b, ok := twoShort(kv, 1, 2); ok {
		return x.keyValue(a, b)
	}
	if b, a, ok := twoShort(kv, 2, 1); ok {
		return x.keyValue(a, b)
	}
	var key, val []byte
	for len(kv) > 0 {
		f, err := nextField(kv)
		if err != nil {
			return err
		}
		kv = kv[f.size:]
		switch {
		case f.wire != wireBytes:
		case f.tag == 1:
			key = f.val
		case f.tag == 2:
			val = f.val
		}
	}
	return x.keyValue(key, val)
}

// twoShort takes a message of exactly two fields apart, if both have a payload
// of less than 128 bytes.
func twoShort(b []byte, first, second byte) (x, y []byte, ok bool) {
	if len(b) < 4 || b[0] != first<<3|wireBytes || b[1] >= 0x80 {
		return nil, nil, false
	}
	n := 2 + int(b[1])
	if n+2 > len(b) || b[n] != second<<3|wireBytes || b[n+1] >= 0x80 || n+2+int(b[n+1]) != len(b) {
		return nil, nil, false
	}
	return b[2:n], b[n+2:], true
}

// keyValue notes an attribute, if it is one for the filter.
func (x *index) keyValue(key, val []byte) error {
	name, indexed := attributeKey(key)
	if !indexed {
		return nil
	}
	for len(val) > 0 {
		f, err := nextField(val)
		if err != nil {
			return err
		}
		val = val[f.size:]
		if f.tag == 1 && f.wire == wireBytes && len(f.val) > 0 {
			x.key(name, f.val)
		}
	}
	return nil
}

// addMetric takes the times of a metric's points: gauge, sum, histogram,
// exponential histogram and summary are fields 5, 7, 9, 10 and 11, each with
// points in field 1, each point with its time in field 3.
func (x *index) addMetric(rec []byte) error {
	return eachMessage(rec, func(tag uint64, data []byte) error {
		switch tag {
		case 5, 7, 9, 10, 11:
		default:
			return nil
		}
		return eachMessage(data, func(tag uint64, point []byte) error {
			if tag != 1 {
				return nil
			}
			for len(point) > 0 {
				f, err := nextField(point)
				if err != nil {
					return err
				}
				point = point[f.size:]
				if f.tag == 3 && f.wire == wire64 {
					x.time(binary.LittleEndian.Uint64(f.val))
				}
			}
			return nil
		})
	})
}

func eachMessage(b []byte, fn func(tag uint64, val []byte) error) error {
	for len(b) > 0 {
		f, err := nextField(b)
		if err != nil {
			return err
		}
		b = b[f.size:]
		if f.wire == wireBytes {
			if err := fn(f.tag, f.val); err != nil {
				return err
			}
		}
	}
	return nil
}

// EachRecord calls fn for every record of an OTLP export request, in the
// order in which they are numbered.
func EachRecord(msg []byte, fn func(Record) error) error {
	return scanScopes(msg, func(r *reported, scope []byte) error {
		return scanRecords(scope, func(rec []byte) error {
			return fn(Record{r.resource, r.resourceURL, r.scope, r.scopeURL, rec})
		})
	})
}

// ErrTooLarge: one record does not fit a section. No retry can help.
var ErrTooLarge = errors.New("record is larger than the sealed log can hold")

// split cuts a request into ones of at most maxBytes and maxRecords, each
// again a valid request with every record under what it was reported under.
func split(msg []byte, maxBytes, maxRecords int) ([][]byte, error) {
	var parts [][]byte
	var cur []byte
	n := 0
	err := scanScopes(msg, func(r *reported, scope []byte) error {
		// A scope is written as one ResourceX message with one ScopeX
		// message, whose lengths are known once its records are.
		overhead := len(r.resource) + len(r.resourceURL) + len(r.scope) + len(r.scopeURL) + 64
		var pending [][]byte
		size := 0
		flush := func() {
			if len(pending) > 0 {
				cur = appendScope(cur, r, pending)
				pending, size = pending[:0], 0
			}
		}
		err := scanRecords(scope, func(rec []byte) error {
			need := len(rec) + 12
			if need+overhead > maxBytes {
				return fmt.Errorf("%w: %d bytes with its resource and scope, at most %d fit", ErrTooLarge, need+overhead, maxBytes)
			}
			if len(cur)+size+need+overhead > maxBytes || n == maxRecords {
				flush()
				parts = append(parts, cur)
				cur, n = nil, 0
			}
			pending, size, n = append(pending, rec), size+need, n+1
			return nil
		})
		flush()
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(cur) > 0 {
		parts = append(parts, cur)
	}
	return parts, nil
}

func appendScope(b []byte, r *reported, records [][]byte) []byte {
	var scope []byte
	scope = appendBytesField(scope, 1, r.scope)
	for _, rec := range records {
		scope = binary.AppendUvarint(append(scope, 2<<3|wireBytes), uint64(len(rec)))
		scope = append(scope, rec...)
	}
	scope = appendBytesField(scope, 3, r.scopeURL)
	var res []byte
	res = appendBytesField(res, 1, r.resource)
	res = appendBytesField(res, 2, scope)
	res = appendBytesField(res, 3, r.resourceURL)
	return appendBytesField(b, 1, res)
}

func appendBytesField(b []byte, tag byte, val []byte) []byte {
	if len(val) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, tag<<3|wireBytes), uint64(len(val)))
	return append(b, val...)
}
