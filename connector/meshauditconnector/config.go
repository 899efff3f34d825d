package meshauditconnector

import (
	"errors"
	"fmt"
	"slices"

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
	// Spans are the traces pipelines that spans go to after the record of their
	// call, with what it says. Default none.
	Spans []pipeline.ID `mapstructure:"spans"`
	// MaxHeldSpansBytes bounds the spans that wait for that. Default 64 MiB. At
	// half of it they go without waiting further.
	MaxHeldSpansBytes int `mapstructure:"max_held_spans_bytes"`

	// shared belongs to the faces of this component id, which all get this
	// same Config.
	shared *shared
}

func createDefaultConfig() *Config {
	return &Config{Config: clerk.DefaultConfig(), MaxHeldSpansBytes: 64 << 20, shared: new(shared)}
}

// minHeldSpansBytes holds a few of the largest requests that an OTLP receiver
// takes by default.
const minHeldSpansBytes = 16 << 20

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
	for _, id := range c.Spans {
		if id.Signal() != pipeline.SignalTraces {
			errs = append(errs, fmt.Errorf("`spans` takes traces pipelines, got %s", id))
		}
		if slices.Contains(c.Evidence, id) {
			errs = append(errs, fmt.Errorf("%s is in `evidence` and in `spans`, so spans would come twice", id))
		}
	}
	if c.MaxHeldSpansBytes < minHeldSpansBytes {
		errs = append(errs, fmt.Errorf("`max_held_spans_bytes` must be at least %d, got %d", minHeldSpansBytes, c.MaxHeldSpansBytes))
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
