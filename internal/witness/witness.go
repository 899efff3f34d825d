// Package witness is both sides of C2SP tlog-witness: a client, with which a
// sealed log's writer has its checkpoints cosigned and a verifier asks what was
// seen, and a witness.
//
// A witness promises, for each log that it knows, that every checkpoint it
// cosigns continues the one that it cosigned before. What it promises is on its
// disk before the cosignature leaves: a crash cannot make it contradict itself.
// Two witnesses of one key, and a state that was restored from a copy, can.
package witness

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/meshaudit/meshaudit/seal"
)

// Config says what a witness watches.
type Config struct {
	Key   *seal.WitnessKey
	Logs  *seal.Trust // its `log` lines; several keys of a log may be known
	State string      // directory that keeps what was cosigned

	// SilentAfter is how long a log may show nothing new before it is
	// reported. 0: 5 minutes.
	SilentAfter time.Duration

	// Changed, if set, is told when a log falls silent and when it is heard
	// of again.
	Changed func(Status)

	FS  seal.FS          // nil: seal.OS
	Now func() time.Time // nil: time.Now
}

// Witness cosigns checkpoints of the logs that it knows. It is an http.Handler.
type Witness struct {
	cfg  Config
	lock io.Closer
	mux  *http.ServeMux
	logs map[string]*log // by origin; never changes

	began time.Time
}

// log is what a witness knows of one log.
type log struct {
	origin    string
	verifiers []note.Verifier
	until     map[uint32]uint64 // by key hash

	mu     sync.Mutex // held from the comparison until the answer is durable
	size   uint64
	root   seal.Hash
	note   []byte    // as served; nil: never cosigned
	grown  time.Time // when it first had this size
	silent bool      // as last reported
}

// Open starts a witness on its state.
func Open(cfg Config) (*Witness, error) {
	if cfg.FS == nil {
		cfg.FS = seal.OS
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SilentAfter == 0 {
		cfg.SilentAfter = 5 * time.Minute
	}
	if len(cfg.Logs.Keys) == 0 {
		return nil, errors.New("no log is known: give the `log` lines that meshaudit keygen writer printed")
	}
	if err := cfg.FS.MkdirAll(cfg.State, 0o700); err != nil {
		return nil, err
	}
	w := &Witness{cfg: cfg, logs: map[string]*log{}, mux: http.NewServeMux(), began: cfg.Now()}
	var err error
	if w.lock, err = cfg.FS.Lock(filepath.Join(cfg.State, "lock")); err != nil {
		return nil, fmt.Errorf("%s: %w: two witnesses of one key could contradict each other", cfg.State, err)
	}
	if err := w.load(); err != nil {
		return nil, errors.Join(err, w.lock.Close())
	}
	w.mux.HandleFunc("POST /add-checkpoint", w.serveAdd)
	w.mux.HandleFunc("GET /{origin}/checkpoint", w.serveCheckpoint)
	w.mux.HandleFunc("GET /status", w.serveStatus)
	return w, nil
}

// Close lets another process have the state.
func (w *Witness) Close() error { return w.lock.Close() }

func (w *Witness) load() error {
	for _, k := range w.cfg.Logs.Keys {
		v, err := note.NewVerifier(k.VerifierKey)
		if err != nil {
			return err
		}
		l := w.logs[k.Origin()]
		if l == nil {
			l = &log{origin: k.Origin(), until: map[uint32]uint64{}}
			w.logs[l.origin] = l
		}
		if _, twice := l.until[v.KeyHash()]; !twice {
			l.verifiers = append(l.verifiers, v)
		}
		l.until[v.KeyHash()] = max(l.until[v.KeyHash()], k.Until)
	}
	for _, l := range w.logs {
		name := w.file(l)
		b, err := readFile(w.cfg.FS, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = l.restore(b, w.cfg.Key)
		}
		if err != nil {
			return fmt.Errorf("what was cosigned of %s: %s: %w; restore it, or this witness could contradict itself", l.origin, name, err)
		}
	}
	return nil
}

func (w *Witness) file(l *log) string { return filepath.Join(w.cfg.State, originHash(l.origin)) }

func readFile(fsys seal.FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRequestBytes+1))
	if err == nil && len(b) > maxRequestBytes {
		err = errors.New("too large")
	}
	return b, err
}

