package svid

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

const (
	orders  = "spiffe://example.org/ns/shop/sa/orders"
	partner = "spiffe://partner.example/billing"
)

// static bundles that a test may replace.
type static struct {
	*spiffebundle.Set
	generation uint64
}

func (s *static) Generation() uint64 { return s.generation }

func bundlesOf(tb testing.TB, cas map[string]*evidencetest.CA) *static {
	s := &static{Set: spiffebundle.NewSet(), generation: 1}
	for td, ca := range cas {
		s.Add(ca.Bundle(tb, td))
	}
	return s
}

func TestCertificate(t *testing.T) {
	own, foreign, stranger := evidencetest.NewCA(t), evidencetest.NewCA(t), evidencetest.NewCA(t)
	below := own.Intermediate(t)
	v := New(bundlesOf(t, map[string]*evidencetest.CA{"example.org": own, "partner.example": foreign}), nil, DefaultSkew)
	now := time.Now().Truncate(time.Second)
	from, until := now.Add(-10*time.Minute), now.Add(10*time.Minute)
	leaf := func(ca *evidencetest.CA, id string) []byte { return ca.IssueFor(t, id, from, until).Certificate[0] }
	good := leaf(own, orders)
	sum := sha256.Sum256(good)
	hash := hex.EncodeToString(sum[:])
	deep := leaf(below, orders)
	many := make([][]byte, maxCerts+1)
	for i := range many {
		many[i] = leaf(own, orders)
	}
	for name, tc := range map[string]struct {
		given evidence.Certificate
		at    time.Time
		want  Reason
	}{
		"good":                                 {evidence.Certificate{Leaf: evidencetest.PEM(good)}, now, Proven},
		"good, escaped as Envoy does":          {evidence.Certificate{Leaf: strings.ReplaceAll(evidencetest.PEM(good), "+", "%2B")}, now, Proven},
		"with its hash":                        {evidence.Certificate{Leaf: evidencetest.PEM(good), Hash: strings.ToUpper(hash)}, now, Proven},
		"the hash of another":                  {evidence.Certificate{Leaf: evidencetest.PEM(good), Hash: strings.Repeat("00", 32)}, now, Hash},
		"the hash of another, expired":         {evidence.Certificate{Leaf: evidencetest.PEM(good), Hash: strings.Repeat("00", 32)}, until.Add(time.Hour), Hash},
		"through an intermediate":              {evidence.Certificate{Leaf: evidencetest.PEM(deep), Chain: evidencetest.PEM(deep, below.Raw())}, now, Proven},
		"the chain alone":                      {evidence.Certificate{Chain: evidencetest.PEM(deep, below.Raw())}, now, Proven},
		"what lies above alone":                {evidence.Certificate{Leaf: evidencetest.PEM(deep), Chain: evidencetest.PEM(below.Raw())}, now, Proven},
		"without the intermediate":             {evidence.Certificate{Leaf: evidencetest.PEM(deep)}, now, Authority},
		"of an authority that nobody knows":    {evidence.Certificate{Leaf: evidencetest.PEM(leaf(stranger, orders))}, now, Authority},
		"a partner's authority for our domain": {evidence.Certificate{Leaf: evidencetest.PEM(leaf(foreign, orders))}, now, Authority},
		"a federated domain":                   {evidence.Certificate{Leaf: evidencetest.PEM(leaf(foreign, partner))}, now, Proven},
		"a domain without a bundle":            {evidence.Certificate{Leaf: evidencetest.PEM(leaf(own, "spiffe://other.example/x"))}, now, UnknownTrustDomain},
		"expired then":                         {evidence.Certificate{Leaf: evidencetest.PEM(good)}, until.Add(DefaultSkew + time.Second), Expired},
		"expired, within the skew":             {evidence.Certificate{Leaf: evidencetest.PEM(good)}, until.Add(DefaultSkew), Proven},
		"not yet valid then":                   {evidence.Certificate{Leaf: evidencetest.PEM(good)}, from.Add(-DefaultSkew - time.Second), NotYetValid},
		"not yet valid, within the skew":       {evidence.Certificate{Leaf: evidencetest.PEM(good)}, from.Add(-DefaultSkew), Proven},
		"an authority's own":                   {evidence.Certificate{Leaf: evidencetest.PEM(own.Raw())}, now, NotSVID},
		"a trust domain's":                     {evidence.Certificate{Leaf: evidencetest.PEM(leaf(own, "spiffe://example.org"))}, now, NotSVID},
		"no SPIFFE ID":                         {evidence.Certificate{Leaf: evidencetest.PEM(leaf(own, "https://example.org/x"))}, now, NotSVID},
		"a broken escape":                      {evidence.Certificate{Leaf: evidencetest.PEM(good) + "%2"}, now, Malformed},
		"no PEM":                               {evidence.Certificate{Leaf: "x"}, now, Malformed},
		"spaces":                               {evidence.Certificate{Leaf: "%20"}, now, Malformed},
		"a key":                                {evidence.Certificate{Leaf: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, now, Malformed},
		"no certificate in it":                 {evidence.Certificate{Leaf: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, now, Malformed},
		"too many":                             {evidence.Certificate{Chain: evidencetest.PEM(many...)}, now, Malformed},
		"too long":                             {evidence.Certificate{Leaf: strings.Repeat(" ", maxEncoded+1)}, now, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // as found out, and as remembered
				got := v.Certificate(tc.given, tc.at)
				require.Equal(t, tc.want, got.Reason)
				if tc.want == Proven {
					require.False(t, got.ID.IsZero())
					require.Len(t, got.SHA256, 64)
					require.Equal(t, until.Unix(), got.NotAfter)
				}
			}
		})
	}
}

