package s3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

func modes(t *testing.T, test func(t *testing.T, direct bool)) {
	for _, direct := range []bool{false, true} {
		t.Run(map[bool]string{false: "journaled", true: "direct"}[direct], func(t *testing.T) {
			t.Parallel()
			test(t, direct)
		})
	}
}

// A log in a bucket with locks, over several starts, verifies as in a directory.
func TestEndToEnd(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		w := newWriter(t, gateway, bucket(t, gateway, "lock"), direct)
		w.Bucket.Lock = objectstore.Lock{Mode: minio.Compliance, Retain: time.Hour}
		n := 0
		for range 3 {
			r := w.mustOpen(t)
			for range 150 {
				r.mustAppend(t, fmt.Sprint(n))
				n++
			}
			mustClose(t, r)
			if f := r.faulted(); len(f) > 0 {
				t.Error(f)
			}
		}
		report := w.verify(t)
		wantExit(t, report, 0, "")
		if report.Logs[0].Records != uint64(n) || !report.Logs[0].TagsProven {
			t.Errorf("report: %+v", report.Logs[0])
		}
		if have := w.records(t); len(have) != n {
			t.Errorf("%d records in the bucket, want %d", len(have), n)
		}
		until := retention(t, w.Bucket.Bucket)
		for key, u := range until {
			if left := time.Until(u); !strings.HasPrefix(key, "audit/PROBE/") && (left < 50*time.Minute || left > time.Hour+time.Minute) {
				t.Errorf("%s is locked for %v, want an hour", key, left)
			}
		}
		if len(until) < 4 {
			t.Errorf("only %d objects", len(until))
		}
	})
}

func retention(t *testing.T, bucket string) map[string]time.Time {
	t.Helper()
	c, all := client(t, gateway), map[string]time.Time{}
	for o := range c.ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		i, err := c.StatObject(t.Context(), bucket, o.Key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if all[o.Key], err = time.Parse(time.RFC3339, i.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")); err != nil {
			t.Errorf("%s has no lock: %v", o.Key, err)
		}
	}
	return all
}

// The writer is killed in the middle of uploads, again and again.
func TestKilled(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		w := newWriter(t, gateway, bucket(t, gateway, "versions"), direct)
		w.MaxAge = 50 * time.Millisecond
		var acked []string
		for i := range 6 {
			acked = append(acked, w.killed(t, time.Duration(100+170*i)*time.Millisecond)...)
		}
		mustClose(t, w.mustOpen(t))
		have := w.records(t)
		for _, id := range acked {
			if have[id] == 0 {
				t.Fatalf("record %s was acknowledged and is not in the bucket", id)
			}
		}
		report := w.verify(t)
		wantExit(t, report, seal.ExitIncomplete, "ended by a crash")
		if l := report.Logs[0]; l.Epochs != 7 || !l.TagsProven || l.Axis(seal.Integrity) != seal.Note || l.Axis(seal.Order) != seal.Note {
			t.Errorf("report: %+v\n%s", l, strings.Join(findings(report), "\n"))
		}
	})
}

// Requests fail, are put off, or take effect without an answer: everything is
// there, once, as if nothing had been.
func TestFaults(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		for name, a := range map[string]action{"500": fail, "slow down": slowDown, "lost": lose, "expired": expired} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				puts, others := 0, 0
				p := newProxy(t, gateway, func(r *http.Request) action {
					if isSegmentPut(r) {
						if puts++; puts%2 == 1 {
							return a
						}
					} else if others++; others > 4 && others%4 == 0 {
						return a
					}
					return pass
				})
				w := newWriter(t, p.URL, bucket(t, gateway, "versions"), direct)
				r := w.mustOpen(t)
				for i := range 30 {
					r.mustAppend(t, fmt.Sprint(i))
				}
				if !direct {
					time.Sleep(w.MaxAge)
					eventually(t, "all is in the bucket", func() bool { return r.journal.Pending() == 0 })
				}
				p.set(always(pass))
				mustClose(t, r)
				if p.count(a) == 0 || len(r.faulted()) == 0 {
					t.Fatalf("%d faults injected, %d reported", p.count(a), len(r.faulted()))
				}
				wantExit(t, w.verify(t), 0, "")
				if have := w.records(t); len(have) != 30 {
					t.Errorf("%d records, want 30", len(have))
				}
			})
		}
	})
}

