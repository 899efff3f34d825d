package clerk

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// A Replay reads again what was sealed in the last window, in order; ReplayStore
// is the one that reads a sealed log.
type Replay func(ctx context.Context, dir, origin string, window time.Duration,
	fn func(sig seal.Signal, sealedAt time.Time, message []byte) error) error

// ReplayStore reads a directory or a bucket.
func ReplayStore(ctx context.Context, dir, origin string, window time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
	store := seal.Dir(dir) // also if it is a journal: what is recent is in it
	if objectstore.IsName(dir) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var err error
		if store, err = objectstore.Open(ctx, dir); err != nil {
			return err
		}
	}
	origins, err := store.Origins()
	if err != nil {
		return err
	}
	if !slices.Contains(origins, origin) {
		return fmt.Errorf("no log of %s is in %s, which holds %q: are these the `directory` and `origin` of the sealed_log exporter?", origin, dir, origins)
	}
	return store.Replay(ctx, origin, window, fn)
}

// recover re-reads what was sealed before a restart: first which records are out,
// then the evidence, which waits from when it was sealed. It returns how much
// evidence it found. Twice the window of evidence: a piece waits at most one, and
// its record needs time to be sealed. As much again of records: a sender that was
// not told repeats what may have left already.
func (c *Clerk) recover(ctx context.Context, replay Replay) (n int, err error) {
	again := func(windows time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
		from := c.cfg.RecoverFrom
		return replay(ctx, from.Directory, from.Origin, windows*c.cfg.Window, fn)
	}
	err = again(4, func(sig seal.Signal, sealedAt time.Time, message []byte) error {
		if sig != seal.SignalLogs || !bytes.Contains(message, []byte(semconv.AuditRecordID)) {
			return nil
		}
		ld, err := unmarshalLogs(sealedAt, message)
		if err == nil {
			c.recoverRecords(ld)
		}
		return err
	})
	now := time.Now()
	err = cmp.Or(again(2, func(sig seal.Signal, sealedAt time.Time, message []byte) error {
		in := c.intake(nil)
		defer in.done()
		switch sig {
		case seal.SignalLogs:
			ld, err := unmarshalLogs(sealedAt, message)
			if err != nil {
				return err
			}
			in.recoverLogs(ld)
		case seal.SignalTraces:
			td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(message)
			if err != nil {
				return fmt.Errorf("traces sealed at %s: %w", sealedAt.UTC().Format(time.RFC3339), err)
			}
			in.recoverTraces(td)
		}
		if sealedAt.After(now) {
			sealedAt = now // the clock was set back
		}
		c.correlator.Add(sealedAt, in.evidence)
		n += len(in.evidence)
		return nil
	}), err)
	c.correlator.Recovered()
	c.correlator.Advance(now)
	return n, err
}

func unmarshalLogs(sealedAt time.Time, message []byte) (plog.Logs, error) {
	ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(message)
	if err != nil {
		err = fmt.Errorf("logs sealed at %s: %w", sealedAt.UTC().Format(time.RFC3339), err)
	}
	return ld, err
}

func (in *intake) recoverTraces(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			under := in.under(rs.Resource(), ss.Scope())
			for _, s := range ss.Spans().All() {
				stripCall(s.Attributes())
				e, known := readSpan(rs.Resource(), s)
				e.Digest = in.digest(func(b []byte) []byte { return appendSpan(append(b, under[:]...), s) })
				in.recovered(&e, known, s.Attributes())
			}
		}
	}
}

func (in *intake) recoverLogs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			under := in.under(rl.Resource(), sl.Scope())
			for _, lr := range sl.LogRecords().All() {
				if isRecord(lr.Attributes()) {
					continue
				}
				e, known := readLog(rl.Resource(), lr)
				e.Digest = in.digest(func(b []byte) []byte { return appendLog(append(b, under[:]...), lr) })
				in.recovered(&e, known, lr.Attributes())
			}
		}
	}
}

