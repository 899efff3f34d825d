package k8sauditreceiver

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
)

// Config of the receiver. README.md describes every field.
type Config struct {
	endpoint.Config `mapstructure:",squash"`

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
}

var _ confmap.Validator = (*Config)(nil)

const (
	defaultEndpoint = "localhost:8183" // beside opa_decision_log's 8182
	defaultPath     = "/k8s-audit"
	// The API server sends 400 events at a time; etcd takes objects of 1.5 MiB,
	// of which an event can hold two.
	defaultMaxEventBytes = 4 << 20
	defaultMaxBodyBytes  = 64 << 20
)

func createDefaultConfig() component.Config {
	c := &Config{Config: endpoint.NewConfig(defaultEndpoint, defaultPath, defaultMaxEventBytes)}
	c.MaxRequestBodySize = defaultMaxBodyBytes
	return c
}

// Validate reports every fault.
func (c *Config) Validate() error {
	errs := []error{c.Check()}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
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
	return errors.Join(errs...)
}

func (c *Config) decoder() *k8saudit.Decoder {
	return k8saudit.New(k8saudit.Options{TrustDomain: c.TrustDomain, ConfigMaps: c.ConfigMaps, Secrets: c.Secrets, Groups: c.Groups})
}
