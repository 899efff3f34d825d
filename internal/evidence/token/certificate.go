package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// ErrProofCertificate is why a token's binding to a certificate fails: the client's
// is another.
var ErrProofCertificate = errors.New("x5t")

// ApplyCertificate compares the certificate that e's token is bound to (RFC 8705)
// with that of the connection over which it came, where both are known and no DPoP
// proof counts, and states the outcome.
//
// Behind whoever ends TLS (section 6.5) each connection has another certificate, as
// it should. Those of the mesh itself name a SPIFFE ID: that they are not the
// token's says nothing of how the token was come by.
func ApplyCertificate(e *evidence.Evidence) {
	if e.Actor != nil { // else it costs no call
		compareCertificates(e, &e.Actor.Token)
	}
}

func compareCertificates(e *evidence.Evidence, t *evidence.Token) {
	if t.X5T == "" || t.Bound == BoundDPoP || t.Proof != "" || e.TLS.FailureReason != "" {
		return
	}
	client, err := hex.DecodeString(e.TLS.ClientSHA256)
	if err != nil || len(client) != sha256.Size {
		return
	}
	bound, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(t.X5T, "="))
	switch {
	case err == nil && string(bound) == string(client):
		t.Proof = ProofVerified
	case fromWorkload(&e.From):
		t.Proof = ProofOtherCertificate
	default:
		t.Proof = "failed: " + ErrProofCertificate.Error()
	}
}

// fromWorkload says whether the connection's certificate names a SPIFFE ID.
func fromWorkload(p *evidence.Party) bool {
	for _, id := range p.Identities {
		if id.Proof >= evidence.ProofMTLSSAN && !id.ID.IsZero() {
			return true
		}
	}
	return false
}
