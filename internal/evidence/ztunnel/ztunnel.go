// Package ztunnel reads the log of ztunnel, the node proxy of Istio's ambient
// mode: its access lines and its policy engine's verdicts, as text in every
// quoting style and as JSON.
//
// ztunnel logs identities only for connections that it secures with mTLS
// (HBONE); a line of a completed connection without identities says plaintext.
// The called side takes the caller's from the certificate: it is mtls_san. The
// calling side writes down whom it looked up by address before it connects, and
// lets no certificate pass but that one's, or one of a name that the service it
// called lists (subjectAltNames): where its tunnel stood that is mtls_san, where
// it did not, or may not have, it is ip.
package ztunnel

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// Engine is the verdict's engine.
const Engine = "ztunnel_rbac"

const (
	fromPeerSAN  = "tls.peer.san"
	fromLocalSAN = "tls.local.san"
	fromWorkload = "ztunnel.workload" // that has the address
)

// A line's fields, by ztunnel's names.
type fields struct {
	time, scope, message                       string
	direction, err, duration, policy           string
	sent, received                             string
	srcAddr, srcWorkload, srcNS, srcID         string
	srcCluster, dstCluster                     string
	dstAddr, dstHBONE, dstService, dstWorkload string
	dstNS, dstID                               string
	peer, workload                             string // of the spans around a verdict; workload: NAMESPACE/POD
	twice                                      string
}

func (f *fields) field(name string) *string {
	switch name {
	case "src.addr":
		return &f.srcAddr
	case "src.workload":
		return &f.srcWorkload
	case "src.namespace":
		return &f.srcNS
	case "src.identity":
		return &f.srcID
	case "src.cluster":
		return &f.srcCluster
	case "dst.addr":
		return &f.dstAddr
	case "dst.hbone_addr":
		return &f.dstHBONE
	case "dst.service":
		return &f.dstService
	case "dst.workload":
		return &f.dstWorkload
	case "dst.namespace":
		return &f.dstNS
	case "dst.identity":
		return &f.dstID
	case "dst.cluster":
		return &f.dstCluster
	case "direction":
		return &f.direction
	case "duration":
		return &f.duration
	case "error":
		return &f.err
	case "policy":
		return &f.policy
	case "bytes_sent":
		return &f.sent
	case "bytes_recv":
		return &f.received
	}
	return nil
}

func (f *fields) set(name, value string) {
	dst := f.field(name)
	switch {
	case dst == nil:
	case *dst != "":
		f.twice = name
	default:
		*dst = value
	}
}

// Decode reads one line.
func Decode(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
	line = bytes.TrimSpace(line)
	var f fields
	var err error
	if len(line) > 0 && line[0] == '{' {
		err = f.json(line)
	} else {
		err = f.text(string(line))
	}
	if err != nil {
		return dst, fmt.Errorf("ztunnel line: %w", err)
	}
	if f.twice != "" {
		return dst, fmt.Errorf("ztunnel line: %w: %s is there twice", evidence.ErrMalformed, f.twice)
	}
	var e evidence.Evidence
	switch {
	case f.scope == "access" && strings.HasPrefix(f.message, "connection"):
		if e, err = f.connection(from); err != nil {
			return dst, fmt.Errorf("ztunnel line: %w", err)
		}
	case f.verdict(from, &e):
	default:
		return dst, fmt.Errorf("ztunnel line: %w: %s", evidence.ErrNotEvidence, evidence.Text(f.scope, 64))
	}
	return append(dst, e), nil
}

func (f *fields) json(line []byte) error {
	c := jsonscan.New(line)
	if c.Object() {
		for c.Next() {
			switch string(c.Key) {
			case "time":
				f.time = c.String()
			case "scope":
				f.scope = c.String()
			case "message":
				f.message = c.String()
			case "proxy", "inbound", "outbound": // spans
				if c.Object() {
					for c.Next() {
						switch string(c.Key) {
						case "peer":
							f.peer = c.String()
						case "wl":
							f.workload = c.String()
						default:
							c.Skip()
						}
					}
				}
			default:
				if p := f.field(string(c.Key)); p == nil {
					c.Skip()
				} else if *p != "" {
					f.twice = string(c.Key)
					c.Skip()
				} else {
					*p = c.Scalar()
				}
			}
		}
	}
	f.scope = strings.TrimPrefix(f.scope, "ztunnel::")
	if err := c.End(); err != nil {
		return fmt.Errorf("%w: byte %d: %w", evidence.ErrMalformed, c.Offset(), err)
	}
	return nil
}

