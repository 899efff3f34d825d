package envoyaccesslogreceiver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v7"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/otlp"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver/internal/metadata"
)

const (
	format = "envoy_als_v3"
	// leastWait keeps a configured interval of 0 from spinning.
	leastWait = time.Millisecond
)

// Reasons are attribute values of the receiver's metrics and stand on gaps.
const (
	reasonMalformed      = "malformed"       // a message is no protobuf
	reasonOverload       = "overload"        // too many streams that are gone wait
	reasonPermanent      = "permanent"       // the next consumer will never take it
	reasonRetryExhausted = "retry_exhausted" // retry_on_failure.max_elapsed_time is over
	reasonShutdown       = "shutdown"
	reasonTooLarge       = "too_large" // a message is over max_recv_msg_size_mib
)

// A stream is one proxy's stream of messages, owned by its handler.
type stream struct {
	r        *alsReceiver
	gone     <-chan struct{} // closed when the proxy is
	ctx      context.Context // the receiver's life, with the proxy as its client
	id       string          // unique: part of positions of entries without a stream id
	node     envoy.Node      // stated in the first message, for all that follow
	reporter evidence.Reporter
	messages uint64
}

// streamAccessLogs is the gRPC service. It reads one message, delivers it, and
// only then reads the next.
func (r *alsReceiver) streamAccessLogs(in grpc.ServerStream) error {
	r.telemetry.ReceiverEnvoyAccessLogStreams.Add(context.Background(), 1)
	defer r.telemetry.ReceiverEnvoyAccessLogStreams.Add(context.Background(), -1)

	s := r.newStream(in.Context())
	for {
		var message raw
		err := in.RecvMsg(&message)
		switch {
		case errors.Is(err, io.EOF):
			return in.SendMsg(&alsv3.StreamAccessLogsResponse{})
		case status.Code(err) == codes.ResourceExhausted:
			r.lose(s, 0, reasonTooLarge, err)
			return err
		case err != nil:
			return err
		}
		if err := s.take(message.text); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		select {
		case <-r.stopping:
			return status.Error(codes.Unavailable, "the receiver is shutting down")
		default:
		}
	}
}

func (r *alsReceiver) newStream(ctx context.Context) *stream {
	s := &stream{r: r, gone: ctx.Done(), id: rand.Text()}
	info := client.FromContext(ctx)
	if p, ok := peer.FromContext(ctx); ok {
		info.Addr = p.Addr
		if t, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			s.reporter = evidence.PeerReporter(&t.State, host(p.Addr))
		} else {
			s.reporter = evidence.PeerReporter(nil, host(p.Addr))
		}
	}
	// An auth extension vouches for the peer too, though it names no SVID.
	s.reporter.Authenticated = s.reporter.Authenticated || info.Auth != nil
	info.Auth = s.reporter
	s.ctx = client.NewContext(r.life, info)
	return s
}

// host is an address without its port.
func host(a net.Addr) string {
	if a == nil {
		return ""
	}
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}

func (s *stream) take(message string) error {
	s.messages++
	entries := 0 // of this message, that came before
	err := envoy.Decode(&s.node, message, func(kind string, batch []envoy.Entry) {
		s.reporter.Node = s.node.ID
		s.name(batch, entries)
		entries += len(batch)
		s.deliver(batch, kind)
	})
	if err != nil {
		s.r.lose(s, 0, reasonMalformed, err) // nobody knows how many
	}
	return err
}

// name gives each entry its reporter, has its credentials verified, and gives it
// its position: STREAM-ID/TYPE/MESSAGE.ENTRY,
// or without a stream id that is unique THIS-STREAM/MESSAGE.ENTRY. Envoy never
// sends an entry again, so it needs to be the same only for our own retries.
func (s *stream) name(batch []envoy.Entry, before int) {
	text := make([]byte, 0, 64*len(batch)) // of all positions
	ends := make([]int, len(batch))
	for i := range batch {
		e := &batch[i]
		e.Reporter = s.reporter
		s.r.prover.Prove(&e.Evidence, s.reporter.Authenticated)
		if e.StreamID != "" {
			text = append(append(append(text, e.StreamID...), '/'), e.Type...)
		} else {
			text = append(text, s.id...)
		}
		text = strconv.AppendUint(append(text, '/'), s.messages, 10)
		text = strconv.AppendInt(append(text, '.'), int64(before+i), 10)
		ends[i] = len(text)
	}
	all, begin := string(text), 0
	for i, end := range ends {
		batch[i].Position = all[begin:end]
		begin = end
	}
}

