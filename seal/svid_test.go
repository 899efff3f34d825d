package seal

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// testCA issues SVIDs by way of an intermediate, as SPIRE may.
type testCA struct {
	root, middle *x509.Certificate
	key          crypto.Signer // of the intermediate
}

func mustKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var k crypto.Signer
	var err error
	switch kind {
	case "p256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		k, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "p224":
		k, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "rsa":
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certify(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	key, middle := mustKey(t, "p256"), mustKey(t, "p256")
	root := certify(t, ca("root"), ca("root"), key.Public(), key)
	return &testCA{root, certify(t, ca("middle"), root, middle.Public(), key), middle}
}

func (ca *testCA) bundle(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

type testIdentity struct {
	chain []*x509.Certificate
	key   crypto.Signer
	err   error
}

func (i *testIdentity) SVID() ([]*x509.Certificate, crypto.Signer, error) {
	return i.chain, i.key, i.err
}

func (ca *testCA) issue(t testing.TB, id, kind string, change func(*x509.Certificate)) *testIdentity {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
	if change != nil {
		change(template)
	}
	key := mustKey(t, kind)
	return &testIdentity{chain: []*x509.Certificate{certify(t, template, ca.middle, key.Public(), ca.key), ca.middle}, key: key}
}

const edgeID = "spiffe://example.org/ns/mesh/sa/collector"

// vouchedLog seals one epoch for each identity, nil for none.
func vouchedLog(t testing.TB, ids ...*testIdentity) (*testKeys, *memFS) {
	t.Helper()
	k, m := newTestKeys(t), newMemFS()
	for i, id := range ids {
		cfg := k.memConfig(m)
		if id != nil {
			cfg.Identity = id
		}
		w := openWriter(t, cfg)
		if err := w.Append(context.Background(), SignalLogs, testRequest(2, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		closeWriter(t, w)
	}
	return k, m
}

func verifyUnder(t testing.TB, k *testKeys, m *memFS, lines ...string) *LogReport {
	t.Helper()
	trust, err := ParseTrust([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: trust, Auditor: &k.auditor})
	if err != nil {
		t.Fatal(err)
	}
	return r.Logs[0]
}

func TestSVIDVouchesForTheLogKey(t *testing.T) {
	ca := newTestCA(t)
	line := "spiffe spiffe://example.org/ns/*/sa/collector " + ca.bundle(t)
	for _, kind := range []string{"p256", "p384", "p521", "rsa", "ed25519"} {
		k, m := vouchedLog(t, ca.issue(t, edgeID, kind, nil), ca.issue(t, edgeID, kind, nil))
		l := verifyUnder(t, k, m, line)
		if worst(l) != Note || !l.Trusted || !l.TagsProven || fmt.Sprint(l.Identities) != "["+edgeID+"]" {
			t.Errorf("%s: %+v", kind, l)
		}
		if l = verifyUnder(t, k, m, "log "+k.log.VerifierKey(), "chain "+testOrigin+" "+b64(k.chain.Commitment())); worst(l) != Note || l.Identities != nil {
			t.Errorf("%s, by its log key: %+v", kind, l)
		}
	}
	if _, err := Open(func() Config {
		cfg := newTestKeys(t).memConfig(newMemFS())
		cfg.Identity = ca.issue(t, edgeID, "p224", nil)
		return cfg
	}()); err == nil || !strings.Contains(err.Error(), "no signatures with a key") {
		t.Errorf("a key of another kind: %v", err)
	}
}

func b64(h Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }

// Who may have caused it decides the class: what a stale bundle or a wrong clock
// explains is incomplete, all else tampering.
func TestSVIDThatDoesNotVouch(t *testing.T) {
	ca, foreign := newTestCA(t), newTestCA(t)
	bundle := ca.bundle(t)
	mine := "spiffe " + edgeID + " " + bundle
	good := ca.issue(t, edgeID, "p256", nil)
	other := ca.issue(t, "spiffe://example.org/ns/shop/sa/orders", "p256", nil)
	for _, tc := range []struct {
		name  string
		ids   []*testIdentity
		lines []string
		class Class
		what  string
	}{
		{"none", []*testIdentity{nil}, []string{mine}, Incomplete, "carries no SVID"},
		{"none later", []*testIdentity{good, nil}, []string{mine}, Incomplete, "carries no SVID"},
		{"foreign CA", []*testIdentity{foreign.issue(t, edgeID, "p256", nil)}, []string{mine}, Incomplete, "no trust bundle vouches"},
		{"foreign CA later", []*testIdentity{good, foreign.issue(t, edgeID, "p256", nil)}, []string{mine}, Incomplete, "no trust bundle vouches"},
		{"other workload", []*testIdentity{other}, []string{mine}, Tampering, "does not let write"},
		{"other workload later", []*testIdentity{good, other}, []string{mine}, Tampering, "does not let write"},
		{"other workload, allowed", []*testIdentity{good, other}, []string{mine, "spiffe spiffe://example.org/ns/shop/* " + bundle}, Note, ""},
		{"other log", []*testIdentity{good}, []string{mine + " example.org/other/*"}, Incomplete, "nobody vouches"},
		{"this log", []*testIdentity{good}, []string{mine + " example.org/*/edge-*"}, Note, ""},
		{"log key bounded", []*testIdentity{good}, []string{mine, "log VKEY until 1"}, Tampering, "beyond the bound"},
		{"two URIs", []*testIdentity{ca.issue(t, edgeID, "p256", func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) })}, []string{mine}, Tampering, "2 URIs"},
		{"web address", []*testIdentity{ca.issue(t, "https://example.org/ns", "p256", nil)}, []string{mine}, Tampering, "no SPIFFE ID"},
		{"a CA", []*testIdentity{ca.issue(t, edgeID, "p256", func(c *x509.Certificate) { c.IsCA = true })}, []string{mine}, Tampering, "not for signatures alone"},
		{"another's key", []*testIdentity{{chain: good.chain, key: other.key}}, nil, Tampering, "not by the SVID's key"},
		{"another's key, of another kind", []*testIdentity{{chain: good.chain, key: mustKey(t, "p384")}}, nil, Tampering, "not by the SVID's key"},
	} {
		k, m := vouchedLog(t, tc.ids...)
		for i := range tc.lines {
			tc.lines[i] = strings.Replace(tc.lines[i], "VKEY", k.log.VerifierKey(), 1)
		}
		l := verifyUnder(t, k, m, tc.lines...)
		if worst(l) != tc.class || !strings.Contains(fmt.Sprint(l.Findings), tc.what) || l.Trusted != (tc.class == Note) && tc.class != Tampering {
			t.Errorf("%s: %v", tc.name, l.Findings)
		}
	}
}

// An SVID counts at the time at which the epoch was opened, not now, and a
// writer opens none without one that is valid.
func TestSVIDCountsWhenSealed(t *testing.T) {
	ca := newTestCA(t)
	line := "spiffe " + edgeID + " " + ca.bundle(t)
	short := ca.issue(t, edgeID, "p256", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-30*time.Minute), time.Now().Add(-10*time.Minute)
	})
	k, m := newTestKeys(t), newMemFS()
	cfg := k.memConfig(m)
	cfg.Identity = short
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "SVID: valid from") {
		t.Fatalf("expired: %v", err)
	}
	cfg.Identity = &testIdentity{err: errors.New("no agent")}
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "no agent") {
		t.Fatalf("absent: %v", err)
	}
	then := &clock{time.Now().Add(-20 * time.Minute)}
	cfg.Identity, cfg.Now = short, then.now
	closeWriter(t, openWriter(t, cfg))
	trust, err := ParseTrust([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	verify := func() *LogReport {
		r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: trust, AsOf: then.t})
		if err != nil {
			t.Fatal(err)
		}
		return r.Logs[0]
	}
	if l := verify(); worst(l) != Note {
		t.Fatalf("valid then: %v", l.Findings)
	}

	// Whoever has the key of an old SVID cannot seal with it now.
	k, m = newTestKeys(t), newMemFS()
	cfg = k.memConfig(m)
	if err := m.MkdirAll(logDir+"/"+segmentDir, 0); err != nil {
		t.Fatal(err)
	}
	s := &logState{cfg: &cfg, dir: logDir, signers: []note.Signer{k.log}, tree: new(tree), keys: k.chain.ratchet(), sealed: uint64(then.t.Add(time.Hour).UnixNano())}
	e, err := k.chain.escrow(testOrigin, k.auditor.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	h := &Header{Kind: KindOpen, Open: &OpenLines{Signer: k.log.VerifierKey(), Chain: k.chain.Commitment(), Escrows: []Escrow{e}, HeartbeatSeconds: 60, After: AfterFirst}}
	s.place(h)
	parts, err := h.vouch(short.chain, short.key)
	if err != nil {
		t.Fatal(err)
	}
	s.appendEntry(h, parts...)
	if err := s.write(0); err != nil {
		t.Fatal(err)
	}
	then.t = then.t.Add(time.Hour)
	if l := verify(); worst(l) != Incomplete || !strings.Contains(fmt.Sprint(l.Findings), "expired") || l.Trusted {
		t.Fatalf("expired then: %v", l.Findings)
	}
}

