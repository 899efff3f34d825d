package opa

import (
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Where an identity was stated.
const (
	fromSource      = "opa.input.source.principal"
	fromDestination = "opa.input.destination.principal"
)

// input reads a policy's input. Two forms are known: Envoy's CheckRequest, as
// opa-envoy-plugin passes it on (v2 and v3, in either JSON encoding), and plain
// objects as they are common in examples: method, path, user, source.
func (d *decoder) input() {
	c, e := &d.c, &d.e
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "attributes":
			d.attributes()
		case "parsed_path":
			d.parsedPath = d.pathSegments()
		case "method":
			e.Method = d.name()
		case "path":
			d.path()
		case "host":
			e.Host = evidence.Authority(c.string())
		case "request":
			d.request()
		case "user", "subject":
			d.user()
		case "source":
			d.peer(&e.From, fromSource)
		case "destination":
			d.peer(&e.To, fromDestination)
		default:
			c.skip()
		}
	}
}

func (d *decoder) attributes() {
	c, e := &d.c, &d.e
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "source":
			d.peer(&e.From, fromSource)
		case "destination":
			d.peer(&e.To, fromDestination)
		case "request":
			d.request()
		case "metadata_context", "metadataContext":
			d.metadataContext()
		default:
			c.skip()
		}
	}
}

// request reads attributes.request {time, http}, and the plain form in which
// http's fields stand directly in it.
func (d *decoder) request() {
	c, e := &d.c, &d.e
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "time":
			d.time()
		case "http", "Http":
			d.request()
		case "id":
			e.StreamID = d.name() // unsigned, 64 bits
		case "method":
			e.Method = d.name()
		case "path":
			d.path()
		case "host":
			e.Host = evidence.Authority(c.string())
		case "protocol":
			e.Protocol = d.name()
		case "headers":
			d.requestHeaders()
		default:
			c.skip()
		}
	}
}

// time reads the request's start: RFC 3339 (protojson) or {seconds, nanos}
// (encoding/json).
func (d *decoder) time() {
	c := &d.c
	if c.peek() != '{' {
		d.requestTime = unixNano(c.string())
		return
	}
	var seconds, nanos int64
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "seconds":
			seconds, _ = strconv.ParseInt(c.scalar(), 10, 64)
		case "nanos":
			nanos, _ = strconv.ParseInt(c.scalar(), 10, 64)
		default:
			c.skip()
		}
	}
	const maxSeconds = 9_223_372_035 // the year 2262
	if seconds > 0 && seconds < maxSeconds && nanos >= 0 && nanos < 1e9 {
		d.requestTime = seconds*1e9 + nanos
	}
}

func (d *decoder) requestHeaders() {
	c := &d.c
	if !c.object() {
		return
	}
	for c.next() {
		if strings.EqualFold(string(c.key), "authorization") {
			d.authorization = d.headerValue()
			continue
		}
		name := string(c.key)
		d.headers.Add(name, d.headerValue())
	}
}

// headerValue reads a header's value, the first of several.
func (d *decoder) headerValue() string {
	c := &d.c
	if c.peek() != '[' {
		return c.string()
	}
	value := ""
	if !c.array() {
		return ""
	}
	for n := 0; c.element(); n++ {
		if n == 0 {
			value = c.string()
		} else {
			c.skip()
		}
	}
	return value
}

// path reads a path: a string, or its segments.
func (d *decoder) path() {
	if d.c.peek() == '[' {
		d.e.Path = d.pathSegments()
		return
	}
	d.e.Path = evidence.PathOnly(d.c.string())
}

func (d *decoder) pathSegments() string {
	if !d.c.array() {
		return ""
	}
	var b strings.Builder
	for d.c.element() {
		segment := d.c.scalar()
		if b.Len() < evidence.MaxPath {
			b.WriteByte('/')
			b.WriteString(segment)
		}
	}
	return evidence.PathOnly(b.String())
}

// peer reads a source or destination: {principal, address, labels …}, or a
// plain string if that is a SPIFFE ID.
func (d *decoder) peer(p *evidence.Party, from string) {
	c := &d.c
	if c.peek() == '"' {
		if s := c.string(); strings.HasPrefix(s, "spiffe://") {
			p.AddIdentity(evidence.ParseIdentity(s, evidence.ProofClaimed, from))
		}
		return
	}
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "principal", "spiffe_id":
			p.AddIdentity(evidence.ParseIdentity(c.string(), evidence.ProofClaimed, from))
		case "address", "Address":
			d.address(p)
		default:
			c.skip()
		}
	}
}

// address reads an Envoy address in whichever of its JSON encodings:
// {"socketAddress": {"address", "portValue"}},
// {"Address": {"SocketAddress": {"address", "PortSpecifier": {"PortValue"}}}}
// or a plain string.
func (d *decoder) address(p *evidence.Party) {
	c := &d.c
	if c.peek() != '{' {
		p.Address = d.name()
		return
	}
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "address", "Address", "socketAddress", "socket_address", "SocketAddress", "PortSpecifier":
			d.address(p)
		case "portValue", "port_value", "PortValue":
			p.Port = port(c.scalar())
		default:
			c.skip()
		}
	}
}

// metadataContext reads what Envoy's jwt_authn filter verified:
// filterMetadata."envoy.filters.http.jwt_authn".<payload>.sub.
func (d *decoder) metadataContext() {
	c := &d.c
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "filterMetadata", "filter_metadata":
			if !c.object() {
				continue
			}
			for c.next() {
				if string(c.key) == "envoy.filters.http.jwt_authn" {
					d.subject(3)
				} else {
					c.skip()
				}
			}
		default:
			c.skip()
		}
	}
}

// subject looks for a sub claim at most depth objects down; the first counts.
func (d *decoder) subject(depth int) {
	c := &d.c
	if depth == 0 || !c.object() {
		if depth == 0 {
			c.skip()
		}
		return
	}
	for c.next() {
		if string(c.key) != "sub" {
			d.subject(depth - 1)
			continue
		}
		if sub := d.name(); d.jwtSubject == "" {
			d.jwtSubject = sub
		}
	}
}

// user reads input.user: a string, or an object that names it.
func (d *decoder) user() {
	c := &d.c
	if c.peek() == '"' {
		d.plainUser = d.name()
		return
	}
	if !c.object() {
		return
	}
	for c.next() {
		switch string(c.key) {
		case "id", "sub", "name", "username":
			if s := d.name(); d.plainUser == "" {
				d.plainUser = s
			}
		default:
			c.skip()
		}
	}
}
