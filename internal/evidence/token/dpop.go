package token

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Bounds of a proof: its bytes, and how far its time may be from the request's.
const (
	maxProof  = 8 << 10
	proofSkew = 5 * time.Minute
)

// proofAlgorithms are what RFC 9449 allows and servers use: asymmetric.
var proofAlgorithms = []jose.SignatureAlgorithm{
	jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512,
	jose.PS256, jose.PS384, jose.PS512, jose.EdDSA,
}

// A Request is what a proof must have been made for.
type Request struct {
	Method, Host, Path string // as the proxy saw them; Path without query
	Time               time.Time
	AccessToken        string // "": not in the evidence, so that ath cannot be compared
	JKT                string // the token's cnf.jkt; "": not known, or it has none
}

// Why a proof fails: a small closed set, which stands on the record.
var (
	ErrProofMalformed = errors.New("malformed")
	ErrProofSignature = errors.New("signature")
	ErrProofMethod    = errors.New("htm")
	ErrProofURI       = errors.New("htu")
	ErrProofTime      = errors.New("iat")
	ErrProofToken     = errors.New("ath")
	ErrProofKey       = errors.New("jkt")
	ErrProofUnbound   = errors.New("unbound") // the proof holds, but the token is bound to no key
)

// VerifyProof verifies a DPoP proof (RFC 9449, section 4.3) as far as the
// evidence goes: form, signature by the key in it, htm, htu, iat, and ath and
// the token's own jkt where those are known. It returns the thumbprint of the
// proof's key (RFC 7638, SHA-256, base64url) also where something else fails
// than its form. That its jti was not used before only the server can tell.
func VerifyProof(proof string, r Request) (jkt string, err error) {
	if len(proof) > maxProof {
		return "", fmt.Errorf("%w: %d bytes", ErrProofMalformed, len(proof))
	}
	jws, err := jose.ParseSignedCompact(proof, proofAlgorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return "", fmt.Errorf("%w: no compact JWS with an asymmetric algorithm", ErrProofMalformed)
	}
	header := jws.Signatures[0].Protected
	key := header.JSONWebKey
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != "dpop+jwt" || key == nil || !key.Valid() || !key.IsPublic() {
		return "", fmt.Errorf("%w: its header is not typ dpop+jwt with a public jwk", ErrProofMalformed)
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("%w: no thumbprint of its key", ErrProofMalformed)
	}
	jkt = base64.RawURLEncoding.EncodeToString(sum)
	payload, err := jws.Verify(key)
	if err != nil {
		return jkt, ErrProofSignature
	}
	var claims struct {
		JTI string  `json:"jti"`
		HTM string  `json:"htm"`
		HTU string  `json:"htu"`
		IAT float64 `json:"iat"`
		ATH string  `json:"ath"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.JTI == "" {
		return jkt, fmt.Errorf("%w: its claims", ErrProofMalformed)
	}
	ath := sha256.Sum256([]byte(r.AccessToken))
	switch age := r.Time.Sub(time.UnixMilli(int64(claims.IAT * 1000))); {
	case claims.HTM != r.Method:
		return jkt, ErrProofMethod
	case !r.isTarget(claims.HTU):
		return jkt, ErrProofURI
	case age > proofSkew || age < -proofSkew:
		return jkt, ErrProofTime
	case r.AccessToken != "" && subtle.ConstantTimeCompare([]byte(claims.ATH), []byte(base64.RawURLEncoding.EncodeToString(ath[:]))) != 1:
		return jkt, ErrProofToken
	case r.JKT != "" && r.JKT != jkt:
		return jkt, ErrProofKey
	}
	return jkt, nil
}

// isTarget compares htu with the request, query and fragment aside. A proxy
// does not know by which scheme its client began.
func (r Request) isTarget(htu string) bool {
	u, err := url.Parse(htu)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return false
	}
	host := func(s string) string {
		return strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), ":443"), ":80")
	}
	path := u.EscapedPath()
	return host(u.Host) == host(r.Host) && (path == r.Path || path == "" && r.Path == "/")
}

// ApplyProof verifies a proof that came with e's request and states the
// outcome, and nothing else: to what a token is bound only its verified claims
// say, which are on e already. Anybody can make a key, and a proof with it.
// authorization is the request's header, of which only the token's hash is used.
func ApplyProof(e *evidence.Evidence, proof, authorization string) {
	if proof == "" {
		return
	}
	r := Request{Method: e.Method, Host: e.Host, Path: e.Path, Time: time.Unix(0, e.Start)}
	// By the wrong scheme it is the token all the same.
	if scheme, token, ok := strings.Cut(strings.TrimSpace(authorization), " "); ok && (strings.EqualFold(scheme, "dpop") || strings.EqualFold(scheme, "bearer")) {
		r.AccessToken = strings.TrimSpace(token)
	}
	if e.Actor == nil {
		e.Actor = new(evidence.Actor)
	}
	t := &e.Actor.Token
	r.JKT = t.JKT
	_, err := VerifyProof(proof, r)
	switch {
	case err != nil:
		t.Proof = "failed: " + reason(err)
	case t.Bound == "":
		t.Proof = ProofTokenUnknown
	case t.JKT == "":
		t.Proof = "failed: " + ErrProofUnbound.Error()
	default:
		t.Proof = ProofVerified
	}
}

// Values of evidence.Token.Proof where nothing failed.
const (
	ProofVerified         = "verified"             // what the token is bound to was there
	ProofTokenUnknown     = "valid, token unknown" // a DPoP proof holds; what the token is bound to nobody says
	ProofOtherCertificate = "other certificate"    // a workload of the mesh passes on a token that is not its own
)

// reason is err's place in the closed set.
func reason(err error) string {
	for _, known := range [...]error{ErrProofMalformed, ErrProofSignature, ErrProofMethod, ErrProofURI, ErrProofTime, ErrProofToken, ErrProofKey} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "unknown"
}
