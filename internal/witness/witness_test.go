package witness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/meshaudit/meshaudit/seal"
)

const origin = "example.org/meshaudit/edge-0"

// testLog is a log of nothing but leaves, to make checkpoints and proofs of.
type testLog struct {
	origin string
	signer note.Signer
	vkey   string
	hashes []tlog.Hash
	n      int64
}

func newTestLog(t testing.TB, origin string) *testLog {
	t.Helper()
	skey, vkey, err := seal.GenerateLogKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return &testLog{origin: origin, signer: s, vkey: vkey}
}

func (l *testLog) ReadHashes(is []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(is))
	for i, x := range is {
		out[i] = l.hashes[x]
	}
	return out, nil
}

func (l *testLog) grow(t testing.TB, what string, n int) {
	t.Helper()
	for i := range n {
		hs, err := tlog.StoredHashes(l.n, fmt.Append(nil, what, i), l)
		if err != nil {
			t.Fatal(err)
		}
		l.hashes = append(l.hashes, hs...)
		l.n++
	}
}

func (l *testLog) checkpoint(t testing.TB, size int64, extra string, signers ...note.Signer) []byte {
	t.Helper()
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		t.Fatal(err)
	}
	if signers == nil {
		signers = []note.Signer{l.signer}
	}
	b, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n%s", l.origin, size, root, extra)}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (l *testLog) proof(t testing.TB, size, old int64) []seal.Hash {
	t.Helper()
	if old == 0 || old == size {
		return nil
	}
	p, err := tlog.ProveTree(size, old, l)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]seal.Hash, len(p))
	for i := range p {
		out[i] = seal.Hash(p[i])
	}
	return out
}

func (l *testLog) request(t testing.TB, old, size int64) []byte {
	return encodeRequest(uint64(old), l.proof(t, size, old), l.checkpoint(t, size, ""))
}

