package envoyaccesslogreceiver

import (
	"context"
	"crypto/rand"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver/internal/metadata"
)

const (
	// gapInterval is how often gaps are offered while nothing else is.
	gapInterval = 5 * time.Second
	// maxGaps bounds the gaps not yet sealed; further ones are added up under
	// no reporter.
	maxGaps = 1024
	// lastOffer bounds the last offer of the gaps at shutdown.
	lastOffer = time.Second
)

type gapKey struct {
	reporter evidence.Reporter
	reason   string
}

// A gapKeeper adds up losses by reporter and reason until a record of them is
// sealed. One goroutine offers: when an ordinary message was accepted, and
// every gapInterval.
type gapKeeper struct {
	seal func(context.Context, *evidence.Gap) error

	mu      sync.Mutex
	pending map[gapKey]*evidence.Gap
	id      string
	made    uint64

	again   chan struct{}
	quit    chan struct{}
	done    chan struct{}
	stopped sync.Once
}

func newGapKeeper(seal func(context.Context, *evidence.Gap) error) *gapKeeper {
	return &gapKeeper{
		seal: seal, pending: map[gapKey]*evidence.Gap{}, id: rand.Text(),
		again: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// lost adds up a loss; first is true if it opens a gap.
func (k *gapKeeper) lost(reporter evidence.Reporter, reason string, n int64, at time.Time) (first bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := gapKey{reporter, reason}
	g := k.pending[key]
	if g == nil && len(k.pending) >= maxGaps {
		key.reporter = evidence.Reporter{}
		g = k.pending[key]
	}
	if g == nil {
		k.made++
		g = &evidence.Gap{
			Source: evidence.SourceEnvoyALS, Reporter: key.reporter, Reason: reason, Since: at.UnixNano(),
			Position: "gap/" + k.id + "/" + strconv.FormatUint(k.made, 10),
		}
		k.pending[key] = g
		first = true
	}
	g.Count += n
	g.Until = at.UnixNano()
	return first
}

// retry says that the consumer accepts.
func (k *gapKeeper) retry() {
	select {
	case k.again <- struct{}{}:
	default:
	}
}

func (k *gapKeeper) start() {
	go func() {
		defer close(k.done)
		ticker := time.NewTicker(gapInterval)
		defer ticker.Stop()
		for {
			select {
			case <-k.again:
			case <-ticker.C:
			case <-k.quit:
				ctx, cancel := context.WithTimeout(context.Background(), lastOffer)
				defer cancel()
				k.offer(ctx)
				return
			}
			k.offer(context.Background())
		}
	}()
}

// stop offers a last time. It must not be called before start.
func (k *gapKeeper) stop() {
	k.stopped.Do(func() { close(k.quit) })
	<-k.done
}

// offer seals what is pending. What is lost while a gap is being sealed opens
// a new one; a refused gap goes back, joined with that.
func (k *gapKeeper) offer(ctx context.Context) {
	k.mu.Lock()
	offered := k.pending
	if len(offered) == 0 {
		k.mu.Unlock()
		return
	}
	k.pending = map[gapKey]*evidence.Gap{}
	k.mu.Unlock()

	for key, g := range offered {
		if k.seal(ctx, g) == nil {
			continue
		}
		k.mu.Lock()
		if newer := k.pending[key]; newer != nil {
			g.Count += newer.Count
			g.Until = newer.Until
		}
		k.pending[key] = g
		k.mu.Unlock()
	}
}

func (r *alsReceiver) sealGap(ctx context.Context, g *evidence.Gap) error {
	logs := plog.NewLogs()
	scope := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	scope.Scope().SetName(metadata.ScopeName)
	record := scope.LogRecords().AppendEmpty()
	record.SetObservedTimestamp(pcommon.NewTimestampFromTime(r.now()))
	otlp.EncodeGap(g, record)
	ctx = client.NewContext(ctx, client.Info{Auth: g.Reporter})
	if err := r.next.ConsumeLogs(ctx, logs); err != nil {
		return err
	}
	r.status.Accepted()
	r.telemetry.ReceiverEnvoyAccessLogGaps.Add(ctx, 1)
	return nil
}