// deliver offers the entries until they are accepted or given up. A permanent
// refusal of several may be one's fault: the halves are offered then, so that
// only the one is lost.
func (s *stream) deliver(entries []envoy.Entry, kind string) {
	if len(entries) == 0 {
		return
	}
	observed := s.r.now()
	ctx := s.r.report.StartLogsOp(s.ctx)
	reason, err := s.offer(ctx, entries, observed)
	s.r.report.EndLogsOp(ctx, format, len(entries), err)
	switch {
	case err == nil:
		s.r.telemetry.ReceiverEnvoyAccessLogEntries.Add(ctx, int64(len(entries)),
			metric.WithAttributes(attribute.String("kind", kind)))
		s.r.gaps.retry()
	case reason == reasonPermanent && len(entries) > 1:
		half := len(entries) / 2
		s.deliver(entries[:half], kind)
		s.deliver(entries[half:], kind)
	default:
		s.r.lose(s, len(entries), reason, err)
	}
}

// offer retries as configured. Each attempt is encoded anew: the next consumer
// may have changed what it refused.
func (s *stream) offer(ctx context.Context, entries []envoy.Entry, observed time.Time) (reason string, err error) {
	r := s.r
	retry := r.cfg.RetryOnFailure
	interval := backoff.ExponentialBackOff{
		InitialInterval: retry.InitialInterval, RandomizationFactor: retry.RandomizationFactor,
		Multiplier: retry.Multiplier, MaxInterval: retry.MaxInterval,
	}
	interval.Reset()
	gone, stopping := s.gone, (<-chan struct{})(r.stopping)
	begun := r.now()
	for {
		err = r.next.ConsumeLogs(ctx, encode(entries, observed))
		if err == nil {
			r.status.Accepted()
			return "", nil
		}
		if consumererror.IsPermanent(err) {
			return reasonPermanent, err
		}
		r.status.Refused(err)
		wait := max(interval.NextBackOff(), leastWait)
		if !retry.Enabled || (retry.MaxElapsedTime > 0 && r.now().Add(wait).Sub(begun) > retry.MaxElapsedTime) {
			return reasonRetryExhausted, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-gone:
			gone = nil
			if r.orphans.Add(1) > maxOrphans {
				r.orphans.Add(-1)
				timer.Stop()
				return reasonOverload, err
			}
			defer r.orphans.Add(-1)
			waitOut(timer, r.life)
		case <-stopping:
			stopping = nil
			interval.Reset()
		case <-r.life.Done():
		}
		timer.Stop()
		if r.life.Err() != nil {
			return reasonShutdown, fmt.Errorf("shut down while refused: %w", err)
		}
		r.telemetry.ReceiverEnvoyAccessLogRetries.Add(ctx, 1)
	}
}

func waitOut(timer *time.Timer, life context.Context) {
	select {
	case <-timer.C:
	case <-life.Done():
	}
}

func encode(entries []envoy.Entry, observed time.Time) plog.Logs {
	logs := plog.NewLogs()
	scope := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	scope.Scope().SetName(metadata.ScopeName)
	records := scope.LogRecords()
	records.EnsureCapacity(len(entries))
	for i := range entries {
		record := records.AppendEmpty()
		record.SetObservedTimestamp(pcommon.NewTimestampFromTime(observed))
		otlp.Encode(&entries[i].Evidence, record)
	}
	return logs
}

// lose counts entries that were given up, and has the loss sealed.
// n is 0 if nobody knows how many they are; then one is counted.
func (r *alsReceiver) lose(s *stream, n int, reason string, err error) {
	r.telemetry.ReceiverEnvoyAccessLogLostEntries.Add(context.Background(), int64(max(n, 1)), metric.WithAttributes(attribute.String("reason", reason)))
	if r.gaps.lost(s.reporter, reason, int64(n), r.now()) {
		r.set.Logger.Error("access log entries are lost; a mesh.evidence.gap record will say how many",
			zap.String("node", s.node.ID), zap.String("reason", reason), zap.Error(err))
	}
}