// text reads TIME LEVEL SCOPE[:SPAN{…}] MESSAGE KEY=VALUE…: today's parts are
// separated by tabs; before, by spaces and with a colon after the scope. A
// value is bare up to a space, or quoted as in Rust.
func (f *fields) text(line string) error {
	parts := strings.SplitN(line, "\t", 5)
	rest := ""
	if len(parts) >= 4 {
		f.time, f.scope, f.message = parts[0], parts[2], parts[3]
		if len(parts) == 5 {
			rest = parts[4]
		}
	} else {
		at := strings.Index(line, " src.addr=")
		if at < 0 {
			return f.spaced(line)
		}
		head := strings.Fields(line[:at])
		rest = line[at+1:]
		if len(head) < 3 {
			return evidence.ErrNotEvidence
		}
		f.time = head[0]
		for i, w := range head[1:] {
			if w == "access" || w == "access:" {
				f.scope, f.message = "access", strings.Join(head[i+2:], " ")
			}
		}
	}
	if scope, spans, ok := strings.Cut(f.scope, ":"); ok {
		f.scope = scope
		f.peer, f.workload = ofSpan(spans, "peer="), ofSpan(spans, "wl=")
	}
	return f.pairs(rest)
}

// spaced reads a verdict whose tabs became spaces, as terminals and wikis make them.
func (f *fields) spaced(line string) error {
	head, policy, named := strings.Cut(line, " policy=")
	words := strings.Fields(head)
	if len(words) < 4 {
		return evidence.ErrNotEvidence
	}
	scope, spans, _ := strings.Cut(strings.TrimPrefix(words[2], "ztunnel::"), ":")
	if scope != "state" {
		return evidence.ErrNotEvidence
	}
	f.time, f.scope, f.message = words[0], scope, strings.Join(words[3:], " ")
	if spans != "" { // they have spaces too
		end := strings.LastIndexByte(head, '}') + 1
		spans, f.message = head[:end], strings.TrimSpace(head[end:])
		f.peer, f.workload = ofSpan(spans, "peer="), ofSpan(spans, "wl=")
	}
	if named {
		return f.pairs("policy=" + policy)
	}
	return nil
}

// ofSpan finds a span's field, proxy{wl=shop/orders-1}:inbound{id=5 peer=10.0.0.1:4000}.
func ofSpan(spans, name string) string {
	_, value, _ := strings.Cut(spans, name)
	if end := strings.IndexAny(value, " },"); end >= 0 {
		return strings.Trim(value[:end], `"`)
	}
	return ""
}

// pairs reads KEY=VALUE pairs.
func (f *fields) pairs(s string) error {
	for s = strings.TrimLeft(s, " \t"); s != ""; s = strings.TrimLeft(s, " \t") {
		name, rest, ok := strings.Cut(s, "=")
		if !ok || strings.ContainsAny(name, " \t\"") {
			return fmt.Errorf("%w: %q is no KEY=VALUE", evidence.ErrMalformed, evidence.Text(s, 32))
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			quoted, ok := quotedPrefix(rest)
			if !ok {
				return fmt.Errorf("%w: the quotes of %s do not close", evidence.ErrMalformed, evidence.Text(name, 64))
			}
			value, rest = unquote(quoted), rest[len(quoted):]
			if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
				return fmt.Errorf("%w: %s goes on after its quotes", evidence.ErrMalformed, evidence.Text(name, 64))
			}
		} else {
			end := strings.IndexAny(rest, " \t")
			if end < 0 {
				end = len(rest)
			}
			value, rest = rest[:end], rest[end:]
		}
		f.set(name, value)
		s = rest
	}
	return nil
}

func quotedPrefix(s string) (string, bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[:i+1], true
		}
	}
	return "", false
}

