// Package timestamp speaks RFC 3161 with a time-stamping authority over HTTP, and
// checks its tokens later, offline, against certificates that are trusted.
package timestamp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"

	"github.com/digitorus/pkcs7"
	rfc3161 "github.com/digitorus/timestamp"

	"github.com/meshaudit/meshaudit/seal"
)

// maxResponseBytes bounds an answer: a token and a few certificates.
const maxResponseBytes = 64 << 10

// Client asks one authority.
type Client struct {
	URL  string
	HTTP *http.Client
}

// Stamp has msg timestamped and returns the authority's whole response. It is
// checked for being about msg; whether the authority is to be trusted is the
// verifier's question.
func (c *Client) Stamp(ctx context.Context, msg []byte) ([]byte, error) {
	nonce, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(msg)
	query, err := (&rfc3161.Request{HashAlgorithm: crypto.SHA256, HashedMessage: digest[:], Certificates: true, Nonce: nonce}).Marshal()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/timestamp-query")
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxResponseBytes+1))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", c.URL, resp.Status)
	}
	t, _, err := parse(b, msg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.URL, err)
	}
	if t.Nonce == nil || t.Nonce.Cmp(nonce) != 0 {
		return nil, fmt.Errorf("%s: the answer is to another request", c.URL)
	}
	return b, nil
}

// Checker checks tokens against certificates: those of authorities, or of the
// CAs above them. A token is checked at its own time, not now.
func Checker(trusted []*x509.Certificate) func(token, msg []byte) (seal.Timestamp, error) {
	roots := x509.NewCertPool()
	for _, c := range trusted {
		roots.AddCert(c)
	}
	return func(token, msg []byte) (seal.Timestamp, error) {
		t, signer, err := parse(token, msg)
		if err != nil {
			return seal.Timestamp{}, err
		}
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: t.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}}
		for _, c := range t.Certificates {
			opts.Intermediates.AddCert(c)
		}
		if _, err := signer.Verify(opts); err != nil {
			return seal.Timestamp{}, fmt.Errorf("%w: %w", seal.ErrUnknownAuthority, err)
		}
		return seal.Timestamp{Time: t.Time, By: signer.Subject.String()}, nil
	}
}

// parse reads a response, checks the signature in it and that it is about msg.
func parse(b, msg []byte) (t *rfc3161.Timestamp, signer *x509.Certificate, err error) {
	if len(b) > maxResponseBytes {
		return nil, nil, fmt.Errorf("an answer of more than %d bytes", maxResponseBytes)
	}
	if t, err = rfc3161.ParseResponse(b); err != nil {
		return nil, nil, fmt.Errorf("not a timestamp: %w", err)
	}
	// ParseResponse checks no signature if there is no certificate.
	p7, err := pkcs7.Parse(t.RawToken)
	if err != nil {
		return nil, nil, fmt.Errorf("not a timestamp: %w", err)
	}
	if signer = p7.GetOnlySigner(); signer == nil {
		return nil, nil, errors.New("the timestamp does not have its one signer's certificate")
	}
	if err := p7.Verify(); err != nil {
		return nil, nil, fmt.Errorf("the signature of the timestamp: %w", err)
	}
	if !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageTimeStamping) {
		return nil, nil, errors.New("the timestamp's signer is no time-stamping authority")
	}
	if !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}, t.HashAlgorithm) {
		return nil, nil, fmt.Errorf("the timestamp uses %v", t.HashAlgorithm)
	}
	h := t.HashAlgorithm.New()
	h.Write(msg)
	if !bytes.Equal(h.Sum(nil), t.HashedMessage) {
		return nil, nil, errors.New("the timestamp is of something else")
	}
	return t, signer, nil
}
