// Package svid verifies the SVIDs that evidence carries: certificates in what a
// proxy reports, and JWT-SVIDs in the headers that a policy was asked about.
//
// It verifies at the action's time, not at the time at which the evidence came,
// with an allowance for the clocks of two nodes. What it shows is that the trust
// domain's authority issued the identity and that it was valid then. That whoever
// acted also held the certificate's private key it cannot show: that is the word
// of the proxy that terminated the connection. A JWT-SVID is a bearer token.
//
// Answers are remembered, in bounded memory, by the credential's SHA-256: one
// certificate makes thousands of calls.
package svid

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Bounds. SPIRE's chains have one to three certificates of 600 to 1500 bytes.
const (
	maxEncoded = 64 << 10 // a certificate or chain in PEM, URL-encoded
	maxCerts   = 8
	maxToken   = 16 << 10
	maxCached  = 8192 // answers in each of two generations, about 300 bytes each
)

// DefaultSkew is how far the clocks of the issuer, the proxies and us are
// thought to be apart.
const DefaultSkew = 30 * time.Second

// Reason says why a credential proves nothing. "" is that it does.
type Reason string

// The reasons: a small closed set, which stands on the record and is counted.
const (
	Proven             Reason = ""
	Malformed          Reason = "malformed"
	NotSVID            Reason = "not_svid"             // a certificate that is none, by the standard
	Hash               Reason = "hash"                 // of another certificate than the one given
	Authority          Reason = "authority"            // no authority of its trust domain issued it
	UnknownTrustDomain Reason = "unknown_trust_domain" // for which there is no bundle
	Expired            Reason = "expired"              // at the action's time
	NotYetValid        Reason = "not_yet_valid"        // at the action's time
	Audience           Reason = "audience"             // a token for somebody else
	Unauthenticated    Reason = "unauthenticated"      // nobody is known to have reported it
)

// Refuted reports whether the credential is false, and not only unproven: then
// it contradicts who showed it.
func (r Reason) Refuted() bool {
	switch r {
	case Malformed, NotSVID, Hash, Authority:
		return true
	}
	return false
}

// Outcome is the reason, or "proven", by which answers are counted.
func (r Reason) Outcome() string {
	if r == Proven {
		return "proven"
	}
	return string(r)
}

// Bundles are the trust bundles to verify against.
type Bundles interface {
	x509bundle.Source
	jwtbundle.Source
	// Generation grows with every change.
	Generation() uint64
}

// A Verifier is safe for concurrent use.
type Verifier struct {
	bundles   Bundles
	audiences []string
	skew      time.Duration
	answers   cache
}

// New makes a Verifier. audiences are those of which a JWT-SVID must name one;
// without any no token is taken.
func New(bundles Bundles, audiences []string, skew time.Duration) *Verifier {
	return &Verifier{bundles: bundles, audiences: audiences, skew: skew}
}

// A Verdict is what is known of a credential. Without a Reason it is proven. ID is
// what it says, also where that is not proven; zero if it says nothing.
type Verdict struct {
	ID     spiffeid.ID
	Reason Reason
	// Of a certificate: its SHA-256 in hex, and unix seconds.
	SHA256   string
	NotAfter int64
}

// Certificate verifies an X.509-SVID at a time.
func (v *Verifier) Certificate(c evidence.Certificate, at time.Time) Verdict {
	if len(c.Leaf) > maxEncoded || len(c.Chain) > maxEncoded {
		return Verdict{Reason: Malformed}
	}
	h := sha256.New()
	for _, s := range [...]string{"x509", c.Leaf, c.Chain, strings.ToLower(c.Hash)} {
		h.Write([]byte(s))
		h.Write([]byte{0}) // no PEM holds it
	}
	return v.answer(key(h.Sum(nil)), at, func(at time.Time) *answer { return v.certificate(c, at) })
}

// Token verifies a JWT-SVID at a time.
func (v *Verifier) Token(token string, at time.Time) Verdict {
	if len(token) > maxToken {
		return Verdict{Reason: Malformed}
	}
	h := sha256.New()
	h.Write([]byte("jwt\x00"))
	h.Write([]byte(token))
	return v.answer(key(h.Sum(nil)), at, func(time.Time) *answer { return v.token(token) })
}

// answer gives what is remembered, or finds it out.
func (v *Verifier) answer(k key, at time.Time, find func(at time.Time) *answer) Verdict {
	generation := v.bundles.Generation()
	a := v.answers.get(k, generation)
	if a == nil {
		a = find(at)
		v.answers.put(k, generation, a)
	}
	if a.bounded {
		switch {
		case at.Before(a.from.Add(-v.skew)):
			return a.verdict(NotYetValid)
		case at.After(a.until.Add(v.skew)):
			return a.verdict(Expired)
		}
		if !a.holds(a.within(at)) {
			a = find(at)
			v.answers.put(k, generation, a)
		}
	}
	return a.verdict(a.reason)
}

// An answer is what is remembered of a credential.
type answer struct {
	id       spiffeid.ID
	sha256   string
	reason   Reason
	bounded  bool // it depends on the time
	from     time.Time
	until    time.Time // the credential's own validity
	min, max time.Time // at which the answer holds; zero: always
}

// retry is how long an authority that was not found at one time is not looked for
// at others.
const retry = time.Minute

