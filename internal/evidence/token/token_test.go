package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func TestParseAndApply(t *testing.T) {
	for name, tc := range map[string]struct {
		payload string
		user    string
		actor   *evidence.Actor
	}{
		"plain": {`{"iss":"https://idp","sub":"alice","aud":"orders","jti":"secret-id"}`, "alice",
			&evidence.Actor{Token: evidence.Token{Issuer: "https://idp", Audience: "orders",
				IDHash: "fb57d0e225297bc70b53f62dc24e4bc1f48de5d10ab1db6ebb26e8e8ad1d5eb6", Bound: BoundNone}}},
		"client credentials, several audiences": {`{"iss":"i","azp":"cli","aud":["a","b"]}`, "cli",
			&evidence.Actor{Type: "service", Token: evidence.Token{Issuer: "i", Audience: "a", AuthorizedParty: "cli", Bound: BoundNone}}},
		"a user by a client": {`{"client_id":"not it","sub":"alice","azp":"web"}`, "alice",
			&evidence.Actor{Token: evidence.Token{AuthorizedParty: "web", Bound: BoundNone}}},
		"an access token": {`{"sub":"alice","client_id":"web"}`, "alice",
			&evidence.Actor{Token: evidence.Token{AuthorizedParty: "web", Bound: BoundNone}}},
		"delegated": {`{"sub":"alice","act":{"sub":"svc-b","iss":"x","act":{"sub":"svc-a"}},"roles":["r"],"groups":"g"}`, "alice",
			&evidence.Actor{Roles: []string{"r", "g"}, Token: evidence.Token{Bound: BoundNone},
				Delegation: []evidence.Delegate{{Issuer: "x", Subject: "svc-b"}, {Subject: "svc-a"}}}},
		"bound by DPoP":                     {`{"sub":"a","cnf":{"jkt":"k"}}`, "a", &evidence.Actor{Token: evidence.Token{JKT: "k", Bound: BoundDPoP}}},
		"bound to a certificate":            {`{"sub":"a","cnf":{"x5t#S256":"t"}}`, "a", &evidence.Actor{Token: evidence.Token{X5T: "t", Bound: BoundMTLS}}},
		"wrong types are nothing":           {`{"sub":7,"iss":["x","y"],"act":3,"aud":{},"roles":[1,"r"],"azp":"c"}`, "c", &evidence.Actor{Type: "service", Roles: []string{"r"}, Token: evidence.Token{AuthorizedParty: "c", Bound: BoundNone}}},
		"lists of one, as Istio gives them": {`{"sub":["alice"],"iss":["i"],"aud":["a"]}`, "alice", &evidence.Actor{Token: evidence.Token{Issuer: "i", Audience: "a", Bound: BoundNone}}},
		"claims of two names are not one":   {`{"sub":"a","SUB":"mallory","cnf":3}`, "a", &evidence.Actor{Token: evidence.Token{Bound: BoundNone}}},
		"the last of a name counts": {`{"act":{"sub":"x","act":{"sub":"y"}},"sub":"b","sub":"a","act":{"act":{"sub":"z"},"sub":"w"}}`, "a",
			&evidence.Actor{Token: evidence.Token{Bound: BoundNone}, Delegation: []evidence.Delegate{{Subject: "w"}, {Subject: "z"}}}},
		"nobody": {`{"scope":"x"}`, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(tc.payload))
			require.NoError(t, err)
			var e evidence.Evidence
			c.Apply(&e)
			if e.Actor != nil && e.Actor.Token.IDHash != "" {
				sum := sha256.Sum256([]byte("secret-id"))
				require.Equal(t, evidence.ID(sum).String(), e.Actor.Token.IDHash)
				tc.actor.Token.IDHash = e.Actor.Token.IDHash
			}
			require.Equal(t, tc.user, e.User)
			if tc.actor != nil && len(tc.actor.Roles) == 0 {
				require.Empty(t, e.Actor.Roles)
				tc.actor.Roles = e.Actor.Roles
			}
			require.Equal(t, tc.actor, e.Actor)
		})
	}
	for _, bad := range []string{``, `[]`, `{"sub":"a"`, strings.Repeat(" ", MaxPayload) + `{}`, strings.Repeat(`{"act":`, 100) + `{}` + strings.Repeat(`}`, 100)} {
		_, err := Parse([]byte(bad))
		require.Error(t, err)
		require.NotContains(t, err.Error(), "sub", "an error must not quote a token")
	}
}

