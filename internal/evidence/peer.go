package evidence

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// PeerReporter is the reporter at the other end of a connection: address is
// its host without a port (ports change between resends), state nil for a
// connection without TLS. Only a certificate whose chain the server verified
// counts; one that was merely presented leaves the reporter unauthenticated.
func PeerReporter(state *tls.ConnectionState, address string) Reporter {
	r := Reporter{Address: Text(address, MaxName)}
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return r
	}
	leaf := state.VerifiedChains[0][0]
	sum := sha256.Sum256(leaf.Raw)
	r.Authenticated = true
	r.CertSHA256 = hex.EncodeToString(sum[:])
	if id, err := x509svid.IDFromCert(leaf); err == nil {
		r.SPIFFEID = id
	}
	return r
}
