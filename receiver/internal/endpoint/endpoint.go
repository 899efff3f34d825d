// Package endpoint is the Collector's face of package upload: an HTTP server at
// which receivers take uploads of events, and the part of their configuration
// that is the same.
//
// What is answered: 2xx as soon as all that came is accepted by the next
// consumer, whatever it was; 503 only while that refuses for now; 400 where the
// connection broke; 401, 404 and 405 for what is no upload.
package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/internal/upload"
)

// Why a request was refused: attribute values of a metric.
const (
	refusedUnauthorized = "unauthorized"
	refusedMethod       = "method"
	refusedNotFound     = "not_found"
	refusedDownstream   = "downstream"
	refusedBroken       = "connection" // the request did not arrive whole
)

// A Kind is what tells one receiver's endpoint from another's.
type Kind struct {
	Scope  string // the instrumentation scope's name
	Format string // as the Collector's own telemetry names it
	Events string // what arrives, in messages
	// Refusing is logged when the next consumer begins to refuse.
	Refusing string
	// RetryAfterSeconds is for senders that read it.
	RetryAfterSeconds string

	Bytes    metric.Int64Counter // decompressed
	Accepted metric.Int64Counter // events, by result
	Lost     metric.Int64Counter // events
	Refused  metric.Int64Counter // requests, by reason
}

// A Server is the HTTP server and its lifecycle.
type Server struct {
	cfg    *Config
	kind   Kind
	set    receiver.Settings
	token  upload.Token
	offers upload.Next
	routes []route
	status Status

	identity *spiffemtls.Source // nil without `spiffe`
	server   *http.Server
	serving  sync.WaitGroup
}

type route struct {
	path   string
	handle http.HandlerFunc
}

// New returns a server that offers what arrives to next. Handle says what that
// is, before it is started.
func New(cfg *Config, set receiver.Settings, next consumer.Logs, kind Kind) (*Server, error) {
	transport := "http"
	if cfg.TLS.HasValue() || cfg.SPIFFE != nil {
		transport = "https"
	}
	report, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, Transport: transport, ReceiverCreateSettings: set,
	})
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, kind: kind, set: set, token: upload.NewToken(string(cfg.Token)),
		status: Status{Logger: set.Logger, Refusing: kind.Refusing},
	}
	s.offers = upload.Next{
		Scope: kind.Scope,
		Offer: func(ctx context.Context, logs plog.Logs, events int) error {
			if events == 0 { // a gap
				return next.ConsumeLogs(ctx, logs)
			}
			ctx = report.StartLogsOp(ctx)
			err := next.ConsumeLogs(ctx, logs)
			report.EndLogsOp(ctx, kind.Format, events, err)
			return err
		},
		Permanent: consumererror.IsPermanent,
		Accepted: func(ctx context.Context, decoded, raw int64) {
			s.status.Accepted()
			for result, n := range map[string]int64{"decoded": decoded, "raw": raw} {
				if n > 0 {
					kind.Accepted.Add(ctx, n, metric.WithAttributes(attribute.String("result", result)))
				}
			}
		},
		Lost: func(ctx context.Context, reason string, events int64, cause error) {
			kind.Lost.Add(ctx, max(events, 1))
			set.Logger.Error(kind.Events+" are lost; a mesh.evidence.gap record says so",
				zap.String("reason", reason), zap.Int64("events", events), zap.Error(cause))
		},
	}
	return s, nil
}

// Handle takes POST requests that carry the token, if one is configured, to a
// path and to those below it. Of several paths none may be below another.
func (s *Server) Handle(path string, handle http.HandlerFunc) {
	s.routes = append(s.routes, route{path, handle})
}