// What is remembered of a certificate does not outlive the bundle, nor hold at
// times at which it does not.
func TestCertificateLater(t *testing.T) {
	before, after := evidencetest.NewCA(t), evidencetest.NewCA(t)
	bundles := bundlesOf(t, map[string]*evidencetest.CA{"example.org": before})
	v := New(bundles, nil, 0)
	now := time.Now()
	short, long := now.Add(-time.Minute), now.Add(59*time.Minute)
	old := evidence.Certificate{Leaf: evidencetest.PEM(before.IssueFor(t, orders, short, long).Certificate[0])}
	renewed := evidence.Certificate{Leaf: evidencetest.PEM(after.IssueFor(t, orders, short, long).Certificate[0])}
	require.Equal(t, Proven, v.Certificate(old, now).Reason)
	require.Equal(t, Authority, v.Certificate(renewed, now).Reason)
	require.Equal(t, Expired, v.Certificate(old, now.Add(2*time.Hour)).Reason)
	require.Equal(t, Proven, v.Certificate(old, now).Reason, "and still at its time")

	bundles.Add(after.Bundle(t, "example.org"))
	bundles.generation++
	require.Equal(t, Authority, v.Certificate(old, now).Reason)
	require.Equal(t, Proven, v.Certificate(renewed, now).Reason)

	bundles.Remove(spiffeid.RequireTrustDomainFromString("example.org"))
	bundles.generation++
	require.Equal(t, UnknownTrustDomain, v.Certificate(renewed, now).Reason)
}

func TestToken(t *testing.T) {
	own, stranger := evidencetest.NewCA(t), evidencetest.NewCA(t)
	v := New(bundlesOf(t, map[string]*evidencetest.CA{"example.org": own}), []string{"orders", "billing"}, DefaultSkew)
	now := time.Now().Truncate(time.Second)
	expires := now.Add(time.Minute)
	good := own.JWT(t, orders, "billing", expires, nil)
	other := "A" // another character of base64 in the signature
	if good[len(good)-10] == 'A' {
		other = "B"
	}
	for name, tc := range map[string]struct {
		token string
		at    time.Time
		want  Reason
	}{
		"good":                              {good, now, Proven},
		"for somebody else":                 {own.JWT(t, orders, "other", expires, nil), now, Audience},
		"for nobody":                        {own.JWT(t, orders, "", expires, map[string]any{"aud": nil}), now, Audience},
		"expired then":                      {good, expires.Add(DefaultSkew + time.Second), Expired},
		"expired, within the skew":          {good, expires.Add(DefaultSkew), Proven},
		"before it was issued":              {good, now.Add(-2 * time.Hour), NotYetValid},
		"before it is valid":                {own.JWT(t, orders, "orders", expires, map[string]any{"nbf": now.Add(40 * time.Second).Unix()}), now, NotYetValid},
		"without an end":                    {own.JWT(t, orders, "orders", expires, map[string]any{"exp": nil}), now, Malformed},
		"of another key":                    {stranger.JWT(t, orders, "orders", expires, nil), now, Authority},
		"of a domain without a bundle":      {own.JWT(t, partner, "orders", expires, nil), now, UnknownTrustDomain},
		"of a person":                       {own.JWT(t, "alice", "orders", expires, nil), now, NotSVID},
		"signature of another":              {good[:len(good)-10] + other + good[len(good)-9:], now, Authority},
		"no JWT":                            {"a.b.c", now, Malformed},
		"too long":                          {strings.Repeat("a", maxToken+1), now, Malformed},
		"algorithm none":                    {"eyJhbGciOiJub25lIn0.e30.", now, Malformed},
		"symmetric algorithm, as JWT-SVIDs": {"eyJhbGciOiJIUzI1NiJ9.e30.AAAA", now, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				got := v.Token(tc.token, tc.at)
				require.Equal(t, tc.want, got.Reason)
				if tc.want == Proven {
					require.Equal(t, orders, got.ID.String())
				}
			}
		})
	}
	require.Equal(t, Audience, New(v.bundles, nil, 0).Token(good, now).Reason, "without audiences there is none to name")
}

