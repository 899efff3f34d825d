package evidencetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A CA issues X.509-SVIDs for tests.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

// NewCA makes a certificate authority.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	ca := &CA{key: newKey(tb), dir: tb.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca.cert = ca.sign(tb, template, template, ca.key)
	return ca
}

// File is the CA's certificate in PEM.
func (ca *CA) File(tb testing.TB) string {
	tb.Helper()
	return ca.write(tb, "ca.pem", "CERTIFICATE", ca.cert.Raw)
}

// Pool trusts the CA.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Intermediate makes an authority below this one.
func (ca *CA) Intermediate(tb testing.TB) *CA {
	tb.Helper()
	below := &CA{key: newKey(tb), dir: tb.TempDir()}
	below.cert = ca.sign(tb, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "below"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, ca.cert, below.key)
	return below
}

// Bundle is the CA's own, with the key of the JWT-SVIDs that it makes.
func (ca *CA) Bundle(tb testing.TB, trustDomain string) *spiffebundle.Bundle {
	tb.Helper()
	b := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(trustDomain), []*x509.Certificate{ca.cert})
	if err := b.AddJWTAuthority(jwtKeyID, ca.key.Public()); err != nil {
		tb.Fatal(err)
	}
	return b
}

const jwtKeyID = "jwt-key"

// JWT makes a JWT-SVID. Claims may be added or, by nil, taken away.
func (ca *CA) JWT(tb testing.TB, id, audience string, expires time.Time, change map[string]any) string {
	tb.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: ca.key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", jwtKeyID))
	if err != nil {
		tb.Fatal(err)
	}
	claims := map[string]any{"sub": id, "aud": []string{audience}, "exp": expires.Unix(), "iat": expires.Add(-time.Hour).Unix()}
	for name, v := range change {
		if claims[name] = v; v == nil {
			delete(claims, name)
		}
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// PEM is what a proxy writes of certificates, URL-encoded.
func PEM(certs ...[]byte) string {
	var b strings.Builder
	for _, der := range certs {
		b.WriteString(url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))))
	}
	return b.String()
}

// Raw is the CA's own certificate.
func (ca *CA) Raw() []byte { return ca.cert.Raw }

// Issue makes an SVID for id, good for clients and for servers at localhost.
func (ca *CA) Issue(tb testing.TB, id string) tls.Certificate {
	tb.Helper()
	return ca.IssueFor(tb, id, time.Time{}, time.Now().Add(time.Hour))
}

// IssueFor makes one that is valid in a time.
func (ca *CA) IssueFor(tb testing.TB, id string, from, until time.Time) tls.Certificate {
	tb.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		tb.Fatal(err)
	}
	key := newKey(tb)
	cert := ca.sign(tb, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, DNSNames: []string{"localhost"}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, ca.cert, key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// Files writes an SVID's certificate and key in PEM.
func (ca *CA) Files(tb testing.TB, svid tls.Certificate) (certFile, keyFile string) {
	tb.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	return ca.write(tb, "svid.pem", "CERTIFICATE", svid.Certificate[0]), ca.write(tb, "svid.key", "PRIVATE KEY", key)
}

func (ca *CA) write(tb testing.TB, name, kind string, der []byte) string {
	tb.Helper()
	path := filepath.Join(ca.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func (ca *CA) sign(tb testing.TB, template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}
