package erasure

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

const origin = "example.org/test"

func request() *Request {
	return NewRequest(Log{Origin: origin, Erasures: []seal.Erasure{{Entry: 7, Root: seal.Hash{1}, Positions: []uint64{0, 3}}}}, "dpo", "case")
}

// What is asked for is what is carried out, and its outcome is what is answered.
func TestAskAndServe(t *testing.T) {
	for _, tc := range []struct {
		what, origin string
		fails        error
		want         string
	}{
		{"good", origin, nil, ""},
		{"failing", origin, errors.New("the disk is gone"), "the disk is gone"},
		{"of another log", "example.org/other", nil, "the request is for the log of example.org/test, this one is of example.org/other"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			dir := t.TempDir()
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan struct{})
			var got []seal.Erasure
			go func() {
				defer close(served)
				Serve(ctx, dir, tc.origin, func(_ context.Context, e []seal.Erasure, by, reason string) error {
					if by != "dpo" || reason != "case" {
						t.Errorf("by %q because %q", by, reason)
					}
					got = e
					return tc.fails
				}, func(*Request, error) {})
			}()
			err := Ask(ctx, dir, request())
			stop()
			<-served
			if tc.want == "" && (err != nil || len(got) != 1 || got[0].Entry != 7 || got[0].Root != (seal.Hash{1}) || len(got[0].Positions) != 2) {
				t.Fatal(err, got)
			}
			if tc.want != "" && (err == nil || err.Error() != tc.want) {
				t.Fatalf("%v, expected %s", err, tc.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Fatalf("%v is left", left)
			}
		})
	}
}

// A request that nobody answers is taken back.
func TestAskNobody(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := Ask(ctx, dir, request()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("%v is left", left)
	}
}

// What is no request is answered as such, and a file elsewhere is not touched.
func TestServeIsCareful(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(elsewhere, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(string) error{
		"garbage.request": func(f string) error { return os.WriteFile(f, []byte("{"), 0o600) },
		"link.request":    func(f string) error { return os.Symlink(elsewhere, f) },
		"x.request":       func(f string) error { return os.WriteFile(f, []byte(`{"version":2}`), 0o600) },
		"x.answer.tmp":    func(f string) error { return os.Symlink(elsewhere, f) },
	} {
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer stop()
	Serve(ctx, dir, origin, func(context.Context, []seal.Erasure, string, string) error {
		t.Error("something was carried out")
		return nil
	}, func(*Request, error) {})
	for name, want := range map[string]string{"garbage": "malformed request", "link": "no regular file", "x": "malformed request: request of version 2"} {
		b, err := os.ReadFile(filepath.Join(dir, name+answerSuffix))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v %s", name, err, b)
		}
	}
	if b, _ := os.ReadFile(elsewhere); string(b) != "precious" {
		t.Fatalf("a file elsewhere is now %q", b)
	}
}

func TestCheckDir(t *testing.T) {
	dir := t.TempDir()
	if err := CheckDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := CheckDir(dir); err == nil || !strings.Contains(err.Error(), "chmod o-w") {
		t.Fatal(err)
	}
	if err := CheckDir(filepath.Join(dir, "none")); err == nil {
		t.Fatal("no directory")
	}
}

func FuzzParseRequest(f *testing.F) {
	b, _ := json.Marshal(request())
	f.Add(b)
	f.Add([]byte(`{"version":1,"origin":"a","erasures":[{"entry":1,"root":"x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(again); err != nil {
			t.Fatalf("%v: %s", err, again)
		}
	})
}
