package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// testStamp is a token of a made up kind: its time and the text.
func testStamp(at time.Time, text []byte) []byte {
	return append([]byte(at.UTC().Format(time.RFC3339)+"\n"), text...)
}

func checkTestStamp(token, text []byte) (Timestamp, error) {
	line, rest, _ := bytes.Cut(token, []byte("\n"))
	if string(line) == "unknown" {
		return Timestamp{}, ErrUnknownAuthority
	}
	at, err := time.Parse(time.RFC3339, string(line))
	if err != nil || !bytes.Equal(rest, text) {
		return Timestamp{}, errors.New("not of this text")
	}
	return Timestamp{at, "test"}, nil
}

// A published checkpoint is timestamped soon after the start and then as often
// as was asked for; an authority that is away stops nothing, and is asked again.
func TestStamping(t *testing.T) {
	k, m := newTestKeys(t), newMemFS()
	cfg := k.memConfig(m)
	fail := make(chan bool, 100)
	fail <- true
	stamped := make(chan uint64, 100)
	failed := make(chan error, 100)
	cfg.StampEvery = time.Millisecond
	cfg.Stamp = func(_ context.Context, text []byte) ([]byte, error) {
		select {
		case <-fail:
			return nil, errors.New("away")
		default:
			return testStamp(time.Now(), text), nil
		}
	}
	cfg.Stamped = func(size uint64, err error) {
		if err != nil {
			failed <- err
		} else {
			stamped <- size
		}
	}
	w := openWriter(t, cfg)
	if err := <-failed; err.Error() != "away" {
		t.Fatal(err)
	}
	first := <-stamped
	if err := w.Append(context.Background(), SignalLogs, testRequest(1, "x")); err != nil {
		t.Fatal(err)
	}
	second := <-stamped
	closeWriter(t, w)
	if first < 1 || second <= first {
		t.Fatalf("stamped at %d and %d", first, second)
	}
	v := &victim{k, m, time.Now()}
	verify := func(check func(token, text []byte) (Timestamp, error), change func(*memFS)) *LogReport {
		t.Helper()
		m := v.fs.restart(keepAll, nil)
		change(m)
		r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: k.trust, Auditor: &k.auditor, AsOf: v.asOf, CheckTimestamp: check})
		if err != nil {
			t.Fatal(err)
		}
		return r.Logs[0]
	}
	put := func(name, content string) func(*memFS) {
		return func(m *memFS) {
			m.dirs[logDir+"/"+timestampDir] = true
			m.files[logDir+"/"+name] = &inode{data: []byte(content)}
		}
	}
	l := verify(checkTestStamp, func(*memFS) {})
	if worst(l) != Note || l.Timestamped == nil || l.Timestamped.By != "test" || l.Timestamped.Entries < second {
		t.Fatalf("%+v %v", l.Timestamped, l.Findings)
	}
	if l = verify(nil, func(*memFS) {}); worst(l) != Note || l.Timestamped != nil {
		t.Fatalf("without an authority: %v", l.Findings)
	}
	name := timestampName(l.Entries) // of the close
	old := string(testStamp(time.Now().Add(-time.Hour), []byte("x")))
	text := func(at time.Time, m *memFS) string { // of the whole log
		c, err := openCheckpoint(m.files[logDir+"/"+checkpointFile].data, nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(testStamp(at, []byte(c.text())))
	}
	for _, tc := range []struct {
		what   string
		change func(*memFS)
		class  Class
		want   string
	}{
		{"of another text", put(name, old), Tampering, "not of this log"},
		{"ahead of the log", put(timestampName(l.Entries+5), old), Tampering, "it was cut"},
		{"another file", put(timestampDir+"/note.txt", old), Tampering, "does not belong"},
		{"a short name", put(timestampDir+"/7.tsr", old), Tampering, "does not belong"},
		{"by another authority", func(m *memFS) {
			for n := range m.files {
				if strings.HasSuffix(n, timestampSuffix) {
					m.files[n] = &inode{data: []byte("unknown\n")}
				}
			}
		}, Incomplete, "no timestamp by a trusted authority"},
		{"none", func(m *memFS) {
			for n := range m.files {
				if strings.HasSuffix(n, timestampSuffix) {
					delete(m.files, n)
				}
			}
		}, Incomplete, "no timestamp by a trusted authority"},
		{"before it was sealed", func(m *memFS) { put(name, text(time.Now().Add(-time.Hour), m))(m) }, Incomplete, "by the writer's clock"},
		{"at the end", func(m *memFS) { put(name, text(time.Now(), m))(m) }, Note, ""},
	} {
		if l := verify(checkTestStamp, tc.change); worst(l) != tc.class || !strings.Contains(fmt.Sprint(l.Findings), tc.want) {
			t.Errorf("%s: %v", tc.what, l.Findings)
		}
	}
}
