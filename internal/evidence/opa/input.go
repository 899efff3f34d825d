package opa

import (
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
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
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "attributes":
			d.answer.envoy = true
			d.attributes()
		case "parsed_path":
			d.parsedPath = d.pathSegments()
		case "method":
			e.Method = d.name()
		case "path":
			d.path()
		case "host":
			e.Host = evidence.Authority(c.String())
		case "request":
			d.request()
		case "user", "subject":
			d.user()
		case "source":
			d.peer(&e.From, fromSource)
		case "destination":
			d.peer(&e.To, fromDestination)
		default:
			c.Skip()
		}
	}
}

func (d *decoder) attributes() {
	c, e := &d.c, &d.e
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "source":
			d.peer(&e.From, fromSource)
		case "destination":
			d.peer(&e.To, fromDestination)
		case "request":
			d.request()
		case "metadata_context", "metadataContext":
			d.metadataContext()
		default:
			c.Skip()
		}
	}
}

// request reads attributes.request {time, http}, and the plain form in which
// http's fields stand directly in it.
func (d *decoder) request() {
	c, e := &d.c, &d.e
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
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
			e.Host = evidence.Authority(c.String())
		case "protocol":
			e.Protocol = d.name()
		case "headers":
			d.requestHeaders()
		case "userInfo": // an AdmissionReview's
			d.user()
		default:
			c.Skip()
		}
	}
}

// time reads the request's start: RFC 3339 (protojson) or {seconds, nanos}
// (encoding/json).
func (d *decoder) time() {
	c := &d.c
	if c.Peek() != '{' {
		d.requestTime = unixNano(c.String())
		return
	}
	var seconds, nanos int64
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "seconds":
			seconds, _ = strconv.ParseInt(c.Scalar(), 10, 64)
		case "nanos":
			nanos, _ = strconv.ParseInt(c.Scalar(), 10, 64)
		default:
			c.Skip()
		}
	}
	const maxSeconds = 9_223_372_035 // the year 2262
	if seconds > 0 && seconds < maxSeconds && nanos >= 0 && nanos < 1e9 {
		d.requestTime = seconds*1e9 + nanos
	}
}

func (d *decoder) requestHeaders() {
	c := &d.c
	if !c.Object() {
		return
	}
	for c.Next() {
		name := string(c.Key)
		value := d.headerValue()
		if d.headers.Add(name, value); strings.EqualFold(name, "authorization") {
			d.authorization = value
		}
	}
}

// headerValue reads a header's value, the first of several.
func (d *decoder) headerValue() string {
	c := &d.c
	if c.Peek() != '[' {
		return c.String()
	}
	value := ""
	if !c.Array() {
		return ""
	}
	for n := 0; c.Element(); n++ {
		if n == 0 {
			value = c.String()
		} else {
			c.Skip()
		}
	}
	return value
}

// path reads a path: a string, or its segments.
func (d *decoder) path() {
	if d.c.Peek() == '[' {
		d.e.Path = d.pathSegments()
		return
	}
	d.e.Path = evidence.PathOnly(d.c.String())
}

func (d *decoder) pathSegments() string {
	if !d.c.Array() {
		return ""
	}
	var b strings.Builder
	for d.c.Element() {
		segment := d.c.Scalar()
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
	if c.Peek() == '"' {
		if s := c.String(); strings.HasPrefix(s, "spiffe://") {
			p.AddIdentity(evidence.ParseIdentity(s, evidence.ProofClaimed, from))
		}
		return
	}
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "principal", "spiffe_id":
			p.AddIdentity(evidence.ParseIdentity(c.String(), evidence.ProofClaimed, from))
		case "address", "Address":
			d.address(p)
		default:
			c.Skip()
		}
	}
}

// address reads an Envoy address in whichever of its JSON encodings:
// {"socketAddress": {"address", "portValue"}},
// {"Address": {"SocketAddress": {"address", "PortSpecifier": {"PortValue"}}}}
// or a plain string.
func (d *decoder) address(p *evidence.Party) {
	c := &d.c
	if c.Peek() != '{' {
		p.Address = d.name()
		return
	}
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "address", "Address", "socketAddress", "socket_address", "SocketAddress", "PortSpecifier":
			d.address(p)
		case "portValue", "port_value", "PortValue":
			p.Port = port(c.Scalar())
		default:
			c.Skip()
		}
	}
}

// metadataContext reads what Envoy's jwt_authn filter verified:
// filterMetadata."envoy.filters.http.jwt_authn".NAME.{iss, sub, …}.
func (d *decoder) metadataContext() {
	c := &d.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "filterMetadata", "filter_metadata":
			if !c.Object() {
				continue
			}
			for c.Next() {
				if string(c.Key) == "envoy.filters.http.jwt_authn" {
					d.verified(c.Raw(), 3)
				} else {
					c.Skip()
				}
			}
		default:
			c.Skip()
		}
	}
}

// verified looks for a token's payload at most depth objects down; the first
// that names somebody counts.
func (d *decoder) verified(object []byte, depth int) {
	c := jsonscan.New(object)
	if depth == 0 || d.claims != nil || c.Peek() != '{' || !c.Object() {
		return
	}
	var inner [8][]byte
	n := 0
	for c.Next() {
		switch string(c.Key) {
		case "sub", "iss", "azp", "client_id":
			if claims, err := token.Parse(object); err == nil && claims.Subject+claims.AuthorizedParty+claims.Issuer != "" {
				d.claims = &claims
				return
			}
			c.Skip()
		default:
			if v := c.Raw(); len(v) > 0 && v[0] == '{' && n < len(inner) {
				inner[n] = v
				n++
			}
		}
	}
	for _, v := range inner[:n] {
		d.verified(v, depth-1)
	}
}

// user reads input.user: a string, or an object that names it.
func (d *decoder) user() {
	c := &d.c
	if c.Peek() == '"' {
		d.plainUser = d.name()
		return
	}
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "id", "sub", "name", "username":
			if s := d.name(); d.plainUser == "" {
				d.plainUser = s
			}
		default:
			c.Skip()
		}
	}
}
