package opadecisionlogreceiver

import (
	"errors"
	"fmt"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/meshaudit/meshaudit/internal/svid"
	"github.com/meshaudit/meshaudit/internal/upload"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
)

// Config of the receiver. README.md describes every field.
type Config struct {
	// Path is what OPA's decision_logs.resource names (/logs/PARTITION is below
	// its default).
	endpoint.Config `mapstructure:",squash"`

	// StatusPath is what OPA's status plugin posts to; paths below it are taken
	// too. "": none is.
	StatusPath string `mapstructure:"status_path"`

	// Identity says by what JWT-SVIDs and certificates in the events' input are
	// verified. Default: they are not.
	Identity svid.Config `mapstructure:"identity"`
}

var _ confmap.Validator = (*Config)(nil)

const (
	defaultEndpoint      = "localhost:8182" // beside OPA's own 8181
	defaultPath          = "/logs"          // OPA's default resource
	defaultStatusPath    = "/status"        // OPA's only one
	defaultMaxEventBytes = 1 << 20          // one event is an input with a large body
)

func createDefaultConfig() component.Config {
	return &Config{
		Config:     endpoint.NewConfig(defaultEndpoint, defaultPath, defaultMaxEventBytes),
		StatusPath: defaultStatusPath,
	}
}

// Unmarshal also notes what a token that is empty was.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	c.Read(conf)
	return conf.Unmarshal(c)
}

// Validate reports every fault.
func (c *Config) Validate() error {
	errs := []error{c.Check()}
	switch {
	case c.StatusPath == "":
	case !strings.HasPrefix(c.StatusPath, "/"):
		errs = append(errs, fmt.Errorf("`status_path` must begin with a slash, got %q", c.StatusPath))
	case upload.Under(c.StatusPath, c.Path), upload.Under(c.Path, c.StatusPath):
		errs = append(errs, fmt.Errorf("`status_path` %q and `path` %q must not be one below the other", c.StatusPath, c.Path))
	}
	return errors.Join(errs...)
}
