// Package hubble reads the flows that Cilium's Hubble exports as JSON lines.
//
// A flow is what one node saw of one packet or one request. These tell of a
// call and have a role: HTTP requests and responses, Kafka's produce, policy
// verdicts, drops and denials of any protocol, and the first packet of a TCP
// connection. Of a request that went through, the response tells everything
// again, so the request is not final; the two have one stream id, made of the
// request id and the connection. Every other flow (further packets, DNS, other
// requests to Kafka, agent and debug events) is sealed without a role: nothing
// is correlated from it.
//
// A denial of which no direction is stated, because the exporter's fields are
// limited, is a decision of its own.
//
// # Identities
//
// Cilium gives a workload a number and finds it by address. Its mutual
// authentication issues spiffe://spiffe.cilium/identity/NUMBER for it. That ID
// is derived here only where the flow says that this authentication took
// place (auth_type SPIRE) and only for numbers of workloads (from 256 on). The
// certificate was the agents', not the connection's, and the sender was told by
// its address, so its proof is ip.
package hubble

import (
	"bytes"
	"cmp"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// Engine is the verdict's engine.
const Engine = "cilium"

const (
	fromIdentity  = "cilium.identity"
	trustDomain   = "spiffe://spiffe.cilium/identity/"
	firstWorkload = 256 // smaller numbers are reserved: host, world, health …
)

// Cilium's numbers of event types.
const (
	eventDrop          = "1"
	eventTrace         = "4"
	eventPolicyVerdict = "5"
)

// dropReasons are Cilium's numbers of what a policy drops, for flows without
// drop_reason_desc.
var dropReasons = map[string]string{"133": "POLICY_DENIED", "181": "POLICY_DENY", "189": "AUTH_REQUIRED"}

type endpoint struct {
	address, identity, namespace, pod string
	port                              uint16
	service, dnsName                  string // by which it was called; "": several names, or none
	workload, kind                    string // of workloads[0]
	labels                            labels
}

type labels struct{ app, version, cluster, revision string }

// maxPolicies is more than decide a packet; of more the first are kept.
const maxPolicies = 16

// A policy's revision is that of its node's repository of policies.
type policy struct{ name, namespace, kind, revision string }

type flow struct {
	time, uuid, verdict, dropReason, authType, node string
	dropNumber                                      string
	kind, event, direction                          string
	isReply                                         bool
	source, destination                             endpoint
	protocol                                        string // TCP, UDP …
	syn, ack                                        bool
	l7                                              string // REQUEST, RESPONSE, SAMPLE
	http                                            bool
	topic, apiKey, correlation                      string // of Kafka
	method, url, version, code, latency             string
	headers                                         envoy.Headers
	decidedBy                                       []policy
	deniedBy                                        bool // decidedBy are those that denied
	traceParent                                     string
	twice                                           string
}

// Decode reads one line: an exported event, or a bare flow.
func Decode(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '{' {
		return dst, fmt.Errorf("hubble line: %w", evidence.ErrNotEvidence)
	}
	var f flow
	var lost *evidence.Loss
	c := jsonscan.New(line)
	found := false
	if c.Object() {
		for c.Next() {
			switch string(c.Key) {
			case "flow":
				if found {
					f.twice = "flow"
				}
				found = true
				f.read(&c)
			case "lost_events":
				lost = readLost(&c)
			case "node_name":
				f.node = c.String()
			case "time":
				f.time = first(f.time, c.String())
			default:
				c.Skip()
			}
		}
	}
	if err := c.End(); err != nil {
		return dst, fmt.Errorf("hubble line: %w: byte %d: %w", evidence.ErrMalformed, c.Offset(), err)
	}
	if !found { // hubble observe -o json, before it was the exporter's form
		c = jsonscan.New(line)
		f.time, f.node = "", ""
		f.read(&c)
		found = f.verdict != ""
	}
	switch {
	case f.twice != "":
		return dst, fmt.Errorf("hubble line: %w: %s is there twice", evidence.ErrMalformed, f.twice)
	case lost != nil:
		lost.Reporter.Node = evidence.Text(f.node, evidence.MaxName)
		lost.Until = cmp.Or(lost.Until, unixNano(f.time))
		lost.Since = cmp.Or(lost.Since, lost.Until)
		return dst, lost
	case !found: // agent_event, debug_event, node_status
		return dst, fmt.Errorf("hubble line: %w: no flow", evidence.ErrNotEvidence)
	}
	e, err := f.evidence(from)
	if err != nil {
		return dst, fmt.Errorf("hubble line: %w", err)
	}
	return append(dst, e), nil
}

// readLost reads a LostEvent: what a ring buffer had no room for.
func readLost(c *jsonscan.Cursor) *evidence.Loss {
	var l evidence.Loss
	if !c.Object() {
		return nil
	}
	for c.Next() {
		switch string(c.Key) {
		case "source":
			l.Reason = strings.ToLower(evidence.Text(c.String(), evidence.MaxName))
		case "num_events_lost":
			l.Count, _ = strconv.ParseInt(c.Scalar(), 10, 64)
		case "first":
			l.Since = unixNano(c.String())
		case "last":
			l.Until = unixNano(c.String())
		default:
			c.Skip()
		}
	}
	l.Count = max(0, l.Count)
	return &l
}

// unixNano is 0 for what is no time.
func unixNano(s string) int64 {
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0
	}
	return at.UnixNano()
}

