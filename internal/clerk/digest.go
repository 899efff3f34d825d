package clerk

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/redact"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// What an evidence id is made of: all that is sealed of a piece of evidence, in one form.

// evidenceID is SHA-256 over the source, its own position and the digest of the
// content.
func evidenceID(e *evidence.Evidence) evidence.ID {
	b := make([]byte, 0, 256)
	b = redact.AppendString(b, string(e.Source))
	b = redact.AppendString(b, e.Position)
	return sha256.Sum256(append(b, e.Digest[:]...))
}

func (in *intake) digest(appendTo func([]byte) []byte) [32]byte {
	b := appendTo(in.hashed[:0])
	in.hashed = b
	return sha256.Sum256(b)
}

// under is a digest of what records are reported under.
func (in *intake) under(r pcommon.Resource, s pcommon.InstrumentationScope) [32]byte {
	return in.digest(func(b []byte) []byte {
		b = redact.AppendMap(b, r.Attributes(), nil)
		b = redact.AppendString(b, s.Name())
		b = redact.AppendString(b, s.Version())
		return redact.AppendMap(b, s.Attributes(), nil)
	})
}

// notContent tells the attributes that are written here and so are no part
// of what the source said.
func notContent(name string) bool {
	if !strings.HasPrefix(name, semconv.EvidencePrefix) {
		return false
	}
	switch name {
	case semconv.EvidenceID, semconv.EvidenceSource, semconv.EvidenceRole, semconv.EvidenceRedacted, semconv.EvidenceRoute:
		return true
	}
	return strings.HasPrefix(name, semconv.EvidencePrefix+"reporter.")
}

// appendSpan appends all of a span that is sealed, in one form.
func appendSpan(b []byte, s ptrace.Span) []byte {
	t, id, parent := s.TraceID(), s.SpanID(), s.ParentSpanID()
	b = append(append(append(b, t[:]...), id[:]...), parent[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.StartTimestamp()))
	b = binary.BigEndian.AppendUint64(b, uint64(s.EndTimestamp()))
	b = append(b, byte(s.Kind()), byte(s.Status().Code()))
	b = redact.AppendString(b, s.Name())
	b = redact.AppendMap(b, s.Attributes(), notContent)
	for _, e := range s.Events().All() {
		b = binary.BigEndian.AppendUint64(b, uint64(e.Timestamp()))
		b = redact.AppendString(b, e.Name())
		b = redact.AppendMap(b, e.Attributes(), nil)
	}
	for _, l := range s.Links().All() {
		t, id := l.TraceID(), l.SpanID()
		b = append(append(b, t[:]...), id[:]...)
	}
	return b
}

// appendLog appends all of a log record that is sealed, but when it was
// observed, in one form.
func appendLog(b []byte, lr plog.LogRecord) []byte {
	t, id := lr.TraceID(), lr.SpanID()
	b = append(append(b, t[:]...), id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(lr.Timestamp()))
	b = binary.BigEndian.AppendUint32(b, uint32(lr.SeverityNumber()))
	b = redact.AppendString(b, lr.SeverityText())
	b = redact.AppendString(b, lr.EventName())
	b = redact.AppendMap(b, lr.Attributes(), notContent)
	return redact.AppendValue(b, lr.Body())
}
