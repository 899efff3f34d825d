package timestamp_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	rfc3161 "github.com/digitorus/timestamp"

	"github.com/meshaudit/meshaudit/internal/timestamp"
	"github.com/meshaudit/meshaudit/internal/timestamp/tsatest"
	"github.com/meshaudit/meshaudit/seal"
)

func stamp(tsa *tsatest.TSA, msg string) ([]byte, error) {
	return (&timestamp.Client{URL: tsa.URL, HTTP: http.DefaultClient}).Stamp(context.Background(), []byte(msg))
}

func TestStampAndCheck(t *testing.T) {
	tsa, other := tsatest.New(t, x509.ExtKeyUsageTimeStamping), tsatest.New(t, x509.ExtKeyUsageTimeStamping)
	token, err := stamp(tsa, "hello")
	if err != nil {
		t.Fatal(err)
	}
	check := timestamp.Checker([]*x509.Certificate{tsa.CA})
	at, err := check(token, []byte("hello"))
	if err != nil || at.By != "CN=Test TSA" || time.Since(at.Time).Abs() > time.Minute {
		t.Fatalf("%v %v", at, err)
	}
	if _, err := check(token, []byte("hullo")); err == nil || errors.Is(err, seal.ErrUnknownAuthority) {
		t.Errorf("another message: %v", err)
	}
	if _, err := timestamp.Checker([]*x509.Certificate{other.CA})(token, []byte("hello")); !errors.Is(err, seal.ErrUnknownAuthority) {
		t.Errorf("another authority: %v", err)
	}
	for i := range token { // what is not signed (certificates, status) may change unseen, but neither time nor message
		b := bytes.Clone(token)
		b[i] ^= 1
		if again, err := check(b, []byte("hello")); err == nil && again != at {
			t.Fatalf("byte %d: %v instead of %v", i, again, at)
		}
	}
}

func TestStampRefusesWrongAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		usage  x509.ExtKeyUsage
		change func(*rfc3161.Timestamp)
		want   string
	}{
		"another message": {x509.ExtKeyUsageTimeStamping, func(t *rfc3161.Timestamp) { t.HashedMessage[0] ^= 1 }, "something else"},
		"another request": {x509.ExtKeyUsageTimeStamping, func(t *rfc3161.Timestamp) { t.Nonce = big.NewInt(1) }, "another request"},
		"no certificate":  {x509.ExtKeyUsageTimeStamping, func(t *rfc3161.Timestamp) { t.AddTSACertificate = false }, "signer's certificate"},
		"a web server":    {x509.ExtKeyUsageServerAuth, nil, "no time-stamping authority"},
	} {
		tsa := tsatest.New(t, tc.usage)
		tsa.Change = tc.change
		if _, err := stamp(tsa, "hello"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	tsa := tsatest.New(t, x509.ExtKeyUsageTimeStamping)
	tsa.Down.Store(true)
	if _, err := stamp(tsa, "hello"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("down: %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	tsa := tsatest.New(f, x509.ExtKeyUsageTimeStamping)
	token, err := stamp(tsa, "hello")
	if err != nil {
		f.Fatal(err)
	}
	check := timestamp.Checker([]*x509.Certificate{tsa.CA})
	f.Add(token)
	f.Add(token[:len(token)/2])
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		if at, err := check(b, []byte("hello")); err == nil && at.By != "CN=Test TSA" {
			t.Fatalf("%v", at)
		}
	})
}
