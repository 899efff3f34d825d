package opadecisionlogreceiver

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
)

const (
	format = "opa_decision_log"
	// retryAfterSeconds is for those who read it; OPA has a backoff of its own.
	retryAfterSeconds = "1"
	// maxPendingBytes bounds the raw texts that one batch holds; a batch leaves
	// early when they are more.
	maxPendingBytes = 4 << 20

	gapPermanent = "permanent"        // the next consumer will never take the event
	gapUpload    = "upload_too_large" // the rest of an upload was not read
)

// errTooMuch ends the reading of an upload at max_upload_bytes.
var errTooMuch = errors.New("upload is larger than max_upload_bytes")

// An upload is one request under way, owned by its handler.
type upload struct {
	r        *opaReceiver
	ctx      context.Context
	reporter evidence.Reporter
	observed time.Time
	body     *countedBody

	items   []item
	pending int  // bytes of raw texts in items
	refused bool // the next consumer refused for now
}

// An item is one event: decoded, or raw if that is set.
type item struct {
	decoded evidence.Evidence
	raw     *evidence.Raw
}

// name says which event the item is: its decision id, or the digest of what
// could not be decoded.
func (i *item) name() string {
	if i.raw != nil {
		return i.raw.SHA256
	}
	return i.decoded.Position
}

// upload reads events and offers them batch by batch, while the body arrives.
func (r *opaReceiver) upload(w http.ResponseWriter, req *http.Request) {
	u := r.newUpload(req)
	err := u.read()
	if err == nil {
		// Answered before it was read, a sender may see a broken connection
		// instead of the answer, and repeat.
		_, _ = io.Copy(io.Discard, u.body.in)
	}
	r.telemetry.ReceiverOpaDecisionLogBytes.Add(context.Background(), u.body.decompressed)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case u.body.broken != nil && !u.refused:
		// OPA, or what is between, hung up: there is nobody to answer, and
		// the upload comes again.
		r.refuse(w, http.StatusBadRequest, refusedBroken)
	default:
		r.refused(err)
		w.Header().Set("Retry-After", retryAfterSeconds)
		r.refuse(w, http.StatusServiceUnavailable, refusedDownstream)
	}
}

func (r *opaReceiver) newUpload(req *http.Request) *upload {
	info := client.FromContext(req.Context())
	address, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		address = req.RemoteAddr
	}
	reporter := evidence.PeerReporter(req.TLS, address)
	// A token or an auth extension vouches for the peer too, though it names no
	// SVID.
	reporter.Authenticated = reporter.Authenticated || info.Auth != nil || r.cfg.Token != ""
	info.Auth = reporter
	return &upload{
		r: r, ctx: client.NewContext(req.Context(), info), reporter: reporter, observed: time.Now(),
		body: newBody(req, r.cfg.MaxUploadBytes),
	}
}

// read returns nil when all that came is sealed, one way or another. Any error
// means that it is not: the next consumer refused for now, or the connection
// broke.
func (u *upload) read() error {
	events := opa.NewReader(u.body, u.r.cfg.MaxEventBytes)
	for {
		event, err := events.Next()
		var tooLarge *http.MaxBytesError
		switch {
		case err == nil:
			u.add(event)
		case errors.Is(err, io.EOF):
			return u.flush()
		case u.body.broken != nil:
			return fmt.Errorf("upload broke off: %w", u.body.broken)
		case errors.Is(err, opa.ErrTooLarge):
			u.addRaw(event, err)
		case errors.Is(err, errTooMuch), errors.As(err, &tooLarge):
			u.addRaw(event, err)
			if err := u.flush(); err != nil {
				return err
			}
			return u.gap(gapUpload, "upload/"+u.body.digest(), 0, err)
		default: // broken JSON, broken gzip: nothing more can be told apart
			u.addRaw(event, err)
			return u.flush()
		}
		if len(u.items) >= u.r.cfg.BatchSize || u.pending >= maxPendingBytes {
			if err := u.flush(); err != nil {
				return err
			}
		}
	}
}

func (u *upload) add(event []byte) {
	e, err := opa.Decode(event)
	if err != nil {
		u.addRaw(event, err)
		return
	}
	u.reporter.Node = e.Reporter.Node
	e.Reporter = u.reporter
	u.items = append(u.items, item{decoded: e})
}

func (u *upload) addRaw(event []byte, cause error) {
	raw := &evidence.Raw{Source: evidence.SourceOPA, Reporter: u.reporter, Error: cause.Error()}
	raw.Reporter.Node = ""
	if len(event) > 0 {
		raw.Text, raw.Redacted = opa.Redact(event, opa.MaxRawBytes)
		sum := sha256.Sum256(event)
		raw.SHA256 = hex.EncodeToString(sum[:])
	} else {
		raw.SHA256 = u.body.digest()
	}
	u.pending += len(raw.Text)
	u.items = append(u.items, item{raw: raw})
}