// once says which keys of a flow may stand there once: what decides.
func (f *flow) once(seen *uint8, bit int, key string) {
	if *seen&(1<<bit) != 0 {
		f.twice = key
	}
	*seen |= 1 << bit
}

func (f *flow) read(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	var seen uint8
	for c.Next() {
		switch string(c.Key) {
		case "time":
			f.time = c.String()
		case "uuid":
			f.uuid = c.String()
		case "verdict":
			f.once(&seen, 0, "verdict")
			f.verdict = c.String()
		case "drop_reason_desc":
			f.once(&seen, 1, "drop_reason_desc")
			f.dropReason = c.String()
		case "drop_reason":
			f.dropNumber = c.Scalar()
		case "auth_type":
			f.once(&seen, 2, "auth_type")
			f.authType = c.String()
		case "node_name":
			f.node = c.String()
		case "Type":
			f.kind = c.String()
		case "traffic_direction":
			f.once(&seen, 3, "traffic_direction")
			f.direction = c.String()
		case "is_reply", "reply":
			if v, ok := c.Bool(); ok && v {
				f.isReply = true
			}
		case "IP":
			f.once(&seen, 4, "IP")
			f.ip(c)
		case "l4":
			f.l4(c)
		case "source":
			f.once(&seen, 5, "source")
			f.source.read(c)
		case "destination":
			f.once(&seen, 6, "destination")
			f.destination.read(c)
		case "l7":
			f.once(&seen, 7, "l7")
			f.readL7(c)
		case "event_type":
			if c.Object() {
				for c.Next() {
					if string(c.Key) == "type" {
						f.event = c.Scalar()
					} else {
						c.Skip()
					}
				}
			}
		case "egress_denied_by", "ingress_denied_by":
			f.policies(c, true)
		case "egress_allowed_by", "ingress_allowed_by":
			f.policies(c, false)
		case "source_service":
			f.source.readService(c)
		case "destination_service":
			f.destination.readService(c)
		case "source_names":
			f.source.readNames(c)
		case "destination_names":
			f.destination.readNames(c)
		case "trace_context":
			f.trace(c)
		default:
			c.Skip()
		}
	}
}

func (f *flow) ip(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "source":
			f.source.address = c.String()
		case "destination":
			f.destination.address = c.String()
		default:
			c.Skip()
		}
	}
}

func (f *flow) l4(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "TCP", "UDP", "SCTP":
			f.protocol = strings.ToLower(string(c.Key))
		default:
			f.protocol = "icmp"
		}
		if !c.Object() {
			continue
		}
		for c.Next() {
			switch string(c.Key) {
			case "source_port":
				f.source.port = port(c.Scalar())
			case "destination_port":
				f.destination.port = port(c.Scalar())
			case "flags":
				if c.Object() {
					for c.Next() {
						switch string(c.Key) {
						case "SYN":
							f.syn, _ = c.Bool()
						case "ACK":
							f.ack, _ = c.Bool()
						default:
							c.Skip()
						}
					}
				}
			default:
				c.Skip()
			}
		}
	}
}

// readService reads a Kubernetes service, NAME.NAMESPACE.
func (e *endpoint) readService(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	var service, namespace string
	for c.Next() {
		switch string(c.Key) {
		case "name":
			service = c.String()
		case "namespace":
			namespace = c.String()
		default:
			c.Skip()
		}
	}
	if e.service = service; service != "" && namespace != "" {
		e.service += "." + namespace
	}
}