// restore takes up what this witness cosigned before.
func (l *log) restore(b []byte, key *seal.WitnessKey) error {
	n, err := note.Open(b, note.VerifierList(key))
	if err != nil {
		return fmt.Errorf("not cosigned by this witness's key: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return err
	}
	if c.origin != l.origin {
		return fmt.Errorf("it is of %s", c.origin)
	}
	sig, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil {
		return err
	}
	l.size, l.root, l.note, l.grown = c.size, c.root, b, seal.CosignedAt(sig[4:])
	return nil
}

// checkpoint is any tlog-checkpoint, extension lines included.
type checkpoint struct {
	origin string
	size   uint64
	root   seal.Hash
}

func parseCheckpoint(text string) (c checkpoint, err error) {
	f := strings.SplitN(text, "\n", 4)
	if len(f) != 4 || f[0] == "" {
		return c, errors.New("a checkpoint has three lines")
	}
	size, ok := decimal(f[1])
	root, err := base64.StdEncoding.Strict().DecodeString(f[2])
	if !ok || size > math.MaxInt64 || err != nil || len(root) != sha256.Size {
		return c, errors.New("the checkpoint's size or root is malformed")
	}
	return checkpoint{f[0], size, seal.Hash(root)}, nil
}

// refusal is an answer that is no cosignature.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s", r.status, r.text) }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// conflict: the old size is not the one that was cosigned last.
type conflict uint64

func (c conflict) Error() string { return fmt.Sprintf("%d entries were cosigned", uint64(c)) }

// add is add-checkpoint: it returns the cosignature, or a *refusal or a
// conflict.
func (w *Witness) add(body []byte) (line string, err error) {
	r, err := parseRequest(body)
	if err != nil {
		return "", refuse(http.StatusBadRequest, "%v", err)
	}
	// The log is found by the first line, before any signature is checked.
	origin, _, _ := strings.Cut(string(r.checkpoint), "\n")
	l := w.logs[origin]
	if l == nil {
		return "", refuse(http.StatusNotFound, "this witness does not know the log")
	}
	n, c, err := l.open(r.checkpoint)
	if err != nil {
		return "", err
	}
	if r.old > c.size {
		return "", refuse(http.StatusBadRequest, "the old size is larger than the checkpoint's")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.old != l.size {
		return "", conflict(l.size)
	}
	if err := l.consistent(r, c); err != nil {
		return "", refuse(http.StatusUnprocessableEntity, "%v", err)
	}
	now := w.cfg.Now()
	line = w.cfg.Key.Cosign(n.Text, now)
	if c.size == l.size && l.note != nil {
		return line, nil // promised already; it is no news of the log
	}
	stored := n.Text + "\n"
	for _, s := range n.Sigs {
		b, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil {
			return "", refuse(http.StatusBadRequest, "a signature is no base64")
		}
		stored += fmt.Sprintf("— %s %s\n", s.Name, base64.StdEncoding.EncodeToString(b)) // its one canonical text
	}
	stored += line
	if err := seal.ReplaceFile(w.cfg.FS, w.file(l), []byte(stored), 0o600); err != nil {
		return "", fmt.Errorf("remember a checkpoint of %s: %w", l.origin, err)
	}
	l.size, l.root, l.note, l.grown = c.size, c.root, []byte(stored), now
	return line, nil
}

// open checks that a key of the log, good for its size, signed a checkpoint.
func (l *log) open(b []byte) (*note.Note, checkpoint, error) {
	n, err := note.Open(b, note.VerifierList(l.verifiers...))
	var invalid *note.InvalidSignatureError
	var none *note.UnverifiedNoteError
	switch {
	case errors.As(err, &none):
		return nil, checkpoint{}, refuse(http.StatusForbidden, "no key of the log that this witness trusts signed the checkpoint")
	case errors.As(err, &invalid):
		return nil, checkpoint{}, refuse(http.StatusForbidden, "a signature that bears the name of a trusted key is not its own")
	case err != nil:
		return nil, checkpoint{}, refuse(http.StatusBadRequest, "the checkpoint is no signed note")
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return nil, c, refuse(http.StatusBadRequest, "%v", err)
	}
	n.Sigs = slices.DeleteFunc(n.Sigs, func(s note.Signature) bool { return c.size > l.until[s.Hash] })
	if len(n.Sigs) == 0 {
		return nil, c, refuse(http.StatusForbidden, "the key that signed the checkpoint is not trusted for %d entries", c.size)
	}
	return n, c, nil
}

func (l *log) consistent(r *request, c checkpoint) error {
	switch {
	case c.size == 0 && c.root != sha256.Sum256(nil):
		return errors.New("an empty log has another root")
	case r.old == 0 && len(r.proof) > 0:
		return errors.New("from size 0 there is nothing to prove")
	case r.old == 0 && l.note == nil:
		return nil
	case r.old == c.size && len(r.proof) > 0:
		return errors.New("a proof between equal sizes is empty")
	case r.old == c.size && c.root != l.root:
		return errors.New("another root was cosigned for this size")
	case r.old == c.size || r.old == 0:
		return nil
	}
	p := make(tlog.TreeProof, len(r.proof))
	for i := range r.proof {
		p[i] = tlog.Hash(r.proof[i])
	}
	if tlog.CheckTree(p, int64(c.size), tlog.Hash(c.root), int64(r.old), tlog.Hash(l.root)) != nil {
		return errors.New("the consistency proof does not hold")
	}
	return nil
}

// ServeHTTP is the witness's interface: C2SP tlog-witness, and GET /status.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) { w.mux.ServeHTTP(rw, r) }

func (w *Witness) serveAdd(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequestBytes))
	if err != nil {
		http.Error(rw, "request is too large or was cut", http.StatusBadRequest)
		return
	}
	line, err := w.add(body)
	var no *refusal
	var c conflict
	switch {
	case errors.As(err, &no):
		http.Error(rw, no.text, no.status)
	case errors.As(err, &c):
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", uint64(c))
	case err != nil:
		http.Error(rw, "the checkpoint could not be remembered", http.StatusInternalServerError)
	default:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(rw, line)
	}
}

