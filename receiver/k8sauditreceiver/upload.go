package k8sauditreceiver

import (
	"context"
	"net/http"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/k8sauditreceiver/internal/metadata"
)

const (
	format = "k8s_audit"
	// The API server's client waits that long and tries again, ten times or
	// until its 30 s are over, within each of the backend's five attempts.
	retryAfterSeconds = "3"
)

// formatOf is how an EventList, or a single event, is read.
func (r *auditReceiver) formatOf() upload.Format {
	decoder := r.cfg.decoder()
	return upload.Format{
		Source: evidence.SourceK8sAudit,
		List:   "items",
		Decode: func(event []byte) ([]evidence.Evidence, error) {
			e, err := decoder.Decode(event)
			if err != nil {
				return nil, err
			}
			e.Cluster = r.cfg.Cluster
			return []evidence.Evidence{e}, nil
		},
		Kept: k8saudit.Kept,
	}
}

// nextOf is the next consumer, as an upload sees it.
func (r *auditReceiver) nextOf() *upload.Next {
	return &upload.Next{
		Scope: metadata.ScopeName,
		Offer: func(ctx context.Context, logs plog.Logs, events int) error {
			if events == 0 { // a gap
				return r.next.ConsumeLogs(ctx, logs)
			}
			ctx = r.report.StartLogsOp(ctx)
			err := r.next.ConsumeLogs(ctx, logs)
			r.report.EndLogsOp(ctx, format, events, err)
			return err
		},
		Permanent: consumererror.IsPermanent,
		Accepted: func(ctx context.Context, decoded, raw int64) {
			r.accepted()
			for result, n := range map[string]int64{"decoded": decoded, "raw": raw} {
				if n > 0 {
					r.telemetry.ReceiverK8sAuditEvents.Add(ctx, n, metric.WithAttributes(attribute.String("result", result)))
				}
			}
		},
		Lost: func(ctx context.Context, reason string, events int64, cause error) {
			r.telemetry.ReceiverK8sAuditLostEvents.Add(ctx, max(events, 1))
			r.set.Logger.Error("audit events are lost; a mesh.evidence.gap record says so",
				zap.String("reason", reason), zap.Int64("events", events), zap.Error(cause))
		},
	}
}

// upload reads events and offers them batch by batch, while the body arrives.
func (r *auditReceiver) upload(w http.ResponseWriter, req *http.Request) {
	info := client.FromContext(req.Context())
	// A token or an auth extension vouches for the peer too, though it names no
	// SVID.
	reporter := upload.Peer(req, info.Auth != nil || r.token.Set())
	info.Auth = reporter
	body := upload.NewBody(req, r.cfg.MaxUploadBytes)
	u := upload.New(&r.format, upload.Limits{BatchSize: r.cfg.BatchSize, MaxEventBytes: r.cfg.MaxEventBytes}, r.offers, body, reporter)
	err := u.Read(client.NewContext(req.Context(), info))
	r.telemetry.ReceiverK8sAuditBytes.Add(context.Background(), body.Decompressed)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case body.Broken != nil && !u.Refused:
		// The API server, or what is between, hung up: there is nobody to
		// answer, and the batch comes again.
		r.refuse(w, http.StatusBadRequest, refusedBroken)
	default:
		r.refused(err)
		w.Header().Set("Retry-After", retryAfterSeconds)
		r.refuse(w, http.StatusServiceUnavailable, refusedDownstream)
	}
}