// The example of RFC 9449, section 4.2 (figure 2).
const (
	rfcProof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19" +
		".eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ" +
		".2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	rfcThumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

func TestApplyPrincipal(t *testing.T) {
	for principal, want := range map[string][2]string{
		"https://idp.example/realms/shop/alice":                   {"https://idp.example/realms/shop", "alice"},
		"testing@secure.istio.io/testing@secure.istio.io":         {"testing@secure.istio.io", "testing@secure.istio.io"},
		"https://spire.example/spiffe://example.org/ns/a/sa/b":    {"https://spire.example", "spiffe://example.org/ns/a/sa/b"},
		"https://k8s.example/system:serviceaccount:shop:checkout": {"https://k8s.example", "system:serviceaccount:shop:checkout"},
		"https://gh.example/repo:shop/web:ref:refs/heads/main":    {"https://gh.example", "repo:shop/web:ref:refs/heads/main"},
		"https://idp.example:8443/realms/shop/alice":              {"https://idp.example:8443/realms/shop", "alice"},
		"https://tenant.example//auth0|7":                         {"https://tenant.example/", "auth0|7"},
		"urn:idp/alice":                                           {"urn:idp", "alice"},
		"spire/spiffe://example.org/a":                            {"spire", "spiffe://example.org/a"},
		"https://idp.example":                                     {"", "https://idp.example"},
		"https://idp.example/":                                    {"", "https://idp.example"},
		"https://i/" + strings.Repeat("i", 500) + "/alice":        {"https://i/" + strings.Repeat("i", 500), "alice"},
		"alice": {"", "alice"}, "/alice": {"", "alice"}, "": {},
	} {
		var e evidence.Evidence
		ApplyPrincipal(&e, principal)
		require.Equal(t, want[1], e.User, principal)
		require.Equal(t, want[0] != "", e.Actor != nil, principal)
		if e.Actor != nil {
			require.Equal(t, want[0], e.Actor.Token.Issuer)
		}
	}
	e := evidence.Evidence{User: "bob"}
	ApplyPrincipal(&e, "https://idp.example/alice")
	require.Equal(t, evidence.Evidence{User: "bob"}, e)
}

func TestProofOfTheRFC(t *testing.T) {
	at := time.Unix(1562262616, 0)
	jkt, err := VerifyProof(rfcProof, Request{Method: "POST", Host: "server.example.com", Path: "/token", Time: at})
	require.NoError(t, err)
	require.Equal(t, rfcThumbprint, jkt)
}

// prove makes a proof with the given header type and claims.
func prove(t testing.TB, typ string, claims map[string]any) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
		(&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(typ)))
	require.NoError(t, err)
	payload, err := json.Marshal(claims)
	require.NoError(t, err)
	jws, err := signer.Sign(payload)
	require.NoError(t, err)
	s, err := jws.CompactSerialize()
	require.NoError(t, err)
	return s
}

func TestVerifyProof(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	sum := sha256.Sum256([]byte("the-token"))
	claims := func(change ...any) map[string]any {
		m := map[string]any{"jti": "1", "htm": "GET", "htu": "https://Shop.example:443/orders?x=1", "iat": now.Unix(),
			"ath": base64.RawURLEncoding.EncodeToString(sum[:])}
		for i := 0; i < len(change); i += 2 {
			m[change[i].(string)] = change[i+1]
		}
		return m
	}
	req := Request{Method: "GET", Host: "shop.example", Path: "/orders", Time: now, AccessToken: "the-token"}
	good := prove(t, "dpop+jwt", claims())
	other := "A" // another character of base64 in the signature
	if at := len(good) - 10; good[at] == 'A' {
		other = "B"
	}
	flipped := good[:len(good)-10] + other + good[len(good)-9:]
	for name, tc := range map[string]struct {
		proof string
		req   func(*Request)
		want  error
	}{
		"good":                 {good, nil, nil},
		"without the token":    {good, func(r *Request) { r.AccessToken = "" }, nil},
		"another token":        {good, func(r *Request) { r.AccessToken = "stolen" }, ErrProofToken},
		"another key":          {good, func(r *Request) { r.JKT = rfcThumbprint }, ErrProofKey},
		"another method":       {good, func(r *Request) { r.Method = "POST" }, ErrProofMethod},
		"another path":         {good, func(r *Request) { r.Path = "/refunds" }, ErrProofURI},
		"another host":         {good, func(r *Request) { r.Host = "evil.example" }, ErrProofURI},
		"replayed later":       {good, func(r *Request) { r.Time = now.Add(6 * time.Minute) }, ErrProofTime},
		"from the future":      {prove(t, "dpop+jwt", claims("iat", now.Unix()+301)), nil, ErrProofTime},
		"another type":         {prove(t, "jwt", claims()), nil, ErrProofMalformed},
		"no jti":               {prove(t, "dpop+jwt", claims("jti", "")), nil, ErrProofMalformed},
		"htu is no URL":        {prove(t, "dpop+jwt", claims("htu", "::")), nil, ErrProofURI},
		"signature of another": {flipped, nil, ErrProofSignature},
		"no JWS":               {"a.b.c", nil, ErrProofMalformed},
		"too long":             {strings.Repeat("a", maxProof+1), nil, ErrProofMalformed},
		"symmetric algorithm":  {"eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkhTMjU2In0.e30.AAAA", nil, ErrProofMalformed},
		"algorithm none":       {"eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6Im5vbmUifQ.e30.", nil, ErrProofMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			r := req
			if tc.req != nil {
				tc.req(&r)
			}
			jkt, err := VerifyProof(tc.proof, r)
			require.ErrorIs(t, err, tc.want)
			if tc.want == nil {
				require.NotEmpty(t, jkt)
			}
		})
	}
}

