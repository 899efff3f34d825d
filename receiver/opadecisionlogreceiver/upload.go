package opadecisionlogreceiver

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
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver/internal/metadata"
)

const (
	format = "opa_decision_log"
	// retryAfterSeconds is for those who read it; OPA has a backoff of its own.
	retryAfterSeconds = "1"
)

// decisions are what OPA's decision_logs plugin uploads.
var decisions = upload.Format{
	Source: evidence.SourceOPA,
	Decode: func(event []byte) ([]evidence.Evidence, error) {
		e, err := opa.Decode(event)
		if err != nil {
			return nil, err
		}
		return []evidence.Evidence{e}, nil
	},
	Kept: opa.Kept,
}

// nextOf is the next consumer, as an upload sees it.
func (r *opaReceiver) nextOf() *upload.Next {
	return &upload.Next{
		Scope: metadata.ScopeName,
		Offer: func(ctx context.Context, logs plog.Logs, events int) error {
			if events == 0 { // a gap
				return r.next.ConsumeLogs(ctx, logs)
			}
			ctx = r.ops.StartLogsOp(ctx)
			err := r.next.ConsumeLogs(ctx, logs)
			r.ops.EndLogsOp(ctx, format, events, err)
			return err
		},
		Permanent: consumererror.IsPermanent,
		Accepted: func(ctx context.Context, decoded, raw int64) {
			r.accepted()
			for result, n := range map[string]int64{"decoded": decoded, "raw": raw} {
				if n > 0 {
					r.telemetry.ReceiverOpaDecisionLogEvents.Add(ctx, n, metric.WithAttributes(attribute.String("result", result)))
				}
			}
		},
		Lost: func(ctx context.Context, reason string, events int64, cause error) {
			r.telemetry.ReceiverOpaDecisionLogLostEvents.Add(ctx, max(events, 1))
			r.set.Logger.Error("decision log events are lost; a mesh.evidence.gap record says so",
				zap.String("reason", reason), zap.Int64("events", events), zap.Error(cause))
		},
	}
}

// upload reads events and offers them batch by batch, while the body arrives.
func (r *opaReceiver) upload(w http.ResponseWriter, req *http.Request, f *upload.Format) (taken bool) {
	info := client.FromContext(req.Context())
	// A token or an auth extension vouches for the peer too, though it names no
	// SVID.
	reporter := upload.Peer(req, info.Auth != nil || r.token.Set())
	info.Auth = reporter
	body := upload.NewBody(req, r.cfg.MaxUploadBytes)
	u := upload.New(f, upload.Limits{BatchSize: r.cfg.BatchSize, MaxEventBytes: r.cfg.MaxEventBytes}, r.offers, body, reporter)
	err := u.Read(client.NewContext(req.Context(), info))
	r.telemetry.ReceiverOpaDecisionLogBytes.Add(context.Background(), body.Decompressed)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
		return true
	case body.Broken != nil && !u.Refused:
		// OPA, or what is between, hung up: there is nobody to answer, and
		// the upload comes again.
		r.refuse(w, http.StatusBadRequest, refusedBroken)
	default:
		r.refused(err)
		w.Header().Set("Retry-After", retryAfterSeconds)
		r.refuse(w, http.StatusServiceUnavailable, refusedDownstream)
	}
	return false
}