// An answer that breaks off is asked for again from there.
func TestBrokenReads(t *testing.T) {
	w := newWriter(t, gateway, bucket(t, gateway, "versions"), true)
	r := w.mustOpen(t)
	for i := range 20 {
		r.mustAppend(t, fmt.Sprint(i))
	}
	mustClose(t, r)
	n := 0
	p := newProxy(t, gateway, func(r *http.Request) action {
		if n++; r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/segment/") && n%2 == 0 {
			return cutAnswer
		}
		return pass
	})
	w.Bucket.Endpoint = p.URL
	wantExit(t, w.verify(t), 0, "")
	if p.count(cutAnswer) == 0 {
		t.Fatal("nothing was cut")
	}
}

// While the bucket cannot be reached, a journal acknowledges up to its limit,
// starts again, and sends all when it can.
func TestBucketAway(t *testing.T) {
	p := newProxy(t, gateway, always(pass))
	w := newWriter(t, p.URL, bucket(t, gateway, "versions"), false)
	mustClose(t, w.mustOpen(t))
	p.set(always(slowDown))
	r := w.mustOpen(t)
	r.mustAppend(t, "while away")
	if err := r.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = w.mustOpen(t)
	big := strings.Repeat("0123456789abcdef", 4096)
	for i := 0; ; i++ {
		if err := r.journal.Full(); err != nil {
			if !strings.Contains(err.Error(), "journal is full") {
				t.Error(err)
			}
			break
		}
		if i > 10000 {
			t.Fatal("the journal grows without bound")
		}
		id := make([]byte, 64<<10)
		copy(id, big)
		copy(id, fmt.Sprint(i))
		for k := range id {
			id[k] ^= byte(i * k >> 3 & 0x1f) // not to be compressed away
		}
		r.mustAppend(t, strings.ToValidUTF8(string(id), "?"))
		if i%8 == 0 {
			time.Sleep(100 * time.Millisecond)
		}
	}
	if len(r.faulted()) == 0 {
		t.Error("no fault was reported")
	}
	p.set(always(pass))
	eventually(t, "the journal is sent", func() bool { return r.journal.Full() == nil })
	mustClose(t, r)
	wantExit(t, w.verify(t), 0, "")
	if w.records(t)["while away"] != 1 {
		t.Error("what was acknowledged while the bucket was away is not in it")
	}
}

