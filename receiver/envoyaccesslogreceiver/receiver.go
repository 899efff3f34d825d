package envoyaccesslogreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/internal/svid"
	"github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver/internal/metadata"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
)

const (
	initialInterval = 100 * time.Millisecond // a group commit later
	// shutdownGrace is how long messages that were read are still offered
	// after Shutdown began, so that a restart of the whole collector is not
	// held up by a consumer that refuses.
	shutdownGrace = 5 * time.Second
	// maxOrphans bounds messages whose stream is gone and which are still
	// retried: a proxy that reconnects for each message must not pile them up.
	maxOrphans = 32
)

// alsReceiver is the gRPC service and its lifecycle. One handler runs for each
// stream; each holds at most one message.
type alsReceiver struct {
	cfg       *Config
	set       receiver.Settings
	next      consumer.Logs
	report    *receiverhelper.ObsReport
	telemetry *metadata.TelemetryBuilder
	gaps      *gapKeeper
	now       func() time.Time

	status   endpoint.Status
	identity *spiffemtls.Source // nil without `spiffe`
	prover   *svid.Prover       // nil without `identity`
	server   *grpc.Server
	serving  sync.WaitGroup
	stopping chan struct{}      // closed when Shutdown begins
	life     context.Context    // ends when what was read may no longer be offered
	end      context.CancelFunc // ends life
	stopOnce sync.Once
	orphans  atomic.Int32
}

func newReceiver(cfg *Config, set receiver.Settings, next consumer.Logs) (*alsReceiver, error) {
	report, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, Transport: "grpc", LongLivedCtx: true, ReceiverCreateSettings: set,
	})
	if err != nil {
		return nil, err
	}
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	r := &alsReceiver{
		cfg: cfg, set: set, next: next, report: report, telemetry: telemetry,
		now: time.Now, stopping: make(chan struct{}),
		status: endpoint.Status{
			Logger:   set.Logger,
			Refusing: "access log entries are refused; they are offered again, and their streams are not read meanwhile",
		},
	}
	r.life, r.end = context.WithCancel(context.Background())
	r.gaps = newGapKeeper(r.sealGap)
	return r, nil
}

// Start listens; the port is taken when it returns.
func (r *alsReceiver) Start(ctx context.Context, host component.Host) error {
	r.status.Host = host
	options := []configgrpc.ToServerOption{
		configgrpc.WithGrpcServerOption(grpc.WaitForHandlers(true)),
		configgrpc.WithGrpcServerOption(grpc.ForceServerCodecV2(rawCodec{})),
	}
	if r.cfg.SPIFFE != nil {
		source, err := spiffemtls.Open(ctx, *r.cfg.SPIFFE)
		if err != nil {
			return fmt.Errorf("`spiffe`: %w", err)
		}
		r.identity = source
		options = append(options, configgrpc.WithGrpcServerOption(grpc.Creds(credentials.NewTLS(source.ServerConfig()))))
	}
	prover, err := svid.Open(ctx, r.cfg.Identity, svid.NewObserver(r.telemetry.ReceiverEnvoyAccessLogCredentials, r.set.Logger))
	if err != nil {
		return fmt.Errorf("`identity`: %w", err)
	}
	r.prover = prover
	server, err := r.cfg.ToServer(ctx, host.GetExtensions(), r.set.TelemetrySettings, options...)
	if err != nil {
		return err
	}
	server.RegisterService(&service, r)
	listener, err := r.cfg.NetAddr.Listen(ctx)
	if err != nil {
		return fmt.Errorf("listen for access logs: %w", err)
	}
	r.server = server
	if r.cfg.SPIFFE == nil && !r.cfg.TLS.HasValue() && !endpoint.Loopback(listener.Addr()) {
		r.set.Logger.Warn("access logs are taken without TLS: reporters are not authenticated; set `spiffe`, or `tls` with `client_ca_file`",
			zap.Stringer("endpoint", listener.Addr()))
	}
	r.gaps.start()
	r.serving.Add(1)
	go func() {
		defer r.serving.Done()
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	}()
	return nil
}

// Shutdown reads nothing more, offers what was read until it is accepted,
// shutdownGrace is over or ctx ends, and then offers the gaps a last time.
func (r *alsReceiver) Shutdown(ctx context.Context) error {
	r.stopOnce.Do(func() { close(r.stopping) })
	defer r.telemetry.Shutdown()
	defer r.end()
	if r.identity != nil {
		defer r.identity.Close() // its error is the connection's to a local agent
	}
	defer r.prover.Close()
	if r.server == nil {
		return nil
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.server.Stop() // waits for the handlers
	}()
	grace := time.NewTimer(shutdownGrace)
	defer grace.Stop()
	select {
	case <-stopped:
	case <-grace.C:
	case <-ctx.Done():
	}
	r.end()
	<-stopped
	r.serving.Wait()
	r.gaps.stop()
	return nil
}
