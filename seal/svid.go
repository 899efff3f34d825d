package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// With a SPIFFE identity, every open carries the writer's X.509-SVID and a
// signature by its key: this log, under this log key and this chain, is written
// by that workload. A trust file may then trust writers by their SPIFFE IDs.

// Identity gives a writer's X.509-SVID as it is at the moment: the chain, leaf
// first, and the leaf's key.
type Identity interface {
	SVID() (chain []*x509.Certificate, key crypto.Signer, err error)
}

// svid asks for the identity, which must be valid at now.
func (c *Config) svid(now time.Time) ([]*x509.Certificate, crypto.Signer, error) {
	chain, key, err := c.Identity.SVID()
	if err != nil {
		return nil, nil, fmt.Errorf("SVID: %w", err)
	}
	if len(chain) == 0 {
		return nil, nil, errors.New("SVID: it has no certificate")
	}
	if leaf := chain[0]; now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return nil, nil, fmt.Errorf("SVID: valid from %v to %v, it is %v", leaf.NotBefore, leaf.NotAfter, now)
	}
	return chain, key, nil
}

// vouch adds the sections svid and svid-sig to an open that is complete but for
// them, and returns them.
func (h *Header) vouch(chain []*x509.Certificate, key crypto.Signer) ([][]byte, error) {
	var b []byte
	for _, c := range chain {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	if len(b) > maxSVIDBytes || len(chain) > maxSVIDCerts {
		return nil, fmt.Errorf("SVID: a chain of %d certificates, %d bytes, is too long", len(chain), len(b))
	}
	h.Sections = []Section{rawSection(SectionSVID, b)}
	_, hash, err := svidAlgorithm(chain[0].PublicKey)
	if err != nil {
		return nil, err
	}
	digest := h.appendUntagged(nil) // ends with the line of svid
	if hash != 0 {
		d := hash.New()
		d.Write(digest)
		digest = d.Sum(nil)
	}
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		return nil, fmt.Errorf("sign with the SVID's key: %w", err)
	}
	h.Sections = append(h.Sections, rawSection(SectionSVIDSig, sig))
	return [][]byte{b, sig}, nil
}

func rawSection(name string, b []byte) Section {
	return Section{name, EncodingRaw, uint64(len(b)), uint64(len(b)), sha256.Sum256(b)}
}

const pemCertificate = "CERTIFICATE"

// svidAlgorithm is the one signature algorithm of svid-sig for a key.
func svidAlgorithm(pub crypto.PublicKey) (x509.SignatureAlgorithm, crypto.Hash, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return x509.PureEd25519, 0, nil
	case *rsa.PublicKey:
		return x509.SHA256WithRSA, crypto.SHA256, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return x509.ECDSAWithSHA256, crypto.SHA256, nil
		case elliptic.P384():
			return x509.ECDSAWithSHA384, crypto.SHA384, nil
		case elliptic.P521():
			return x509.ECDSAWithSHA512, crypto.SHA512, nil
		}
	}
	return 0, 0, fmt.Errorf("SVID: no signatures with a key of type %T", pub)
}

// openSVID reads the SVID of an open and checks the signature by its key, but
// not who issued it.
func (h *Header) openSVID(chain, sig []byte) ([]*x509.Certificate, error) {
	certs, err := parseCertificates(chain)
	if err != nil {
		return nil, err
	}
	leaf := certs[0]
	if err := isSVID(leaf); err != nil {
		return nil, err
	}
	alg, _, err := svidAlgorithm(leaf.PublicKey)
	if err != nil {
		return nil, err
	}
	above := *h
	above.Sections = h.Sections[:1]
	if err := leaf.CheckSignature(alg, above.appendUntagged(nil), sig); err != nil {
		return nil, errors.New("the signature is not by the SVID's key")
	}
	return certs, nil
}

func parseCertificates(b []byte) (certs []*x509.Certificate, err error) {
	if len(b) > maxSVIDBytes {
		return nil, fmt.Errorf("a chain of %d bytes, at most %d are allowed", len(b), maxSVIDBytes)
	}
	for len(bytes.TrimSpace(b)) > 0 {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil || p.Type != pemCertificate {
			return nil, errors.New("not a chain of certificates in PEM")
		}
		c, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			return nil, err
		}
		if certs = append(certs, c); len(certs) > maxSVIDCerts {
			return nil, fmt.Errorf("more than %d certificates", maxSVIDCerts)
		}
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	return certs, nil
}

// isSVID says why a leaf certificate is no X.509-SVID.
func isSVID(c *x509.Certificate) error {
	if len(c.URIs) != 1 {
		return fmt.Errorf("not an SVID: %d URIs", len(c.URIs))
	}
	u := c.URIs[0]
	if u.Scheme != "spiffe" || u.Host == "" || u.Host != u.Hostname() || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("not an SVID: %q is no SPIFFE ID", clip(u.String()))
	}
	if c.IsCA || c.KeyUsage&x509.KeyUsageDigitalSignature == 0 || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("not an SVID: its key is not for signatures alone")
	}
	return nil
}

// --- trust ---

// TrustedIdentity trusts the log keys that SVIDs vouch for: those whose SPIFFE
// ID matches and that lead to a certificate of the bundle. In patterns * is any
// run of characters, "/" included.
type TrustedIdentity struct {
	ID     string // pattern; the trust domain is written out
	Bundle string // file
	Origin string // pattern: the logs that they may write
	roots  *x509.CertPool
}

