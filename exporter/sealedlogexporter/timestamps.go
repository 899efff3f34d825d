package sealedlogexporter

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/timestamp"
	"github.com/meshaudit/meshaudit/seal"
)

// TimestampsConfig says who timestamps what is published.
type TimestampsConfig struct {
	// ClientConfig is how an RFC 3161 authority is reached; endpoint is its
	// URL. Default: none.
	confighttp.ClientConfig `mapstructure:",squash"`

	// Every is how often, as long as the log grows. Default: 1h. Costs a
	// request and a few kB each.
	Every time.Duration `mapstructure:"every"`
}

func (c *TimestampsConfig) validate(fault func(format string, args ...any)) {
	if c.Every < time.Second {
		fault("`timestamps::every` must be at least 1s, got %v", c.Every)
	}
	if c.Endpoint == "" {
		return
	}
	if u, err := url.Parse(c.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		fault("`timestamps::endpoint` must be a URL such as https://tsa.example.org/tsr, got %q", c.Endpoint)
	}
}

// stampBy lets the authority timestamp what cfg's writer publishes.
func (w *writer) stampBy(ctx context.Context, host component.Host, cfg *seal.Config) error {
	t := &w.cfg.Timestamps
	if t.Endpoint == "" {
		return nil
	}
	client, err := t.ToClient(ctx, host.GetExtensions(), w.set)
	if err != nil {
		return fmt.Errorf("`timestamps`: %w", err)
	}
	cfg.Stamp, cfg.StampEvery = (&timestamp.Client{URL: t.Endpoint, HTTP: client}).Stamp, t.Every
	cfg.Stamped = func(size uint64, err error) { w.stamped(host, size, err) }
	return nil
}

// stamped is told how each request to the authority ended. Nothing waits for
// it; metrics, status and log say so.
func (w *writer) stamped(host component.Host, size uint64, err error) {
	w.status.mu.Lock()
	defer w.status.mu.Unlock()
	switch {
	case err != nil:
		w.telemetry.SealedLogTimestampFailures.Add(context.Background(), 1)
		if w.status.unstamped == nil {
			w.set.Logger.Error("The log is not timestamped", zap.Error(err))
		}
		w.status.unstamped = fmt.Errorf("timestamp: %w", err)
	case w.status.unstamped != nil:
		w.set.Logger.Info("The log is timestamped again", zap.Uint64("entries", size))
		w.status.unstamped = nil
	default:
		return
	}
	w.report(host)
}
