// Package tsatest is a time-stamping authority for tests.
package tsatest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	rfc3161 "github.com/digitorus/timestamp"
)

// A TSA answers RFC 3161 queries over HTTP.
type TSA struct {
	URL  string
	File string // its CA's certificate, in PEM
	CA   *x509.Certificate

	Down atomic.Bool // it answers 503

	// Change, if set, spoils an answer before it is signed.
	Change func(*rfc3161.Timestamp)

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New starts one whose certificate has the given extended key usage.
func New(tb testing.TB, usage x509.ExtKeyUsage) *TSA {
	tb.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	t := &TSA{}
	t.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	t.CA = sign(tb, ca, ca, caKey.Public(), caKey)
	t.cert = sign(tb, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Test TSA"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}}, t.CA, t.key.Public(), caKey)
	t.File = filepath.Join(tb.TempDir(), "tsa.pem")
	check(tb, os.WriteFile(t.File, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: t.CA.Raw}), 0o600))
	s := httptest.NewServer(t)
	tb.Cleanup(s.Close)
	t.URL = s.URL
	return t
}

func (t *TSA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err == nil {
		b, err = t.answer(b)
	}
	if err != nil || t.Down.Load() || r.Header.Get("Content-Type") != "application/timestamp-query" {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	_, _ = w.Write(b)
}

func (t *TSA) answer(query []byte) ([]byte, error) {
	q, err := rfc3161.ParseRequest(query)
	if err != nil {
		return nil, err
	}
	a := &rfc3161.Timestamp{HashAlgorithm: q.HashAlgorithm, HashedMessage: q.HashedMessage, Time: time.Now(), Nonce: q.Nonce,
		Policy: asn1.ObjectIdentifier{1, 2, 3}, AddTSACertificate: q.Certificates}
	if t.Change != nil {
		t.Change(a)
	}
	return a.CreateResponseWithOpts(t.cert, t.key, crypto.SHA256)
}

func sign(tb testing.TB, c, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, by)
	check(tb, err)
	cert, err := x509.ParseCertificate(der)
	check(tb, err)
	return cert
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