func (a *answer) holds(at time.Time) bool {
	return a.min.IsZero() || !at.Before(a.min) && !at.After(a.max)
}

// within moves a time that is off by no more than the skew into the validity.
func (a *answer) within(at time.Time) time.Time {
	if at.Before(a.from) {
		return a.from
	}
	if at.After(a.until) {
		return a.until
	}
	return at
}

func (a *answer) verdict(r Reason) Verdict {
	verdict := Verdict{ID: a.id, Reason: r, SHA256: a.sha256}
	if a.sha256 != "" {
		verdict.NotAfter = a.until.Unix()
	}
	return verdict
}

func (v *Verifier) certificate(c evidence.Certificate, at time.Time) *answer {
	certs, ok := parse(c)
	if !ok {
		return &answer{reason: Malformed}
	}
	leaf := certs[0]
	sum := sha256.Sum256(leaf.Raw)
	a := &answer{sha256: hex.EncodeToString(sum[:]), bounded: true, from: leaf.NotBefore, until: leaf.NotAfter}
	id, err := x509svid.IDFromCert(leaf)
	if err != nil || id.Path() == "" || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		a.reason, a.bounded = NotSVID, false
		return a
	}
	a.id = id
	if c.Hash != "" && !strings.EqualFold(c.Hash, a.sha256) {
		a.reason, a.bounded = Hash, false
		return a
	}
	if _, err := v.bundles.GetX509BundleForTrustDomain(id.TrustDomain()); err != nil {
		a.reason = UnknownTrustDomain
		return a
	}
	at = a.within(at)
	_, chains, err := x509svid.Verify(certs, v.bundles, x509svid.WithTime(at))
	switch {
	case err == nil:
		a.min, a.max = validity(chains)
	case errors.As(err, new(x509.UnknownAuthorityError)), errors.As(err, new(x509.CertificateInvalidError)):
		// Another authority may be found at another time.
		a.reason, a.min, a.max = Authority, at.Add(-retry), at.Add(retry)
	default:
		a.reason, a.bounded = NotSVID, false
	}
	return a
}

// validity is when the longest lasting of the chains is valid.
func validity(chains [][]*x509.Certificate) (from, until time.Time) {
	for _, chain := range chains {
		first, last := chain[0].NotBefore, chain[0].NotAfter
		for _, c := range chain[1:] {
			if c.NotBefore.After(first) {
				first = c.NotBefore
			}
			if c.NotAfter.Before(last) {
				last = c.NotAfter
			}
		}
		if last.Sub(first) >= until.Sub(from) {
			from, until = first, last
		}
	}
	return from, until
}

// parse reads the chain, leaf first.
func parse(c evidence.Certificate) (certs []*x509.Certificate, ok bool) {
	for _, s := range [...]string{c.Leaf, c.Chain} {
		if strings.Contains(s, "%") {
			var err error
			if s, err = url.PathUnescape(s); err != nil { // not as a query: + is of base64
				return nil, false
			}
		}
		rest := []byte(s)
		for len(strings.TrimSpace(string(rest))) > 0 {
			var p *pem.Block
			if p, rest = pem.Decode(rest); p == nil || p.Type != "CERTIFICATE" || len(certs) == maxCerts+1 {
				return nil, false
			}
			cert, err := x509.ParseCertificate(p.Bytes)
			if err != nil {
				return nil, false
			}
			if len(certs) == 1 && cert.Equal(certs[0]) {
				continue // Envoy's Chain begins with the leaf too
			}
			certs = append(certs, cert)
		}
	}
	return certs, len(certs) > 0 && len(certs) <= maxCerts
}

// algorithms are those that the JWT-SVID standard allows.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512,
}

// token verifies all of a JWT-SVID but its time. go-spiffe's own jwtsvid takes
// the time at which it is asked, which is not the action's.
func (v *Verifier) token(token string) *answer {
	t, err := jwt.ParseSigned(token, algorithms)
	if err != nil || len(t.Headers) != 1 {
		return &answer{reason: Malformed}
	}
	header := t.Headers[0]
	if typ, there := header.ExtraHeaders[jose.HeaderType]; there && typ != "JWT" && typ != "JOSE" {
		return &answer{reason: Malformed}
	}
	var claims jwt.Claims
	if t.UnsafeClaimsWithoutVerification(&claims) != nil || claims.Expiry == nil {
		return &answer{reason: Malformed}
	}
	id, err := spiffeid.FromString(claims.Subject)
	if err != nil {
		return &answer{reason: NotSVID}
	}
	a := &answer{id: id, bounded: true, until: claims.Expiry.Time()}
	if claims.NotBefore != nil {
		a.from = claims.NotBefore.Time()
	} else if claims.IssuedAt != nil {
		a.from = claims.IssuedAt.Time()
	}
	bundle, err := v.bundles.GetJWTBundleForTrustDomain(id.TrustDomain())
	if err != nil {
		a.reason = UnknownTrustDomain
		return a
	}
	authority, ok := bundle.FindJWTAuthority(header.KeyID)
	if !ok || t.Claims(authority, &claims) != nil {
		a.reason = Authority
		return a
	}
	for _, audience := range v.audiences {
		if claims.Audience.Contains(audience) {
			return a
		}
	}
	a.reason = Audience
	return a
}
