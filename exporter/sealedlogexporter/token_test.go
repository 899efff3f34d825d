//go:build cgo

package sealedlogexporter

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/meshaudit/meshaudit/internal/pkcs11key"
	"github.com/meshaudit/meshaudit/internal/pkcs11key/softhsm"
	"github.com/meshaudit/meshaudit/seal"
)

// The log key is in a token from the first start on; then it is replaced by one
// in a file, and by another in the token.
func TestLogKeyInAToken(t *testing.T) {
	hsm := softhsm.New(t)
	cfg := testConfig(t)
	cfg.Keys.Create = false
	dir := cfg.keysDirectory()
	uri := hsm.Key(t, "log")
	key, err := pkcs11key.Open(uri, cfg.Origin)
	must(t, err)
	trust, err := seal.CreateChainKey(dir, cfg.Origin, key.VerifierKey())
	must(t, err)
	must(t, key.Close())
	_, err = seal.CreateAuditorKey(dir, "x25519")
	must(t, err)
	cfg.Keys.LogKey = uri
	must(t, cfg.Validate())
	run(t, cfg)
	assert.Equal(t, seal.ExitProven, verify(t, cfg).ExitCode())

	_, chain, _ := strings.Cut(trust, "\n")
	skey, _, err := seal.GenerateLogKey(cfg.Origin)
	must(t, err)
	file := filepath.Join(dir, seal.LogKeyFile)
	must(t, seal.WriteSecret(file, []byte(skey)))
	var bounded string
	for _, k := range []string{file, hsm.Key(t, "next")} {
		cfg.Keys.PreviousLogKey, cfg.Keys.LogKey = cfg.Keys.LogKey, k
		run(t, cfg)
		lines, err := os.ReadFile(filepath.Join(dir, rotatedFile))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, seal.TrustFile), []byte(bounded+string(lines)+chain), 0o600))
		r := verify(t, cfg)
		assert.Equal(t, seal.ExitProven, r.ExitCode(), "%v", r.Logs[0].Findings)
		bounded = strings.SplitAfter(string(lines), "\n")[0]
	}

	cfg.Keys.LogKey += "&pin-value=5678"
	assert.ErrorContains(t, cfg.Validate(), "`keys::log_key`")
}
