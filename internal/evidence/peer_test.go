package evidence

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"testing"
	"time"
)

func TestPeerReporterTrustsOnlyVerifiedChains(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := url.Parse("spiffe://example.org/ns/shop/sa/orders")
	der, err := x509.CreateCertificate(rand.Reader,
		&x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{id}},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	presented := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	if r := PeerReporter(presented, "192.0.2.1"); r.Authenticated || !r.SPIFFEID.IsZero() || r.CertSHA256 != "" || r.Address != "192.0.2.1" {
		t.Errorf("a certificate that was only presented: %+v", r)
	}
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
	if r := PeerReporter(verified, "192.0.2.1"); !r.Authenticated || r.SPIFFEID.String() != id.String() || len(r.CertSHA256) != 64 {
		t.Errorf("a verified certificate: %+v", r)
	}
	if r := PeerReporter(nil, ""); r != (Reporter{}) {
		t.Errorf("no TLS: %+v", r)
	}
}