// While there is no valid SVID, the epoch at hand goes on.
func TestEpochWaitsForSVID(t *testing.T) {
	ca := newTestCA(t)
	k, m := newTestKeys(t), newMemFS()
	cfg := k.memConfig(m)
	id := ca.issue(t, edgeID, "p256", nil)
	away := &switchedIdentity{id: id, off: make(chan bool, 1)}
	away.off <- false
	cfg.Identity = away
	cfg.EpochMaxAge, cfg.maintainEvery = 30*time.Millisecond, time.Millisecond
	faults := make(chan error, 1000)
	cfg.Fault = func(err error) { faults <- err }
	w := openWriter(t, cfg)
	<-away.off
	away.off <- true
	if err := <-faults; err == nil || !strings.Contains(err.Error(), "no new epoch until there is a valid SVID") {
		t.Fatal(err)
	}
	if err := w.Append(context.Background(), SignalLogs, testRequest(1, "x")); err != nil {
		t.Fatal(err)
	}
	<-away.off
	away.off <- false
	for err := range faults {
		if err == nil {
			break
		}
	}
	closeWriter(t, w)
	l := verifyUnder(t, k, m, "spiffe spiffe://example.org/* "+ca.bundle(t))
	if worst(l) != Note || l.Epochs < 2 {
		t.Fatalf("%d epochs: %v", l.Epochs, l.Findings)
	}
}