// readNames reads the names that the address was looked up by: which of several
// was meant nobody knows.
func (e *endpoint) readNames(c *jsonscan.Cursor) {
	if !c.Array() {
		return
	}
	for n := 0; c.Element(); n++ {
		if n > 0 {
			e.dnsName = ""
			c.Skip()
		} else {
			e.dnsName = c.String()
		}
	}
}

func (e *endpoint) read(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "identity":
			e.identity = c.Scalar()
		case "namespace":
			e.namespace = c.String()
		case "pod_name":
			e.pod = c.String()
		case "cluster_name":
			e.labels.cluster = c.String()
		case "labels":
			if c.Array() {
				for c.Element() {
					e.labels.read(c.Bytes())
				}
			}
		case "workloads":
			if c.Array() {
				for c.Element() {
					e.readWorkload(c)
				}
			}
		default:
			c.Skip()
		}
	}
}

func (e *endpoint) readWorkload(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	var name, kind string
	for c.Next() {
		switch string(c.Key) {
		case "name":
			name = c.String()
		case "kind":
			kind = c.String()
		default:
			c.Skip()
		}
	}
	if e.workload == "" {
		e.workload, e.kind = name, kind
	}
}

// read takes one label, SOURCE:KEY=VALUE.
func (l *labels) read(label []byte) {
	rest, ok := bytes.CutPrefix(label, []byte("k8s:"))
	if !ok {
		return
	}
	key, value, _ := bytes.Cut(rest, []byte("="))
	switch string(key) {
	case "app.kubernetes.io/name", "k8s-app":
		if l.app == "" {
			l.app = string(value)
		}
	case "app":
		l.app = string(value)
	case "version", "app.kubernetes.io/version":
		l.version = string(value)
	case "pod-template-hash":
		l.revision = string(value)
	case "io.cilium.k8s.policy.cluster":
		if l.cluster == "" {
			l.cluster = string(value)
		}
	}
}

func (f *flow) readL7(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "type":
			f.l7 = c.String()
		case "latency_ns":
			f.latency = c.Scalar()
		case "http":
			f.http = true
			f.readHTTP(c)
		case "kafka":
			f.readKafka(c)
		default:
			c.Skip()
		}
	}
}

func (f *flow) readHTTP(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "code":
			f.code = c.Scalar()
		case "method":
			f.method = c.String()
		case "url":
			f.url = c.String()
		case "protocol":
			f.version = c.String()
		case "headers":
			if c.Array() {
				for c.Element() {
					f.header(c)
				}
			}
		default:
			c.Skip()
		}
	}
}

func (f *flow) readKafka(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "topic":
			f.topic = c.String()
		case "api_key":
			f.apiKey = c.String()
		case "correlation_id":
			f.correlation = c.Scalar()
		default:
			c.Skip()
		}
	}
}

func (f *flow) header(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	var key, value string
	for c.Next() {
		switch string(c.Key) {
		case "key":
			key = c.String()
		case "value":
			value = c.String()
		default:
			c.Skip()
		}
	}
	f.headers.Add(key, value)
}

// policies reads the policies that decided; one that denied outweighs those
// that allowed.
func (f *flow) policies(c *jsonscan.Cursor, denied bool) {
	if !c.Array() {
		return
	}
	for c.Element() {
		if !c.Object() {
			continue
		}
		var p policy
		for c.Next() {
			switch string(c.Key) {
			case "name":
				p.name = c.String()
			case "namespace":
				p.namespace = c.String()
			case "kind":
				p.kind = c.String()
			case "revision":
				p.revision = c.Scalar()
			default:
				c.Skip()
			}
		}
		if denied && !f.deniedBy {
			f.decidedBy, f.deniedBy = f.decidedBy[:0], true
		}
		if p.name != "" && denied == f.deniedBy && len(f.decidedBy) < maxPolicies {
			f.decidedBy = append(f.decidedBy, p)
		}
	}
}

func (f *flow) trace(c *jsonscan.Cursor) {
	if !c.Object() {
		return
	}
	for c.Next() {
		if string(c.Key) != "parent" {
			c.Skip()
			continue
		}
		if c.Object() {
			for c.Next() {
				if string(c.Key) == "trace_id" {
					f.traceParent = c.String()
				} else {
					c.Skip()
				}
			}
		}
	}
}