// unquote resolves the escapes of Rust's debug form.
func unquote(s string) string {
	s = s[1 : len(s)-1]
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\'`, `'`, `\n`, "\n", `\t`, "\t", `\r`, "\r").Replace(s)
}

func (f *fields) at(from *evidence.Origin) int64 {
	if t, err := time.Parse(time.RFC3339Nano, f.time); err == nil && t.Unix() > 0 && t.Year() < 2262 {
		return t.UnixNano()
	}
	return from.Time
}

func (f *fields) connection(from *evidence.Origin) (evidence.Evidence, error) {
	e := evidence.Evidence{Source: evidence.SourceZtunnel, Event: evidence.EventConnection, Protocol: "tcp"}
	e.Final = f.message != "connection opened"
	switch f.direction {
	case "inbound":
		e.Role, e.Cluster = evidence.RoleCallee, f.dstCluster
	case "outbound":
		e.Role, e.Cluster = evidence.RoleCaller, f.srcCluster
	default:
		return e, fmt.Errorf("%w: direction is %q, want inbound or outbound", evidence.ErrMalformed, evidence.Text(f.direction, 32))
	}
	if f.srcAddr == "" || f.dstAddr == "" {
		return e, fmt.Errorf("%w: no src.addr or no dst.addr", evidence.ErrMalformed)
	}
	if e.Cluster == "" {
		e.Cluster = from.Cluster
	}
	e.Cluster = name(e.Cluster)
	e.End = f.at(from)
	if e.Start = e.End; f.duration != "" {
		d, err := duration(f.duration)
		if err != nil {
			return e, err
		}
		e.Start -= int64(d)
	}
	e.Reporter.Node = from.Workload.Node

	e.From.Address, e.From.Port = envoy.SplitAddress(f.srcAddr)
	e.To.Address, e.To.Port = envoy.SplitAddress(f.dstAddr)
	// The tunnel's target, if it is the same host: the application's port
	// instead of HBONE's. Behind a waypoint it is another host, which this hop
	// does not reach.
	if host, port := envoy.SplitAddress(f.dstHBONE); host == e.To.Address && port != 0 {
		e.To.Port = port
	}
	e.From.Workload = evidence.Workload{PodName: name(f.srcWorkload), Namespace: name(f.srcNS)}
	e.To.Workload = evidence.Workload{PodName: name(f.dstWorkload), Namespace: name(f.dstNS)}
	e.Host = evidence.Authority(f.dstService)

	own := &e.To.Workload
	if e.Role == evidence.RoleCaller {
		own = &e.From.Workload
	}
	own.Node = from.Workload.Node // ztunnel serves the pods of its own node
	f.security(&e)
	f.failure(&e)
	return e, nil
}

// security reads how the connection was secured and who that proves the parties
// to be.
func (f *fields) security(e *evidence.Evidence) {
	stood, refused := f.stood(), f.refused()
	source := evidence.Identity{Proof: evidence.ProofMTLSSAN, From: fromPeerSAN}
	destination := evidence.Identity{Proof: evidence.ProofMTLSSAN, From: fromLocalSAN}
	switch {
	case e.Role == evidence.RoleCaller && stood:
		source.From, destination.From = fromLocalSAN, fromPeerSAN
	case e.Role == evidence.RoleCaller:
		source = evidence.Identity{Proof: evidence.ProofIP, From: fromWorkload}
		destination = source
	case refused:
		source.Proof = evidence.ProofClaimed
	}
	e.From.AddIdentity(evidence.ParseIdentity(f.srcID, source.Proof, source.From))
	e.To.AddIdentity(evidence.ParseIdentity(f.dstID, destination.Proof, destination.From))

	if refused {
		e.Event = evidence.EventHandshake
		e.TLS.Known = true
		e.TLS.FailureReason = evidence.Text(f.err, evidence.MaxDetail)
		return
	}
	e.TLS.Mutual = stood && (f.srcID != "" || f.dstID != "") // one may not be known, as behind a gateway
	e.TLS.Established = e.TLS.Mutual
	e.TLS.Known = e.TLS.Mutual || f.err == "" && e.Final
}

// stood reports whether the tunnel is known to have been up. The called side
// learns of a connection through it; the calling side also logs what it could
// not connect.
func (f *fields) stood() bool {
	switch {
	case f.refused() || f.message == "connection failed":
		return false
	case f.direction == "inbound":
		return true
	case f.message != "connection complete":
		return false
	}
	return f.err == "" || strings.HasPrefix(f.err, "http status: ") || f.moved()
}

// moved reports whether anything went through.
func (f *fields) moved() bool {
	sent, _ := strconv.ParseUint(f.sent, 10, 64)
	received, _ := strconv.ParseUint(f.received, 10, 64)
	return sent != 0 || received != 0
}

// refused reports whether TLS failed. The called side says so in words of its
// own, the calling side in those of rustls.
func (f *fields) refused() bool {
	for _, start := range [...]string{
		"tls handshake error: ", "tls error: ", "identity error: ", "signing error: ", "ssl error: ",
		"connection closed: peer certificate revoked", // what went through before is void too
	} {
		if strings.HasPrefix(f.err, start) {
			return true
		}
	}
	if f.moved() {
		return false
	}
	for _, start := range [...]string{"io error: ", "http2 handshake failed: ", "h2 failed: "} {
		why, ok := strings.CutPrefix(f.err, start)
		if !ok {
			continue
		}
		for _, words := range [...]string{
			"invalid peer certificate", "received fatal alert", "tls handshake eof",
			"peer is incompatible", "peer misbehaved", "peer sent no certificates",
		} {
			if strings.Contains(why, words) {
				return true
			}
		}
	}
	return false
}

// failure reads what ztunnel says of a connection that did not end well.
func (f *fields) failure(e *evidence.Evidence) {
	if f.err == "" {
		return
	}
	e.Failed = true
	e.StatusDetail = evidence.Text(f.err, evidence.MaxDetail)
	if why, ok := strings.CutPrefix(f.err, rejection); ok {
		e.Verdict = rejected(why)
	} else if f.err == "connection closed due to policy change" {
		e.Verdict = &evidence.Verdict{Engine: Engine, Decision: evidence.Deny, Enforced: true, Reason: "policy change"}
	}
}

const rejection = "connection closed due to policy rejection: "

func rejected(why string) *evidence.Verdict {
	v := &evidence.Verdict{Engine: Engine, Decision: evidence.Deny, Enforced: true, Reason: evidence.Text(why, evidence.MaxDetail)}
	if policy, ok := strings.CutPrefix(why, "explicitly denied by: "); ok {
		v.PolicyNamespace, v.PolicyID = policyName(policy)
		v.Reason = ""
	}
	v.DefaultDeny = why == "allow policies exist, but none allowed"
	return v
}

// policyName reads NAMESPACE/NAME; a policy of the whole mesh has no namespace.
func policyName(s string) (namespace, id string) {
	namespace, id, ok := strings.Cut(s, "/")
	if !ok || strings.Contains(s, ":") { // no name of Kubernetes
		namespace, id = "", s
	}
	return name(namespace), name(id)
}

// verdict reads a line of the policy engine, which says nothing of the
// connection but its peer and whose it is.
func (f *fields) verdict(from *evidence.Origin, e *evidence.Evidence) bool {
	v := evidence.Verdict{Engine: Engine, Decision: evidence.Deny, Enforced: true}
	message, dry := strings.CutPrefix(f.message, "dry-run: ")
	v.Enforced = !dry
	switch message {
	case "deny policy match":
	case "allow policy match":
		v.Decision = evidence.Allow
	case "no allow policies, allow":
		v.Decision, v.Reason = evidence.Allow, "no allow policies"
	case "no allow policies matched", "no allow policies match":
		v.DefaultDeny = true
	default:
		return false
	}
	v.PolicyNamespace, v.PolicyID = policyName(f.policy)
	*e = evidence.Evidence{
		Source: evidence.SourceZtunnel, Event: evidence.EventAuthz, Role: evidence.RoleDecision, Final: true,
		Start: f.at(from), Cluster: from.Cluster, Verdict: &v,
	}
	e.Reporter.Node = from.Workload.Node
	e.From.Address, e.From.Port = envoy.SplitAddress(f.peer)
	if namespace, pod, ok := strings.Cut(f.workload, "/"); ok {
		e.To.Workload = evidence.Workload{PodName: name(pod), Namespace: name(namespace), Node: from.Workload.Node}
	}
	return true
}

// duration reads whole milliseconds, 12ms, as ztunnel writes them.
func duration(s string) (time.Duration, error) {
	digits, ok := strings.CutSuffix(s, "ms")
	n, err := strconv.ParseUint(digits, 10, 40)
	if !ok || err != nil {
		return 0, fmt.Errorf("%w: duration is %q", evidence.ErrMalformed, evidence.Text(s, 32))
	}
	return time.Duration(n) * time.Millisecond, nil
}

func name(s string) string { return evidence.Text(s, evidence.MaxName) }