func TestMemoryIsBounded(t *testing.T) {
	v := New(bundlesOf(t, nil), nil, 0)
	for i := range 3 * maxCached {
		require.Equal(t, Malformed, v.Token(fmt.Sprint(i), time.Now()).Reason)
	}
	require.LessOrEqual(t, len(v.answers.young)+len(v.answers.old), 2*maxCached)
}

func TestProve(t *testing.T) {
	own, stranger := evidencetest.NewCA(t), evidencetest.NewCA(t)
	now := time.Now()
	type counted struct {
		Credential
		Reason
	}
	var seen []counted
	p := &Prover{
		verifier: New(bundlesOf(t, map[string]*evidencetest.CA{"example.org": own}), []string{"me"}, DefaultSkew), tokens: true,
		observer: Observer{Verified: func(c Credential, r Reason) { seen = append(seen, counted{c, r}) }},
	}
	id := spiffeid.RequireFromString(orders)
	good, forged := own.Issue(t, orders).Certificate[0], stranger.Issue(t, orders).Certificate[0]
	san := evidence.Identity{ID: id, Proof: evidence.ProofMTLSSAN, From: "tls.peer.san"}
	for name, tc := range map[string]struct {
		shown         evidence.Credentials
		authenticated bool
		want          []evidence.Identity
		counted       []counted
	}{
		"a peer's certificate": {evidence.Credentials{Peer: evidence.Certificate{Leaf: evidencetest.PEM(good)}}, true,
			[]evidence.Identity{{ID: id, Proof: evidence.ProofSVID, From: "tls.peer.certificate"}, san}, []counted{{PeerCertificate, Proven}}},
		"from nobody": {evidence.Credentials{Peer: evidence.Certificate{Leaf: evidencetest.PEM(good)}}, false,
			[]evidence.Identity{san, {ID: id, Proof: evidence.ProofClaimed, From: "tls.peer.certificate: unauthenticated"}}, []counted{{PeerCertificate, Unauthenticated}}},
		"a forged one contradicts": {evidence.Credentials{Peer: evidence.Certificate{Leaf: evidencetest.PEM(forged)}}, true,
			[]evidence.Identity{san, {Invalid: orders, Proof: evidence.ProofClaimed, From: "tls.peer.certificate: authority"}}, []counted{{PeerCertificate, Authority}}},
		"an unreadable one": {evidence.Credentials{Peer: evidence.Certificate{Leaf: "x"}}, true,
			[]evidence.Identity{san, {Invalid: "unreadable peer_certificate", Proof: evidence.ProofClaimed, From: "tls.peer.certificate: malformed"}}, []counted{{PeerCertificate, Malformed}}},
		"one in a header is a claim": {evidence.Credentials{XFCC: evidence.Certificate{Leaf: evidencetest.PEM(good)}}, true,
			[]evidence.Identity{san, {ID: id, Proof: evidence.ProofClaimed, From: "header.x-forwarded-client-cert.certificate"}}, []counted{{XFCCCertificate, Proven}}},
		"a token": {evidence.Credentials{JWT: own.JWT(t, orders, "me", now.Add(time.Minute), nil)}, false,
			[]evidence.Identity{san, {ID: id, Proof: evidence.ProofJWTSVID, From: "jwt_svid"}}, []counted{{JWTSVID, Proven}}},
		"a token for somebody else": {evidence.Credentials{JWT: own.JWT(t, orders, "you", now.Add(time.Minute), nil)}, true,
			[]evidence.Identity{san, {ID: id, Proof: evidence.ProofClaimed, From: "jwt_svid: audience"}}, []counted{{JWTSVID, Audience}}},
	} {
		t.Run(name, func(t *testing.T) {
			seen = nil
			e := evidence.Evidence{Start: now.UnixNano(), Shown: &tc.shown, User: orders, Actor: new(evidence.Actor)}
			e.From.AddIdentity(san)
			require.True(t, p.Prove(&e, tc.authenticated))
			require.Equal(t, tc.want, e.From.Identities)
			require.Equal(t, tc.counted, seen)
			require.Nil(t, e.Shown)
			if tc.shown.Peer.Given() && tc.shown.Peer.Leaf != "x" {
				require.Len(t, e.TLS.ClientSHA256, 64)
				require.NotZero(t, e.TLS.ClientNotAfter)
			}
			if name == "a token" {
				require.Equal(t, "service", e.Actor.Type)
			}
		})
	}
	// What a token is bound to may be known only by the certificate itself.
	sum := sha256.Sum256(good)
	bound := evidence.Evidence{Start: now.UnixNano(), Shown: &evidence.Credentials{Peer: evidence.Certificate{Leaf: evidencetest.PEM(good)}},
		Actor: &evidence.Actor{Token: evidence.Token{X5T: base64.RawURLEncoding.EncodeToString(sum[:]), Bound: "mtls"}}}
	require.True(t, p.Prove(&bound, true))
	require.Equal(t, "verified", bound.Actor.Token.Proof)

	e := evidence.Evidence{Shown: &evidence.Credentials{JWT: "x"}}
	var none *Prover
	require.False(t, none.Prove(&e, true))
	require.Nil(t, e.Shown, "what nobody verifies goes no further")
	require.NoError(t, none.Close())
	require.Zero(t, testing.AllocsPerRun(100, func() { p.Prove(&e, true) }), "evidence without credentials costs nothing")
	require.NotContains(t, fmt.Sprintf("%v %+v %s", &evidence.Credentials{JWT: "hush"}, &evidence.Evidence{Shown: &evidence.Credentials{JWT: "hush"}}, &evidence.Credentials{JWT: "hush"}), "hush")
}

