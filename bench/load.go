package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// load is what senders do: each sends one request after the other, as soon as
// the one before is acknowledged.
type load struct{ senders, records int }

func (l load) String() string { return fmt.Sprintf("%d × %d", l.senders, l.records) }

// resourcesPerRequest: the workloads whose records a large request carries.
const resourcesPerRequest = 8

// newRequest makes an OTLP request of about 500 bytes a record: calls between
// the workloads of a shop, as audit records.
func newRequest(rng *rand.Rand, records int) plog.Logs {
	ld := plog.NewLogs()
	workloads := []string{"gateway", "frontend", "checkout", "orders", "payments", "inventory", "shipping", "recommendation", "currency", "mail"}
	methods := []string{"GET", "GET", "GET", "POST", "PUT", "DELETE"}
	statuses := []int64{200, 200, 200, 200, 201, 204, 403, 404, 503}
	now := time.Now().UnixNano()
	resources := min(resourcesPerRequest, records)
	for r := range resources {
		own := workloads[rng.IntN(len(workloads))]
		rl := ld.ResourceLogs().AppendEmpty()
		a := rl.Resource().Attributes()
		a.PutStr("service.name", own)
		a.PutStr("k8s.namespace.name", "shop")
		a.PutStr("k8s.pod.name", fmt.Sprintf("%s-%08x-%05x", own, rng.Uint32(), rng.Uint32()>>12))
		a.PutStr("k8s.node.name", fmt.Sprintf("node-%d", rng.IntN(20)))
		sl := rl.ScopeLogs().AppendEmpty()
		sl.Scope().SetName("github.com/meshaudit/meshaudit/processor/meshauditprocessor")
		for range (records + r) / resources {
			rec := sl.LogRecords().AppendEmpty()
			now += rng.Int64N(int64(time.Millisecond))
			rec.SetTimestamp(pcommon.Timestamp(now))
			rec.SetObservedTimestamp(pcommon.Timestamp(now + rng.Int64N(int64(time.Second))))
			rec.SetEventName(semconv.EventRequest)
			u := newIDs(rng)
			rec.SetTraceID(u.trace)
			rec.SetSpanID(u.span)
			status := statuses[rng.IntN(len(statuses))]
			verdict := "allow"
			if status == 403 {
				verdict = "deny"
			}
			a := rec.Attributes()
			a.PutStr(semconv.AuditRecordID, u.recordText())
			a.PutStr(semconv.SourceSPIFFEID, "spiffe://example.org/ns/shop/sa/"+workloads[rng.IntN(len(workloads))])
			a.PutStr(semconv.DestinationSPIFFEID, "spiffe://example.org/ns/shop/sa/"+own)
			a.PutStr(semconv.HTTPRequestMethod, methods[rng.IntN(len(methods))])
			a.PutStr(semconv.URLPath, fmt.Sprintf("/api/%s/%d", own, rng.IntN(100000)))
			a.PutInt(semconv.HTTPResponseStatusCode, status)
			a.PutStr(semconv.AuthzDecision, verdict)
			a.PutStr(semconv.JoinRequestID, u.requestText())
			a.PutInt(semconv.MeshDuration, rng.Int64N(int64(100*time.Millisecond)))
		}
	}
	return ld
}

// ids are one record's own.
type ids struct {
	record  [32]byte
	trace   [16]byte
	span    [8]byte
	request [16]byte
}

func newIDs(rng *rand.Rand) (u ids) {
	for _, b := range [][]byte{u.record[:], u.trace[:], u.span[:], u.request[:]} {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
	return u
}

func (u *ids) recordText() string { return hex.EncodeToString(u.record[:]) }

// requestText is a UUID, as Envoy makes them.
func (u *ids) requestText() string {
	x := hex.EncodeToString(u.request[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// source gives one sender's requests. They are encoded beforehand, and only the
// ids, which are random, are written anew each time: so the load costs little
// and no record is sent twice.
type source struct {
	random   *rand.ChaCha8
	prepared []prepared
	next     int
}

// prepared is an encoded request; the slices of its ids point into it.
type prepared struct {
	message []byte
	hexIDs  [][]byte // as digits: record ids and the first part of request ids
	rawIDs  [][]byte // as they are: trace and span ids
}

// preparedRecords is how many records a source prepares at least.
const preparedRecords = 256

func newSource(seed uint64, records int) (*source, error) {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	s := &source{random: rand.NewChaCha8(key)}
	rng := rand.New(s.random)
	m := plog.ProtoMarshaler{}
	for range max(1, preparedRecords/records) {
		ld := newRequest(rng, records)
		message, err := m.MarshalLogs(ld)
		if err != nil {
			return nil, err
		}
		p := prepared{message: message}
		if err := p.find(ld); err != nil {
			return nil, err
		}
		s.prepared = append(s.prepared, p)
	}
	return s, nil
}

// find finds the ids of ld's records in the encoded message.
func (p *prepared) find(ld plog.Logs) error {
	var records []plog.LogRecord
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				records = append(records, r)
			}
		}
	}
	i := 0
	return seal.EachRecord(p.message, func(encoded seal.Record) error {
		r := records[i]
		i++
		place := func(id string) []byte {
			at := bytes.Index(encoded.Bytes, []byte(id))
			if at < 0 {
				panic("an encoded record does not hold its id")
			}
			return encoded.Bytes[at : at+len(id)]
		}
		attribute := func(name string) string { v, _ := r.Attributes().Get(name); return v.Str() }
		trace, span := r.TraceID(), r.SpanID()
		p.hexIDs = append(p.hexIDs, place(attribute(semconv.AuditRecordID)), place(attribute(semconv.JoinRequestID))[:8])
		p.rawIDs = append(p.rawIDs, place(string(trace[:])), place(string(span[:])))
		return nil
	})
}

// request gives the next request, valid until the same one comes round again,
// at the earliest at the next call.
func (s *source) request() []byte {
	p := &s.prepared[s.next]
	s.next = (s.next + 1) % len(s.prepared)
	var raw [32]byte
	for _, id := range p.hexIDs {
		half := raw[:len(id)/2]
		s.random.Read(half)
		hex.Encode(id, half)
	}
	for _, id := range p.rawIDs {
		s.random.Read(id)
	}
	return p.message
}
