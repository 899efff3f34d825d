package opadecisionlogreceiver

import (
	"errors"
	"fmt"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/confmap"

	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/internal/upload"
)

// Config of the receiver. README.md describes every field.
type Config struct {
	confighttp.ServerConfig `mapstructure:",squash"`

	// Path is what OPA's decision_logs.resource names; paths below it are taken
	// too (/logs/PARTITION).
	Path string `mapstructure:"path"`

	// StatusPath is what OPA's status plugin posts to; paths below it are taken
	// too. "": none is.
	StatusPath string `mapstructure:"status_path"`

	// Token is the bearer token that uploads must carry; empty: none is asked
	// for.
	Token configopaque.String `mapstructure:"token"`

	// BatchSize is how many events are handed to the next consumer at a time.
	// Greater saves commits and costs memory.
	BatchSize int `mapstructure:"batch_size"`

	// MaxEventBytes is how much of one event is read; what is longer is sealed
	// as undecodable.
	MaxEventBytes int `mapstructure:"max_event_bytes"`

	// MaxUploadBytes is how much of one upload is read after decompression;
	// what follows is lost, and sealed as a gap. max_request_body_size bounds
	// the same before decompression.
	MaxUploadBytes int64 `mapstructure:"max_upload_bytes"`

	// SPIFFE takes mTLS with an identity from a Workload API, in place of
	// `tls`. Default: none.
	SPIFFE *spiffemtls.Config `mapstructure:"spiffe"`
}

var _ confmap.Validator = (*Config)(nil)

const (
	defaultEndpoint       = "localhost:8182" // beside OPA's own 8181
	defaultPath           = "/logs"          // OPA's default resource
	defaultStatusPath     = "/status"        // OPA's only one
	defaultBatchSize      = 1000
	defaultMaxEventBytes  = 1 << 20 // one event is an input with a large body
	defaultMaxUploadBytes = 256 << 20

	maxBatchSize = 65536 // what one sealed entry holds
)

func createDefaultConfig() component.Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr = confignet.AddrConfig{Endpoint: defaultEndpoint, Transport: confignet.TransportTypeTCP}
	return &Config{
		ServerConfig:   server,
		Path:           defaultPath,
		StatusPath:     defaultStatusPath,
		BatchSize:      defaultBatchSize,
		MaxEventBytes:  defaultMaxEventBytes,
		MaxUploadBytes: defaultMaxUploadBytes,
	}
}

// Validate reports every fault.
func (c *Config) Validate() error {
	var errs []error
	if !strings.HasPrefix(c.Path, "/") {
		errs = append(errs, fmt.Errorf("`path` must begin with a slash, got %q", c.Path))
	}
	switch {
	case c.StatusPath == "":
	case !strings.HasPrefix(c.StatusPath, "/"):
		errs = append(errs, fmt.Errorf("`status_path` must begin with a slash, got %q", c.StatusPath))
	case upload.Under(c.StatusPath, c.Path), upload.Under(c.Path, c.StatusPath):
		errs = append(errs, fmt.Errorf("`status_path` %q and `path` %q must not be one below the other", c.StatusPath, c.Path))
	}
	if c.BatchSize < 1 || c.BatchSize > maxBatchSize {
		errs = append(errs, fmt.Errorf("`batch_size` must be from 1 to %d, got %d", maxBatchSize, c.BatchSize))
	}
	if c.MaxEventBytes < 1 {
		errs = append(errs, fmt.Errorf("`max_event_bytes` must be positive, got %d", c.MaxEventBytes))
	}
	if c.MaxUploadBytes < 1 {
		errs = append(errs, fmt.Errorf("`max_upload_bytes` must be positive, got %d", c.MaxUploadBytes))
	}
	if c.SPIFFE != nil && c.TLS.HasValue() {
		errs = append(errs, errors.New("`tls` and `spiffe` exclude each other: `spiffe` takes the certificate from the Workload API"))
	}
	if len(c.CompressionAlgorithms) > 0 {
		errs = append(errs, errors.New("`compression_algorithms` is not used: uploads are gzip, which is what OPA sends, or not compressed; remove it"))
	}
	return errors.Join(errs...)
}