func FuzzCertificate(f *testing.F) {
	own := evidencetest.NewCA(f)
	below := own.Intermediate(f)
	v := New(bundlesOf(f, map[string]*evidencetest.CA{"example.org": own}), nil, 0)
	good := own.Issue(f, orders).Certificate[0]
	f.Add(evidencetest.PEM(good), "", "")
	f.Add("", evidencetest.PEM(below.Issue(f, orders).Certificate[0], below.Raw()), "")
	f.Add(evidencetest.PEM(own.Raw()), "%", "00")
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", "", "")
	now := time.Now()
	f.Fuzz(func(t *testing.T, leaf, chain, hash string) {
		c := evidence.Certificate{Leaf: leaf, Chain: chain, Hash: hash}
		got := v.Certificate(c, now)
		if got != v.Certificate(c, now) {
			t.Fatal("two answers")
		}
		if got.Reason == Proven && got.ID.String() != orders {
			t.Fatalf("proved %s, which nobody issued", got.ID)
		}
	})
}

func FuzzToken(f *testing.F) {
	own := evidencetest.NewCA(f)
	v := New(bundlesOf(f, map[string]*evidencetest.CA{"example.org": own}), []string{"me"}, 0)
	now := time.Now()
	f.Add(own.JWT(f, orders, "me", now.Add(time.Hour), nil))
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly94L3kifQ.AAAA")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		if got := v.Token(token, now); got.Reason == Proven && got.ID.String() != orders {
			t.Fatalf("proved %s, which nobody issued", got.ID)
		}
	})
}

func BenchmarkCertificate(b *testing.B) {
	own := evidencetest.NewCA(b)
	v := New(bundlesOf(b, map[string]*evidencetest.CA{"example.org": own}), nil, 0)
	c := evidence.Certificate{Leaf: evidencetest.PEM(own.Issue(b, orders).Certificate[0])}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if v.Certificate(c, now).Reason != Proven {
			b.Fatal("not proven")
		}
	}
}
