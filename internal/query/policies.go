package query

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/policy"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

// What a decision was made under is told from the records themselves, for a
// record says only what was known of its policy when it left: a change may have
// been reported later, to another gateway, or long before a restart.

// reign is the time in which what a change left was in force.
type reign struct {
	policy.Change
	until int64           // unix nanoseconds, when the policy changed next; 0: never
	twins map[string]bool // clusters that have a policy of this name of their own
}

// decided is a decision, and whether its own cluster has such a policy.
type decided struct {
	policy.Decision
	home bool
}

// policies finds what the query asks of policies.
func (q *Query) policies(ctx context.Context, store seal.Store) error {
	q.reigns, q.decisions = nil, nil
	changes := globOf(semconv.EventConfigChange)
	if len(q.Changes) > 0 {
		err := q.collect(ctx, store, Query{IDs: q.Changes, Events: changes}, func(r *Record) {
			if c, ok := changeOf(r); ok {
				q.reigns = append(q.reigns, reign{Change: c, twins: map[string]bool{}})
			}
		})
		if err == nil && len(q.reigns) > 0 {
			err = q.collect(ctx, store, Query{Events: changes}, func(r *Record) {
				c, ok := changeOf(r)
				for i := range q.reigns {
					switch o := &q.reigns[i]; {
					case !ok:
					case o.Twin(&c):
						o.twins[c.Cluster] = true
					case o.Same(&c) && c.At > o.At && (o.until == 0 || c.At < o.until):
						o.until = c.At
					}
				}
			})
		}
		if err != nil {
			return err
		}
	}
	if len(q.PolicyOf) == 0 {
		return nil
	}
	err := q.collect(ctx, store, Query{IDs: q.PolicyOf}, func(r *Record) {
		if d, ok := decisionOf(r); ok {
			q.decisions = append(q.decisions, decided{Decision: d})
		}
	})
	if err != nil || !slices.ContainsFunc(q.decisions, func(d decided) bool { return d.Cluster != "" }) {
		return err
	}
	return q.collect(ctx, store, Query{Events: changes}, func(r *Record) {
		c, ok := changeOf(r)
		for i := range q.decisions {
			d := &q.decisions[i]
			d.home = d.home || ok && !c.Abroad(&d.Decision) && c.MayGovern(&d.Decision)
		}
	})
}

// collect gives what other says to fn. What is damaged is told when q itself comes
// to it.
func (q *Query) collect(ctx context.Context, store seal.Store, other Query, fn func(*Record)) error {
	other.Origins = q.Origins
	_, err := other.Run(ctx, store, func(r *Record) error {
		fn(r)
		return nil
	})
	var damage *DamageError
	if errors.As(err, &damage) {
		return nil
	}
	return err
}

func globOf(s string) []Glob { return []Glob{{[]string{s}}} }

// changeOf reads a record of a change that names what was changed, and succeeded.
func changeOf(r *Record) (policy.Change, bool) {
	c := policy.Change{
		Group: r.Str(semconv.ChangeGroup), Resource: r.Str(semconv.ChangeResource), Namespace: r.Str(semconv.ChangeNamespace),
		Name: r.Str(semconv.ChangeName), Cluster: r.Str(semconv.MeshCluster), Revision: r.Str(semconv.ChangeRevision), At: r.Time.UnixNano(),
	}
	return c, r.Event == semconv.EventConfigChange && len(c.Keys()) > 0 && r.Str(semconv.AuditOutcome) != "failure"
}

func decisionOf(r *Record) (policy.Decision, bool) {
	d := policy.Decision{
		Engine: r.Str(semconv.AuthzEngine), Namespace: r.Str(semconv.AuthzPolicyNamespace), ID: r.Str(semconv.AuthzPolicyID),
		Revision: r.Str(semconv.AuthzPolicyRevision), Cluster: r.Str(semconv.MeshCluster), At: r.Time.UnixNano(),
		Workload: r.Str(semconv.DestinationPrefix + semconv.SuffixWorkloadNamespace),
	}
	if v, ok := r.Attributes.Get(semconv.AuthzDefaultDeny); ok {
		d.DefaultDeny = v.Bool()
	}
	if d.Workload == "" {
		if id, err := spiffeid.FromString(r.Str(semconv.DestinationSPIFFEID)); err == nil {
			d.Workload, _, _ = evidence.KubernetesName(id)
		}
	}
	return d, r.Str(semconv.AuthzDecision) != ""
}

// matchChange tells a decision that was or may have been made under one of the
// changes; of changes that do not name what was changed those that say so themselves.
func (q *Query) matchChange(r *Record) bool {
	if len(q.reigns) == 0 {
		by := r.Str(semconv.AuthzChangeRecord)
		return slices.ContainsFunc(q.Changes, func(id string) bool { return strings.HasPrefix(by, id) })
	}
	d, ok := decisionOf(r)
	return ok && slices.ContainsFunc(q.reigns, func(c reign) bool {
		return c.MayGovern(&d) && !(c.Abroad(&d) && c.twins[d.Cluster]) && (c.until == 0 || d.At < c.until+int64(policy.Settling) || d.Names(&c.Change))
	})
}

// matchPolicy tells a change that a decision was or may have been made under, or an
// earlier one of the same policy.
func (q *Query) matchPolicy(r *Record) bool {
	c, ok := changeOf(r)
	return ok && slices.ContainsFunc(q.decisions, func(d decided) bool {
		return c.MayGovern(&d.Decision) && !(c.Abroad(&d.Decision) && d.home)
	})
}