func (f *flow) evidence(from *evidence.Origin) (evidence.Evidence, error) {
	e := evidence.Evidence{Source: evidence.SourceHubble, Event: evidence.EventConnection, Final: true, Cluster: from.Cluster}
	t, err := time.Parse(time.RFC3339Nano, f.time)
	if err != nil || t.Unix() <= 0 || t.Year() >= 2262 {
		return e, fmt.Errorf("%w: time is %q", evidence.ErrMalformed, evidence.Text(f.time, 64))
	}
	e.Start = t.UnixNano()
	e.Position = name(f.uuid)
	e.Reporter.Node = name(f.node)

	// A reply's source is the callee.
	client, server := &f.source, &f.destination
	if f.isReply {
		client, server = server, client
	}
	client.party(&e.From)
	server.party(&e.To)
	var own *endpoint
	role := evidence.RoleNone
	// The direction is the connection's, be the packet a reply or not.
	switch f.direction {
	case "EGRESS":
		role, own = evidence.RoleCaller, client
		e.From.Workload.Node = e.Reporter.Node
	case "INGRESS":
		role, own = evidence.RoleCallee, server
		e.To.Workload.Node = e.Reporter.Node
	}
	if own != nil && own.labels.cluster != "" && own.labels.cluster != "default" {
		e.Cluster = name(own.labels.cluster)
	}
	e.Verdict = f.decision()
	if f.authType == "SPIRE" && e.Verdict != nil && e.Verdict.Decision == evidence.Allow {
		client.derive(&e.From)
		server.derive(&e.To)
	}
	e.Protocol = f.protocol
	e.Host = evidence.Authority(first(server.service, server.dnsName))
	if f.traceParent != "" {
		e.TraceID, _ = evidence.ParseTraceID(f.traceParent)
	}
	if f.http {
		e.Role = role
		return e, f.request(&e)
	}
	if f.topic != "" {
		e.MessagingSystem, e.Topic = "kafka", evidence.PathOnly(f.topic)
	}
	switch denied := e.Verdict != nil && e.Verdict.Decision != evidence.Allow; {
	case f.topic != "" && strings.EqualFold(f.apiKey, "produce"):
		e.Role, e.Event = role, evidence.EventRequest
		f.stage(&e, "kafka/"+name(f.correlation))
	case role == evidence.RoleNone && denied:
		e.Role, e.Event = evidence.RoleDecision, evidence.EventAuthz
	case denied || f.tells():
		e.Role = role
		// One node's flows about one connection are one report.
		if e.From.Port != 0 {
			e.StreamID = f.protocol + "/" + ends(&e)
		}
	}
	return e, nil
}

// stage says which of a request's two flows the evidence is, and by the id that
// both name which request's. One id may stand on several requests of a
// connection, of a client that uses it again; so the rest of what both say is
// part of the name.
func (f *flow) stage(e *evidence.Evidence, id string) {
	e.Final = f.l7 != "REQUEST" || f.verdict != "FORWARDED" && f.verdict != "REDIRECTED"
	e.StreamID = evidence.Text(id+"/"+ends(e)+"/"+e.Method+e.Path+e.Topic, evidence.MaxName)
	// A response's time is its own; the request came before it.
	if ns, err := strconv.ParseUint(f.latency, 10, 60); err == nil && f.l7 == "RESPONSE" {
		e.End = e.Start
		e.Start -= int64(ns)
	}
}

func ends(e *evidence.Evidence) string {
	return fmt.Sprintf("%s:%d>%s:%d", e.From.Address, e.From.Port, e.To.Address, e.To.Port)
}

// tells whether a flow without HTTP tells of a connection: the policy's
// verdict on it, its drop, its first packet.
func (f *flow) tells() bool {
	switch {
	case f.kind == "L7": // DNS, Kafka
		return false
	case f.event == eventPolicyVerdict, f.event == eventDrop, f.verdict == "DROPPED":
		return true
	}
	return f.event == eventTrace && f.protocol == "tcp" && f.syn && !f.ack && !f.isReply
}

