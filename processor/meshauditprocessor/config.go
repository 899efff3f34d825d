package meshauditprocessor

import (
	"errors"
	"fmt"

	"github.com/meshaudit/meshaudit/internal/clerk"
)

// What the processor does with evidence.
const (
	modeCorrelate = "correlate"
	modeTag       = "tag"
)

// Config of the processor. One component id is one correlator: the traces and
// the logs pipeline that name it share this value.
type Config struct {
	clerk.Config `mapstructure:",squash"`
	// Mode is correlate, or tag: for an agent that only redacts and names
	// evidence and says which gateway it belongs to. Default correlate.
	Mode string `mapstructure:"mode"`

	// shared belongs to the faces of this component id, which all get this
	// same Config.
	shared *shared
}

func createDefaultConfig() *Config {
	return &Config{Config: clerk.DefaultConfig(), Mode: modeCorrelate, shared: new(shared)}
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var mode error
	switch {
	case c.Mode != modeCorrelate && c.Mode != modeTag:
		mode = fmt.Errorf("`mode` knows correlate and tag, got %q", c.Mode)
	case c.tags() && c.RecoverFrom != (clerk.RecoverConfig{}):
		mode = errors.New("`recover_from` belongs to the gateways: with `mode: tag` no records are made here")
	}
	return errors.Join(mode, c.Faults())
}

func (c *Config) tags() bool { return c.Mode == modeTag }