// recovered takes evidence that this processor named before the restart.
func (in *intake) recovered(e *evidence.Evidence, known bool, m pcommon.Map) {
	v, ok := m.Get(semconv.EvidenceID)
	if !known || !ok || e.Role == evidence.RoleNone || !fromHex(e.ID[:], v.Str()) {
		return
	}
	if e.Cluster == "" {
		e.Cluster = in.cfg.Cluster
	}
	in.evidence = append(in.evidence, *e)
}

// isRecord tells our own records. What has an evidence id came over the wire,
// whatever it calls itself.
func isRecord(m pcommon.Map) bool {
	_, ours := m.Get(semconv.AuditRecordID)
	_, wire := m.Get(semconv.EvidenceID)
	return ours && !wire
}

// recoverRecords tells the correlator of records that are out.
func (c *Clerk) recoverRecords(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if past, ok := readPast(lr.Attributes()); ok {
					c.correlator.Recover(past)
				}
			}
		}
	}
}

func readPast(m pcommon.Map) (past correlate.Past, ok bool) {
	id, amends := m.Get(semconv.MeshAmends)
	if !amends {
		id, _ = m.Get(semconv.AuditRecordID)
	}
	if !isRecord(m) || !fromHex(past.ID[:], id.Str()) {
		return past, false
	}
	if v, ok := m.Get(semconv.MeshEvidenceState); ok {
		for _, s := range [...]correlate.State{correlate.Partial, correlate.Ambiguous} {
			if v.Str() == s.String() {
				past.State = s
			}
		}
	}
	if v, ok := m.Get(semconv.MeshEvidenceStateReason); ok {
		past.Reason = v.Str()
	}
	if v, ok := m.Get(semconv.InitiatorID); ok {
		past.Initiator = v.Str()
	}
	past.Upshot = pastUpshot(m, past.State)
	// An amendment that only names the initiator cites nothing.
	if list, ok := m.Get(semconv.MeshAttestations); ok && list.Type() == pcommon.ValueTypeSlice {
		for _, item := range list.Slice().All() {
			if item.Type() != pcommon.ValueTypeMap {
				continue
			}
			var cited evidence.ID
			if v, ok := item.Map().Get(semconv.AttestationID); ok && fromHex(cited[:], v.Str()) {
				past.Cites = append(past.Cites, cited)
			}
			if v, ok := item.Map().Get(semconv.AttestationRole); ok && v.Str() == evidence.RoleCallee.String() {
				past.Upshot.Callee = true
			}
		}
	}
	if past.Upshot.Callee && past.Upshot.By == correlate.Caller {
		past.Upshot.By = correlate.Proxy
	}
	return past, true
}

// pastUpshot reads what a record says became of its action. A proxy's denial that
// is no HTTP error reads as if it was served; but what a record shows was found
// before the restart, and is not found again.
func pastUpshot(m pcommon.Map, state correlate.State) correlate.Upshot {
	text := func(name string) string {
		if v, ok := m.Get(name); ok {
			return v.Str()
		}
		return ""
	}
	status, grpc := 0, ""
	if v, ok := m.Get(semconv.HTTPResponseStatusCode); ok {
		status = int(v.Int())
	}
	if v, ok := m.Get(semconv.RPCGRPCStatusCode); ok {
		grpc = strconv.FormatInt(v.Int(), 10)
	}
	u := correlate.Upshot{
		Answer:    correlate.AnswerOf(status, grpc, correlate.IsGRPC(text(semconv.RPCSystem), text(semconv.HTTPRequestMethod), text(semconv.URLPath))),
		Ambiguous: state == correlate.Ambiguous,
	}
	switch u.Answer {
	case correlate.Unanswered:
	case correlate.Answered:
		u.By = correlate.Unknowing
	default:
		u.By = correlate.Caller
	}
	if v, ok := m.Get(semconv.AuthzDecision); ok {
		enforced, ok := m.Get(semconv.AuthzEnforced)
		u.Judged(&evidence.Verdict{Decision: evidence.Decision(v.Str()), Enforced: ok && enforced.Bool()}, true)
	}
	return u
}

func fromHex(dst []byte, s string) bool {
	if len(s) != hex.EncodedLen(len(dst)) {
		return false
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}
