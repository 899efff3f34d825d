package sealedlogexporter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

// WitnessesConfig says who cosigns what is published, and what for.
type WitnessesConfig struct {
	// List are the witnesses. Default: none.
	List []WitnessConfig `mapstructure:"list"`

	// Quorum is how many of them must cosign. Default: 0, all.
	Quorum int `mapstructure:"quorum"`

	// Ack says when a request is acknowledged: stored (default), when it is
	// durable; witnessed, when a quorum has cosigned a checkpoint that
	// covers it, which costs a round trip to the witnesses and stops
	// acknowledging while too few can be reached.
	Ack string `mapstructure:"ack"`

	// Timeout bounds how long witnesses, and callers that wait for them,
	// are waited for. Default: 5s.
	Timeout time.Duration `mapstructure:"timeout"`
}

// WitnessConfig is one C2SP witness.
type WitnessConfig struct {
	// VerifierKey is its key, as `meshaudit keygen witness` prints it.
	VerifierKey string `mapstructure:"vkey"`

	// ClientConfig is how it is reached; endpoint is its URL.
	confighttp.ClientConfig `mapstructure:",squash"`
}

const (
	ackStored    = "stored"
	ackWitnessed = "witnessed"
)

func (c *WitnessesConfig) validate(fault func(format string, args ...any)) {
	if c.Ack != ackStored && c.Ack != ackWitnessed {
		fault("`witnesses::ack` must be %q or %q, got %q", ackStored, ackWitnessed, c.Ack)
	}
	if c.Timeout < time.Millisecond {
		fault("`witnesses::timeout` must be at least 1ms, got %v", c.Timeout)
	}
	if c.Ack == ackWitnessed && len(c.List) == 0 {
		fault("`witnesses::ack: witnessed` needs witnesses in `witnesses::list`")
	}
	valid := true
	for i, w := range c.List {
		if _, err := w.witness(); err != nil {
			fault("`witnesses::list[%d]`: %w", i, err)
			valid = false
		}
		if w.Endpoint == "" {
			fault("`witnesses::list[%d]::endpoint` is required: the witness's URL", i)
		}
	}
	if valid {
		if _, err := c.policy(); err != nil {
			fault("`witnesses`: %w", err)
		}
	}
}

func (w *WitnessConfig) witness() (seal.Witness, error) {
	return seal.NewWitness(strings.TrimPrefix(w.VerifierKey, "witness "), w.Endpoint)
}

func (c *WitnessesConfig) policy() (*seal.WitnessPolicy, error) {
	var ws []seal.Witness
	for i := range c.List {
		w, err := c.List[i].witness()
		if err != nil {
			return nil, err
		}
		ws = append(ws, w)
	}
	return seal.NewWitnessPolicy(ws, c.Quorum)
}

func (c *WitnessesConfig) client(ctx context.Context, host component.Host, set component.TelemetrySettings) (*witness.Client, error) {
	client := &witness.Client{Of: map[string]*http.Client{}}
	for i := range c.List {
		w, err := c.List[i].witness()
		if err != nil {
			return nil, err
		}
		if client.Of[w.VerifierKey], err = c.List[i].ToClient(ctx, host.GetExtensions(), set); err != nil {
			return nil, fmt.Errorf("`witnesses::list[%d]`: %w", i, err)
		}
	}
	return client, nil
}

// witnessed is told how each publication fared with the witnesses. Callers of
// ack: stored see nothing of it; metrics, status and log do.
func (w *writer) witnessed(host component.Host, r seal.Witnessing) {
	ctx := context.Background()
	for _, f := range r.Failures {
		w.telemetry.SealedLogWitnessFailures.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(
			attribute.String("witness", f.Witness), attribute.String("reason", f.Reason))))
	}
	missing := max(0, r.Quorum-r.Cosigned)
	w.telemetry.SealedLogWitnessesMissing.Record(ctx, int64(missing))
	if r.Enough() {
		w.telemetry.SealedLogWitnessedCheckpoints.Add(ctx, 1)
	}
	w.status.mu.Lock()
	defer w.status.mu.Unlock()
	switch {
	case r.Enough() && w.status.unwitnessed != nil:
		w.set.Logger.Info("Enough witnesses cosign again")
		w.status.unwitnessed = nil
	case !r.Enough() && w.status.unwitnessed == nil:
		var errs []error
		for _, f := range r.Failures {
			errs = append(errs, f)
		}
		w.status.unwitnessed = fmt.Errorf("%d of a quorum of %d witnesses cosigned: %w", r.Cosigned, r.Quorum, errors.Join(errs...))
		w.set.Logger.Error("Too few witnesses cosign what is sealed", zap.Error(w.status.unwitnessed))
	default:
		return
	}
	w.report(host)
}

// report tells the worst of what is known as component status.
func (w *writer) report(host component.Host) {
	event := componentstatus.NewEvent(componentstatus.StatusOK)
	if err := w.status.forked; err != nil {
		event = componentstatus.NewPermanentErrorEvent(err)
	} else if err := errors.Join(w.status.fault, w.status.unsent, w.status.unwitnessed, w.status.unstamped); err != nil {
		event = componentstatus.NewRecoverableErrorEvent(err)
	}
	componentstatus.ReportStatus(host, event)
}
