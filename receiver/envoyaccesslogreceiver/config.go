package envoyaccesslogreceiver

import (
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configretry"
	"go.opentelemetry.io/collector/confmap"

	"github.com/meshaudit/meshaudit/internal/spiffemtls"
	"github.com/meshaudit/meshaudit/internal/svid"
	"github.com/meshaudit/meshaudit/receiver/internal/endpoint"
)

// Config of the receiver. README.md describes every field.
type Config struct {
	configgrpc.ServerConfig `mapstructure:",squash"`

	// RetryOnFailure says how a message that the next consumer refuses for now
	// is offered again. At max_elapsed_time the message's entries are given up,
	// counted, and a mesh.evidence.gap record is sealed; 0 never gives up.
	// While a message is retried its stream is not read, which pushes back on
	// Envoy: its own buffer fills, and then Envoy drops.
	RetryOnFailure configretry.BackOffConfig `mapstructure:"retry_on_failure"`

	// SPIFFE takes mTLS with an identity from a Workload API, in place of
	// `tls`. Default: none.
	SPIFFE *spiffemtls.Config `mapstructure:"spiffe"`

	// Identity says by what certificates and JWT-SVIDs in the entries are
	// verified. Default: they are not.
	Identity svid.Config `mapstructure:"identity"`
}

var _ confmap.Validator = (*Config)(nil)

// Validate reports every fault that the parts do not report themselves.
func (c *Config) Validate() error {
	err := endpoint.Address(&c.NetAddr)
	if c.SPIFFE != nil && c.TLS.HasValue() {
		err = errors.Join(err, errors.New("`tls` and `spiffe` exclude each other: `spiffe` takes the certificate from the Workload API"))
	}
	return err
}

// defaultEndpoint is the port that Istio's examples give an access log service.
const defaultEndpoint = "localhost:9001"

func createDefaultConfig() component.Config {
	server := configgrpc.NewDefaultServerConfig()
	server.NetAddr = confignet.AddrConfig{Endpoint: defaultEndpoint, Transport: confignet.TransportTypeTCP}
	retry := configretry.NewDefaultBackOffConfig()
	retry.InitialInterval = initialInterval
	return &Config{ServerConfig: server, RetryOnFailure: retry}
}
