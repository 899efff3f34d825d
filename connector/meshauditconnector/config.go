package meshauditconnector

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/collector/pipeline"

	"github.com/meshaudit/meshaudit/internal/clerk"
)

// Config of the connector. One component id is one correlator, whatever
// pipelines it stands between.
type Config struct {
	clerk.Config `mapstructure:",squash"`
	// Evidence are the pipelines that seal the evidence; all must accept it.
	// Required, for each signal that comes.
	Evidence []pipeline.ID `mapstructure:"evidence"`
	// Records are the logs pipelines that records, findings and gaps go to.
	// Required.
	Records []pipeline.ID `mapstructure:"records"`

	// shared belongs to the faces of this component id, which all get this
	// same Config.
	shared *shared
}

func createDefaultConfig() *Config {
	return &Config{Config: clerk.DefaultConfig(), shared: new(shared)}
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	errs := []error{c.Faults()}
	if len(c.Evidence) == 0 {
		errs = append(errs, errors.New("`evidence` must name the pipelines that seal the evidence, such as logs/evidence and traces/evidence"))
	}
	if len(c.Records) == 0 {
		errs = append(errs, errors.New("`records` must name the logs pipelines that records go to, such as logs/records"))
	}
	for _, id := range c.Evidence {
		if s := id.Signal(); s != pipeline.SignalLogs && s != pipeline.SignalTraces {
			errs = append(errs, fmt.Errorf("`evidence` takes logs and traces pipelines, got %s", id))
		}
	}
	for _, id := range c.Records {
		if id.Signal() != pipeline.SignalLogs {
			errs = append(errs, fmt.Errorf("`records` takes logs pipelines, got %s", id))
		}
	}
	return errors.Join(errs...)
}

// evidence are the pipelines of one signal that seal it.
func (c *Config) evidence(s pipeline.Signal) (ids []pipeline.ID) {
	for _, id := range c.Evidence {
		if id.Signal() == s {
			ids = append(ids, id)
		}
	}
	return ids
}
