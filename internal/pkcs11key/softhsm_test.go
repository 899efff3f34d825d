//go:build cgo

package pkcs11key_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/meshaudit/meshaudit/internal/pkcs11key"
	"github.com/meshaudit/meshaudit/internal/pkcs11key/softhsm"
	"github.com/meshaudit/meshaudit/seal"
)

const origin = "example.org/meshaudit/edge-0"

// A log key moves from a file into a token and into another token, and the log
// stays proven.
func TestLogKeyInAToken(t *testing.T) {
	hsm := softhsm.New(t)
	dir := t.TempDir()
	keys, store := filepath.Join(dir, "keys"), filepath.Join(dir, "store")
	if _, err := seal.CreateTrialKeys(keys, origin); err != nil {
		t.Fatal(err)
	}
	file, err := seal.ReadLogKey(filepath.Join(keys, seal.LogKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	auditor, err := seal.ReadAuditorKey(filepath.Join(keys, seal.AuditorKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	log := []seal.LogKey{file}
	for _, name := range []string{"first", "second"} {
		k, err := pkcs11key.Open(hsm.Key(t, name), origin)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		log = append(log, k)
	}
	var lines []string
	for i, key := range log {
		cfg := seal.Config{Root: store, Origin: origin, LogKey: key, Chain: seal.ChainFile{FS: seal.OS, Path: filepath.Join(keys, seal.ChainKeyFile)},
			Auditors: []seal.Recipient{auditor.Recipient()}}
		if i > 0 {
			cfg.PreviousLogKey = log[i-1]
			cfg.Rotated = func(r seal.Rotation) { lines = append(lines, strings.SplitAfter(r.TrustLines(), "\n")[0]) }
		}
		w, err := seal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	pinned, err := os.ReadFile(filepath.Join(keys, seal.TrustFile))
	if err != nil {
		t.Fatal(err)
	}
	_, chain, _ := strings.Cut(string(pinned), "\n")
	trust, err := seal.ParseTrust([]byte(strings.Join(lines, "") + "log " + log[2].VerifierKey() + "\n" + chain))
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.Verify(context.Background(), store, seal.VerifyOptions{Trust: trust, Auditor: &auditor})
	if err != nil || r.ExitCode() != seal.ExitProven || len(lines) != 2 {
		t.Fatalf("%v %v", err, r.Logs[0].Findings)
	}
}

// A lost session is opened again; a key that is not there, or is another now,
// signs nothing.
func TestToken(t *testing.T) {
	hsm := softhsm.New(t)
	uri := hsm.Key(t, "log")
	k, err := pkcs11key.Open(uri, origin)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		msg, err := note.Sign(&note.Note{Text: "hello\n"}, k)
		if err != nil {
			t.Fatal(err)
		}
		v, err := note.NewVerifier(k.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(msg, note.VerifierList(v)); err != nil || k.Name() != origin {
			t.Fatal(err)
		}
		if err := k.Close(); err != nil { // as a token that was unplugged
			t.Fatal(err)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}

	for bad, want := range map[string]string{
		strings.Replace(uri, "object=log", "object=gone", 1):         "0 private keys match",
		strings.Replace(uri, "token=", "token=x", 1):                 "0 tokens match",
		strings.Replace(uri, "libsofthsm2.so", "nothing.so", 1):      "no PKCS#11 module",
		strings.Replace(uri, "pin-source=", "pin-source=/absent", 1): "PIN:",
		hsm.RSAKey(t, "rsa"):                             "not an Ed25519 key",
		strings.Replace(uri, "?", "?pin-value=1234&", 1): "refused",
	} {
		if _, err := pkcs11key.Open(bad, origin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := os.WriteFile(hsm.PINFile, []byte("0000"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pkcs11key.Open(uri, origin); err == nil || !strings.Contains(err.Error(), "log in") {
		t.Errorf("wrong PIN: %v", err)
	}
}
