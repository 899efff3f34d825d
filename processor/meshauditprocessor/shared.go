package meshauditprocessor

import (
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/processor"
)

var errStopped = errors.New("meshaudit: evidence came before Start or after Shutdown")

// shared is what the faces of one component id have in common. It hangs on the
// Config that they are all created with; so there is no registry of
// processes' instances, and creating a face without ever stopping it, as
// validation does, leaves nothing behind.
type shared struct {
	mu   sync.Mutex
	logs bool  // a logs face was created
	core *core // while a face is started
	refs int
}

func (s *shared) hasLogs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = true
}

// acquire gives the core to a face that starts, and makes it for the first.
func (s *shared) acquire(set processor.Settings, cfg *Config) (*core, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.logs && !cfg.tags() {
		return nil, fmt.Errorf("%s is in no logs pipeline, so its records have nowhere to go: add %s to the processors of a logs pipeline", set.ID, set.ID)
	}
	if s.core == nil {
		c, err := newCore(set.TelemetrySettings, cfg)
		if err != nil {
			return nil, err
		}
		s.core = c
	}
	s.refs++
	return s.core, nil
}

// release takes the core back; the last one closes it.
func (s *shared) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs--; s.refs == 0 {
		s.core.close()
		s.core = nil
	}
}

// face is one pipeline's end of the core.
type face struct {
	set processor.Settings
	cfg *Config

	mu   sync.Mutex
	core *core // nil unless started
}

func (f *face) start() (*core, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.cfg.shared.acquire(f.set, f.cfg)
	if err != nil {
		return nil, err
	}
	f.core = c
	return c, nil
}

func (f *face) running() (*core, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.core == nil {
		return nil, errStopped
	}
	return f.core, nil
}

func (f *face) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.core != nil {
		f.core = nil
		f.cfg.shared.release()
	}
}

func (s *shared) errTwoLogs(id component.ID) error {
	return fmt.Errorf("%s is in more than one logs pipeline, so it is not clear where its records go: give each logs pipeline a processor of its own, such as %s/2", id, id.Type())
}
