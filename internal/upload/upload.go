// Package upload takes one HTTP body of events, as policy engines and API
// servers post them, and offers what is in it to the next consumer while it
// arrives.
//
// Everything that came is offered, one way or another: decoded; raw, what
// cannot be decoded, redacted; or as a gap, where the next consumer will never
// take an event or more came than is read. Read returns nil only when all of it
// was accepted, so that its caller may tell the sender that it is safe. What
// was accepted of an upload that is refused comes again as the same evidence.
//
// Memory is bounded by one event and one batch.
package upload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
)

const (
	// maxPendingBytes bounds the raw texts that one batch holds; a batch leaves
	// early when they are more.
	maxPendingBytes = 4 << 20
	// maxRawBytes bounds the text of an event that could not be decoded.
	maxRawBytes = 64 << 10
)

// Reasons of gaps.
const (
	GapPermanent = "permanent"        // the next consumer will never take the event
	GapTooLarge  = "upload_too_large" // the rest of an upload was not read
)

// Format says how uploads of one kind are read.
type Format struct {
	Source evidence.Source
	// List names the member that holds the events where an upload is an object;
	// "": an object is one event.
	List   string
	Decode func(event []byte) (Decoded, error)
	// Kept says which keys' values may stay of an event that cannot be decoded.
	Kept func(key string) bool
}

// Decoded is what one event says: what happened, and what its sender lost.
type Decoded struct {
	Evidence []evidence.Evidence
	Gaps     []evidence.Gap // Source, Node, Position, Reason, Count and Since are theirs
}

// Limits bound what is read; NewBody bounds the whole. All must be positive.
type Limits struct {
	BatchSize     int // events handed on at a time
	MaxEventBytes int // of one event; what is longer is offered raw
}

// Next is the next consumer, as the receiver sees it.
type Next struct {
	Scope     string // the instrumentation scope's name
	Offer     func(ctx context.Context, logs plog.Logs, events int) error
	Permanent func(error) bool
	// Accepted is told of events that were accepted.
	Accepted func(ctx context.Context, decoded, raw int64)
	// Lost is told of events that a sealed gap stands for; 0: not known how many.
	Lost func(ctx context.Context, reason string, events int64, cause error)
}

// An Upload is one request under way, owned by its handler.
type Upload struct {
	Refused bool // the next consumer refused for now

	format   *Format
	limits   Limits
	next     *Next
	body     *Body
	reporter evidence.Reporter
	observed time.Time

	items   []item
	pending int // bytes of raw texts in items
}

// An item is one event: decoded, or raw if that is set.
type item struct {
	decoded Decoded
	raw     *evidence.Raw
}

// name says which event the item is: its position, or the digest of what could
// not be decoded.
func (i *item) name() string {
	if i.raw != nil {
		return i.raw.SHA256
	}
	if len(i.decoded.Evidence) == 0 {
		return i.decoded.Gaps[0].Position
	}
	return i.decoded.Evidence[0].Position
}

// New starts on a body.
func New(f *Format, l Limits, n *Next, body *Body, reporter evidence.Reporter) *Upload {
	return &Upload{format: f, limits: l, next: n, body: body, reporter: reporter, observed: time.Now()}
}

// Read returns nil when all that came is accepted, one way or another. Any
// error means that it is not: the next consumer refused for now (Refused), or
// the connection broke (Body.Broken).
func (u *Upload) Read(ctx context.Context) error {
	err := u.read(ctx)
	if err == nil {
		// Answered before it was read, a sender may see a broken connection
		// instead of the answer, and repeat.
		_, _ = io.Copy(io.Discard, u.body.in)
	}
	return err
}

func (u *Upload) read(ctx context.Context) error {
	events := jsonscan.NewReader(u.body, u.limits.MaxEventBytes)
	if u.format.List != "" {
		events = jsonscan.NewListReader(u.body, u.limits.MaxEventBytes, u.format.List)
	}
	for {
		event, err := events.Next()
		var tooLarge *http.MaxBytesError
		switch {
		case err == nil:
			u.add(event)
		case errors.Is(err, io.EOF):
			return u.flush(ctx)
		case u.body.Broken != nil:
			return fmt.Errorf("upload broke off: %w", u.body.Broken)
		case errors.Is(err, jsonscan.ErrTooLarge):
			u.addRaw(event, err)
		case errors.Is(err, ErrTooMuch), errors.As(err, &tooLarge):
			u.addRaw(event, err)
			if err := u.flush(ctx); err != nil {
				return err
			}
			return u.gap(ctx, GapTooLarge, "upload/"+u.body.digest(), 0, err)
		default: // broken JSON, broken gzip: nothing more can be told apart
			u.addRaw(event, err)
			return u.flush(ctx)
		}
		if len(u.items) >= u.limits.BatchSize || u.pending >= maxPendingBytes {
			if err := u.flush(ctx); err != nil {
				return err
			}
		}
	}
}

