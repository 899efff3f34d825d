package clerk

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/internal/ledger"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// maxGaps bounds the gaps that wait to be taken; further ones are
// added to the last of their kind.
const maxGaps = 1024

// gapQueue keeps what the ledger found missing until it is sealed.
type gapQueue struct {
	mu      sync.Mutex
	waiting []evidence.Gap
}

func (q *gapQueue) add(gaps []evidence.Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, g := range gaps {
		if len(q.waiting) < maxGaps {
			q.waiting = append(q.waiting, g)
			continue
		}
		last := &q.waiting[maxGaps-1]
		last.Count += g.Count
		last.Until = max(last.Until, g.Until)
		last.Reporter = evidence.Reporter{} // of several
	}
}

// deliverGaps offers all gaps that wait, in one request. Those that were added
// to meanwhile stay.
func (c *Clerk) deliverGaps(ctx context.Context, offer offer) error {
	q := &c.gaps
	q.mu.Lock()
	offered := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	if len(offered) == 0 {
		return nil
	}
	ld, records := c.newRecords()
	for i := range offered {
		lr := records.AppendEmpty()
		otlp.EncodeGap(&offered[i], lr)
		lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		id := correlate.RecordID(sha256.Sum256([]byte(offered[i].Position)))
		lr.Attributes().PutStr(semconv.AuditRecordID, id.String())
		lr.Attributes().PutInt(semconv.AuditSchemaVersion, semconv.SchemaVersion)
	}
	err := offer(ctx, ld)
	if err != nil {
		q.mu.Lock()
		since := q.waiting
		q.waiting = offered
		q.mu.Unlock()
		q.add(since)
	}
	return err
}

// Metrics reads the counters of the proxies' access loggers in what next takes
// as it is.
func (c *Clerk) Metrics(ctx context.Context, md pmetric.Metrics, next func(context.Context, pmetric.Metrics) error) error {
	if c.tag {
		return next(ctx, md)
	}
	samples := c.samples(md)
	if err := next(ctx, md); err != nil {
		return err // it comes again
	}
	for _, s := range samples {
		gaps := c.ledger.Count(s)
		c.gaps.add(gaps)
		for _, g := range gaps {
			c.finder.sawGap(g)
		}
	}
	return nil
}

// The counters of Envoy's access log service, with dots or underscores, with or
// without Prometheus' prefix and suffix.
const (
	alsScope   = "access_logs_grpc_access_log_"
	alsWritten = "logs_written"
	alsDropped = "logs_dropped"
)

// samples reads the counters of each proxy. A proxy's several loggers are added
// up, unless `ledger::stat_prefix` names the one that writes to us.
func (c *Clerk) samples(md pmetric.Metrics) []ledger.Sample {
	var samples []ledger.Sample
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				counter := c.counter(m.Name())
				if counter == "" {
					continue
				}
				var points pmetric.NumberDataPointSlice
				switch m.Type() {
				case pmetric.MetricTypeSum:
					if m.Sum().AggregationTemporality() != pmetric.AggregationTemporalityCumulative {
						continue // a lost delta would look like a loss of entries
					}
					points = m.Sum().DataPoints()
				case pmetric.MetricTypeGauge:
					points = m.Gauge().DataPoints()
				default:
					continue
				}
				for _, p := range points.All() {
					names := proxyNames(rm.Resource().Attributes(), p.Attributes())
					if len(names) == 0 {
						continue
					}
					s := sampleOf(&samples, names, p.Timestamp().AsTime())
					if counter == alsWritten {
						s.Written += count(p)
					} else {
						s.Dropped += count(p)
					}
				}
			}
		}
	}
	return samples
}

// counter says which of the two counters a metric is.
func (c *Clerk) counter(name string) string {
	name = strings.ReplaceAll(name, ".", "_")
	name = strings.TrimSuffix(strings.TrimPrefix(name, "envoy_"), "_total")
	rest, ok := strings.CutPrefix(name, alsScope)
	if !ok {
		return ""
	}
	if prefix := c.cfg.Ledger.StatPrefix; prefix != "" {
		if rest, ok = strings.CutPrefix(rest, strings.ReplaceAll(prefix, ".", "_")+"_"); !ok {
			return ""
		}
	}
	if rest == alsWritten || rest == alsDropped {
		return rest
	}
	return ""
}

// proxyNames are the names by which attributes of a resource and a point know
// a proxy, as ledger.NamesOf has them.
func proxyNames(resource, point pcommon.Map) []string {
	str := func(names ...string) string {
		for _, m := range [...]pcommon.Map{point, resource} {
			for _, name := range names {
				if v, ok := m.Get(name); ok && v.Type() == pcommon.ValueTypeStr && v.Str() != "" {
					return evidence.Text(v.Str(), evidence.MaxName)
				}
			}
		}
		return ""
	}
	var names []string
	if id := str("node_id", "node_name", "envoy.node.id"); id != "" {
		names = append(names, ledger.NamesOf(id)...)
	}
	pod, namespace := str("k8s.pod.name", "pod_name", "pod"), str("k8s.namespace.name", "pod_namespace", "namespace")
	if pod != "" && namespace != "" {
		names = append(names, namespace+"/"+pod)
	}
	if ip := str("k8s.pod.ip", "pod_ip"); ip != "" {
		names = append(names, ip)
	}
	if len(names) == 0 {
		// A scraped target's address.
		if address, _, ok := strings.Cut(str("service.instance.id", "instance"), ":"); ok && address != "" {
			names = append(names, address)
		}
	}
	return names
}

func sampleOf(samples *[]ledger.Sample, names []string, at time.Time) *ledger.Sample {
	for i := range *samples {
		if s := &(*samples)[i]; s.Names[0] == names[0] {
			return s
		}
	}
	*samples = append(*samples, ledger.Sample{Names: names, At: at})
	return &(*samples)[len(*samples)-1]
}

func count(p pmetric.NumberDataPoint) uint64 {
	switch {
	case p.ValueType() == pmetric.NumberDataPointValueTypeInt && p.IntValue() > 0:
		return uint64(p.IntValue())
	case p.ValueType() == pmetric.NumberDataPointValueTypeDouble && p.DoubleValue() > 0 && p.DoubleValue() < 1<<53:
		return uint64(p.DoubleValue())
	}
	return 0
}
