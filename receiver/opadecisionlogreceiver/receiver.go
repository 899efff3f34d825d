package opadecisionlogreceiver

import (
	"context"
	"fmt"
	"net/http"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/svid"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
)

type opaReceiver struct {
	*endpoint.Server
	cfg       *Config
	telemetry *metadata.TelemetryBuilder
	observer  svid.Observer
	prover    *svid.Prover // nil without `identity`
	known     known
	dropped   dropped
}

func newReceiver(cfg *Config, set receiver.Settings, next consumer.Logs) (*opaReceiver, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	server, err := endpoint.New(&cfg.Config, set, next, endpoint.Kind{
		Scope:             metadata.ScopeName,
		Format:            "opa_decision_log",
		Events:            "decision log events",
		Refusing:          "decision log events are refused; OPA is told to repeat its uploads",
		RetryAfterSeconds: "1", // OPA has a backoff of its own
		Bytes:             telemetry.ReceiverOpaDecisionLogBytes,
		Accepted:          telemetry.ReceiverOpaDecisionLogEvents,
		Lost:              telemetry.ReceiverOpaDecisionLogLostEvents,
		Refused:           telemetry.ReceiverOpaDecisionLogRefusedUploads,
	})
	if err != nil {
		return nil, err
	}
	r := &opaReceiver{
		Server: server, cfg: cfg, telemetry: telemetry,
		observer: svid.NewObserver(telemetry.ReceiverOpaDecisionLogCredentials, set.Logger),
	}
	decisions := r.decisions()
	server.Handle(cfg.Path, func(w http.ResponseWriter, req *http.Request) { server.Take(w, req, decisions) })
	if cfg.StatusPath != "" {
		server.Handle(cfg.StatusPath, r.report)
	}
	return r, nil
}

func (r *opaReceiver) Start(ctx context.Context, host component.Host) (err error) {
	if r.prover, err = svid.Open(ctx, r.cfg.Identity, r.observer); err != nil {
		return fmt.Errorf("`identity`: %w", err)
	}
	return r.Server.Start(ctx, host)
}

func (r *opaReceiver) Shutdown(ctx context.Context) error {
	defer r.telemetry.Shutdown()
	defer r.prover.Close()
	return r.Server.Shutdown(ctx)
}

// decisions are what OPA's decision_logs plugin uploads.
func (r *opaReceiver) decisions() *upload.Format {
	return &upload.Format{
		Source: evidence.SourceOPA,
		Decode: func(event []byte) (upload.Decoded, error) {
			e, err := opa.Decode(event)
			if err != nil {
				return upload.Decoded{}, err
			}
			// A certificate in the input is a header's, whoever OPA is: it ends
			// no caller's connection.
			r.prover.Prove(&e, false)
			return upload.Decoded{Evidence: []evidence.Evidence{e}}, nil
		},
		Kept: opa.Kept,
	}
}