// decision reads what Cilium did with the packet or request. Only what a
// policy had a say in is a verdict: a policy verdict's event, a drop, an
// audit, a flow that names its policy. That the HTTP proxy forwarded a request
// is none: it also does so where it only watches.
func (f *flow) decision() *evidence.Verdict {
	v := &evidence.Verdict{Engine: Engine, Enforced: true}
	if f.dropReason == "" {
		f.dropReason = dropReasons[f.dropNumber]
		if f.dropReason == "" && f.dropNumber != "" && f.dropNumber != "0" {
			f.dropReason = "drop reason " + f.dropNumber
		}
	}
	switch f.verdict {
	case "FORWARDED", "REDIRECTED":
		if f.event != eventPolicyVerdict && len(f.decidedBy) == 0 {
			return nil
		}
		v.Decision = evidence.Allow
	case "DROPPED":
		v.Decision = evidence.Deny
		v.Reason = evidence.Text(f.dropReason, evidence.MaxDetail)
		switch f.dropReason {
		case "POLICY_DENIED":
			v.DefaultDeny = !f.deniedBy // no policy allowed it
		case "POLICY_DENY", "AUTH_REQUIRED", "":
		default:
			return nil // the network's reasons: no route, invalid packet …
		}
	case "AUDIT":
		// It would have been denied, and went through.
		v.Decision, v.Enforced, v.Reason = evidence.Deny, false, "audit mode"
	case "ERROR":
		v.Decision = evidence.Error
	default:
		return nil // TRACED, TRANSLATED, VERDICT_UNKNOWN
	}
	f.namePolicies(v)
	return v
}

// namePolicies states the first of the policies that decided, and in the reason
// all of them where that does not say it all: what kind they are, or several. One
// that allowed, in the other direction or before a proxy denied, did not deny.
func (f *flow) namePolicies(v *evidence.Verdict) {
	if len(f.decidedBy) == 0 || v.Decision == evidence.Deny && !f.deniedBy {
		return
	}
	p := &f.decidedBy[0]
	v.PolicyID, v.PolicyNamespace = name(p.name), name(p.namespace)
	if p.revision != "" && p.revision != "0" && f.node != "" {
		v.PolicyRevision = name(f.node + "/" + p.revision) // each node counts by itself
	}
	if len(f.decidedBy) == 1 && p.kind == "" {
		return
	}
	var all []string
	for _, p := range f.decidedBy {
		all = append(all, strings.TrimPrefix(p.kind+" ", " ")+strings.TrimPrefix(p.namespace+"/", "/")+p.name)
	}
	reason := strings.Join(all, ", ")
	if v.Reason != "" {
		reason = v.Reason + ": " + reason
	}
	v.Reason = evidence.Text(reason, evidence.MaxDetail)
}

func (f *flow) request(e *evidence.Evidence) error {
	e.Event = evidence.EventRequest
	e.Method = name(f.method)
	e.Path = evidence.PathOnly(f.url)
	if u, err := url.Parse(evidence.Text(f.url, 4*evidence.MaxPath)); err == nil && u.Host != "" {
		e.Host = evidence.Authority(u.Host)
	}
	e.Protocol = name(f.version)
	e.RequestID = f.headers.RequestID
	if f.code != "" && f.code != "0" {
		n, err := strconv.ParseUint(f.code, 10, 10)
		if err != nil {
			return fmt.Errorf("%w: code is %q", evidence.ErrMalformed, evidence.Text(f.code, 32))
		}
		e.Status = int(n)
	}
	if f.stage(e, e.RequestID); e.RequestID == "" {
		e.StreamID = "" // nothing tells the requests of a connection apart
	}
	if t := f.headers.Trace(); t != (envoy.Trace{}) {
		if e.TraceID = t.ID; e.Role == evidence.RoleCaller {
			e.SpanID = t.Span
		} else {
			e.ParentSpanID = t.Span
		}
	}
	f.headers.Claims(e)
	if f.headers.GRPC {
		envoy.RPC(e)
	}
	return nil
}

func (e *endpoint) party(p *evidence.Party) {
	p.Address, p.Port = name(e.address), e.port
	p.Workload = evidence.Workload{
		PodName: name(e.pod), Namespace: name(e.namespace),
		Name: name(first(e.workload, e.labels.app)), Kind: name(e.kind), Version: name(e.labels.version),
	}
}

// derive states the SPIFFE ID of Cilium's mutual authentication.
func (e *endpoint) derive(p *evidence.Party) {
	if n, err := strconv.ParseUint(e.identity, 10, 32); err != nil || n < firstWorkload {
		return
	}
	if id, err := spiffeid.FromString(trustDomain + e.identity); err == nil {
		p.AddIdentity(evidence.Identity{ID: id, Proof: evidence.ProofIP, From: fromIdentity})
	}
}

func port(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

func name(s string) string { return evidence.Text(s, evidence.MaxName) }

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
