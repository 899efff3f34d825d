// Package opa reads OPA's decision log: the uploads of its decision_logs
// plugin and the events in them.
//
// Decode turns one event into evidence, at a bounded depth and with exact
// numbers. It keeps nothing that README.md does not name: of an input's headers only the trace, the request id and claims of
// identity, of a token only its subject, never a body or a query string, and a
// query in Rego only if it is the name of what was asked, else its hash.
//
// # Identities and users
//
// A policy's input is what its caller put there, so identities in it are
// claims. A user is taken from what Envoy verified (the payload of its
// jwt_authn filter), else from the input's user or subject, else, only if the
// decision is allow, from the unverified payload of a bearer token: a denied
// request with a forged token must not name the person it pretends to be.
//
// # Verdicts
//
// A verdict is stated only where the event states it plainly (verdict.go).
package opa

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
)

// Engine is the verdict's engine.
const Engine = "opa"

var (
	errNoObject   = errors.New("not an object")
	errNoDecision = errors.New("no decision_id")
	errDuplicate  = errors.New("duplicate key")
)

// Kept says which keys' values jsonscan.Redact may keep of an event that could
// not be decoded: they name the decision and never hold what a request carried.
func Kept(key string) bool {
	switch key {
	case "decision_id", "batch_decision_id", "timestamp", "revision", "version", "trace_id", "span_id", "method":
		return true
	}
	return false
}

// Decode reads one event. It refuses what is not
// one object of valid JSON with a decision_id, and one that states the decision,
// the input or the result twice: readers differ on which of the two counts.
func Decode(event []byte) (evidence.Evidence, error) {
	d := decoder{c: jsonscan.New(event)}
	d.e.Source, d.e.Role, d.e.Final = evidence.SourceOPA, evidence.RoleDecision, true
	d.verdict = evidence.Verdict{Engine: Engine, Enforced: true}
	if d.c.Peek() != '{' {
		if d.c.Skip(); d.c.End() != nil {
			return evidence.Evidence{}, fmt.Errorf("opa event: byte %d: %w", d.c.Offset(), d.c.Err())
		}
		return evidence.Evidence{}, fmt.Errorf("opa event: %w", errNoObject)
	}
	d.event()
	if err := d.c.End(); err != nil {
		return evidence.Evidence{}, fmt.Errorf("opa event: %w", err)
	}
	if d.duplicate != "" {
		return evidence.Evidence{}, fmt.Errorf("opa event: %w %q", errDuplicate, d.duplicate)
	}
	if d.e.DecisionID == "" {
		return evidence.Evidence{}, fmt.Errorf("opa event: %w", errNoDecision)
	}
	d.finish()
	return d.e, nil
}

// Line is Decode as an evidence.Decoder, for what OPA writes to its console
// (decision_logs.console), one event a line.
func Line(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
	e, err := Decode(line)
	switch {
	case errors.Is(err, errNoObject), errors.Is(err, errNoDecision), err != nil && !bytes.HasPrefix(bytes.TrimSpace(line), []byte("{")):
		return dst, fmt.Errorf("%w: %w", evidence.ErrNotEvidence, err)
	case err != nil:
		return dst, fmt.Errorf("%w: %w", evidence.ErrMalformed, err)
	}
	if e.Cluster == "" {
		e.Cluster = from.Cluster
	}
	if e.Start == 0 {
		e.Start = from.Time
	}
	return append(dst, e), nil
}

// A decoder gathers what one event says.
type decoder struct {
	c       jsonscan.Cursor
	e       evidence.Evidence
	verdict evidence.Verdict

	seen      [len(singleKeys)]bool
	duplicate string

	batchID, query, legacyRevision string
	timestamp                      string
	revisions                      []string // NAME=REVISION
	rules                          []string // labels of the rules that decided, NAME=VALUE
	hasError                       bool
	answer                         answer

	headers               envoy.Headers
	authorization         string
	requestTime           int64
	parsedPath, plainUser string
	claims                *token.Claims // of a token that Envoy verified
}