func (u *Upload) add(event []byte) {
	d, err := u.format.Decode(event)
	if err != nil {
		u.addRaw(event, err)
		return
	}
	from := func(r *evidence.Reporter) {
		node := r.Node
		*r = u.reporter
		r.Node = node
	}
	for i := range d.Evidence {
		from(&d.Evidence[i].Reporter)
	}
	for i := range d.Gaps {
		from(&d.Gaps[i].Reporter)
		d.Gaps[i].Until = u.observed.UnixNano()
	}
	if len(d.Evidence)+len(d.Gaps) > 0 {
		u.items = append(u.items, item{decoded: d})
	}
}

func (u *Upload) addRaw(event []byte, cause error) {
	raw := &evidence.Raw{Source: u.format.Source, Reporter: u.reporter, Error: cause.Error()}
	if len(event) > 0 {
		raw.Text, raw.Redacted = jsonscan.Redact(event, maxRawBytes, u.format.Kept)
		sum := sha256.Sum256(event)
		raw.SHA256 = hex.EncodeToString(sum[:])
	} else {
		raw.SHA256 = u.body.digest()
	}
	u.pending += len(raw.Text)
	u.items = append(u.items, item{raw: raw})
}

// flush offers what was gathered.
func (u *Upload) flush(ctx context.Context) error {
	if len(u.items) == 0 {
		return nil
	}
	err := u.deliver(ctx, u.items)
	clear(u.items)
	u.items, u.pending = u.items[:0], 0
	return err
}

// deliver offers the items once. A permanent refusal of several may be one's
// fault: the halves are offered then, so that only the one is lost, and that is
// offered as a gap.
func (u *Upload) deliver(ctx context.Context, items []item) error {
	err := u.next.Offer(ctx, u.encode(items), len(items))
	switch {
	case err == nil:
		var raw int64
		for i := range items {
			if items[i].raw != nil {
				raw++
			}
		}
		u.next.Accepted(ctx, int64(len(items))-raw, raw)
		return nil
	case !u.next.Permanent(err):
		u.Refused = true
		return err
	case len(items) > 1:
		half := len(items) / 2
		if err := u.deliver(ctx, items[:half]); err != nil {
			return err
		}
		return u.deliver(ctx, items[half:])
	}
	return u.gap(ctx, GapPermanent, items[0].name(), 1, err)
}

// gap offers that n events (0: it is not known how many) are lost. Until that is
// accepted the upload is not; name says what is lost.
func (u *Upload) gap(ctx context.Context, reason, name string, n int64, cause error) error {
	g := evidence.Gap{
		Source: u.format.Source, Reporter: u.reporter, Reason: reason, Count: n,
		Position: "gap/" + name, Since: u.observed.UnixNano(), Until: u.observed.UnixNano(),
	}
	logs, records := u.newLogs()
	record := records.AppendEmpty()
	record.SetObservedTimestamp(pcommon.NewTimestampFromTime(u.observed))
	otlp.EncodeGap(&g, record)
	if err := u.next.Offer(ctx, logs, 0); err != nil {
		u.Refused = true
		return fmt.Errorf("seal a gap of %d events (%s): %w", n, reason, err)
	}
	u.next.Lost(ctx, reason, n, cause)
	return nil
}

func (u *Upload) encode(items []item) plog.Logs {
	logs, records := u.newLogs()
	records.EnsureCapacity(len(items))
	add := func() plog.LogRecord {
		record := records.AppendEmpty()
		record.SetObservedTimestamp(pcommon.NewTimestampFromTime(u.observed))
		return record
	}
	for i := range items {
		if items[i].raw != nil {
			otlp.EncodeRaw(items[i].raw, add())
		}
		for j := range items[i].decoded.Evidence {
			otlp.Encode(&items[i].decoded.Evidence[j], add())
		}
		for j := range items[i].decoded.Gaps {
			otlp.EncodeGap(&items[i].decoded.Gaps[j], add())
		}
	}
	return logs
}

func (u *Upload) newLogs() (plog.Logs, plog.LogRecordSlice) {
	logs := plog.NewLogs()
	scope := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	scope.Scope().SetName(u.next.Scope)
	return logs, scope.LogRecords()
}
