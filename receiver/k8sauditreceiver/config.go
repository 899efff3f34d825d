package k8sauditreceiver

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/confmap"

	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/internal/spiffemtls"
)

// Config of the receiver. README.md describes every field.
type Config struct {
	confighttp.ServerConfig `mapstructure:",squash"`

	// Path is that of the webhook's URL; paths below it are taken too.
	Path string `mapstructure:"path"`

	// Token is the bearer token that requests must carry; empty: none is asked
	// for.
	Token configopaque.String `mapstructure:"token"`

	// Cluster is the cluster that reports here: mesh.cluster.
	Cluster string `mapstructure:"cluster"`

	// TrustDomain is that of the cluster's workloads; with it a SPIFFE ID is
	// derived from a service account's name, as a claim.
	TrustDomain string `mapstructure:"trust_domain"`

	// ConfigMaps and Secrets are NAMESPACE/NAME, in which * stands for any part
	// of either, beside the defaults: writes to them are configuration changes,
	// reads of these secrets are operator actions.
	ConfigMaps []string `mapstructure:"config_maps"`
	Secrets    []string `mapstructure:"secrets"`

	// Groups are API groups, beside the defaults, to which every write is a
	// configuration change: exact, or with *. in front.
	Groups []string `mapstructure:"groups"`

	// BatchSize is how many events are handed to the next consumer at a time.
	BatchSize int `mapstructure:"batch_size"`

	// MaxEventBytes is how much of one event is read; what is longer is sealed
	// as undecodable.
	MaxEventBytes int `mapstructure:"max_event_bytes"`

	// MaxUploadBytes is how much of one request is read after decompression;
	// what follows is lost, and sealed as a gap.
	MaxUploadBytes int64 `mapstructure:"max_upload_bytes"`

	// SPIFFE takes mTLS with an identity from a Workload API, in place of
	// `tls`. Default: none.
	SPIFFE *spiffemtls.Config `mapstructure:"spiffe"`
}

var _ confmap.Validator = (*Config)(nil)

const (
	defaultEndpoint = "localhost:8183" // beside opa_decision_log's 8182
	defaultPath     = "/k8s-audit"
	// The API server sends 400 events at a time; etcd takes objects of 1.5 MiB,
	// of which an event can hold two.
	defaultBatchSize      = 1000
	defaultMaxEventBytes  = 4 << 20
	defaultMaxUploadBytes = 256 << 20
	defaultMaxBodyBytes   = 64 << 20

	maxBatchSize = 65536 // what one sealed entry holds
)

func createDefaultConfig() component.Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr = confignet.AddrConfig{Endpoint: defaultEndpoint, Transport: confignet.TransportTypeTCP}
	server.MaxRequestBodySize = defaultMaxBodyBytes
	return &Config{
		ServerConfig:   server,
		Path:           defaultPath,
		BatchSize:      defaultBatchSize,
		MaxEventBytes:  defaultMaxEventBytes,
		MaxUploadBytes: defaultMaxUploadBytes,
	}
}

// Validate reports every fault.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !strings.HasPrefix(c.Path, "/") {
		fault("`path` must begin with a slash, got %q", c.Path)
	}
	if c.TrustDomain != "" {
		if _, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
			fault("`trust_domain` %q is none: %w", c.TrustDomain, err)
		}
	}
	for name, patterns := range map[string][]string{"config_maps": c.ConfigMaps, "secrets": c.Secrets} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil || strings.Count(p, "/") != 1 {
				fault("`%s` holds NAMESPACE/NAME, in which * stands for any part of either, got %q", name, p)
			}
		}
	}
	for _, g := range c.Groups {
		if rest := strings.TrimPrefix(g, "*."); rest == "" || strings.Contains(rest, "*") {
			fault("`groups` holds API groups, with *. in front for all below one, got %q", g)
		}
	}
	if c.BatchSize < 1 || c.BatchSize > maxBatchSize {
		fault("`batch_size` must be from 1 to %d, got %d", maxBatchSize, c.BatchSize)
	}
	if c.MaxEventBytes < 1 {
		fault("`max_event_bytes` must be positive, got %d", c.MaxEventBytes)
	}
	if c.MaxUploadBytes < 1 {
		fault("`max_upload_bytes` must be positive, got %d", c.MaxUploadBytes)
	}
	if c.SPIFFE != nil && c.TLS.HasValue() {
		fault("`tls` and `spiffe` exclude each other: `spiffe` takes the certificate from the Workload API")
	}
	if len(c.CompressionAlgorithms) > 0 {
		fault("`compression_algorithms` is not used: requests are gzip or not compressed; remove it")
	}
	return errors.Join(errs...)
}

func (c *Config) decoder() *k8saudit.Decoder {
	return k8saudit.New(k8saudit.Options{TrustDomain: c.TrustDomain, ConfigMaps: c.ConfigMaps, Secrets: c.Secrets, Groups: c.Groups})
}
