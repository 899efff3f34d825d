package k8sauditreceiver

import (
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
)

// Config of the receiver. README.md describes every field.
type Config struct {
	endpoint.Config  `mapstructure:",squash"`
	k8saudit.Options `mapstructure:",squash"`
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

// Unmarshal also notes what a token that is empty was.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	c.Read(conf)
	return conf.Unmarshal(c)
}

// Validate reports every fault.
func (c *Config) Validate() error {
	return errors.Join(c.Config.Check(), c.Options.Check())
}
