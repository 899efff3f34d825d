// Package linkerd reads the Linkerd proxy's access log, JSON and apache, and
// the denials of its inbound policy in the proxy's own log.
//
// Linkerd logs what arrives at a pod: every line is the callee's. It names the
// client by the name in its certificate, which is a DNS name
// (ACCOUNT.NAMESPACE.serviceaccount.identity.linkerd.DOMAIN) or, of workloads
// outside Kubernetes, a SPIFFE ID. A DNS name is kept as what it is, mtls_san
// and no SPIFFE ID; none is made up from it. Only the namespace is read from it.
package linkerd

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
const Engine = "linkerd_policy"

const fromPeerSAN = "tls.peer.san"

// Decode reads one line of any of the three.
func Decode(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
	line = bytes.TrimSpace(line)
	n := len(dst)
	dst = append(dst, evidence.Evidence{}) // filled in place: it is large
	e := &dst[n]
	e.Source, e.Role, e.Final, e.Cluster = evidence.SourceLinkerd, evidence.RoleCallee, true, from.Cluster
	e.To.Workload = from.Workload
	e.Reporter.Node = from.Workload.PodName
	var err error
	switch {
	case len(line) > 0 && line[0] == '{':
		err = decodeJSON(e, from, line)
	case bytes.Contains(line, []byte(policyTarget)):
		err = policyText(e, from, string(line))
	default:
		err = apache(e, string(line))
	}
	if err != nil {
		return dst[:n], fmt.Errorf("linkerd line: %w", err)
	}
	return dst, nil
}

// An access is an access line's fields.
type access struct {
	addr, id, timestamp, method, uri, version, host string
	status, trace, total                            string
}

func (a *access) evidence(e *evidence.Evidence) error {
	t, err := time.Parse(time.RFC3339Nano, a.timestamp)
	if err != nil || t.Unix() <= 0 || t.Year() >= 2262 {
		return fmt.Errorf("%w: timestamp is %q", evidence.ErrMalformed, evidence.Text(a.timestamp, 64))
	}
	e.Start = t.UnixNano()
	if a.total != "" {
		if ns, err := strconv.ParseUint(a.total, 10, 60); err == nil {
			e.End = e.Start + int64(ns)
		}
	}
	if a.addr == "" || a.method == "" {
		return fmt.Errorf("%w: no client address or no method", evidence.ErrMalformed)
	}
	e.From.Address, e.From.Port = envoy.SplitAddress(a.addr)
	client(e, a.id)
	e.Method = evidence.Text(a.method, evidence.MaxName)
	e.Path = evidence.PathOnly(a.uri)
	e.Host = evidence.Authority(a.host)
	if e.Host == "" && strings.Contains(a.uri, "://") {
		e.Host = evidence.Authority(a.uri)
	}
	if a.version != "" && !strings.HasPrefix(a.version, "HTTP/") { // the request line was taken apart at another space
		return fmt.Errorf("%w: version is %q", evidence.ErrMalformed, evidence.Text(a.version, 32))
	}
	if e.Protocol = evidence.Text(a.version, evidence.MaxName); e.Protocol == "HTTP/2.0" {
		e.Protocol = "HTTP/2"
	}
	if a.status == "" {
		e.Failed = true // there was no response
	} else if n, err := strconv.ParseUint(a.status, 10, 10); err != nil {
		return fmt.Errorf("%w: status is %q", evidence.ErrMalformed, evidence.Text(a.status, 32))
	} else {
		e.Status = int(n)
	}
	// It is whichever of x-b3-traceid, x-request-id and x-amzn-trace-id came.
	if id, ok := evidence.ParseTraceID(a.trace); ok {
		e.TraceID = id
	} else if !strings.ContainsAny(a.trace, "=;") {
		e.RequestID = evidence.Text(a.trace, evidence.MaxName)
	}
	return nil
}

// client states who called; "-" is nobody known, with or without TLS.
func client(e *evidence.Evidence, id string) {
	if id == "" || id == "-" {
		return
	}
	e.From.AddIdentity(evidence.ParseIdentity(id, evidence.ProofMTLSSAN, fromPeerSAN))
	e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true}
	if account, _, ok := strings.Cut(id, ".serviceaccount.identity."); ok {
		if _, namespace, ok := strings.Cut(account, "."); ok && !strings.Contains(namespace, ".") {
			e.From.Workload.Namespace = evidence.Text(namespace, evidence.MaxName)
		}
	}
}

// apache reads ADDRESS ID - [TIME] "METHOD URI VERSION" STATUS; the status is
// missing where there was no response.
func apache(e *evidence.Evidence, line string) error {
	var fields [9]string
	f := fields[:0]
	for more := true; more && len(f) < len(fields); {
		var s string
		s, line, more = strings.Cut(line, " ")
		f = append(f, s)
	}
	if len(f) < 7 || len(f) > 8 || f[2] != "-" || len(f[3]) < 2 || f[3][0] != '[' || f[3][len(f[3])-1] != ']' ||
		!strings.HasPrefix(f[4], `"`) || !strings.HasSuffix(f[6], `"`) || f[6] == `"` {
		return evidence.ErrNotEvidence
	}
	a := access{
		addr: f[0], id: f[1], timestamp: f[3][1 : len(f[3])-1],
		method: f[4][1:], uri: f[5], version: f[6][:len(f[6])-1],
	}
	if len(f) == 8 {
		a.status = f[7]
	}
	return a.evidence(e)
}

func decodeJSON(e *evidence.Evidence, from *evidence.Origin, line []byte) error {
	var a access
	var p policy
	seen := 0
	c := jsonscan.NewCopied(line)
	twice := ""
	set := func(dst *string, bit int) {
		if seen&(1<<bit) != 0 {
			twice = string(c.Key)
		}
		seen |= 1 << bit
		*dst = c.Scalar()
	}
	if c.Object() {
		for c.Next() {
			switch string(c.Key) {
			case "client.addr":
				set(&a.addr, 0)
			case "client.id":
				set(&a.id, 1)
			case "timestamp":
				set(&a.timestamp, 2)
			case "method":
				set(&a.method, 3)
			case "uri":
				set(&a.uri, 4)
			case "version":
				set(&a.version, 5)
			case "host":
				set(&a.host, 6)
			case "status":
				set(&a.status, 7)
			case "trace_id":
				set(&a.trace, 8)
			case "total_ns":
				set(&a.total, 9)
			case "target":
				set(&p.target, 10)
			case "fields":
				if c.Object() {
					for c.Next() {
						if string(c.Key) == "message" {
							p.message = c.String()
						} else if dst := p.field(string(c.Key)); dst != nil {
							*dst = c.Scalar()
						} else {
							c.Skip()
						}
					}
				}
			default:
				c.Skip()
			}
		}
	}
	if err := c.End(); err != nil {
		return fmt.Errorf("%w: byte %d: %w", evidence.ErrMalformed, c.Offset(), err)
	}
	switch {
	case twice != "":
		return fmt.Errorf("%w: %s is there twice", evidence.ErrMalformed, twice)
	case strings.HasPrefix(p.target, policyTarget):
		p.timestamp = a.timestamp
		return p.evidence(e, from)
	case p.target != "" || a.addr == "":
		return evidence.ErrNotEvidence
	}
	return a.evidence(e)
}
