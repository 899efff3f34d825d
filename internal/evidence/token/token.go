// Package token reads what evidence carries of the tokens by which a caller was
// authenticated: the claims of a token that a proxy or policy engine has
// verified, and what came with it of that to which it is bound, a DPoP proof (RFC
// 9449) or a client certificate (RFC 8705), which it verifies itself.
//
// It keeps who (sub) by which client (azp), by whom and for whom (iss, aud), on
// whose behalf (act, RFC 8693) and to which key the token is bound (cnf). A token's
// id is hashed. The token, the proof and every other claim are dropped.
package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// MaxPayload bounds a token's payload, in bytes: what common servers take as
// one header.
const MaxPayload = 16 << 10

// Values of evidence.Token.Bound.
const (
	BoundDPoP = "dpop" // RFC 9449: cnf.jkt
	BoundMTLS = "mtls" // RFC 8705: cnf.x5t#S256
	BoundNone = "none"
)

// Claims of a token that somebody has verified.
type Claims struct {
	Issuer, Subject, ID string
	Audience            string // the first of several
	AuthorizedParty     string // azp, or client_id
	Roles               []string
	Delegation          []evidence.Delegate // outermost first
	JKT, X5T            string              // thumbprint of the key, or of the certificate, that it is bound to
}

// Parse reads the JSON payload of a verified token. Claims of a wrong type are
// passed over; a payload that is no JSON object, or too large, is an error. Of
// two claims of one name the last counts.
func Parse(payload []byte) (Claims, error) {
	if len(payload) > MaxPayload {
		return Claims{}, fmt.Errorf("token payload of %d bytes, at most %d are read", len(payload), MaxPayload)
	}
	j := jsonscan.New(payload)
	var c Claims
	var client string
	var audience, roles, groups []string
	var act acts
	if !j.Object() {
		return Claims{}, errNoObject
	}
	for j.Next() {
		switch string(j.Key) {
		case "iss":
			c.Issuer = lenient(&j)
		case "sub":
			c.Subject = lenient(&j)
		case "jti":
			c.ID = lenient(&j)
		case "azp":
			c.AuthorizedParty = lenient(&j)
		case "client_id":
			client = lenient(&j)
		case "aud":
			audience = list(audience[:0], &j, 1)
		case "roles":
			roles = list(roles[:0], &j, evidence.MaxRoles)
		case "groups":
			groups = list(groups[:0], &j, evidence.MaxRoles)
		case "act":
			act.read(&j, 0)
		case "cnf":
			c.JKT, c.X5T = "", ""
			if !j.Object() {
				continue
			}
			for j.Next() {
				switch string(j.Key) {
				case "jkt":
					c.JKT = lenient(&j)
				case "x5t#S256":
					c.X5T = lenient(&j)
				default:
					j.Skip()
				}
			}
		default:
			j.Skip()
		}
	}
	if j.End() != nil {
		return Claims{}, errNoObject
	}
	if act.tooLong {
		return Claims{}, errors.New("token payload with too long a chain of act claims")
	}
	c.Delegation = act.delegation()
	if len(audience) > 0 {
		c.Audience = audience[0]
	}
	if c.AuthorizedParty == "" {
		c.AuthorizedParty = client
	}
	c.Roles = append(roles, groups...)
	return c, nil
}

var errNoObject = errors.New("token payload is no JSON object") // the cursor's error may quote it

// lenient reads a string, or a list of one, as Istio's metadata has it; "" for
// anything else.
func lenient(j *jsonscan.Cursor) string {
	if j.Peek() != '[' {
		return evidence.Text(j.String(), evidence.MaxName)
	}
	var one string
	n := 0
	for j.Array(); j.Element(); n++ {
		if j.Peek() != '"' {
			n++ // it counts as two
		}
		one = j.String()
	}
	if n != 1 {
		return ""
	}
	return evidence.Text(one, evidence.MaxName)
}

// list appends a string, or the strings of a list, to dst, up to so many; what is
// no string is left out.
func list(dst []string, j *jsonscan.Cursor, most int) []string {
	add := func() {
		if s := lenient(j); s != "" && len(dst) < most {
			dst = append(dst, s)
		}
	}
	if j.Peek() != '[' {
		add()
		return dst
	}
	for j.Array(); j.Element(); {
		add()
	}
	return dst
}