func newKey(t testing.TB) *seal.WitnessKey {
	t.Helper()
	k, err := seal.GenerateWitnessKey("example.org/witness")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func open(t testing.TB, cfg Config) *Witness {
	t.Helper()
	w, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func trustOf(t testing.TB, lines ...string) *seal.Trust {
	t.Helper()
	tr, err := seal.ParseTrust([]byte(strings.Join(lines, "\n") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func post(t testing.TB, w http.Handler, body []byte) (int, string, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(body)))
	return rec.Code, rec.Header().Get("Content-Type"), rec.Body.String()
}

// Every answer that C2SP tlog-witness names, on one life of a log.
func TestAddCheckpoint(t *testing.T) {
	key, l, other := newKey(t), newTestLog(t, origin), newTestLog(t, "example.org/unknown")
	forked := &testLog{origin: origin, signer: l.signer}
	l.grow(t, "leaf", 300)
	forked.grow(t, "leaf", 5)
	forked.grow(t, "fork", 300)
	other.grow(t, "leaf", 9)
	stranger := newTestLog(t, origin)
	w := open(t, Config{Key: key, Logs: trustOf(t, "log "+l.vkey), State: t.TempDir()})
	forgedSignature := l.checkpoint(t, 10, "")
	text, _, _ := bytes.Cut(forgedSignature, []byte("\n\n"))
	_, sig, _ := bytes.Cut(l.checkpoint(t, 9, ""), []byte("\n\n"))
	forgedSignature = append(append(text, "\n\n"...), sig...)
	garbled := l.request(t, 10, 200)
	garbled[bytes.IndexByte(garbled, '\n')+3] ^= 1

	for _, step := range []struct {
		name string
		body []byte
		want int
		text string
	}{
		{"malformed", []byte("old x\n\n"), 400, ""},
		{"empty", nil, 400, ""},
		{"no checkpoint", []byte("old 0\n\n"), 404, ""},
		{"too long a proof", encodeRequest(0, make([]seal.Hash, 64), l.checkpoint(t, 10, "")), 400, ""},
		{"unknown log", other.request(t, 0, 9), 404, ""},
		{"unknown key", encodeRequest(0, nil, l.checkpoint(t, 10, "", stranger.signer)), 403, ""},
		{"signature of another checkpoint", encodeRequest(0, nil, forgedSignature), 403, ""},
		{"old larger than new", encodeRequest(11, nil, l.checkpoint(t, 10, "")), 400, ""},
		{"never seen, from a size", l.request(t, 5, 10), 409, "0\n"},
		{"proof from nothing", encodeRequest(0, make([]seal.Hash, 1), l.checkpoint(t, 10, "")), 422, ""},
		{"first", l.request(t, 0, 10), 200, "— example.org/witness "},
		{"the same again", l.request(t, 10, 10), 200, "— example.org/witness "},
		{"from nothing again", l.request(t, 0, 10), 409, "10\n"},
		{"backwards", l.request(t, 5, 9), 409, "10\n"},
		{"a proof between equals", encodeRequest(10, make([]seal.Hash, 1), l.checkpoint(t, 10, "")), 422, ""},
		{"a fork of the same size", encodeRequest(10, nil, forked.checkpoint(t, 10, "")), 422, ""},
		{"a fork", forked.request(t, 10, 200), 422, ""},
		{"no proof", encodeRequest(10, nil, l.checkpoint(t, 200, "")), 422, ""},
		{"a garbled proof", garbled, 422, ""},
		{"two signatures, one unknown", encodeRequest(10, l.proof(t, 200, 10), l.checkpoint(t, 200, "", stranger.signer, l.signer)), 200, "— example.org/witness "},
		{"with an extension line", encodeRequest(200, l.proof(t, 300, 200), l.checkpoint(t, 300, "extension\n")), 200, "— example.org/witness "},
	} {
		code, ctype, text := post(t, w, step.body)
		if code != step.want || !strings.HasPrefix(text, step.text) {
			t.Errorf("%s: %d %q, want %d %q", step.name, code, text, step.want, step.text)
		}
		if code == 409 && ctype != "text/x.tlog.size" {
			t.Errorf("%s: content type %q", step.name, ctype)
		}
	}
	if code, _, _ := post(t, w, make([]byte, maxRequestBytes+1)); code != 400 {
		t.Errorf("too large a request: %d", code)
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/add-checkpoint", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET add-checkpoint: %d", rec.Code)
	}
	// What it cosigned last can be had, with both signatures.
	rec = httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/"+originHash(origin)+"/checkpoint", nil))
	v, err := note.NewVerifier(l.vkey)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(rec.Body.Bytes(), note.VerifierList(v, key)); err != nil || len(n.Sigs) != 2 {
		t.Errorf("its checkpoint: %v\n%s", err, rec.Body)
	}
}

func TestKeyRotation(t *testing.T) {
	l, next := newTestLog(t, origin), newTestLog(t, origin)
	l.grow(t, "leaf", 100)
	w := open(t, Config{Key: newKey(t), Logs: trustOf(t, "log "+l.vkey+" until 50", "log "+next.vkey), State: t.TempDir()})
	for _, step := range []struct {
		old, size int64
		by        note.Signer
		want      int
	}{{0, 40, l.signer, 200}, {40, 60, l.signer, 403}, {40, 60, next.signer, 200}} {
		code, _, text := post(t, w, encodeRequest(uint64(step.old), l.proof(t, step.size, step.old), l.checkpoint(t, step.size, "", step.by)))
		if code != step.want {
			t.Errorf("%d → %d: %d %s", step.old, step.size, code, text)
		}
	}
}

// Two writers race for every size: the witness follows one of them.
func TestConcurrentForks(t *testing.T) {
	key, l := newKey(t), newTestLog(t, origin)
	l.grow(t, "common", 1)
	forked := &testLog{origin: origin, signer: l.signer, hashes: l.hashes[:1:1], n: 1}
	l.grow(t, "one", 200)
	forked.grow(t, "two", 200)
	w := open(t, Config{Key: key, Logs: trustOf(t, "log "+l.vkey), State: t.TempDir()})
	if code, _, text := post(t, w, l.request(t, 0, 1)); code != 200 {
		t.Fatal(text)
	}
	var mu sync.Mutex
	cosigned := map[*testLog]int64{}
	var wg sync.WaitGroup
	for _, lo := range []*testLog{l, forked} {
		for g := range 4 {
			wg.Go(func() {
				old := int64(1)
				for size := int64(2 + g); size <= 200; size += 1 + int64(g) {
					if size < old {
						continue
					}
					code, _, text := post(t, w, lo.request(t, old, size))
					switch code {
					case 200:
						old = size
						mu.Lock()
						cosigned[lo] = max(cosigned[lo], size)
						mu.Unlock()
					case 409:
						fmt.Sscan(text, &old)
					}
				}
			})
		}
	}
	wg.Wait()
	if (cosigned[l] > 0) == (cosigned[forked] > 0) {
		t.Fatalf("both histories were cosigned, or none: %d and %d", cosigned[l], cosigned[forked])
	}
}

func TestSilence(t *testing.T) {
	now := time.Unix(1700000000, 0)
	l, quiet := newTestLog(t, origin), newTestLog(t, "example.org/never")
	l.grow(t, "leaf", 20)
	var told []string
	cfg := Config{Key: newKey(t), Logs: trustOf(t, "log "+l.vkey, "log "+quiet.vkey), State: t.TempDir(), SilentAfter: time.Minute,
		Now: func() time.Time { return now }, Changed: func(s Status) { told = append(told, s.Origin+" "+s.State) }}
	w := open(t, cfg)
	post(t, w, l.request(t, 0, 10))
	states := func() string {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/status", nil))
		var r Report
		if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		s := ""
		for _, l := range r.Logs {
			s += l.State + " "
		}
		return s
	}
	expect := func(want string, say ...string) {
		t.Helper()
		told = nil
		w.look()
		if got := states(); got != want || fmt.Sprint(told) != fmt.Sprint(say) {
			t.Fatalf("%q, told %v; want %q, %v", got, told, want, say)
		}
	}
	expect("current unseen ")
	now = now.Add(50 * time.Second)
	if code, _, _ := post(t, w, l.request(t, 10, 10)); code != 200 {
		t.Fatal(code) // anybody can submit it again: that is no sign of life
	}
	now = now.Add(20 * time.Second)
	expect("silent unseen ", origin+" silent", "example.org/never unseen")
	expect("silent unseen ")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = open(t, cfg)
	expect("silent unseen ", origin+" silent") // also after a restart
	post(t, w, l.request(t, 10, 20))
	expect("current unseen ", origin+" current")
}

func TestOpenRefuses(t *testing.T) {
	l, dir, key := newTestLog(t, origin), t.TempDir(), newKey(t)
	l.grow(t, "leaf", 20)
	cfg := Config{Key: key, Logs: trustOf(t, "log "+l.vkey), State: dir}
	w := open(t, cfg)
	post(t, w, l.request(t, 0, 10))
	if _, err := Open(cfg); err == nil {
		t.Fatal("two witnesses on one state")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := w.file(w.logs[origin])
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{"altered": bytes.Replace(good, []byte("\n10\n"), []byte("\n9\n"), 1), "empty": {}, "cut": good[:len(good)-20],
		"another witness's": []byte(string(l.checkpoint(t, 5, "")) + newKey(t).Cosign("x\n", time.Now()))} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s: a state that is not this witness's was taken", what)
		}
	}
}

// crashFS is a real directory on which everything ends at the n-th operation
// that changes something; what was durable then can be had as another one.
type crashFS struct {
	seal.FS
	dir     string
	at, ops int
	durable map[string]string // by name
	synced  map[string]string // contents of files whose name may not be durable
}

var errPower = errors.New("power is gone")

func (c *crashFS) op() error {
	if c.ops++; c.at > 0 && c.ops >= c.at {
		return errPower
	}
	return nil
}

type crashFile struct {
	seal.File
	fs   *crashFS
	name string
}

func (c *crashFS) OpenFile(name string, flag int, perm fs.FileMode) (seal.File, error) {
	if flag&os.O_CREATE != 0 {
		if err := c.op(); err != nil {
			return nil, err
		}
	}
	f, err := c.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &crashFile{f, c, name}, nil
}

func (f *crashFile) Write(b []byte) (int, error) {
	if err := f.fs.op(); err != nil {
		return 0, err
	}
	return f.File.Write(b)
}

func (f *crashFile) Sync() error {
	if err := f.fs.op(); err != nil {
		return err
	}
	b, err := os.ReadFile(f.name)
	f.fs.synced[f.name] = string(b)
	return err
}

func (c *crashFS) Rename(o, n string) error {
	if err := c.op(); err != nil {
		return err
	}
	c.synced[n] = c.synced[o] // what was not synced is empty after a crash
	delete(c.synced, o)
	return c.FS.Rename(o, n)
}

func (c *crashFS) SyncDir(string) error {
	if err := c.op(); err != nil {
		return err
	}
	for n, b := range c.synced {
		if _, err := os.Stat(n); err == nil {
			c.durable[n] = b
		}
	}
	return nil
}

// afterCrash lays out what is left: names that were not made durable are there
// or not.
func (c *crashFS) afterCrash(t *testing.T, lucky bool) string {
	dir := t.TempDir()
	left := c.durable
	if lucky {
		left = map[string]string{}
		for n, b := range c.durable {
			left[n] = b
		}
		for n, b := range c.synced {
			left[n] = b
		}
	}
	for n, b := range left {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(n)), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Power is cut at every operation: what was cosigned before is never forgotten,
// and never contradicted.
func TestCrashAtEveryOperation(t *testing.T) {
	key, l := newKey(t), newTestLog(t, origin)
	l.grow(t, "common", 5)
	forked := &testLog{origin: origin, signer: l.signer, hashes: append([]tlog.Hash(nil), l.hashes...), n: 5}
	l.grow(t, "one", 50)
	forked.grow(t, "two", 50)
	trust := trustOf(t, "log "+l.vkey)
	for at := 1; ; at++ {
		finished := false
		for _, lucky := range []bool{false, true} {
			c := &crashFS{FS: seal.OS, dir: t.TempDir(), at: at, durable: map[string]string{}, synced: map[string]string{}}
			cosigned := int64(0)
			w, err := Open(Config{Key: key, Logs: trust, State: c.dir, FS: c})
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int64{3, 8, 20} {
				code, _, _ := post(t, w, l.request(t, cosigned, size))
				if code != 200 {
					break
				}
				cosigned = size
			}
			finished = cosigned == 20
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w = open(t, Config{Key: key, Logs: trust, State: c.afterCrash(t, lucky)})
			got := w.Report().Logs[0].Size
			if int64(got) < cosigned {
				t.Fatalf("operation %d, lucky %v: %d entries were cosigned, and it remembers %d", at, lucky, cosigned, got)
			}
			if cosigned > 5 {
				if code, _, _ := post(t, w, forked.request(t, int64(got), 40)); code != 422 {
					t.Fatalf("operation %d, lucky %v: a fork was answered %d", at, lucky, code)
				}
			}
			if code, _, text := post(t, w, l.request(t, int64(got), 40)); code != 200 {
				t.Fatalf("operation %d, lucky %v: the log itself was answered %d %s", at, lucky, code, text)
			}
		}
		if finished {
			break
		}
	}
}

// The client: bounded, and every answer told apart.
func TestClient(t *testing.T) {
	answer := func(rw http.ResponseWriter, r *http.Request) {}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { answer(rw, r) }))
	defer srv.Close()
	w, err := seal.NewWitness(newKey(t).VerifierKey(), srv.URL+"/prefix/")
	if err != nil {
		t.Fatal(err)
	}
	c, ctx := &Client{}, context.Background()
	for _, tc := range []struct {
		status int
		body   string
		want   string
	}{
		{200, "— a b\n", ""}, {409, "12\n", "*seal.WitnessConflict"}, {409, "012\n", "*seal.WitnessRefusal"}, {409, "", "*seal.WitnessRefusal"},
		{403, "no", "*seal.WitnessRefusal"}, {500, "", "*seal.WitnessRefusal"}, {200, strings.Repeat("x", maxResponseBytes+1), "*errors.errorString"},
	} {
		answer = func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/prefix/add-checkpoint" || r.Method != http.MethodPost {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			rw.WriteHeader(tc.status)
			_, _ = io.WriteString(rw, tc.body)
		}
		b, err := c.AddCheckpoint(ctx, &w, 3, nil, []byte("checkpoint"))
		if got := strings.Replace(fmt.Sprintf("%T", err), "*fmt.wrapError", "*errors.errorString", 1); err != nil && got != tc.want && tc.want != "*errors.errorString" || (err == nil) != (tc.want == "") || err == nil && string(b) != tc.body {
			t.Errorf("%d %.20q: %q, %v", tc.status, tc.body, b, err)
		}
	}
	answer = func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/prefix/"+originHash(origin)+"/checkpoint" {
			t.Errorf("%s", r.URL)
		}
		http.NotFound(rw, r)
	}
	if _, err := c.Checkpoint(ctx, &w, origin); !errors.Is(err, seal.ErrUnseen) {
		t.Errorf("nothing seen: %v", err)
	}
	answer = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := c.Checkpoint(short, &w, origin); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	l := newTestLog(f, origin)
	l.grow(f, "leaf", 20)
	f.Add(l.request(f, 0, 10))
	f.Add(l.request(f, 7, 20))
	f.Add([]byte("old 0\n\n"))
	f.Add([]byte("old 1\nAAAA\n\nx\n1\n\n"))
	w, err := Open(Config{Key: newKey(f), Logs: trustOf(f, "log "+l.vkey), State: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRequest(b); err == nil && !bytes.Equal(encodeRequest(r.old, r.proof, r.checkpoint), b) {
			t.Fatal("a request has two texts")
		}
		_, _ = w.add(b)
	})
}