// What is in the bucket is removed from the local disk, but what recovery needs.
func TestKeepLocal(t *testing.T) {
	w := newWriter(t, gateway, bucket(t, gateway, "versions"), false)
	w.KeepLocal = 0
	local := func() int {
		names, err := os.ReadDir(filepath.Join(seal.LogDir(w.root(), origin), "segment"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	for i := range 3 {
		r := w.mustOpen(t)
		for j := range 4 {
			r.mustAppend(t, fmt.Sprint(i, j))
			time.Sleep(w.MaxAge + 50*time.Millisecond)
		}
		eventually(t, "local segments go", func() bool { return local() <= 2 })
		mustClose(t, r)
	}
	wantExit(t, w.verify(t), 0, "")
	if _, err := objectstore.Open(t.Context(), w.root()); err == nil || !strings.Contains(err.Error(), "s3://"+w.Bucket.Bucket+"/audit?") {
		t.Errorf("a journal is no store: %v", err)
	}
	// The local disk is lost, but not the keys: the log goes on.
	if err := os.RemoveAll(w.root()); err != nil {
		t.Fatal(err)
	}
	r := w.mustOpen(t)
	r.mustAppend(t, "on a new disk")
	mustClose(t, r)
	wantExit(t, w.verify(t), 0, "")
	if have := w.records(t); len(have) != 13 {
		t.Errorf("%d records, want 13", len(have))
	}
}

// Two writers with copies of the same keys, or of everything: one of them stops,
// for good.
func TestFork(t *testing.T) {
	forked := func(r *running) bool {
		err := r.Append(t.Context(), seal.SignalLogs, request("again"))
		return errors.As(err, new(*seal.ForkError)) && !errors.As(err, new(*seal.FaultError))
	}
	modes(t, func(t *testing.T, direct bool) {
		w := newWriter(t, gateway, bucket(t, gateway, "versions"), direct)
		mustClose(t, w.mustOpen(t))
		copied := *w
		copied.Dir = t.TempDir()
		if err := os.CopyFS(copied.Dir, os.DirFS(w.Dir)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{seal.LogKeyFile, seal.ChainKeyFile, "auditor.key"} {
			if err := os.Chmod(filepath.Join(copied.keys(), name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		one, two := w.mustOpen(t), copied.mustOpen(t)
		defer two.close(t.Context())
		defer one.close(t.Context())
		var late *running
		eventually(t, "one of them stops", func() bool {
			for _, r := range []*running{one, two} {
				if forked(r) {
					late = r
				}
			}
			return late != nil
		})
		if time.Sleep(100 * time.Millisecond); !forked(late) {
			t.Error("it did not stop for good")
		}
		if !errors.As(errors.Join(late.faulted()...), new(*seal.ForkError)) {
			t.Errorf("nobody was told: %v", late.faulted())
		}
	})
	t.Run("keys alone", func(t *testing.T) {
		t.Parallel()
		w := newWriter(t, gateway, bucket(t, gateway, "versions"), false)
		one := w.mustOpen(t)
		defer one.close(t.Context())
		one.mustAppend(t, "one")
		eventually(t, "it is in the bucket", func() bool { return one.journal.Pending() == 0 })
		other := *w
		other.Dir = t.TempDir()
		if err := os.Rename(w.keys(), other.keys()); err != nil {
			t.Fatal(err)
		}
		two := other.mustOpen(t) // it goes on from what is in the bucket
		two.mustAppend(t, "two")
		mustClose(t, two)
		eventually(t, "the first one stops", func() bool { return forked(one) })
	})
}

// What somebody with access to the bucket does to it is tampering.
func TestTampering(t *testing.T) {
	segment := func(n int) string {
		return fmt.Sprintf("audit/%s/segment/%020d.seal", strings.ReplaceAll(origin, "/", "%2F"), n)
	}
	for name, tc := range map[string]struct {
		tamper  func(t *testing.T, c *minio.Client, bucket string)
		finding string
	}{
		"nothing": {func(*testing.T, *minio.Client, string) {}, ""},
		"overwritten with the same": {func(t *testing.T, c *minio.Client, bucket string) {
			put(t, c, bucket, segment(1), get(t, c, bucket, segment(1)))
		}, "older versions"},
		"overwritten with another": {func(t *testing.T, c *minio.Client, bucket string) {
			b := get(t, c, bucket, segment(1))
			b[len(b)/2] ^= 1
			put(t, c, bucket, segment(1), b)
		}, "segment/00000000000000000001.seal"},
		"truncated": {func(t *testing.T, c *minio.Client, bucket string) {
			b := get(t, c, bucket, segment(1))
			put(t, c, bucket, segment(1), b[:len(b)-10])
		}, "older versions"},
		"delete marker": {func(t *testing.T, c *minio.Client, bucket string) {
			remove(t, c, bucket, segment(2), "")
		}, "delete marker"},
		"delete marker on the last": {func(t *testing.T, c *minio.Client, bucket string) {
			remove(t, c, bucket, segment(4), "")
		}, "delete marker"},
		"version removed": {func(t *testing.T, c *minio.Client, bucket string) {
			o, err := c.StatObject(t.Context(), bucket, segment(2), minio.StatObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			remove(t, c, bucket, segment(2), o.VersionID)
		}, "a segment is missing: entries 2 to 2"},
		"removed and written again": {func(t *testing.T, c *minio.Client, bucket string) {
			b := get(t, c, bucket, segment(2))
			remove(t, c, bucket, segment(2), "")
			put(t, c, bucket, segment(2), b)
		}, "delete marker"},
		"another object": {func(t *testing.T, c *minio.Client, bucket string) {
			put(t, c, bucket, "audit/"+strings.ReplaceAll(origin, "/", "%2F")+"/segment/note.txt", []byte("x"))
		}, "note.txt"},
		"another checkpoint": {func(t *testing.T, c *minio.Client, bucket string) {
			put(t, c, bucket, "audit/"+strings.ReplaceAll(origin, "/", "%2F")+"/checkpoint/00000000000000000009", []byte("x"))
		}, "the published checkpoint is malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWriter(t, gateway, bucket(t, gateway, "versions"), true)
			r := w.mustOpen(t)
			r.mustAppend(t, "a", "b", "c")
			mustClose(t, r)
			tc.tamper(t, client(t, gateway), w.Bucket.Bucket)
			if tc.finding == "" {
				wantExit(t, w.verify(t), 0, "")
				return
			}
			wantExit(t, w.verify(t), seal.ExitTampering, tc.finding)
		})
	}
}

func get(t *testing.T, c *minio.Client, bucket, key string) []byte {
	t.Helper()
	o, err := c.GetObject(t.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, c *minio.Client, bucket, key string, b []byte) {
	t.Helper()
	if _, err := c.PutObject(t.Context(), bucket, key, bytes.NewReader(b), int64(len(b)), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, c *minio.Client, bucket, key, version string) {
	t.Helper()
	if err := c.RemoveObject(t.Context(), bucket, key, minio.RemoveObjectOptions{VersionID: version}); err != nil {
		t.Fatal(err)
	}
}

// A start finds out what a bucket cannot do, and says what to do about it.
func TestProbe(t *testing.T) {
	lock := objectstore.Lock{Mode: minio.Compliance, Retain: time.Hour}
	probe := func(cfg objectstore.Config) error {
		b, err := objectstore.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		return b.Probe()
	}
	lies := liar(t)
	for name, tc := range map[string]struct {
		cfg     objectstore.Config
		refused string // "": it is fine
	}{
		"locks":             {objectstore.Config{Endpoint: gateway, Bucket: bucket(t, gateway, "lock"), Lock: lock}, ""},
		"governance":        {objectstore.Config{Endpoint: gateway, Bucket: bucket(t, gateway, "lock"), Lock: objectstore.Lock{Mode: minio.Governance, Retain: time.Hour}}, ""},
		"versions, no lock": {objectstore.Config{Endpoint: gateway, Bucket: bucket(t, gateway, "versions")}, ""},
		"plain, no lock":    {objectstore.Config{Endpoint: gateway, Bucket: bucket(t, gateway, "plain")}, ""},
		"unversioned":       {objectstore.Config{Endpoint: gateway, Bucket: bucket(t, gateway, "plain"), Lock: lock}, "versioning is off"},
		"no object lock":    {objectstore.Config{Endpoint: gateway, Bucket: bucket(t, gateway, "versions"), Lock: lock}, "has no object lock"},
		"a liar":            {objectstore.Config{Endpoint: lies, Bucket: bucket(t, lies, "versions"), Lock: lock}, "does not enforce"},
		"no bucket":         {objectstore.Config{Endpoint: gateway, Bucket: "not-there"}, "there is no bucket not-there"},
		"unknown key":       {objectstore.Config{Endpoint: newProxy(t, gateway, func(*http.Request) action { return expired }).URL, Bucket: "audit"}, "have expired"},
		"wrong region":      {objectstore.Config{Endpoint: gateway, Bucket: bucket(t, gateway, "lock"), Region: "eu-north-1"}, "not in region"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.cfg.PathStyle = true
			err := probe(tc.cfg)
			if tc.refused == "" && err != nil || tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)) {
				t.Errorf("probe says %v, want %q", err, tc.refused)
			}
			if tc.refused != "" && name != "unknown key" && !errors.As(err, new(*objectstore.RefusedError)) {
				t.Errorf("%v is not for good", err)
			}
		})
	}
}

// A store that overwrites under If-None-Match is refused.
func TestProbeConditional(t *testing.T) {
	lies := liar(t) // it checks no signatures
	p := newProxy(t, lies, func(r *http.Request) action {
		r.Header.Del("If-None-Match")
		return pass
	})
	b, err := objectstore.New(t.Context(), objectstore.Config{Endpoint: p.URL, PathStyle: true, Bucket: bucket(t, lies, "versions")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Probe(); err == nil || !strings.Contains(err.Error(), "ignores `If-None-Match: *`") {
		t.Errorf("probe says %v", err)
	}
}

// Overwrite leaves one version; a lock prevents it, until a time that it says.
func TestOverwrite(t *testing.T) {
	cfg := objectstore.Config{Endpoint: gateway, PathStyle: true, Bucket: bucket(t, gateway, "lock"), Prefix: "p"}
	b, err := objectstore.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	create := func(b *objectstore.Bucket, name, content string) error {
		return b.Create(name, strings.NewReader(content), int64(len(content)))
	}
	if err := create(b, "x/free", "one"); err != nil {
		t.Fatal(err)
	}
	if err := create(b, "x/free", "one"); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := create(b, "x/free", "two"); !errors.As(err, new(*seal.ForkError)) {
		t.Errorf("another: %v", err)
	}
	for range 2 {
		if err := b.Overwrite("x/free", []byte("000")); err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.OpenFile("x/free", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(f); string(content) != "000" || err != nil {
		t.Errorf("it is %q: %v", content, err)
	}
	cfg.Lock = objectstore.Lock{Mode: minio.Compliance, Retain: time.Hour}
	locking, err := objectstore.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer locking.Close()
	if err := create(locking, "x/locked", "one"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"overwrite": b.Overwrite("x/locked", []byte("000")), "remove": b.Remove("x/locked")} {
		var locked *seal.LockedError
		if !errors.As(err, &locked) || time.Until(locked.Until) < 50*time.Minute {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := b.Remove("x/free"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat("x/free"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	if err := b.Strays(".", func(name, what string) { t.Errorf("%s: %s", name, what) }); err != nil {
		t.Fatal(err)
	}
}

// Retention removes from the bucket what the order that is in it says, and what
// no lock keeps.
func TestPrune(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		w := newWriter(t, gateway, bucket(t, gateway, "lock"), direct)
		for i := range 3 {
			r := w.mustOpen(t)
			for j := range 100 {
				r.mustAppend(t, fmt.Sprint(i, j))
			}
			mustClose(t, r)
		}
		w.Retention = seal.Retention{MaxBytes: 1}
		r := w.mustOpen(t) // prunes all but its own epoch, as far as there are full tiles
		r.mustAppend(t, "last")
		if !direct {
			time.Sleep(w.MaxAge)
			eventually(t, "the journal is sent", func() bool { return r.journal.Pending() == 0 })
			time.Sleep(2 * time.Second) // and what was pruned removed
		}
		mustClose(t, r)
		wantExit(t, w.verify(t), 0, "were pruned")
		have := w.records(t)
		if have["0 0"] != 0 || have["last"] != 1 {
			t.Errorf("after pruning: %d records, %v", len(have), have["0 0"])
		}
	})
	t.Run("locked", func(t *testing.T) {
		w := newWriter(t, gateway, bucket(t, gateway, "lock"), true)
		w.Bucket.Lock = objectstore.Lock{Mode: minio.Compliance, Retain: time.Hour}
		for i := range 2 {
			r := w.mustOpen(t)
			r.mustAppend(t, fmt.Sprint(i))
			mustClose(t, r)
		}
		w.Retention = seal.Retention{MaxBytes: 1}
		r := w.mustOpen(t)
		r.mustAppend(t, "last")
		mustClose(t, r)
		var locked *seal.LockedError
		if !errors.As(errors.Join(r.faulted()...), &locked) {
			t.Errorf("nobody says what the lock keeps: %v", r.faulted())
		}
		wantExit(t, w.verify(t), 0, "")
		if have := w.records(t); len(have) != 3 {
			t.Errorf("%d records, want 3", len(have))
		}
	})
}

// Cosigned checkpoints are in the bucket, each once, and a record is proven under
// the newest one.
func TestWitnessed(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		w := newWriter(t, gateway, bucket(t, gateway, "versions"), direct)
		trustFile := filepath.Join(w.keys(), seal.TrustFile)
		trust, err := seal.ReadTrust(trustFile)
		if err != nil {
			t.Fatal(err)
		}
		key, err := seal.GenerateWitnessKey("example.org/witness")
		if err != nil {
			t.Fatal(err)
		}
		other, err := witness.Open(witness.Config{Key: key, Logs: trust, State: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(other)
		defer other.Close()
		defer server.Close()
		one, err := seal.NewWitness(key.VerifierKey(), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if w.witnesses, err = seal.NewWitnessPolicy([]seal.Witness{one}, 1); err != nil {
			t.Fatal(err)
		}
		store, err := objectstore.Open(t.Context(), w.Bucket.Name())
		if err != nil {
			t.Fatal(err)
		}
		checkpoints := func() int {
			names, err := store.FS.ReadDir(filepath.Join(seal.LogDir(".", origin), "checkpoint"))
			if err != nil {
				t.Fatal(err)
			}
			return len(names)
		}
		for range 2 {
			r := w.mustOpen(t)
			r.mustAppend(t, "a", "b")
			before := checkpoints()
			eventually(t, "a cosigned checkpoint is in the bucket", func() bool { return checkpoints() > before })
			mustClose(t, r)
		}
		b, err := os.ReadFile(trustFile)
		if err == nil {
			err = os.WriteFile(trustFile, []byte(string(b)+"witness "+key.VerifierKey()+" "+server.URL+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		report := w.verify(t)
		wantExit(t, report, 0, "")
		if a := report.Logs[0].Axis(seal.Witnessed); a != seal.Note {
			t.Errorf("witnessed: %v\n%s", a, strings.Join(findings(report), "\n"))
		}
		l, err := store.OpenLog(origin)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := l.Prove(t.Context(), 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := seal.CheckProof(proof, trust); err != nil || bytes.Count(proof, []byte("\n— ")) < 2 {
			t.Errorf("the proof is not under a cosigned checkpoint: %v\n%s", err, proof)
		}
	})
}

// Tail finds the end of a directory of any size in few requests.
func TestTail(t *testing.T) {
	p := newProxy(t, liar(t), always(pass))
	b, err := objectstore.New(t.Context(), objectstore.Config{Endpoint: p.URL, PathStyle: true, Bucket: bucket(t, p.URL, "plain"), Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n := 0
	for _, size := range []int{0, 1, 999, 1000, 1001, 3500} {
		for ; n < size; n++ {
			if err := b.Create(fmt.Sprintf("d/%020d.seal", n*37), strings.NewReader(""), 0); err != nil {
				t.Fatal(err)
			}
		}
		before := p.count(pass)
		names, err := b.Tail("d")
		if err != nil {
			t.Fatal(err)
		}
		last := ""
		if len(names) > 0 {
			last = names[len(names)-1].Name()
		}
		if want := fmt.Sprintf("%020d.seal", (n-1)*37); n > 0 && last != want {
			t.Errorf("of %d the last is %q, want %q", n, last, want)
		}
		if asked := p.count(pass) - before; asked > 30 {
			t.Errorf("%d requests for the last of %d", asked, n)
		}
		if all, err := b.ReadDir("d"); err != nil || len(all) != n {
			t.Errorf("ReadDir lists %d of %d: %v", len(all), n, err)
		}
	}
}
