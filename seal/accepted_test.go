package seal

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func newReviewer(t testing.TB, trust *Trust) note.Signer {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "reviewer")
	line, err := CreateReviewerKey(dir, "alice@example.org")
	if err != nil {
		t.Fatal(err)
	}
	reviewers, err := ParseTrust([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	trust.Reviewers = reviewers.Reviewers
	key, err := ReadReviewerKey(filepath.Join(dir, ReviewerKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// More crashes than a report has room for are accepted one after the other, and
// what is accepted does not hide what is not.
func TestAcceptedFindings(t *testing.T) {
	k, m := newTestKeys(t), newMemFS()
	crashes := maxFindings + 20
	for i := range crashes {
		cfg := k.memConfig(m)
		w := openWriter(t, cfg)
		if err := w.Append(context.Background(), SignalLogs, testRequest(1, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		crashed := m.restart(keepAll, nil)
		closeWriter(t, w)
		m = crashed
	}
	closeWriter(t, openWriter(t, k.memConfig(m)))
	key := newReviewer(t, k.trust)
	opts := VerifyOptions{Trust: k.trust, Auditor: &k.auditor}
	var all []Acceptance
	for range 3 {
		r, err := verifyStore(context.Background(), m, "/store", opts)
		if err != nil {
			t.Fatal(err)
		}
		found, others := r.Reviewable()
		if others != 0 {
			t.Fatal(r.Logs[0].Findings)
		}
		if r.ExitCode() == ExitProven {
			if len(all) != crashes {
				t.Fatalf("%d accepted of %d", len(all), crashes)
			}
			if a := r.Logs[0].Findings[0].Accepted; a == nil || a.By != "alice@example.org" || a.Reason != "power cut" {
				t.Fatal(r.Logs[0].Findings[0])
			}
			return
		}
		if len(found) == 0 {
			t.Fatalf("exit code %d, and nothing to accept: what is accepted hides it", r.ExitCode())
		}
		for _, f := range found {
			all = append(all, Acceptance{Subject: *f.Subject, Reason: "power cut"})
		}
		if opts.Accepted, err = SignAccepted(all, key); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("it is never proven")
}

func TestAcceptedIsStrict(t *testing.T) {
	trust := new(Trust)
	key := newReviewer(t, trust)
	good := "example.org/a 7 completeness crash AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= a reason"
	sign := func(text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if all, err := OpenAccepted(sign(acceptedMagic+"\n"+good+"\n"), trust); err != nil || len(all) != 1 || all[0].Reason != "a reason" || all[0].By != "alice@example.org" {
		t.Fatal(all, err)
	}
	for _, tc := range []struct{ text, want string }{
		{"meshaudit-accepted/v2\n" + good + "\n", "the first line must be"},
		{acceptedMagic + "\n" + good + "\n" + good + "\n", "line 3: it is there twice"},
		{acceptedMagic + "\n\n", "expected \"ORIGIN"},
		{acceptedMagic + "\n" + strings.Replace(good, " 7 ", " 07 ", 1) + "\n", "no decimal number"},
		{acceptedMagic + "\n" + strings.Replace(good, "crash", "crashed", 1) + "\n", "unknown code"},
		{acceptedMagic + "\n" + strings.Replace(good, "completeness", "complete", 1) + "\n", "unknown axis"},
		{acceptedMagic + "\n" + strings.Replace(good, "A=", "B=", 1) + "\n", "canonical base64"},
		{acceptedMagic + "\n" + strings.Replace(good, "example.org/a", "Example", 1) + "\n", "origin"},
		{acceptedMagic + "\n" + strings.Replace(good, " a reason", " ", 1) + "\n", "the reason must be"},
	} {
		if _, err := OpenAccepted(sign(tc.text), trust); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, expected %q", tc.text, err, tc.want)
		}
	}
	if _, err := OpenAccepted(sign(acceptedMagic+"\n"), &Trust{}); err == nil {
		t.Error("nobody's word counts")
	}
	other := new(Trust)
	newReviewer(t, other)
	if _, err := OpenAccepted(sign(acceptedMagic+"\n"), other); err == nil || !strings.Contains(err.Error(), "not signed by a trusted reviewer") {
		t.Error(err)
	}
}

func FuzzParseAccepted(f *testing.F) {
	f.Add(acceptedMagic + "\nexample.org/a 7 completeness crash AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= a reason\n")
	f.Add(acceptedMagic + "\n")
	trust := new(Trust)
	key := newReviewer(f, trust)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseAccepted(text)
		if err != nil || len(text) > MaxAcceptedBytes/2 {
			return
		}
		b, err := SignAccepted(all, key)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), text+"\n") {
			t.Fatalf("%q is written again as %q", text, b)
		}
	})
}
