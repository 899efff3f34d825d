package meshauditprocessor

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/processor"

	"github.com/meshaudit/meshaudit/internal/clerk"
	"github.com/meshaudit/meshaudit/processor/meshauditprocessor/internal/metadata"
)

// shared is what the faces of one component id have in common.
type shared struct {
	clerk.Shared
	logs atomic.Bool // a logs face was created
}

// face is one pipeline's end of the clerk.
type face struct {
	clerk.Face
	set processor.Settings
	cfg *Config
}

func (f *face) open() (*clerk.Clerk, error) {
	if !f.cfg.shared.logs.Load() && !f.cfg.tags() {
		return nil, fmt.Errorf("%s is in no logs pipeline, so its records have nowhere to go: add %s to the processors of a logs pipeline", f.set.ID, f.set.ID)
	}
	return f.Open(&f.cfg.shared.Shared, func() (*clerk.Clerk, error) { return newClerk(f.set.TelemetrySettings, f.cfg) })
}

func (f *face) Start(context.Context, component.Host) error {
	_, err := f.open()
	return err
}

func (f *face) Shutdown(context.Context) error {
	f.Close()
	return nil
}

func errTwoLogs(id component.ID) error {
	return fmt.Errorf("%s is in more than one logs pipeline, so it is not clear where its records go: give each logs pipeline a processor of its own, such as %s/2, or use the connector meshaudit", id, id.Type())
}

func newClerk(set component.TelemetrySettings, cfg *Config) (*clerk.Clerk, error) {
	t, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	return clerk.New(clerk.Setup{
		Config: &cfg.Config, Tag: cfg.tags(), Enrich: !cfg.tags(), Scope: metadata.ScopeName, Logger: set.Logger, Permanent: consumererror.IsPermanent,
		Telemetry: clerk.Telemetry{
			Amendments: t.MeshauditAmendments, Credentials: t.MeshauditCredentials, Evidence: t.MeshauditEvidence, Findings: t.MeshauditFindings, Lag: t.MeshauditLag,
			Records: t.MeshauditRecords, RecordsRefused: t.MeshauditRecordsRefused, Redacted: t.MeshauditRedacted,
			RefusedLines: t.MeshauditRefusedLines, FindingsMissed: t.MeshauditFindingsMissed, EnrichedSpans: t.MeshauditEnrichedSpans, Observed: t,
		},
	})
}
