package endpoint

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/confmap"

	"github.com/meshaudit/meshaudit/internal/spiffemtls"
)

// Config is what the receivers of uploads have in common. Their README.md
// describe every field.
type Config struct {
	confighttp.ServerConfig `mapstructure:",squash"`

	// Path is where uploads arrive; paths below it are taken too.
	Path string `mapstructure:"path"`

	// Token is the bearer token that requests must carry; empty: none is asked
	// for.
	Token configopaque.String `mapstructure:"token"`

	// BatchSize is how many events are handed to the next consumer at a time.
	// Greater saves commits and costs memory.
	BatchSize int `mapstructure:"batch_size"`

	// MaxEventBytes is how much of one event is read; what is longer is sealed
	// as undecodable.
	MaxEventBytes int `mapstructure:"max_event_bytes"`

	// MaxUploadBytes is how much of one request is read after decompression;
	// what follows is lost, and sealed as a gap. max_request_body_size bounds
	// the same before decompression.
	MaxUploadBytes int64 `mapstructure:"max_upload_bytes"`

	// SPIFFE takes mTLS with an identity from a Workload API, in place of
	// `tls`. Default: none.
	SPIFFE *spiffemtls.Config `mapstructure:"spiffe"`

	// tokenGiven: there is a `token`, which may be an unset variable.
	tokenGiven bool
}

// Read notes what only the configuration's text tells. The Unmarshal of a
// configuration that this one is embedded in calls it.
func (c *Config) Read(conf *confmap.Conf) { c.tokenGiven = conf.IsSet("token") }

const (
	defaultBatchSize      = 1000
	defaultMaxUploadBytes = 256 << 20

	maxBatchSize = 65536 // what one sealed entry holds
)

// NewConfig returns the defaults of an endpoint at that address and path.
func NewConfig(address, path string, maxEventBytes int) Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr = confignet.AddrConfig{Endpoint: address, Transport: confignet.TransportTypeTCP}
	return Config{
		ServerConfig: server, Path: path,
		BatchSize: defaultBatchSize, MaxEventBytes: maxEventBytes, MaxUploadBytes: defaultMaxUploadBytes,
	}
}

// Check reports every fault. It is not named Validate, which the Collector
// would call beside that of the configuration it is embedded in.
func (c *Config) Check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !strings.HasPrefix(c.Path, "/") {
		fault("`path` must begin with a slash, got %q", c.Path)
	}
	if err := Address(&c.NetAddr); err != nil {
		errs = append(errs, err)
	}
	if c.tokenGiven && c.Token == "" {
		fault("`token` is empty, and would let everybody in: is a variable not set? To ask for none leave it out")
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
		fault("`compression_algorithms` is not used: uploads are gzip or not compressed; remove it")
	}
	return errors.Join(errs...)
}

// Address says what is wrong with where a receiver is to listen.
func Address(a *confignet.AddrConfig) error {
	if !strings.HasPrefix(string(a.Transport), "tcp") {
		return nil
	}
	if _, port, err := net.SplitHostPort(a.Endpoint); err != nil || port == "" {
		return fmt.Errorf("`endpoint` must be HOST:PORT, got %q", a.Endpoint)
	}
	return nil
}