// singleKeys may stand in an event once.
var singleKeys = [...]string{"decision_id", "input", "result", "error"}

func (d *decoder) event() {
	c, e := &d.c, &d.e
	if !c.Object() {
		return
	}
	for c.Next() {
		d.once()
		switch string(c.Key) {
		case "decision_id":
			e.DecisionID = d.name()
		case "batch_decision_id":
			d.batchID = d.name()
		case "path":
			// OPA's server writes mesh/authz, its SDK /mesh/authz.
			d.verdict.PolicyID = strings.TrimPrefix(d.name(), "/")
		case "query":
			d.query = c.String()
		case "revision":
			d.legacyRevision = d.name()
		case "bundles":
			d.bundles()
		case "labels":
			d.labels()
		case "timestamp":
			d.timestamp = d.name()
		case "trace_id":
			e.TraceID, _ = evidence.ParseTraceID(c.String())
		case "span_id":
			e.SpanID, _ = evidence.ParseSpanID(c.String())
		case "requested_by":
			e.PeerAddress, e.PeerPort = envoy.SplitAddress(d.name())
		case "input":
			d.input()
		case "result":
			d.result()
		case "error":
			d.error()
		case "erased", "masked":
			d.erased()
		case "rule_labels":
			d.ruleLabels()
		default:
			c.Skip()
		}
	}
}

func (d *decoder) once() {
	for i, key := range singleKeys {
		if string(d.c.Key) == key {
			if d.seen[i] {
				d.duplicate = key
			}
			d.seen[i] = true
		}
	}
}

// name reads a bounded string or number.
func (d *decoder) name() string { return evidence.Text(d.c.Scalar(), evidence.MaxName) }

func (d *decoder) labels() {
	c := &d.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "id":
			d.e.Reporter.Node = d.name()
		case "cluster", "cluster_id":
			d.e.Cluster = d.name()
		default:
			c.Skip()
		}
	}
}

// bundles reads {NAME: {"revision": REVISION}}.
func (d *decoder) bundles() {
	const maxBundles = 64
	c := &d.c
	if !c.Object() {
		return
	}
	for c.Next() {
		bundle := evidence.Text(string(c.Key), evidence.MaxName)
		if !c.Object() {
			continue
		}
		for c.Next() {
			if string(c.Key) != "revision" {
				c.Skip()
				continue
			}
			if revision := d.name(); revision != "" && len(d.revisions) < maxBundles {
				d.revisions = append(d.revisions, bundle+"="+revision)
			}
		}
	}
}

// ruleLabels reads the labels by which the rules that decided are annotated:
// [{NAME: VALUE, …}, …].
func (d *decoder) ruleLabels() {
	const maxRuleLabels = 32
	c := &d.c
	if !c.Array() {
		return
	}
	for c.Element() {
		if !c.Object() {
			continue
		}
		for c.Next() {
			name := evidence.Text(string(c.Key), 64)
			if v := evidence.Text(c.Scalar(), 128); v != "" && len(d.rules) < maxRuleLabels {
				d.rules = append(d.rules, name+"="+v)
			}
		}
	}
}

func (d *decoder) setReason(s string) {
	if d.verdict.Reason == "" {
		d.verdict.Reason = s
	}
}

func (d *decoder) text() string { return evidence.Text(d.c.Scalar(), evidence.MaxDetail) }

// firstText returns an array's first element, of an object what it says by msg,
// message or reason; anything else is "…", so that an array with elements never
// reads as an empty one.
func (d *decoder) firstText() string {
	if !d.c.Array() {
		return ""
	}
	s := ""
	for n := 0; d.c.Element(); n++ {
		if n > 0 {
			d.c.Skip()
			continue
		}
		if d.c.Peek() == '{' {
			s = d.message()
		} else {
			s = d.text()
		}
		if s == "" {
			s = "…"
		}
	}
	return s
}