// parseIdentity parses what follows "spiffe" in a trust file in dir.
func parseIdentity(f []string, dir string) (TrustedIdentity, error) {
	t := TrustedIdentity{ID: f[0], Bundle: f[1], Origin: "*"}
	if len(f) == 3 {
		t.Origin = f[2]
	}
	domain, _, _ := strings.Cut(strings.TrimPrefix(t.ID, "spiffe://"), "/")
	if !strings.HasPrefix(t.ID, "spiffe://") || domain == "" || strings.Contains(domain, "*") {
		return t, fmt.Errorf("%q is no pattern for SPIFFE IDs of one trust domain: write spiffe://DOMAIN/…, * only behind the domain", clip(t.ID))
	}
	certs, err := readCertificates(t.Bundle, dir)
	if err != nil {
		return t, fmt.Errorf("trust bundle: %w", err)
	}
	t.roots = x509.NewCertPool()
	for _, c := range certs {
		t.roots.AddCert(c)
	}
	return t, nil
}

// readCertificates reads the certificates of a file that a trust file in dir
// names: in PEM, or a SPIFFE bundle in JSON.
func readCertificates(name, dir string) (certs []*x509.Certificate, err error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	b, err := readFile(OS, name, 1<<20)
	if err == nil {
		certs, err = parseBundle(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

// parseBundle reads certificates in PEM, or the X.509 authorities of a SPIFFE
// bundle in JSON.
func parseBundle(b []byte) (certs []*x509.Certificate, err error) {
	var ders [][]byte
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '{' {
		var set struct {
			Keys []struct {
				Use string   `json:"use"`
				X5C [][]byte `json:"x5c"`
			} `json:"keys"`
		}
		if err := json.Unmarshal(b, &set); err != nil {
			return nil, err
		}
		for _, k := range set.Keys {
			if k.Use == "x509-svid" {
				ders = append(ders, k.X5C...)
			}
		}
	} else {
		for p, rest := pem.Decode(b); p != nil; p, rest = pem.Decode(rest) {
			if p.Type == pemCertificate {
				ders = append(ders, p.Bytes)
			}
		}
	}
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate, neither in PEM nor as a SPIFFE bundle")
	}
	return certs, nil
}

// identities are the lines for a log that has no keys of its own in the trust
// file.
func (t *Trust) identities(origin string) (found []TrustedIdentity) {
	if t == nil || t.knows(origin) {
		return nil
	}
	for _, i := range t.Identities {
		if matches(i.Origin, origin) {
			found = append(found, i)
		}
	}
	return found
}

// matches reports whether a pattern matches the whole of s; * is any run of
// characters.
func matches(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	if !ok || !star {
		return ok && s == ""
	}
	parts := strings.Split(rest, "*")
	for _, p := range parts[:len(parts)-1] {
		if _, s, ok = strings.Cut(s, p); !ok {
			return false
		}
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// --- verification ---

// identity checks the SVID of an open, and whether the trust file lets it vouch
// for the log key.
func (v *verification) identity(f *frame) {
	v.signers.vouched = nil
	var certs []*x509.Certificate
	if len(f.sections) == 2 {
		var err error
		if certs, err = f.openSVID(f.sections[0], f.sections[1]); err != nil {
			v.found(Tampering, Integrity, nextIsolate, "%s: SVID: %v", f.name(), err)
			return
		}
	}
	lines := v.opts.Trust.identities(v.report.Origin)
	if len(lines) == 0 {
		return
	}
	v.signers.byIdentity = true
	if certs == nil {
		v.unvouched("configure the writer's `spiffe`, or give its `log` line in the trust file", "%s carries no SVID: nobody vouches for its log key", f.name())
		return
	}
	leaf := certs[0]
	id := leaf.URIs[0].String()
	opts := x509.VerifyOptions{Intermediates: x509.NewCertPool(), CurrentTime: time.Unix(0, int64(f.Sealed)), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	var issued bool
	var failed error
	for _, l := range lines {
		opts.Roots = l.roots
		if _, err := leaf.Verify(opts); err != nil {
			failed = err
			continue
		}
		issued = true
		if !matches(l.ID, id) {
			continue
		}
		verifier, err := note.NewVerifier(f.Open.Signer)
		if err != nil || verifier.Name() != v.report.Origin {
			break
		}
		v.signers.vouched = &TrustedKey{f.Open.Signer, noBound, verifier}
		if ids := &v.report.Identities; len(*ids) < maxFindings && !slices.Contains(*ids, id) {
			*ids = append(*ids, id)
		}
		return
	}
	if issued {
		v.found(Tampering, Integrity, nextIsolate, "%s was written by %s, which the trust file does not let write this log", f.name(), id)
	} else {
		v.unvouched("if this CA was in force then, add it to the bundle; else the log was written by a stranger, or by a clock that is wrong",
			"no trust bundle vouches for %s, who wrote %s at %s: %v", id, f.name(), at(f.Sealed), failed)
	}
}

func (v *verification) unvouched(next, format string, args ...any) {
	v.signers.unvouched = true
	v.found(Incomplete, Integrity, next, format, args...)
}
