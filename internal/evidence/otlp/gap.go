package otlp

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// EncodeGap writes a mesh.evidence.gap record to lr. Decode does not take it
// for evidence.
func EncodeGap(g *evidence.Gap, lr plog.LogRecord) {
	lr.SetEventName(semconv.EventEvidenceGap)
	lr.SetTimestamp(pcommon.Timestamp(g.Since))
	lr.SetSeverityNumber(plog.SeverityNumberError)
	PutGap(g, lr)
}

// PutGap states a gap among the attributes of lr, which may be an event of its own.
func PutGap(g *evidence.Gap, lr plog.LogRecord) {
	m := lr.Attributes()
	w := writer{m}
	m.PutStr(semconv.EvidenceSource, string(g.Source))
	w.str(semconv.EvidencePosition, g.Position)
	encodeReporter(w, &g.Reporter)
	m.PutStr(semconv.GapReason, g.Reason)
	w.num(semconv.GapCount, g.Count)
	m.PutInt(semconv.GapSince, g.Since)
	m.PutInt(semconv.GapUntil, g.Until)
}

// DecodeGap reads what EncodeGap wrote; false if lr is none.
func DecodeGap(lr plog.LogRecord) (g evidence.Gap, ok bool) {
	if lr.EventName() != semconv.EventEvidenceGap {
		return g, false
	}
	return GapOf(lr), true
}

// GapOf reads what PutGap wrote.
func GapOf(lr plog.LogRecord) (g evidence.Gap) {
	for name, v := range lr.Attributes().All() {
		switch name {
		case semconv.EvidenceSource:
			g.Source = evidence.Source(v.Str())
		case semconv.EvidencePosition:
			g.Position = v.Str()
		case semconv.EvidenceReporterNode:
			g.Reporter.Node = v.Str()
		case semconv.GapReason:
			g.Reason = v.Str()
		case semconv.GapCount:
			g.Count = integer(v)
		case semconv.GapSince:
			g.Since = integer(v)
		case semconv.GapUntil:
			g.Until = integer(v)
		}
	}
	return g
}

// EncodeRaw writes what could not be decoded to lr: event name mesh.evidence,
// marked as raw, the text as body. Decode does not take it for evidence.
func EncodeRaw(r *evidence.Raw, lr plog.LogRecord) {
	lr.SetEventName(semconv.EventEvidence)
	lr.SetSeverityNumber(plog.SeverityNumberWarn)
	m := lr.Attributes()
	w := writer{m}
	m.PutStr(semconv.EvidenceSource, string(r.Source))
	m.PutBool(semconv.EvidenceRaw, true)
	m.PutStr(semconv.EvidenceError, evidence.Text(r.Error, evidence.MaxDetail))
	w.num(semconv.EvidenceRedacted, int64(r.Redacted))
	w.str(semconv.EvidenceBodySHA256, r.SHA256)
	encodeReporter(w, &r.Reporter)
	if r.Text != "" {
		lr.Body().SetStr(r.Text)
	}
}
