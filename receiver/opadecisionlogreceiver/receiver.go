package opadecisionlogreceiver

import (
	"context"
	"net/http"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
)

type opaReceiver struct {
	*endpoint.Server
	telemetry *metadata.TelemetryBuilder
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
	r := &opaReceiver{Server: server, telemetry: telemetry}
	server.Handle(cfg.Path, func(w http.ResponseWriter, req *http.Request) { server.Take(w, req, &decisions) })
	if cfg.StatusPath != "" {
		server.Handle(cfg.StatusPath, r.report)
	}
	return r, nil
}

func (r *opaReceiver) Shutdown(ctx context.Context) error {
	defer r.telemetry.Shutdown()
	return r.Server.Shutdown(ctx)
}

// decisions are what OPA's decision_logs plugin uploads.
var decisions = upload.Format{
	Source: evidence.SourceOPA,
	Decode: func(event []byte) (upload.Decoded, error) {
		e, err := opa.Decode(event)
		if err != nil {
			return upload.Decoded{}, err
		}
		return upload.Decoded{Evidence: []evidence.Evidence{e}}, nil
	},
	Kept: opa.Kept,
}
