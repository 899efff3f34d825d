package meshauditprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// disk is a sealed log that outlives processors.
type disk struct {
	mu     sync.Mutex
	sealed []entry
	killed bool
}

type entry struct {
	at      time.Time
	message []byte
}

func (d *disk) take(ld plog.Logs) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.killed {
		return consumererror.NewPermanent(errors.New("this process is dead"))
	}
	b, err := (&plog.ProtoMarshaler{}).MarshalLogs(ld)
	d.sealed = append(d.sealed, entry{time.Now(), b})
	return err
}

// replay is what seal.Store.Replay does.
func (d *disk) replay(_ context.Context, _, _ string, window time.Duration, fn func(seal.Signal, time.Time, []byte) error) error {
	for _, e := range d.sealed {
		if e.at.Add(window).Before(d.sealed[len(d.sealed)-1].at) {
			continue
		}
		if err := fn(seal.SignalLogs, e.at, e.message); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) start(t *testing.T) *pair {
	d.killed = false
	cfg := createDefaultConfig()
	cfg.RecoverFrom = clerk.RecoverConfig{Directory: "store", Origin: "o"}
	p := newPair(t, cfg)
	p.sink.refusing(d.take)
	p.logs.(*logsFace).replay = d.replay
	p.start(t)
	return p
}

// kill ends a processor of which nothing is sealed any more.
func (d *disk) kill(t *testing.T, p *pair) {
	d.mu.Lock()
	d.killed = true
	d.mu.Unlock()
	p.stop(t)
}

// However long a crash loop is, and how short its lives, each action has its
// record in the end, once, and that is what it would have been.
func TestCrashLoop(t *testing.T) {
	for name, tc := range map[string]struct {
		lives      int
		life, down time.Duration
		again      bool // senders repeat in the next life
	}{
		"shorter than settle":            {30, 900 * time.Millisecond, 100 * time.Millisecond, true},
		"shorter than settle, far apart": {20, 300 * time.Millisecond, time.Minute, true},
		"shorter than the window":        {20, 3 * time.Second, 100 * time.Millisecond, true},
		"longer than the window":         {4, 13 * time.Second, 5 * time.Second, true},
		"long and far apart":             {4, 40 * time.Second, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log disk
				sent := 0
				var before [3][]evidence.Evidence
				for range tc.lives {
					p := log.start(t)
					for i, repeated := range before {
						caller := calleeReport(fmt.Sprint("caller ", sent), func(e *evidence.Evidence) { e.Role = evidence.RoleCaller })
						before[i] = []evidence.Evidence{calleeReport(fmt.Sprint("callee ", sent), nil), caller}
						require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(before[i]...)))
						if tc.again {
							require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(repeated...)))
						}
						sent += 2
						time.Sleep(tc.life / 3)
					}
					log.kill(t, p)
					time.Sleep(tc.down)
				}
				p := log.start(t)
				time.Sleep(20 * time.Second)
				p.stop(t)

				var all sink
				for _, e := range log.sealed {
					ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(e.message)
					require.NoError(t, err)
					require.NoError(t, all.LogsSink.ConsumeLogs(t.Context(), ld))
				}
				cited, states := map[string]bool{}, map[string]int{}
				for _, r := range all.records() {
					require.Equal(t, semconv.EventRequest, r.EventName())
					list, _ := r.Attributes().Get(semconv.MeshAttestations)
					require.Equal(t, 1, list.Slice().Len())
					id, _ := list.Slice().At(0).Map().Get(semconv.AttestationID)
					require.False(t, cited[id.Str()], "two records")
					cited[id.Str()] = true
					states[attr(t, r, semconv.MeshEvidenceState)+attr(t, r, semconv.MeshEvidenceStateReason)]++
				}
				require.Len(t, cited, sent)
				require.Equal(t, map[string]int{"complete": sent / 2, "partialdeadline": sent / 2}, states)
			})
		})
	}
}

// A consumer that needs a second for each request gets several at once, and at
// shutdown what is under way is waited for: nothing comes twice.
func TestSlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, createDefaultConfig())
		p.start(t)
		const reports = 4000
		var all []evidence.Evidence
		for i := range reports {
			all = append(all, calleeReport(fmt.Sprint(i), nil))
		}
		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(all...)))
		p.sink.refusing(func(plog.Logs) error {
			time.Sleep(time.Second)
			return nil
		})
		time.Sleep(2500 * time.Millisecond) // settle, a tick, and one second more
		require.Len(t, p.sink.records(), reports)

		require.NoError(t, p.logs.ConsumeLogs(t.Context(), logOf(calleeReport("the last", nil))))
		time.Sleep(1500 * time.Millisecond)
		require.Len(t, p.sink.records(), reports, "under way")
		p.stop(t)
		ids := map[string]bool{}
		for _, r := range p.sink.records() {
			ids[attr(t, r, semconv.AuditRecordID)] = true
		}
		require.Len(t, p.sink.records(), reports+1)
		require.Len(t, ids, reports+1)
	})
}