// maxActs bounds the act claims within each other, those that name nobody
// included.
const maxActs = 2 * evidence.MaxDelegates

// acts are the act claims of a token, the outermost first.
type acts struct {
	chain   [maxActs]evidence.Delegate
	n       int
	tooLong bool
}

// read reads an act claim within so many others, and those within it. Anything
// but an object is none.
func (a *acts) read(j *jsonscan.Cursor, within int) {
	a.n = within // of two of one name the last counts
	if within == maxActs {
		a.tooLong = true
		j.Skip()
		return
	}
	if !j.Object() {
		return
	}
	var d evidence.Delegate
	a.n = within + 1
	for j.Next() {
		switch string(j.Key) {
		case "iss":
			d.Issuer = lenient(j)
		case "sub":
			d.Subject = lenient(j)
		case "act":
			a.read(j, within+1)
		default:
			j.Skip()
		}
	}
	a.chain[within] = d
}

// delegation is who is named.
func (a *acts) delegation() (named []evidence.Delegate) {
	for _, d := range a.chain[:a.n] {
		if d != (evidence.Delegate{}) && len(named) < evidence.MaxDelegates {
			named = append(named, d)
		}
	}
	return named
}

// JWTSVID is the bearer token of an Authorization header if it calls itself a
// JWT-SVID: its subject is a SPIFFE ID. Nothing of it is verified.
func JWTSVID(authorization string) (token string, ok bool) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "bearer") || len(token) > MaxPayload {
		return "", false
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return "", false
	}
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || !bytes.Contains(b, []byte("spiffe:")) {
		return "", false
	}
	claims, err := Parse(b)
	return token, err == nil && strings.HasPrefix(claims.Subject, "spiffe://")
}

// principalParts are the issuer and the subject of ISSUER/SUBJECT. Either may have slashes in it: a subject begins
// at the first part of the path that has a colon in it (a SPIFFE ID, repo:OWNER/NAME:…), else at the last.
var principalParts = regexp.MustCompile(`(?s)^((?:[^/]+://)?[^/]*[^/:](?:/[^/:]*)*?)/([^/]*:.*|[^/]+)$`)

// ApplyPrincipal states on e, unless it names a user, whom Istio's request.auth.principal names.
func ApplyPrincipal(e *evidence.Evidence, principal string) {
	if e.User != "" || principal == "" {
		return
	}
	principal = evidence.Text(principal, 2*evidence.MaxName)
	parts := principalParts.FindStringSubmatch(principal)
	if parts == nil {
		e.User = evidence.Text(strings.Trim(principal, "/"), evidence.MaxName)
		return
	}
	e.User = evidence.Text(parts[2], evidence.MaxName)
	if e.Actor == nil {
		e.Actor = new(evidence.Actor)
	}
	if t := &e.Actor.Token; t.Issuer == "" {
		t.Issuer = evidence.Text(parts[1], evidence.MaxName)
	}
}

// Apply states the claims on e: its user, unless it names one, and its actor. Of
// a token without a subject that is the client itself.
func (c *Claims) Apply(e *evidence.Evidence) {
	if c.Subject == "" && c.AuthorizedParty == "" && c.Issuer == "" {
		return
	}
	if e.Actor == nil {
		e.Actor = new(evidence.Actor)
	}
	a := e.Actor
	switch {
	case e.User != "":
	case c.Subject != "":
		e.User = c.Subject
	case c.AuthorizedParty != "":
		e.User, a.Type = c.AuthorizedParty, "service"
	}
	if len(a.Roles) == 0 {
		a.Roles = c.Roles[:min(len(c.Roles), evidence.MaxRoles)]
	}
	if len(a.Delegation) == 0 {
		a.Delegation = c.Delegation
	}
	t := &a.Token
	if t.Bound != "" {
		return // of two statements the first counts, as of the user
	}
	t.Issuer, t.Audience, t.AuthorizedParty, t.JKT, t.X5T = c.Issuer, c.Audience, c.AuthorizedParty, c.JKT, c.X5T
	if c.ID != "" {
		sum := sha256.Sum256([]byte(c.ID))
		t.IDHash = hex.EncodeToString(sum[:])
	}
	switch {
	case c.JKT != "":
		t.Bound = BoundDPoP
	case c.X5T != "":
		t.Bound = BoundMTLS
	default:
		t.Bound = BoundNone
	}
}
