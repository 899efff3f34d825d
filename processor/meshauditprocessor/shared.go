package meshauditprocessor

import (
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/processor"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadata"
)

var errStopped = errors.New("meshaudit: evidence came before Start or after Shutdown")

// shared is what the faces of one component id have in common. It hangs on the
// Config that they are all created with; so there is no registry of
// processes' instances, and creating a face without ever stopping it, as
// validation does, leaves nothing behind.
type shared struct {
	mu    sync.Mutex
	logs  bool         // a logs face was created
	clerk *clerk.Clerk // while a face is started
	refs  int
}

func (s *shared) hasLogs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = true
}

// acquire gives the clerk to a face that starts, and makes it for the first.
func (s *shared) acquire(set processor.Settings, cfg *Config) (*clerk.Clerk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.logs && !cfg.tags() {
		return nil, fmt.Errorf("%s is in no logs pipeline, so its records have nowhere to go: add %s to the processors of a logs pipeline", set.ID, set.ID)
	}
	if s.clerk == nil {
		c, err := newClerk(set.TelemetrySettings, cfg)
		if err != nil {
			return nil, err
		}
		s.clerk = c
	}
	s.refs++
	return s.clerk, nil
}

// release takes the clerk back; the last one closes it.
func (s *shared) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs--; s.refs == 0 {
		s.clerk.Close()
		s.clerk = nil
	}
}

func newClerk(set component.TelemetrySettings, cfg *Config) (*clerk.Clerk, error) {
	t, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	return clerk.New(clerk.Setup{
		Config: &cfg.Config, Tag: cfg.tags(), Scope: metadata.ScopeName, Logger: set.Logger, Permanent: consumererror.IsPermanent,
		Telemetry: clerk.Telemetry{
			Amendments: t.MeshauditAmendments, Evidence: t.MeshauditEvidence, Findings: t.MeshauditFindings, Lag: t.MeshauditLag,
			Records: t.MeshauditRecords, RecordsRefused: t.MeshauditRecordsRefused, Redacted: t.MeshauditRedacted,
			RefusedLines: t.MeshauditRefusedLines, Observed: t,
		},
	})
}

// face is one pipeline's end of the clerk.
type face struct {
	set processor.Settings
	cfg *Config

	mu    sync.Mutex
	clerk *clerk.Clerk // nil unless started
}

func (f *face) start() (*clerk.Clerk, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.cfg.shared.acquire(f.set, f.cfg)
	if err != nil {
		return nil, err
	}
	f.clerk = c
	return c, nil
}

func (f *face) running() (*clerk.Clerk, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clerk == nil {
		return nil, errStopped
	}
	return f.clerk, nil
}

func (f *face) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clerk != nil {
		f.clerk = nil
		f.cfg.shared.release()
	}
}

func (s *shared) errTwoLogs(id component.ID) error {
	return fmt.Errorf("%s is in more than one logs pipeline, so it is not clear where its records go: give each logs pipeline a processor of its own, such as %s/2", id, id.Type())
}
