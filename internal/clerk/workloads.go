package clerk

import (
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// fromInventory is where a configured workload was stated.
const fromInventory = "identity.workloads"

func (c *Clerk) inventoryRead(err error) {
	if err != nil {
		c.logger.Warn("the file of workloads cannot be read; what it said last holds", zap.String("file", c.cfg.Identity.WorkloadsFile), zap.Error(err))
		return
	}
	c.logger.Info("the file of workloads can be read again", zap.String("file", c.cfg.Identity.WorkloadsFile))
}

// complete adds to a record what the configuration says of the workloads behind
// its identities. A source's own word stays; where the two disagree that is a
// conflict.
func (c *Clerk) complete(r *correlate.Record) {
	c.completeParty(r, &r.Source, semconv.SourcePrefix)
	c.completeParty(r, &r.Destination, semconv.DestinationPrefix)
}

func (c *Clerk) completeParty(r *correlate.Record, p *correlate.Party, prefix string) {
	given, ok := c.inventory.Of(p.ID, r.Start)
	if !ok {
		return
	}
	// Who it is, and what of it: fields of two workloads, or of two versions, must
	// not mix.
	for _, group := range [...][]field{{
		{semconv.SuffixWorkloadNamespace, &p.Workload.Namespace, given.Namespace},
		{semconv.SuffixWorkloadName, &p.Workload.Name, given.Name},
		{semconv.SuffixWorkloadKind, &p.Workload.Kind, given.Kind},
	}, {
		{semconv.SuffixWorkloadVersion, &p.Workload.Version, given.Version},
		{semconv.SuffixWorkloadRevision, &p.Workload.Revision, given.Revision},
		{semconv.SuffixImageDigest, &p.Workload.ImageDigest, given.ImageDigest},
	}} {
		agree := true
		for _, f := range group {
			if f.given != "" && *f.stated != "" && f.given != *f.stated {
				agree = false
				r.AddConflict(correlate.Conflict{Field: prefix + f.suffix, Kept: *f.stated, Other: f.given, From: fromInventory})
			}
		}
		if !agree {
			return
		}
		for _, f := range group {
			if f.given != "" && *f.stated == "" {
				*f.stated = f.given
				p.Configured = append(p.Configured, f.suffix)
			}
		}
	}
}

type field struct {
	suffix string
	stated *string
	given  string
}