// What a token is bound to its claims say, and a proof, which anybody can make,
// only whether its sender has that key.
func TestApplyProof(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	sum := sha256.Sum256([]byte("the-token"))
	proof := prove(t, "dpop+jwt", map[string]any{"jti": "1", "htm": "GET", "htu": "https://shop.example/orders", "iat": now.Unix(),
		"ath": base64.RawURLEncoding.EncodeToString(sum[:])})
	jkt, err := VerifyProof(proof, Request{Method: "GET", Host: "shop.example", Path: "/orders", Time: now})
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		claims, proof, authorization string
		want                         evidence.Token
	}{
		"the token's key":          {`{"sub":"a","cnf":{"jkt":"` + jkt + `"}}`, proof, "DPoP the-token", evidence.Token{Bound: BoundDPoP, JKT: jkt, Proof: ProofVerified}},
		"token not shown":          {`{"sub":"a","cnf":{"jkt":"` + jkt + `"}}`, proof, "", evidence.Token{Bound: BoundDPoP, JKT: jkt, Proof: ProofVerified}},
		"another key":              {`{"sub":"a","cnf":{"jkt":"k"}}`, proof, "DPoP the-token", evidence.Token{Bound: BoundDPoP, JKT: "k", Proof: "failed: jkt"}},
		"bound to nothing":         {`{"sub":"a"}`, proof, "Bearer the-token", evidence.Token{Bound: BoundNone, Proof: "failed: unbound"}},
		"bound to a certificate":   {`{"sub":"a","cnf":{"x5t#S256":"t"}}`, proof, "bearer the-token", evidence.Token{X5T: "t", Bound: BoundMTLS, Proof: "failed: unbound"}},
		"of another bearer token":  {`{"sub":"a"}`, proof, "Bearer other", evidence.Token{Bound: BoundNone, Proof: "failed: ath"}},
		"no claims":                {``, proof, "DPoP the-token", evidence.Token{Proof: ProofTokenUnknown}},
		"no claims, another token": {``, proof, "DPoP other", evidence.Token{Proof: "failed: ath"}},
		"no claims, no token":      {``, proof, "", evidence.Token{Proof: ProofTokenUnknown}},
		"no proof":                 {`{"sub":"a","cnf":{"jkt":"k"}}`, "", "DPoP the-token", evidence.Token{Bound: BoundDPoP, JKT: "k"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := evidence.Evidence{Method: "GET", Host: "shop.example", Path: "/orders", Start: now.UnixNano()}
			if tc.claims != "" {
				c, err := Parse([]byte(tc.claims))
				require.NoError(t, err)
				c.Apply(&e)
			}
			ApplyProof(&e, tc.proof, tc.authorization)
			require.Equal(t, tc.want, e.Actor.Token)
		})
	}
}

// The example of RFC 8705, appendix A (figure 5), and the fingerprint of the certificate in
// figure 6 as Envoy writes it.
const (
	rfcX5T         = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
	rfcFingerprint = "0380ed2f626650c840b2f263e6d2b29fae12ab39ae5db32b25ad27efad72e6fd"
)