type switchedIdentity struct {
	id  *testIdentity
	off chan bool
}

func (s *switchedIdentity) SVID() ([]*x509.Certificate, crypto.Signer, error) {
	off := <-s.off
	s.off <- off
	if off {
		return nil, nil, errors.New("the agent is away")
	}
	return s.id.SVID()
}

func TestTrustedIdentityLines(t *testing.T) {
	ca := newTestCA(t)
	pemFile := ca.bundle(t)
	dir := filepath.Dir(pemFile)
	json := fmt.Sprintf(`{"keys":[{"use":"jwt-svid"},{"use":"x509-svid","kty":"EC","x5c":[%q]}],"spiffe_sequence":1}`, base64.StdEncoding.EncodeToString(ca.root.Raw))
	for name, content := range map[string]string{"bundle.json": json, "empty.json": `{"keys":[]}`, "bad.json": `{"keys":`, "bad.pem": "hello"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]string{
		"spiffe spiffe://example.org/a bundle.pem":              "",
		"spiffe spiffe://example.org/a bundle.json example.org": "",
		"spiffe spiffe://example.org/a empty.json":              "no certificate",
		"spiffe spiffe://example.org/a bad.json":                "unexpected end",
		"spiffe spiffe://example.org/a bad.pem":                 "no certificate",
		"spiffe spiffe://example.org/a gone.pem":                "no such file",
		"spiffe spiffe://*/a bundle.pem":                        "one trust domain",
		"spiffe *sa/collector bundle.pem":                       "one trust domain",
		"spiffe spiffe:///a bundle.pem":                         "one trust domain",
		"spiffe spiffe://example.org/a":                         "expected",
	} {
		file := filepath.Join(dir, "trust")
		if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		trust, err := ReadTrust(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", line, err)
		}
		if want == "" && strings.HasSuffix(line, "example.org") != (len(trust.Origins()) == 1) {
			t.Errorf("%s: origins %v", line, trust.Origins())
		}
	}
	for _, tc := range []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a*", "a", true}, {"a*", "ab/c", true}, {"*", "", true}, {"a*c", "abc", true},
		{"a*c", "ac", true}, {"a*a", "a", false}, {"a*b*c", "a/b/b/c", true}, {"a*b*c", "acb", false}, {"*b", "ab", true}, {"", "a", false},
	} {
		if matches(tc.pattern, tc.s) != tc.want {
			t.Errorf("%q matches %q: %v", tc.pattern, tc.s, !tc.want)
		}
	}
}

// Anything may stand in the sections of an SVID.
func FuzzOpenSVID(f *testing.F) {
	ca := newTestCA(f)
	id := ca.issue(f, edgeID, "p256", nil)
	h := &Header{Kind: KindOpen, Origin: testOrigin, Open: &OpenLines{Signer: "x", HeartbeatSeconds: 1, After: AfterFirst}}
	parts, err := h.vouch(id.chain, id.key)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := h.openSVID(parts[0], parts[1]); err != nil {
		f.Fatal(err)
	}
	f.Add(parts[0], parts[1])
	f.Add(parts[0][:100], []byte{})
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), parts[1])
	f.Fuzz(func(t *testing.T, chain, sig []byte) {
		certs, err := h.openSVID(chain, sig)
		if err == nil && !bytes.Equal(certs[0].Raw, id.chain[0].Raw) {
			t.Fatal("a signature by another certificate is accepted")
		}
	})
}