func (w *Witness) serveCheckpoint(rw http.ResponseWriter, r *http.Request) {
	for _, l := range w.logs {
		if originHash(l.origin) != r.PathValue("origin") {
			continue
		}
		l.mu.Lock()
		b := l.note
		l.mu.Unlock()
		if b == nil {
			break
		}
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write(b)
		return
	}
	http.Error(rw, "nothing was cosigned of this log", http.StatusNotFound)
}

// The states of a log.
const (
	Current = "current"
	Silent  = "silent" // nothing new for too long: its writer has vanished
	Unseen  = "unseen" // known, and never heard of
)

// Status is what a witness knows of a log.
type Status struct {
	Origin string     `json:"origin"`
	State  string     `json:"state"`
	Size   uint64     `json:"size"`
	Grown  *time.Time `json:"grown"` // when it first had this size; null: never seen
}

// Report is the answer of GET /status.
type Report struct {
	Witness            string   `json:"witness"`
	VerifierKey        string   `json:"vkey"`
	SilentAfterSeconds float64  `json:"silent_after_seconds"`
	Logs               []Status `json:"logs"` // by origin
}

// Report says how all known logs are.
func (w *Witness) Report() Report {
	r := Report{w.cfg.Key.Name(), w.cfg.Key.VerifierKey(), w.cfg.SilentAfter.Seconds(), []Status{}}
	for _, l := range w.logs {
		l.mu.Lock()
		r.Logs = append(r.Logs, l.status(w.cfg.Now(), w.cfg.SilentAfter))
		l.mu.Unlock()
	}
	slices.SortFunc(r.Logs, func(a, b Status) int { return strings.Compare(a.Origin, b.Origin) })
	return r
}

func (l *log) status(now time.Time, silentAfter time.Duration) Status {
	s := Status{Origin: l.origin, State: Unseen, Size: l.size}
	if l.note != nil {
		grown := l.grown.UTC()
		s.Grown, s.State = &grown, Current
		if now.Sub(grown) > silentAfter {
			s.State = Silent
		}
	}
	return s
}

func (w *Witness) serveStatus(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(w.Report())
}

// Watch tells Config.Changed of every log that falls silent, or was never
// heard of since the witness began, until stop is closed.
func (w *Witness) Watch(stop <-chan struct{}) {
	t := time.NewTicker(max(time.Second, min(w.cfg.SilentAfter/4, time.Minute)))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.look()
		case <-stop:
			return
		}
	}
}

func (w *Witness) look() {
	now := w.cfg.Now()
	for _, s := range w.Report().Logs {
		l := w.logs[s.Origin]
		silent := s.State == Silent || s.State == Unseen && now.Sub(w.began) > w.cfg.SilentAfter
		l.mu.Lock()
		changed := silent != l.silent
		l.silent = silent
		l.mu.Unlock()
		if changed && w.cfg.Changed != nil {
			w.cfg.Changed(s)
		}
	}
}

// NewServer is an HTTP server for a witness, with bounds on what a client can
// hold up.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
}
