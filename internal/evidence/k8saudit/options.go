package k8saudit

import (
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Options say whose events they are and what counts beside the defaults. They
// are part of configurations.
type Options struct {
	// Cluster is the cluster that reports: mesh.cluster. Default: what the record
	// says of where it came from.
	Cluster string `mapstructure:"cluster"`
	// TrustDomain is that of the cluster's service accounts; with it a SPIFFE ID
	// is derived from a service account's name, as a claim. Default none.
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

// IsZero tells whether nothing is set.
func (o *Options) IsZero() bool { return reflect.ValueOf(*o).IsZero() }

// Check reports every fault.
func (o *Options) Check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.TrustDomain != "" {
		if _, err := spiffeid.TrustDomainFromString(o.TrustDomain); err != nil {
			fault("`trust_domain` %q is none: %w", o.TrustDomain, err)
		}
	}
	for _, list := range []struct {
		name     string
		patterns []string
	}{{"config_maps", o.ConfigMaps}, {"secrets", o.Secrets}} {
		for _, p := range list.patterns {
			if _, err := path.Match(p, ""); err != nil || strings.Count(p, "/") != 1 {
				fault("`%s` holds NAMESPACE/NAME, in which * stands for any part of either, got %q", list.name, p)
			}
		}
	}
	for _, g := range o.Groups {
		if rest := strings.TrimPrefix(g, "*."); rest == "" || strings.Contains(rest, "*") {
			fault("`groups` holds API groups, with *. in front for all below one, got %q", g)
		}
	}
	return errors.Join(errs...)
}

// A Decoder reads events. It is safe for concurrent use.
type Decoder struct {
	cluster, trustDomain string
	configMaps, secrets  []string
	groups               []string
}

// New returns a decoder by options that Check finds no fault in.
func New(o Options) *Decoder {
	return &Decoder{
		cluster: o.Cluster, trustDomain: o.TrustDomain,
		configMaps: slices.Concat(DefaultConfigMaps, o.ConfigMaps), secrets: slices.Concat(DefaultSecrets, o.Secrets),
		groups: slices.Concat(groups, o.Groups),
	}
}
