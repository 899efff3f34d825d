package findings

import (
	"slices"
	"strings"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/policy"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// maxPolicies bounds the policies whose changes are remembered, in each of two
// generations; maxChanges the changes of one.
const (
	maxPolicies = 1 << 13
	maxChanges  = 8
)

// policies remembers who changed which policy, and links decisions to that.
type policies struct {
	newer, older map[string][]*change // by key, latest last
}

type change struct {
	policy.Change
	what, action, by string
	record           correlate.RecordID
}

func newPolicies() policies {
	return policies{map[string][]*change{}, map[string][]*change{}}
}

// observe remembers a change, which it returns, or links a decision to the last
// change of its policy before it.
func (p *policies) observe(r *correlate.Record) *change {
	if r.EventName == semconv.EventConfigChange && r.Act != nil {
		if r.Act.Outcome == correlate.Failure.String() {
			return nil // nothing was changed
		}
		a := &r.Act.Change
		c := &change{
			Change: policy.Change{Group: a.Group, Resource: a.Resource, Namespace: a.Namespace, Name: a.Name, Cluster: r.Cluster, Revision: a.Revision, At: r.Start},
			what:   object(a.Group, a.Resource, a.Namespace, a.Name, r.Act.TargetID), action: first(r.Act.Action, a.Verb), by: r.User, record: r.ID,
		}
		for _, key := range c.Keys() {
			p.remember(key, c)
		}
		return c
	}
	if v := r.Verdict; v != nil {
		d := policy.Decision{Engine: v.Engine, Namespace: v.PolicyNamespace, ID: v.PolicyID, Revision: v.PolicyRevision, Cluster: r.Cluster, At: r.Start}
		var last *change
		for _, key := range d.Keys() {
			for _, c := range p.of(key) {
				if c.Governs(&d) && (last == nil || c.closer(last, &d)) {
					last = c
				}
			}
		}
		if last != nil {
			r.PolicyChange = &correlate.PolicyChange{Record: last.record, By: last.by, Time: last.At}
		}
	}
	return nil
}

// closer says whether c is rather what d was decided under than o: of the same
// cluster, then the later.
func (c *change) closer(o *change, d *policy.Decision) bool {
	if own, other := !c.Abroad(d), !o.Abroad(d); own != other {
		return own
	}
	return c.At >= o.At
}

func (p *policies) of(key string) []*change {
	all, ok := p.newer[key]
	if !ok {
		all = p.older[key]
	}
	return all
}

// remember keeps the latest changes under a key, and the first: a revision that many
// activate was in force from then on.
func (p *policies) remember(key string, c *change) {
	all := p.of(key)
	if slices.ContainsFunc(all, func(o *change) bool { return o.record == c.record }) {
		return
	}
	all = append(slices.Clone(all), c)
	slices.SortStableFunc(all, func(a, b *change) int { return int(min(max(a.At-b.At, -1), 1)) })
	if len(all) > maxChanges {
		all = slices.Delete(all, 1, 2)
	}
	if _, ok := p.newer[key]; !ok && len(p.newer) >= maxPolicies {
		p.older, p.newer = p.newer, map[string][]*change{}
	}
	p.newer[key] = all
}

func object(group, resource, namespace, name, target string) string {
	s := strings.Trim(namespace+"/"+name, "/")
	if resource != "" {
		s = strings.TrimSuffix(resource+"."+group, ".") + " " + s
	}
	return first(strings.TrimSpace(s), target)
}
