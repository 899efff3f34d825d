// Package s3 tests sealed logs in object stores against servers that are not
// ours: versitygw, with versions, locks and conditional writes, and gofakes3,
// which accepts locks and does not enforce them; with a proxy between that
// fails as networks and stores do. It is a module of its own to keep the servers
// out of what users pull in.
package s3

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

const (
	origin = "example.org/meshaudit/edge-0"
	access = "test"
	secret = "testsecret"
)

var gateway string // versitygw's URL

func TestMain(m *testing.M) {
	os.Setenv("AWS_ACCESS_KEY_ID", access)
	os.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	for _, v := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"} {
		os.Unsetenv(v)
	}
	if child := os.Getenv("MESHAUDIT_S3_WRITER"); child != "" {
		os.Exit(childWriter(child))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "s3")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "versitygw")
	build := exec.Command("go", "build", "-o", binary, "github.com/versity/versitygw/cmd/versitygw")
	build.Dir = "versitygw"
	fmt.Println("building versitygw (from a cold cache: some minutes)")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build versitygw: %v\n%s", err, out)
		return 1
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr := l.Addr().String()
	l.Close()
	for _, d := range []string{"data", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			panic(err)
		}
	}
	server := exec.Command(binary, "--port", addr, "--quiet", "posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
	server.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+access, "ROOT_SECRET_KEY="+secret)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		panic(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	gateway = "http://" + addr
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "versitygw does not start")
			return 1
		}
	}
	return m.Run()
}

func client(t testing.TB, endpoint string) *minio.Client {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(access, secret, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var buckets atomic.Int32

// bucket makes a bucket: with versions and locks, with versions, or plain.
func bucket(t testing.TB, endpoint, kind string) string {
	t.Helper()
	name := fmt.Sprintf("audit-%d-%d", os.Getpid(), buckets.Add(1))
	c := client(t, endpoint)
	if err := c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: kind == "lock"}); err != nil {
		t.Fatal(err)
	}
	if kind == "versions" {
		if err := c.EnableVersioning(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// writer is a writer's configuration, which a child process can be given too.
type writer struct {
	Dir       string             // of keys, and of the journal
	Bucket    objectstore.Config `json:"-"`
	Store     string             // the bucket's name, for a child
	Direct    bool
	KeepLocal time.Duration
	MaxAge    time.Duration
	Retention seal.Retention
	Epoch     time.Duration

	witnesses *seal.WitnessPolicy
}

func newWriter(t testing.TB, endpoint, bucket string, direct bool) *writer {
	t.Helper()
	w := &writer{Dir: t.TempDir(), Direct: direct, KeepLocal: time.Hour, MaxAge: 300 * time.Millisecond,
		Bucket: objectstore.Config{Bucket: bucket, Prefix: "audit", Endpoint: endpoint, PathStyle: true, Region: "us-east-1"}}
	if _, err := seal.CreateTrialKeys(w.keys(), origin); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *writer) keys() string { return filepath.Join(w.Dir, "keys") }
func (w *writer) root() string { return filepath.Join(w.Dir, "journal") }

// running is an open writer with what is behind it.
type running struct {
	*seal.Writer
	bucket  *objectstore.Bucket
	journal *objectstore.Journal

	mu     sync.Mutex
	faults []error
}

func (w *writer) open() (_ *running, err error) {
	r := &running{}
	fault := func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			r.faults = append(r.faults, err)
		}
	}
	cfg := seal.Config{Origin: origin, Root: w.root(), SegmentMaxAge: w.MaxAge, Retention: w.Retention, EpochMaxAge: w.Epoch, Fault: fault, Witnesses: w.witnesses, WitnessClient: &witness.Client{},
		Chain: seal.ChainFile{FS: seal.OS, Path: filepath.Join(w.keys(), seal.ChainKeyFile)}}
	if cfg.LogKey, err = seal.ReadLogKey(filepath.Join(w.keys(), seal.LogKeyFile)); err != nil {
		return nil, err
	}
	a, err := seal.ReadRecipient(filepath.Join(w.keys(), "auditor.pub"))
	if err != nil {
		return nil, err
	}
	cfg.Auditors = []seal.Recipient{a}
	bc := w.Bucket
	bc.Fault = fault
	if r.bucket, err = objectstore.New(context.Background(), bc); err != nil {
		return nil, err
	}
	if w.Direct {
		if err := r.bucket.Probe(); err != nil {
			return nil, err
		}
		cfg.FS, cfg.Root, cfg.Linger = r.bucket, ".", 20*time.Millisecond
	} else {
		if r.journal, err = objectstore.NewJournal(objectstore.JournalConfig{Root: cfg.Root, Origin: origin, Bucket: r.bucket,
			KeepLocal: w.KeepLocal, MaxBytes: 1 << 20, Fault: fault, Uploaded: func(int64) {}}); err != nil {
			return nil, err
		}
		cfg.FS = r.journal
	}
	if r.Writer, err = seal.Open(cfg); err != nil {
		r.bucket.Close()
		return nil, err
	}
	if r.journal != nil {
		r.journal.Start(r.Closed, r.Stop)
	}
	return r, nil
}

func (r *running) close(ctx context.Context) error {
	err := r.Writer.Close(ctx)
	if r.journal != nil {
		err = errors.Join(err, r.journal.Close(ctx))
	}
	r.bucket.Close()
	return err
}

func (r *running) faulted() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.faults
}

