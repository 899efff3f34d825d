package opa

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// Group is the group of what OPA's configuration consists of.
const Group = "opa"

const maxBundles = 64

// StatusKept says which keys' values jsonscan.Redact may keep of a status report
// that could not be decoded.
func StatusKept(key string) bool {
	switch key {
	case "id", "name", "active_revision", "last_successful_activation", "type", "code", "http_code", "state":
		return true
	}
	return false
}

// DecodeStatus reads one report of OPA's status plugin: for each bundle, and for
// the discovery bundle, the activation of what is in force, and the failure to
// get or activate another, if the report states one. Two reports of the same
// activation, or of the same failure, give evidence that is the same but for
// nothing: OPA reports every few seconds to minutes what has not changed.
//
// And what the OPA counts of decisions that it dropped.
//
// It refuses what is not one object of valid JSON, and one without labels.id or
// with a member twice that it reads.
func DecodeStatus(report []byte) ([]evidence.Evidence, Dropped, error) {
	s := status{c: jsonscan.New(report)}
	if s.c.Peek() != '{' {
		if s.c.Skip(); s.c.End() != nil {
			return nil, Dropped{}, fmt.Errorf("opa status: byte %d: %w", s.c.Offset(), s.c.Err())
		}
		return nil, Dropped{}, fmt.Errorf("opa status: %w", errNoObject)
	}
	s.report()
	if err := s.c.End(); err != nil {
		return nil, Dropped{}, fmt.Errorf("opa status: byte %d: %w", s.c.Offset(), err)
	}
	if s.twice != "" {
		return nil, Dropped{}, fmt.Errorf("opa status: %w %q", errDuplicate, s.twice)
	}
	if s.node == "" {
		return nil, Dropped{}, fmt.Errorf("opa status: no labels.id")
	}
	var out []evidence.Evidence
	for i := range s.bundles {
		out = s.evidence(out, &s.bundles[i])
	}
	s.dropped.Node = s.node
	return out, s.dropped, nil
}

type status struct {
	c             jsonscan.Cursor
	node, cluster string
	bundles       []bundle
	dropped       Dropped
	twice         string
}

type bundle struct {
	name, resource                       string
	revision, activated, code, httpState string
}

func (s *status) report() {
	c := &s.c
	seen := [5]bool{}
	once := func(i int, name string) {
		if seen[i] {
			s.twice = name
		}
		seen[i] = true
	}
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "labels":
			once(0, "labels")
			s.labels()
		case "bundles":
			once(1, "bundles")
			if !c.Object() {
				continue
			}
			for c.Next() {
				s.bundle(evidence.Text(string(c.Key), evidence.MaxName), "bundle")
			}
		case "bundle": // before bundles had names
			once(2, "bundle")
			s.bundle("", "bundle")
		case "discovery":
			once(3, "discovery")
			s.bundle("discovery", "discovery")
		case "metrics":
			once(4, "metrics")
			if !c.Object() {
				continue
			}
			for c.Next() { // by what keeps them: prometheus, <built-in>
				s.metrics()
			}
		default:
			c.Skip()
		}
	}
}

func (s *status) metrics() {
	c := &s.c
	if !c.Object() {
		return
	}
	for c.Next() {
		if n := s.dropped.counter(c.Key); n != nil {
			v, _ := strconv.ParseUint(c.Scalar(), 10, 63)
			*n = max(*n, v)
			continue
		}
		c.Skip()
	}
}

func (s *status) text() string { return evidence.Text(s.c.Scalar(), evidence.MaxName) }

func (s *status) labels() {
	c := &s.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "id":
			s.node = s.text()
		case "cluster", "cluster_id":
			s.cluster = s.text()
		default:
			c.Skip()
		}
	}
}

func (s *status) bundle(name, resource string) {
	c := &s.c
	if !c.Object() {
		return
	}
	b := bundle{name: name, resource: resource}
	for c.Next() {
		switch string(c.Key) {
		case "name":
			if n := s.text(); b.name == "" {
				b.name = n
			}
		case "active_revision":
			b.revision = s.text()
		case "last_successful_activation":
			b.activated = s.text()
		case "code":
			b.code = s.text()
		case "http_code":
			b.httpState = s.text()
		default:
			c.Skip()
		}
	}
	if len(s.bundles) < maxBundles {
		s.bundles = append(s.bundles, b)
	}
}

func (s *status) evidence(out []evidence.Evidence, b *bundle) []evidence.Evidence {
	act := func(kind, outcome string) *evidence.Evidence {
		out = append(out, evidence.Evidence{
			Source: evidence.SourceOPAStatus, Event: evidence.EventConfigChange, Role: evidence.RoleObserver, Final: true,
			Position: strings.Join([]string{kind, s.node, b.resource, b.name, b.revision, b.activated, b.code, b.httpState}, "/"),
			Cluster:  s.cluster,
			Actor:    &evidence.Actor{Type: "system"},
			Act: &evidence.Act{
				Action: "activate " + b.resource, Outcome: outcome, TargetID: b.name, TargetType: "opa_" + b.resource,
				Change: evidence.Change{Group: Group, Resource: b.resource, Name: b.name, Verb: "activate"},
			},
		})
		e := &out[len(out)-1]
		e.Reporter.Node = s.node
		e.Start = unixNano(b.activated)
		return e
	}
	// OPA writes the year 1 for what never was.
	if activated := unixNano(b.activated); activated > 0 {
		failing := *b
		b.code, b.httpState = "", ""
		act("activated", "success").Act.Change.Revision = b.revision
		*b = failing
	}
	if b.code != "" {
		e := act("failed", "failure")
		e.Start = 0 // the report says only when it was tried last
		e.StatusDetail = b.code
		var code int
		if _, err := fmt.Sscanf(b.httpState, "%d", &code); err == nil && code > 0 && code < 1000 {
			e.Status = code
		}
	}
	return out
}