func TestApplyCertificate(t *testing.T) {
	const other = "00000000000000000000000000000000000000000000000000000000000000ff"
	gateway := []evidence.Identity{evidence.ParseIdentity("spiffe://example.org/ns/ingress/sa/gateway", evidence.ProofMTLSSAN, "tls.peer.san")}
	claimed := []evidence.Identity{evidence.ParseIdentity("spiffe://example.org/ns/ingress/sa/gateway", evidence.ProofClaimed, "header.x-spiffe-id")}
	client := []evidence.Identity{evidence.ParseIdentity("CN=client", evidence.ProofMTLSSAN, "tls.peer.subject")}
	for name, tc := range map[string]struct {
		claims, fingerprint string
		from                []evidence.Identity
		failed              string
		want                string
	}{
		"the client's":           {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, rfcFingerprint, client, "", ProofVerified},
		"a workload's own":       {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, rfcFingerprint, gateway, "", ProofVerified},
		"padded":                 {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `="}}`, rfcFingerprint, client, "", ProofVerified},
		"in capitals":            {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, strings.ToUpper(rfcFingerprint), client, "", ProofVerified},
		"another client's":       {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, other, client, "", "failed: x5t"},
		"nobody's by name":       {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, other, nil, "", "failed: x5t"},
		"a header names a proxy": {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, other, claimed, "", "failed: x5t"},
		"a gateway's":            {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, other, gateway, "", ProofOtherCertificate},
		"no thumbprint":          {`{"sub":"a","cnf":{"x5t#S256":"` + rfcFingerprint + `"}}`, rfcFingerprint, client, "", "failed: x5t"},
		"no certificate":         {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, "", client, "", ""},
		"no fingerprint":         {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, "abc", client, "", ""},
		"a handshake failed":     {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `"}}`, rfcFingerprint, client, "expired", ""},
		"bound to a key too":     {`{"sub":"a","cnf":{"x5t#S256":"` + rfcX5T + `","jkt":"k"}}`, other, client, "", ""},
		"bound to nothing":       {`{"sub":"a"}`, other, client, "", ""},
		"no token":               {`{}`, other, client, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e evidence.Evidence
			e.From.Identities, e.TLS = tc.from, evidence.TLS{Known: true, ClientSHA256: tc.fingerprint, FailureReason: tc.failed}
			c, err := Parse([]byte(tc.claims))
			require.NoError(t, err)
			c.Apply(&e)
			ApplyCertificate(&e)
			if e.Actor == nil {
				e.Actor = new(evidence.Actor)
			}
			require.Equal(t, tc.want, e.Actor.Token.Proof)
		})
	}
	// A DPoP proof has been judged.
	e := evidence.Evidence{TLS: evidence.TLS{ClientSHA256: rfcFingerprint}, Actor: &evidence.Actor{Token: evidence.Token{X5T: rfcX5T, Bound: BoundMTLS, Proof: "failed: ath"}}}
	ApplyCertificate(&e)
	require.Equal(t, "failed: ath", e.Actor.Token.Proof)
}

// A second statement of a token, which may hold less, does not take away what
// the first says.
func TestApplyTwice(t *testing.T) {
	var e evidence.Evidence
	for _, payload := range []string{`{"sub":"a","iss":"i","azp":"web","cnf":{"jkt":"k"}}`, `{"sub":"a","iss":"j","azp":"cli"}`} {
		c, err := Parse([]byte(payload))
		require.NoError(t, err)
		c.Apply(&e)
	}
	require.Equal(t, evidence.Token{Issuer: "i", AuthorizedParty: "web", JKT: "k", Bound: BoundDPoP}, e.Actor.Token)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"iss":"i","sub":"alice","aud":["a"],"act":{"sub":"b","act":{"sub":"c"}},"cnf":{"jkt":"k"}}`))
	f.Add([]byte(`{"act":` + strings.Repeat(`{"act":`, 200) + `{}` + strings.Repeat(`}`, 201)))
	f.Add([]byte(`{"sub":["alice"],"azp":["web"],"client_id":7,"cnf":{"x5t#S256":"` + rfcX5T + `"}}`))
	f.Add([]byte(`{"client_id":"web","cnf":{"x5t#S256":"` + rfcX5T + `="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		var e evidence.Evidence
		c.Apply(&e)
		if e.Actor != nil && (len(e.Actor.Roles) > evidence.MaxRoles || len(e.Actor.Delegation) > evidence.MaxDelegates) {
			t.Fatal("unbounded")
		}
		e.TLS.ClientSHA256 = rfcFingerprint
		if ApplyCertificate(&e); e.Actor != nil && e.Actor.Token.Proof == ProofVerified && strings.TrimRight(c.X5T, "=") != rfcX5T {
			t.Fatal("a certificate that nobody showed")
		}
	})
}

func FuzzVerifyProof(f *testing.F) {
	f.Add(rfcProof)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, proof string) {
		jkt, err := VerifyProof(proof, Request{Method: "POST", Host: "server.example.com", Path: "/token", Time: time.Unix(1562262616, 0)})
		if err == nil && jkt != rfcThumbprint {
			t.Fatal("a proof that nobody made")
		}
	})
}
