//go:build cgo

// Package softhsm makes tokens in software, for tests.
package softhsm

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
)

// modulePaths are where distributions put the library.
var modulePaths = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so"}

// A Token is one token of SoftHSM.
type Token struct {
	PINFile string
	label   string
	module  string
}

const (
	soPIN = "1234"
	pin   = "5678"

	ckmEdwardsKeyPairGen = 0x1055
	ckkEdwards           = 0x40
)

// The library reads its configuration once a process: all tokens of one live in
// one directory.
var configure = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "softhsm-")
	if err != nil {
		return "", err
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	return conf, os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600)
})

// New makes an empty token. Without SoftHSM the test is skipped; in CI it fails.
func New(tb testing.TB) *Token {
	tb.Helper()
	skip := tb.Skipf
	if os.Getenv("CI") != "" {
		skip = tb.Fatalf
	}
	t := &Token{PINFile: filepath.Join(tb.TempDir(), "pin")}
	for _, p := range modulePaths {
		if _, err := os.Stat(p); err == nil {
			t.module = p
		}
	}
	if t.module == "" {
		skip("SoftHSM is not installed; Debian: apt-get install softhsm2")
	}
	conf, err := configure()
	check(tb, err)
	check(tb, os.Setenv("SOFTHSM2_CONF", conf)) // for the library, too, which is loaded once
	random := make([]byte, 8)
	rand.Read(random)
	t.label = hex.EncodeToString(random)
	check(tb, os.WriteFile(t.PINFile, []byte(pin+"\n"), 0o600))
	m := t.load(tb)
	slots, err := m.GetSlotList(true)
	check(tb, err)
	for _, slot := range slots { // in the process: the library does not see what another one makes
		info, err := m.GetTokenInfo(slot)
		check(tb, err)
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			continue
		}
		check(tb, m.InitToken(slot, soPIN, t.label))
		session, err := m.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		check(tb, err)
		check(tb, m.Login(session, pkcs11.CKU_SO, soPIN))
		check(tb, m.InitPIN(session, pin))
		check(tb, m.Logout(session))
		check(tb, m.CloseSession(session))
		return t
	}
	tb.Fatal("SoftHSM has no free slot")
	return t
}

func (t *Token) load(tb testing.TB) *pkcs11.Ctx {
	tb.Helper()
	m := pkcs11.New(t.module)
	if m == nil {
		tb.Fatal("SoftHSM's library does not load")
	}
	if err := m.Initialize(); err != nil && err != pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		tb.Fatal(err)
	}
	return m
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func (t *Token) uri(object string) string {
	return "pkcs11:token=" + t.label + ";object=" + object + "?module-path=" + t.module + "&pin-source=" + t.PINFile
}

// Key makes an Ed25519 key pair and returns its URI.
func (t *Token) Key(tb testing.TB, object string) string {
	tb.Helper()
	edwards25519 := []byte("\x13\x0cedwards25519") // PrintableString
	t.generate(tb, object, ckmEdwardsKeyPairGen, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, edwards25519)}, ckkEdwards)
	return t.uri(object)
}

// RSAKey makes a key pair of another kind.
func (t *Token) RSAKey(tb testing.TB, object string) string {
	tb.Helper()
	t.generate(tb, object, pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}, pkcs11.CKK_RSA)
	return t.uri(object)
}

func (t *Token) generate(tb testing.TB, object string, mechanism uint, public []*pkcs11.Attribute, kind uint) {
	tb.Helper()
	m := t.load(tb)
	slots, err := m.GetSlotList(true)
	check(tb, err)
	for _, s := range slots {
		info, err := m.GetTokenInfo(s)
		check(tb, err)
		if info.Label != t.label {
			continue
		}
		session, err := m.OpenSession(s, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		check(tb, err)
		defer func() { _ = m.CloseSession(session) }()
		if err := m.Login(session, pkcs11.CKU_USER, pin); err != nil && err != pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
			tb.Fatal(err)
		}
		named := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, object), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind)}
		_, _, err = m.GenerateKeyPair(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)},
			append(append(public, named...), pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true)),
			append(append([]*pkcs11.Attribute{}, named...), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true)))
		check(tb, err)
		return
	}
	tb.Fatalf("no token %s", t.label)
}