// Start listens; the port is taken when it returns.
func (s *Server) Start(ctx context.Context, host component.Host) error {
	s.status.Host = host
	// The handler itself decompresses: a body that is no gzip must be sealed and
	// answered 2xx, which confighttp would answer 400. The configuration is
	// shared; what is changed is a copy.
	server := s.cfg.ServerConfig
	server.CompressionAlgorithms = []string{}
	srv, err := server.ToServer(ctx, host.GetExtensions(), s.set.TelemetrySettings, http.HandlerFunc(s.serve))
	if err != nil {
		return err
	}
	if s.cfg.SPIFFE != nil {
		if s.identity, err = spiffemtls.Open(ctx, *s.cfg.SPIFFE); err != nil {
			return fmt.Errorf("`spiffe`: %w", err)
		}
	}
	listener, err := server.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.kind.Events, err)
	}
	if s.identity != nil {
		listener = tls.NewListener(listener, s.identity.ServerConfig())
	}
	s.server = srv
	if !s.token.Set() && s.identity == nil && !s.cfg.TLS.HasValue() && !s.cfg.Auth.HasValue() && !Loopback(listener.Addr()) {
		s.set.Logger.Warn(s.kind.Events+" are taken from everybody: set `spiffe`, `tls` with `client_ca_file`, or `token` with `tls`", zap.Stringer("endpoint", listener.Addr()))
	}
	if s.token.Set() && s.identity == nil && !s.cfg.TLS.HasValue() && !Loopback(listener.Addr()) {
		s.set.Logger.Warn("the bearer token crosses the network in the clear; set `tls`", zap.Stringer("endpoint", listener.Addr()))
	}
	s.serving.Go(func() {
		if err := srv.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	})
	return nil
}

// Shutdown takes no new requests and waits for those under way, as long as ctx
// allows; senders repeat what was cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	if s.identity != nil {
		defer s.identity.Close() // its error is the connection's to a local agent
	}
	if s.server == nil {
		return nil
	}
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.server.Close())
	}
	s.serving.Wait()
	return err
}

// serve checks the request's envelope.
func (s *Server) serve(w http.ResponseWriter, req *http.Request) {
	var handle http.HandlerFunc
	for i := range s.routes {
		if upload.Under(req.URL.Path, s.routes[i].path) {
			handle = s.routes[i].handle
		}
	}
	switch {
	case handle == nil:
		s.refuse(w, http.StatusNotFound, refusedNotFound)
	case req.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		s.refuse(w, http.StatusMethodNotAllowed, refusedMethod)
	case !s.token.Carried(req):
		w.Header().Set("WWW-Authenticate", "Bearer")
		s.refuse(w, http.StatusUnauthorized, refusedUnauthorized)
	default:
		handle(w, req)
	}
}

func (s *Server) refuse(w http.ResponseWriter, code int, reason string) {
	s.kind.Refused.Add(context.Background(), 1, metric.WithAttributes(attribute.String("reason", reason)))
	http.Error(w, http.StatusText(code), code)
}

// Take reads events and offers them batch by batch, while the body arrives, and
// answers. Taken: all of it was accepted.
func (s *Server) Take(w http.ResponseWriter, req *http.Request, f *upload.Format) (taken bool) {
	info := client.FromContext(req.Context())
	// A token or an auth extension vouches for the peer too, though it names no
	// SVID.
	reporter := upload.Peer(req, info.Auth != nil || s.token.Set())
	info.Auth = reporter
	body := upload.NewBody(req, s.cfg.MaxUploadBytes)
	u := upload.New(f, upload.Limits{BatchSize: s.cfg.BatchSize, MaxEventBytes: s.cfg.MaxEventBytes}, &s.offers, body, reporter)
	err := u.Read(client.NewContext(req.Context(), info))
	s.kind.Bytes.Add(context.Background(), body.Decompressed)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
		return true
	case body.Broken != nil && !u.Refused:
		// The sender, or what is between, hung up: there is nobody to answer,
		// and the upload comes again.
		s.refuse(w, http.StatusBadRequest, refusedBroken)
	default:
		s.status.Refused(err)
		w.Header().Set("Retry-After", s.kind.RetryAfterSeconds)
		s.refuse(w, http.StatusServiceUnavailable, refusedDownstream)
	}
	return false
}