// flush offers what was gathered.
func (u *upload) flush() error {
	if len(u.items) == 0 {
		return nil
	}
	err := u.deliver(u.items)
	clear(u.items)
	u.items, u.pending = u.items[:0], 0
	return err
}

// deliver offers the items once. A permanent refusal of several may be one's
// fault: the halves are offered then, so that only the one is lost, and that is
// sealed as a gap.
func (u *upload) deliver(items []item) error {
	r := u.r
	ctx := r.report.StartLogsOp(u.ctx)
	err := r.next.ConsumeLogs(ctx, u.encode(items))
	r.report.EndLogsOp(ctx, format, len(items), err)
	switch {
	case err == nil:
		r.accepted()
		u.count(items)
		return nil
	case !consumererror.IsPermanent(err):
		u.refused = true
		return err
	case len(items) > 1:
		half := len(items) / 2
		if err := u.deliver(items[:half]); err != nil {
			return err
		}
		return u.deliver(items[half:])
	}
	return u.gap(gapPermanent, items[0].name(), 1, err)
}

// gap seals that n events (0: it is not known how many) are lost. Until that is
// sealed, the upload is not answered 2xx; name says what is lost.
func (u *upload) gap(reason, name string, n int64, cause error) error {
	r := u.r
	g := evidence.Gap{
		Source: evidence.SourceOPA, Reporter: u.reporter, Reason: reason, Count: n,
		Position: "gap/" + name, Since: u.observed.UnixNano(), Until: u.observed.UnixNano(),
	}
	logs, records := newLogs()
	record := records.AppendEmpty()
	record.SetObservedTimestamp(pcommon.NewTimestampFromTime(u.observed))
	otlp.EncodeGap(&g, record)
	if err := r.next.ConsumeLogs(u.ctx, logs); err != nil {
		u.refused = true
		return fmt.Errorf("seal a gap of %d events (%s): %w", n, reason, err)
	}
	r.telemetry.ReceiverOpaDecisionLogLostEvents.Add(u.ctx, max(n, 1))
	r.set.Logger.Error("decision log events are lost; a mesh.evidence.gap record says so",
		zap.String("reason", reason), zap.Int64("events", n), zap.Error(cause))
	return nil
}

func (u *upload) encode(items []item) plog.Logs {
	logs, records := newLogs()
	records.EnsureCapacity(len(items))
	for i := range items {
		record := records.AppendEmpty()
		record.SetObservedTimestamp(pcommon.NewTimestampFromTime(u.observed))
		if items[i].raw != nil {
			otlp.EncodeRaw(items[i].raw, record)
		} else {
			otlp.Encode(&items[i].decoded, record)
		}
	}
	return logs
}

func newLogs() (plog.Logs, plog.LogRecordSlice) {
	logs := plog.NewLogs()
	scope := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	scope.Scope().SetName(metadata.ScopeName)
	return logs, scope.LogRecords()
}

func (u *upload) count(items []item) {
	var raw int64
	for i := range items {
		if items[i].raw != nil {
			raw++
		}
	}
	counter := u.r.telemetry.ReceiverOpaDecisionLogEvents
	if decoded := int64(len(items)) - raw; decoded > 0 {
		counter.Add(u.ctx, decoded, metric.WithAttributes(attribute.String("result", "decoded")))
	}
	if raw > 0 {
		counter.Add(u.ctx, raw, metric.WithAttributes(attribute.String("result", "raw")))
	}
}

// A countedBody is a request's body, decompressed if it is gzip, of a bounded
// length. It tells a connection that broke from content that is broken, and
// knows the digest of what was received.
type countedBody struct {
	in           io.Reader // what was received
	out          io.Reader // decompressed; nil until the first read
	gzipped      bool
	sum          hash.Hash
	broken       error // of the connection
	decompressed int64
	most         int64
}

func newBody(req *http.Request, most int64) *countedBody {
	b := &countedBody{sum: sha256.New(), most: most}
	b.in = received{req.Body, b}
	b.gzipped = strings.EqualFold(req.Header.Get("Content-Encoding"), "gzip")
	return b
}

// received reads from the connection.
type received struct {
	io.Reader
	b *countedBody
}

func (r received) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.b.sum.Write(p[:n])
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &tooLarge) {
		r.b.broken = err
	}
	return n, err
}

func (b *countedBody) Read(p []byte) (int, error) {
	if b.out == nil {
		b.out = b.in
		if b.gzipped {
			z, err := gzip.NewReader(b.in)
			if err != nil {
				return 0, fmt.Errorf("decompress: %w", err)
			}
			b.out = z
		}
	}
	if b.decompressed >= b.most {
		return 0, errTooMuch
	}
	n, err := b.out.Read(p[:min(int64(len(p)), b.most-b.decompressed)])
	b.decompressed += int64(n)
	return n, err
}

// digest is of what was received so far.
func (b *countedBody) digest() string { return hex.EncodeToString(b.sum.Sum(nil)) }
