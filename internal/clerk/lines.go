package clerk

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/evidence/resource"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

const semconvSource = semconv.EvidenceSource

func isOwn(eventName string) bool {
	return eventName == semconv.EventEvidence || strings.HasPrefix(eventName, semconv.EventEvidence+".")
}

// A line is what became of one record that a source's decoder took.
type line struct {
	evidence evidence.Evidence
	known    bool // false: refused
}

// A refusal is counted.
type refusal struct {
	source evidence.Source
	reason string
}

// lines decodes the records of one resource that a source matches, before
// anything is redacted: the decoders are the allow-list. Such a record becomes
// the evidence that it holds, further pieces follow at the scope's end, and of
// one that is refused only the hash will be left. What it returns is by scope
// and record, nil for what is no line.
func (in *intake) lines(rl plog.ResourceLogs) [][]*line {
	if in.reporter != nil {
		return nil // our own receivers send no lines
	}
	var out [][]*line
	var origin *evidence.Origin
	var pieces []evidence.Evidence
	for s, sl := range rl.ScopeLogs().All() {
		records := sl.LogRecords()
		for i := range records.Len() { // pieces that are added are no lines
			rec := record{rl, sl, records.At(i)}
			r, why := in.recognised.of(rec)
			if r == nil {
				in.stray(rec, why)
				continue
			}
			if out == nil {
				out = make([][]*line, rl.ScopeLogs().Len())
				origin = originOf(rl.Resource())
			}
			if out[s] == nil {
				out[s] = make([]*line, records.Len())
			}
			if r.decode == nil {
				if why, ok := rec.lr.Attributes().Get(semconv.EvidenceError); ok && why.AsString() == evidence.RefusedLoss {
					in.losses = append(in.losses, otlp.GapOf(rec.lr))
				}
				out[s][i] = &line{evidence: evidence.Evidence{Source: r.source}}
				continue
			}
			origin.Time = int64(rec.lr.Timestamp())
			var err error
			if pieces, err = r.decode(pieces[:0], origin, rec); err != nil {
				position := positionOf(rec)
				in.refuse(rec, r.source, err)
				var loss *evidence.Loss
				if errors.As(err, &loss) {
					g := loss.Gap
					g.Source, g.Position = r.source, fmt.Sprint("lost/", r.source, "/", g.Reporter.Node, "/", g.Reason, "/", g.Since, "/", position)
					otlp.PutGap(&g, rec.lr)
					in.losses = append(in.losses, g)
				}
				out[s][i] = &line{evidence: evidence.Evidence{Source: r.source}}
				continue
			}
			position := positionOf(rec)
			onlyPlace(rec.lr)
			for n := range pieces {
				in.prover.prove(&pieces[n], "")
				l := &line{pieces[n], true}
				lr := rec.lr
				if n == 0 {
					out[s][i] = l
				} else {
					lr = records.AppendEmpty()
					rec.lr.CopyTo(lr)
					onlyPlace(lr)
					out[s] = append(out[s], l)
				}
				if l.evidence.Position == "" && position != "" {
					if l.evidence.Position = position; n > 0 {
						l.evidence.Position += "#" + strconv.Itoa(n)
					}
				}
				otlp.Encode(&l.evidence, lr)
			}
		}
	}
	return out
}

// stray tells once of what may be a mistake in the configuration: of such a record
// only the digest of its body is sealed.
func (in *intake) stray(rec record, why stray) {
	if why == noStray || in.strays[why].Load() || in.strays[why].Swap(true) {
		return
	}
	const passes = "; it passes as it is, and of its body only the digest is sealed, as of any such record"
	position := zap.String("position", positionOf(rec))
	if why == strayPath {
		in.logger.Info("A line was read from a file that no source matches"+passes, position)
		return
	}
	name, ok := rec.lr.Attributes().Get(semconvSource)
	if !ok {
		name, _ = rec.rl.Resource().Attributes().Get(semconvSource)
	}
	in.logger.Warn("A log record's mesh.evidence.source names no decoder"+passes, zap.String("name", evidence.Text(name.AsString(), evidence.MaxName)), position)
}

// refuse marks a record that gave no evidence; its body is hashed later, like
// any that is not understood.
func (in *intake) refuse(rec record, source evidence.Source, err error) {
	if in.refused == nil {
		in.refused = make(map[refusal]int64, 1)
	}
	r := refusal{source, evidence.RefusalReason(err)}
	in.refused[r]++
	if _, before := in.told.LoadOrStore(r, true); !before {
		level := zap.WarnLevel
		if errors.Is(err, evidence.ErrNotEvidence) {
			level = zap.InfoLevel // most programs also write other lines
		}
		in.logger.Log(level, "A line is refused, and only its digest is sealed; further ones of this source and reason are counted, not logged",
			zap.String("source", string(source)), zap.String("reason", r.reason), zap.String("position", positionOf(rec)))
	}
	lr := rec.lr
	onlyPlace(lr)
	lr.Attributes().PutBool(semconv.EvidenceRaw, true)
	lr.Attributes().PutStr(semconv.EvidenceError, evidence.RefusalReason(err))
	lr.SetSeverityText("")
}

// refusedBefore tells a record that an earlier attempt refused: a receiver
// that is told no may send again what we have changed already.
func refusedBefore(lr plog.LogRecord) bool {
	v, ok := lr.Attributes().Get(semconv.EvidenceRaw)
	return ok && v.Type() == pcommon.ValueTypeBool && v.Bool() && lr.Body().Type() == pcommon.ValueTypeEmpty
}

// onlyPlace leaves of a line's attributes where it was read, and nothing that
// would be taken for a part of the evidence.
func onlyPlace(lr plog.LogRecord) {
	lr.Attributes().RemoveIf(func(name string, _ pcommon.Value) bool { return !strings.HasPrefix(name, "log.") })
}

// positionOf is the place of a line in its file. Two equal lines have two, a
// line that is read again has the same.
func positionOf(rec record) string {
	path := pathOf(rec)
	for _, name := range [...]string{logFileOffset, logFileNumber} {
		if v, ok := rec.lr.Attributes().Get(name); ok && path != "" {
			return path + ":" + v.AsString()
		}
	}
	if v, ok := rec.lr.Attributes().Get(logRecordUID); ok {
		return evidence.Text(v.AsString(), evidence.MaxName)
	}
	return ""
}

// originOf reads what the collector says of where a resource's lines come from.
func originOf(res pcommon.Resource) *evidence.Origin {
	var o evidence.Origin
	o.Cluster = resource.Read(res.Attributes(), &o.Workload)
	if v, ok := res.Attributes().Get("service.name"); ok && o.Workload.Name == "" {
		o.Workload.Name = evidence.Text(v.Str(), evidence.MaxName)
	}
	return &o
}
