package opadecisionlogreceiver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
)

// Why an upload was refused: attribute values of a metric.
const (
	refusedUnauthorized = "unauthorized"
	refusedMethod       = "method"
	refusedNotFound     = "not_found"
	refusedDownstream   = "downstream"
	refusedBroken       = "connection" // the upload did not arrive whole
)

// opaReceiver is the HTTP server and its lifecycle.
type opaReceiver struct {
	cfg       *Config
	set       receiver.Settings
	next      consumer.Logs
	ops       *receiverhelper.ObsReport
	telemetry *metadata.TelemetryBuilder
	token     upload.Token
	offers    *upload.Next

	host     component.Host
	identity *spiffemtls.Source // nil without `spiffe`
	server   *http.Server
	serving  sync.WaitGroup
	refusing atomic.Bool // the last offer was refused; for the component's status
	known    known
}

func newReceiver(cfg *Config, set receiver.Settings, next consumer.Logs) (*opaReceiver, error) {
	transport := "http"
	if cfg.TLS.HasValue() || cfg.SPIFFE != nil {
		transport = "https"
	}
	ops, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, Transport: transport, ReceiverCreateSettings: set,
	})
	if err != nil {
		return nil, err
	}
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	r := &opaReceiver{
		cfg: cfg, set: set, next: next, ops: ops, telemetry: telemetry, token: upload.NewToken(string(cfg.Token)),
	}
	r.offers = r.nextOf()
	return r, nil
}

// Start listens; the port is taken when it returns.
func (r *opaReceiver) Start(ctx context.Context, host component.Host) error {
	r.host = host
	// The handler itself decompresses: a body that is no gzip must be sealed and
	// answered 2xx, which confighttp would answer 400. The configuration is
	// shared; what is changed is a copy.
	server := r.cfg.ServerConfig
	server.CompressionAlgorithms = []string{}
	srv, err := server.ToServer(ctx, host.GetExtensions(), r.set.TelemetrySettings, http.HandlerFunc(r.serve))
	if err != nil {
		return err
	}
	if r.cfg.SPIFFE != nil {
		if r.identity, err = spiffemtls.Open(ctx, *r.cfg.SPIFFE); err != nil {
			return fmt.Errorf("`spiffe`: %w", err)
		}
	}
	listener, err := server.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("listen for decision logs: %w", err)
	}
	if r.identity != nil {
		listener = tls.NewListener(listener, r.identity.ServerConfig())
	}
	r.server = srv
	if r.token.Set() && r.identity == nil && !r.cfg.TLS.HasValue() && !loopback(listener.Addr()) {
		r.set.Logger.Warn("the bearer token crosses the network in the clear; set `tls`", zap.Stringer("endpoint", listener.Addr()))
	}
	r.serving.Add(1)
	go func() {
		defer r.serving.Done()
		if err := srv.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	}()
	return nil
}

// Shutdown takes no new uploads and waits for those under way, as long as ctx
// allows; OPA repeats what was cut off.
func (r *opaReceiver) Shutdown(ctx context.Context) error {
	defer r.telemetry.Shutdown()
	if r.identity != nil {
		defer r.identity.Close() // its error is the connection's to a local agent
	}
	if r.server == nil {
		return nil
	}
	err := r.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, r.server.Close())
	}
	r.serving.Wait()
	return err
}

// serve checks the request's envelope.
func (r *opaReceiver) serve(w http.ResponseWriter, req *http.Request) {
	status := r.cfg.StatusPath != "" && upload.Under(req.URL.Path, r.cfg.StatusPath)
	switch {
	case !status && !upload.Under(req.URL.Path, r.cfg.Path):
		r.refuse(w, http.StatusNotFound, refusedNotFound)
	case req.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		r.refuse(w, http.StatusMethodNotAllowed, refusedMethod)
	case !r.token.Carried(req):
		w.Header().Set("WWW-Authenticate", "Bearer")
		r.refuse(w, http.StatusUnauthorized, refusedUnauthorized)
	case status:
		r.report(w, req)
	default:
		r.upload(w, req, &decisions)
	}
}

func (r *opaReceiver) refuse(w http.ResponseWriter, code int, reason string) {
	r.telemetry.ReceiverOpaDecisionLogRefusedUploads.Add(context.Background(), 1,
		metric.WithAttributes(attribute.String("reason", reason)))
	http.Error(w, http.StatusText(code), code)
}

// accepted and refused keep the component's status, which changes only with
// the first of either.
func (r *opaReceiver) accepted() {
	if r.refusing.CompareAndSwap(true, false) {
		componentstatus.ReportStatus(r.host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
}

func (r *opaReceiver) refused(err error) {
	if r.refusing.CompareAndSwap(false, true) {
		componentstatus.ReportStatus(r.host, componentstatus.NewRecoverableErrorEvent(err))
		r.set.Logger.Warn("decision log events are refused; OPA is told to repeat its uploads", zap.Error(err))
	}
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