func (w *writer) mustOpen(t testing.TB) *running {
	t.Helper()
	r, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustClose(t testing.TB, r *running) {
	t.Helper()
	if err := r.close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func request(id string) []byte {
	l := plog.NewLogs()
	lr := l.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.SetTimestamp(1763856000000000000)
	lr.Attributes().PutStr("audit.record.id", id)
	b, err := plogotlp.NewExportRequestFromLogs(l).MarshalProto()
	if err != nil {
		panic(err)
	}
	return b
}

func (r *running) mustAppend(t testing.TB, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := r.Append(t.Context(), seal.SignalLogs, request(id)); err != nil {
			t.Fatal(err)
		}
	}
}

// verify verifies what is in the bucket, by its name.
func (w *writer) verify(t testing.TB) *seal.Report {
	t.Helper()
	store, err := objectstore.Open(t.Context(), w.Bucket.Name())
	if err != nil {
		t.Fatal(err)
	}
	trust, err := seal.ReadTrust(filepath.Join(w.keys(), seal.TrustFile))
	if err != nil {
		t.Fatal(err)
	}
	auditor, err := seal.ReadAuditorKey(filepath.Join(w.keys(), "auditor.key"))
	if err != nil {
		t.Fatal(err)
	}
	report, err := store.Verify(t.Context(), seal.VerifyOptions{Trust: trust, Auditor: &auditor})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func findings(r *seal.Report) (all []string) {
	for _, f := range r.Findings {
		all = append(all, f.String())
	}
	for _, l := range r.Logs {
		for _, f := range l.Findings {
			all = append(all, f.String())
		}
	}
	return all
}

func wantExit(t testing.TB, r *seal.Report, code int, finding string) {
	t.Helper()
	all := strings.Join(findings(r), "\n")
	if r.ExitCode() != code || !strings.Contains(all, finding) {
		t.Errorf("verify: exit %d, want %d with %q; findings:\n%s", r.ExitCode(), code, finding, all)
	}
}

// records counts the records in the bucket by id.
func (w *writer) records(t testing.TB) map[string]int {
	t.Helper()
	store, err := objectstore.Open(t.Context(), w.Bucket.Name())
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.OpenLog(origin)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]int{}
	if err := l.Entries(t.Context(), nil, func(e *seal.Entry) error {
		if e.Kind != seal.KindBatch {
			return nil
		}
		_, msg, err := e.Body()
		if err != nil {
			return err
		}
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(msg); err != nil {
			return err
		}
		for _, rl := range req.Logs().ResourceLogs().All() {
			for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
				id, _ := lr.Attributes().Get("audit.record.id")
				have[id.Str()]++
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return have
}

// childWriter appends until it is killed, and prints what was acknowledged.
func childWriter(config string) int {
	var w writer
	if err := json.Unmarshal([]byte(config), &w); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if w.Bucket, err = objectstore.ParseName(w.Store); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r, err := w.open()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for n := 0; ; n++ {
		id := fmt.Sprintf("%d-%d", os.Getpid(), n)
		if err := r.Append(context.Background(), seal.SignalLogs, request(id)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(id)
	}
}

// killed runs a child and kills it after some time; it returns what the child
// was told is sealed.
func (w *writer) killed(t testing.TB, after time.Duration) (acked []string) {
	t.Helper()
	w.Store = w.Bucket.Name()
	config, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MESHAUDIT_S3_WRITER="+string(config))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if len(acked) == 0 {
			time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
		acked = append(acked, lines.Text())
	}
	err = cmd.Wait()
	if len(acked) == 0 || stderr.Len() > 0 {
		t.Fatalf("the child ended by itself: %v: %s", err, stderr.String())
	}
	return acked
}

// proxy is between a writer and a server. Its rule decides what happens to a
// request.
type proxy struct {
	*httptest.Server
	mu     sync.Mutex
	rule   func(*http.Request) action
	counts map[action]int
}

type action int

const (
	pass      action = iota
	fail             // 500, and nothing happens
	slowDown         // 503 SlowDown
	lose             // it takes effect, the answer does not arrive
	expired          // 403 ExpiredToken
	cutAnswer        // half of the body arrives
)

func newProxy(t testing.TB, target string, rule func(*http.Request) action) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{rule: rule, counts: map[action]int{}}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Host = r.In.Host // it is signed
	}, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { w.WriteHeader(http.StatusBadGateway) }}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		a := p.rule(r)
		p.counts[a]++
		p.mu.Unlock()
		answer := func(status int, code string) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(status)
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>by the test</Message></Error>", code)
		}
		switch a {
		case fail:
			answer(http.StatusInternalServerError, "InternalError")
		case slowDown:
			answer(http.StatusServiceUnavailable, "SlowDown")
		case expired:
			answer(http.StatusForbidden, "ExpiredToken")
		case lose:
			forward.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case cutAnswer:
			rec := httptest.NewRecorder()
			forward.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			panic(http.ErrAbortHandler)
		default:
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) set(rule func(*http.Request) action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

func (p *proxy) count(a action) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[a]
}

func always(a action) func(*http.Request) action { return func(*http.Request) action { return a } }

// liar is gofakes3: it takes locks, and removes locked versions.
func liar(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	t.Cleanup(s.Close)
	return s.URL
}

func isSegmentPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/segment/")
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
