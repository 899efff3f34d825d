package k8sauditreceiver

import (
	"context"
	"net/http"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
	"github.com/meshaudit/meshaudit/receiver/k8sauditreceiver/internal/metadata"
)

type auditReceiver struct {
	*endpoint.Server
	telemetry *metadata.TelemetryBuilder
}

func newReceiver(cfg *Config, set receiver.Settings, next consumer.Logs) (*auditReceiver, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	server, err := endpoint.New(&cfg.Config, set, next, endpoint.Kind{
		Scope:    metadata.ScopeName,
		Format:   "k8s_audit",
		Events:   "audit events",
		Refusing: "audit events are refused; the API server repeats a batch for some minutes and then drops it",
		// The API server's client waits that long and tries again, ten times or
		// until its 30 s are over, within each of the backend's five attempts.
		RetryAfterSeconds: "3",
		Bytes:             telemetry.ReceiverK8sAuditBytes,
		Accepted:          telemetry.ReceiverK8sAuditEvents,
		Lost:              telemetry.ReceiverK8sAuditLostEvents,
		Refused:           telemetry.ReceiverK8sAuditRefusedRequests,
	})
	if err != nil {
		return nil, err
	}
	format := cfg.format()
	server.Handle(cfg.Path, func(w http.ResponseWriter, req *http.Request) { server.Take(w, req, &format) })
	return &auditReceiver{server, telemetry}, nil
}

func (r *auditReceiver) Shutdown(ctx context.Context) error {
	defer r.telemetry.Shutdown()
	return r.Server.Shutdown(ctx)
}

// format is how an EventList, or a single event, is read.
func (c *Config) format() upload.Format {
	decoder := k8saudit.New(c.Options)
	return upload.Format{
		Source: evidence.SourceK8sAudit,
		List:   "items",
		Decode: func(event []byte) (upload.Decoded, error) {
			e, err := decoder.Decode(event)
			if err != nil {
				return upload.Decoded{}, err
			}
			return upload.Decoded{Evidence: []evidence.Evidence{e}}, nil
		},
		Kept: k8saudit.Kept,
	}
}
