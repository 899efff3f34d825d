//go:build cgo

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/pkcs11key/softhsm"
	"github.com/meshaudit/meshaudit/seal"
)

func TestKeygenForAToken(t *testing.T) {
	uri := softhsm.New(t).Key(t, "log")
	dir := t.TempDir()
	keygen := func(dir, uri string) (string, error) {
		s, b := testStreams(80)
		c := newKeygen(s)
		c.SetArgs([]string{"writer", "--origin", "example.org/a", "--out", dir, "--log-key", uri})
		c.SetErr(b)
		err := c.Execute()
		return b.String(), err
	}
	out, err := keygen(dir, uri)
	if err != nil || !strings.HasPrefix(out, "log example.org/a+") || !strings.Contains(out, "for the log key in the token") {
		t.Fatalf("%v %s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, seal.TrustFile)); err != nil || !strings.HasPrefix(out, string(b)) {
		t.Fatalf("%v %s", err, b)
	}
	if _, err := os.Stat(filepath.Join(dir, seal.LogKeyFile)); err == nil {
		t.Fatal("a log key was made in a file, too")
	}
	if _, err := keygen(t.TempDir(), uri+"&pin-value=1"); err == nil || !strings.Contains(err.Error(), "--log-key: PKCS#11 URI") {
		t.Fatal(err)
	}
}
