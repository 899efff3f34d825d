// Package token reads what evidence carries of the tokens by which a caller was
// authenticated: the claims of a token that a proxy or policy engine has
// verified, and the DPoP proof (RFC 9449) that came with it, which it verifies
// itself.
//
// It keeps who (sub), by whom and for whom (iss, aud), on whose behalf (act, RFC
// 8693) and to which key the token is bound (cnf, RFC 9449 and RFC 8705). A
// token's id is hashed. The token, the proof and every other claim are dropped.
package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
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

// wire is a payload's JSON. Claims of an unexpected type are not there.
type wire struct {
	Iss, Sub, Jti, Azp lenient
	ClientID           lenient `json:"client_id"`
	Aud, Roles, Groups list
	Act                *actor
	Cnf                struct {
		JKT lenient `json:"jkt"`
		X5T lenient `json:"x5t#S256"`
	}
}

type actor struct {
	Iss, Sub lenient
	Act      *actor
}

// lenient is a string, or a list of one, as Istio's metadata has it; "" for
// anything else.
type lenient string

func (l *lenient) UnmarshalJSON(b []byte) error {
	var s string
	var one []string
	if json.Unmarshal(b, &s) != nil && json.Unmarshal(b, &one) == nil && len(one) == 1 {
		s = one[0]
	}
	*l = lenient(evidence.Text(s, evidence.MaxName))
	return nil
}

// list is a string or a list of them; what is no string is left out.
type list []string

func (l *list) UnmarshalJSON(b []byte) error {
	var items []lenient
	if json.Unmarshal(b, &items) != nil {
		var one lenient
		_ = json.Unmarshal(b, &one) // never fails
		items = []lenient{one}
	}
	for _, s := range items {
		if s != "" && len(*l) < evidence.MaxRoles {
			*l = append(*l, string(s))
		}
	}
	return nil
}

// UnmarshalJSON reads one party of the chain; anything but an object is none.
func (a *actor) UnmarshalJSON(b []byte) error {
	type plain actor
	var p plain
	if json.Unmarshal(b, &p) == nil {
		*a = actor(p)
	}
	return nil
}

// Parse reads the JSON payload of a verified token. Claims of a wrong type are
// passed over; a payload that is no JSON object, or too large, is an error.
func Parse(payload []byte) (Claims, error) {
	if len(payload) > MaxPayload {
		return Claims{}, fmt.Errorf("token payload of %d bytes, at most %d are read", len(payload), MaxPayload)
	}
	if bytes.Count(payload, []byte(`"act"`)) > 2*evidence.MaxDelegates {
		return Claims{}, errors.New("token payload with too long a chain of act claims")
	}
	var w wire
	if err := json.Unmarshal(payload, &w); err != nil {
		return Claims{}, errors.New("token payload is no JSON object") // err may quote it
	}
	c := Claims{
		Issuer: string(w.Iss), Subject: string(w.Sub), ID: string(w.Jti), AuthorizedParty: string(w.Azp),
		Roles: append(w.Roles, w.Groups...), JKT: string(w.Cnf.JKT), X5T: string(w.Cnf.X5T),
	}
	if c.AuthorizedParty == "" {
		c.AuthorizedParty = string(w.ClientID)
	}
	if len(w.Aud) > 0 {
		c.Audience = w.Aud[0]
	}
	for a := w.Act; a != nil && len(c.Delegation) < evidence.MaxDelegates; a = a.Act {
		if *a != (actor{Act: a.Act}) {
			c.Delegation = append(c.Delegation, evidence.Delegate{Issuer: string(a.Iss), Subject: string(a.Sub)})
		}
	}
	return c, nil
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

// Apply states the claims on e: its user, unless it names one, and its actor.
func (c *Claims) Apply(e *evidence.Evidence) {
	user := c.Subject
	if user == "" {
		user = c.AuthorizedParty
	}
	if user == "" && c.Issuer == "" {
		return
	}
	if e.User == "" {
		e.User = user
	}
	if e.Actor == nil {
		e.Actor = new(evidence.Actor)
	}
	a := e.Actor
	if len(a.Roles) == 0 {
		a.Roles = c.Roles[:min(len(c.Roles), evidence.MaxRoles)]
	}
	if len(a.Delegation) == 0 {
		a.Delegation = c.Delegation
	}
	t := &a.Token
	t.Issuer, t.Audience, t.JKT = c.Issuer, c.Audience, c.JKT
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
