package upload

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// A Token is the bearer token that uploads must carry; the zero Token asks for
// none.
type Token struct {
	sum [sha256.Size]byte
	set bool
}

// NewToken returns the token s, none for "".
func NewToken(s string) Token { return Token{sha256.Sum256([]byte(s)), s != ""} }

// Set tells whether a token is asked for.
func (t Token) Set() bool { return t.set }

// Carried compares digests, so that the time taken tells neither the token nor
// its length.
func (t Token) Carried(req *http.Request) bool {
	if !t.set {
		return true
	}
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return false
	}
	given := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(given[:], t.sum[:]) == 1
}

// Under tells whether a request's path is that which is configured, or below it.
func Under(path, configured string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(configured, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// Peer is the request's reporter. Vouched says that something else than its
// certificate, a token say, vouches for it.
func Peer(req *http.Request, vouched bool) evidence.Reporter {
	address, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		address = req.RemoteAddr
	}
	r := evidence.PeerReporter(req.TLS, address)
	r.Authenticated = r.Authenticated || vouched
	return r
}