// message is what an object says in words, "" if it says nothing.
func (d *decoder) message() (s string) {
	if !d.c.Object() {
		return ""
	}
	for d.c.Next() {
		switch string(d.c.Key) {
		case "msg", "message", "reason":
			if text := d.text(); s == "" {
				s = text
			}
		default:
			d.c.Skip()
		}
	}
	return s
}

// codeUndefined is what OPA's SDK logs for an undefined result, which its
// server logs as no result at all.
const codeUndefined = "opa_undefined_error"

// error reads the evaluation's error: {"code", "message"} or a string.
func (d *decoder) error() {
	c := &d.c
	d.hasError = c.Peek() != 'n'
	if c.Peek() != '{' {
		d.setReason(d.text())
		return
	}
	code, message := "", ""
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "code":
			code = d.text()
		case "message":
			message = d.text()
		default:
			c.Skip()
		}
	}
	if code == codeUndefined {
		d.hasError = false
		return
	}
	d.setReason(evidence.Text(strings.TrimPrefix(code+": "+message, ": "), evidence.MaxDetail))
}

func (d *decoder) finish() {
	e, v := &d.e, &d.verdict
	e.Position = e.DecisionID
	if d.batchID != "" {
		e.Position = d.batchID + "/" + e.DecisionID
	}
	v.DecisionID = e.DecisionID
	v.PolicyRevision = d.revision()
	d.decide()
	if len(d.rules) > 0 {
		d.setReason(evidence.Text("rules "+strings.Join(d.rules, ", "), evidence.MaxDetail))
	}
	verdict := *v // of its own, so that the decoder need not be
	e.Verdict = &verdict
	e.Start = unixNano(d.timestamp)
	if e.Start == 0 {
		e.Start = d.requestTime
	}
	if e.Path == "" {
		e.Path = d.parsedPath
	}
	if e.RequestID == "" {
		e.RequestID = d.headers.RequestID
	}
	if d.headers.GRPC {
		envoy.RPC(e)
	}
	d.headers.Claims(e)
	if t := d.headers.Trace(); t != (envoy.Trace{}) {
		if e.TraceID == (evidence.TraceID{}) {
			e.TraceID = t.ID
		}
		if e.TraceID == t.ID {
			e.ParentSpanID = t.Span
		}
	}
	switch {
	case d.claims != nil:
		d.claims.Apply(e)
	case d.plainUser != "":
		e.User = d.plainUser
	}
	d.headers.Proof(e) // by verified claims only
	if d.claims == nil && d.plainUser == "" && v.Decision == evidence.Allow {
		if claims, ok := bearerClaims(d.authorization); ok {
			claims.Apply(e)
			if e.Actor != nil { // what it is bound to nobody has verified
				t := &e.Actor.Token
				t.Bound, t.JKT, t.X5T = "", "", ""
			}
		}
	}
}

// revision is the only bundle's revision, or all of them, NAME=REVISION sorted
// by name, or that of an OPA from before bundles had names.
func (d *decoder) revision() string {
	switch len(d.revisions) {
	case 0:
		return d.legacyRevision
	case 1:
		_, revision, _ := strings.Cut(d.revisions[0], "=")
		return revision
	}
	slices.Sort(d.revisions)
	return evidence.Text(strings.Join(d.revisions, ","), evidence.MaxDetail)
}

// unixNano reads RFC 3339; 0 is anything else.
func unixNano(s string) int64 {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 2261 {
		return 0
	}
	return t.UnixNano()
}

// bearerClaims reads the payload of a bearer or DPoP token, unverified: that
// the policy allowed the request is all that speaks for it.
func bearerClaims(authorization string) (token.Claims, bool) {
	scheme, jwt, ok := strings.Cut(authorization, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") && !strings.EqualFold(scheme, "dpop") || len(jwt) > token.MaxPayload {
		return token.Claims{}, false
	}
	part := strings.Split(strings.TrimSpace(jwt), ".")
	if len(part) != 3 {
		return token.Claims{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		return token.Claims{}, false
	}
	claims, err := token.Parse(payload)
	return claims, err == nil
}

func port(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}
