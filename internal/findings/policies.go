package findings

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// maxPolicies bounds the policies whose last change is remembered.
const maxPolicies = 1 << 14

// policies remembers who changed which policy last, and links decisions to
// that.
type policies struct {
	last map[string]*change // by object, and by revision
}

type change struct {
	object, action, by string
	record             correlate.RecordID
	at                 int64
	decisions          uint64 // under it since
}

// observe remembers a change, which it returns, or links a decision to the last
// change of its policy.
func (p *policies) observe(r *correlate.Record) *change {
	if r.EventName == semconv.EventConfigChange && r.Act != nil {
		a := &r.Act.Change
		c := &change{object: object(a.Group, a.Resource, a.Namespace, a.Name, r.Act.TargetID), action: first(r.Act.Action, a.Verb), by: r.User, record: r.ID, at: r.Start}
		if len(p.last) >= maxPolicies {
			clear(p.last) // rather none than wrong ones
		}
		for _, key := range [...]string{key("object", a.Namespace, a.Name), key("revision", a.Revision)} {
			if key != "" && (p.last[key] == nil || p.last[key].at <= c.at) {
				p.last[key] = c
			}
		}
		return c
	}
	if v := r.Verdict; v != nil {
		c := p.last[key("revision", v.PolicyRevision)]
		if c == nil {
			c = p.last[key("object", v.PolicyNamespace, v.PolicyID)]
		}
		if c != nil && c.at <= r.Start {
			c.decisions++
			r.PolicyChange = &correlate.PolicyChange{Record: c.record, By: c.by, Time: c.at}
		}
	}
	return nil
}

// key is "" if nothing names the policy.
func key(kind string, parts ...string) string {
	if parts[len(parts)-1] == "" {
		return ""
	}
	return kind + "\x00" + strings.Join(parts, "\x00")
}

func object(group, resource, namespace, name, target string) string {
	s := strings.Trim(namespace+"/"+name, "/")
	if resource != "" {
		s = strings.TrimSuffix(resource+"."+group, ".") + " " + s
	}
	return first(strings.TrimSpace(s), target)
}
