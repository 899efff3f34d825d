package c2sp

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/fsck"
	"github.com/transparency-dev/tessera/storage/posix"
	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

const origin = "example.org/meshaudit/edge-0"

// writer is a log of ours, with its keys and its store.
type writer struct {
	store, keys string
	cfg         seal.Config
}

func newWriter(t *testing.T) *writer {
	t.Helper()
	dir := t.TempDir()
	w := &writer{store: filepath.Join(dir, "store"), keys: filepath.Join(dir, "keys")}
	if _, err := seal.CreateTrialKeys(w.keys, origin); err != nil {
		t.Fatal(err)
	}
	key, err := seal.ReadLogKey(filepath.Join(w.keys, seal.LogKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	auditor, err := seal.ReadRecipient(filepath.Join(w.keys, seal.AuditorPubFile))
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = seal.Config{Root: w.store, Origin: origin, LogKey: key, Auditors: []seal.Recipient{auditor},
		Chain: seal.ChainFile{FS: seal.OS, Path: filepath.Join(w.keys, seal.ChainKeyFile)}}
	return w
}

func (w *writer) trust(t *testing.T, lines ...string) *seal.Trust {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.keys, seal.TrustFile))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := seal.ParseTrust([]byte(string(b) + strings.Join(lines, "\n") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func request(t *testing.T, n int, name string) []byte {
	t.Helper()
	d := plog.NewLogs()
	s := d.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	for i := range n {
		s.LogRecords().AppendEmpty().Body().SetStr(fmt.Sprint(name, i))
	}
	b, err := new(plog.ProtoMarshaler).MarshalLogs(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// live writes one life of the log, of n entries and a few.
func (w *writer) live(t *testing.T, n int, name string) {
	t.Helper()
	log, err := seal.Open(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := log.Append(context.Background(), seal.SignalLogs, request(t, 1, fmt.Sprint(name, i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (w *writer) published(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(seal.LogDir(w.store, origin), "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// build builds a program of a module in go.mod.
func build(t *testing.T, dir, pkg string) string {
	t.Helper()
	out := filepath.Join(dir, filepath.Base(pkg))
	if b, err := exec.Command("go", "build", "-o", out, pkg).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, b)
	}
	return out
}

// litewitness runs torchwood's witness, which takes its key from an ssh-agent,
// for a log of ours. It returns the witness's key and URL.
func litewitness(t *testing.T, logVKey string) seal.Witness {
	t.Helper()
	dir, err := os.MkdirTemp("", "lw") // short: a socket's path is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keyring, c) }()
		}
	}()
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}

	db := filepath.Join(dir, "db")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(build(t, dir, "filippo.io/torchwood/cmd/litewitness"), "-name", "example.org/litewitness", "-db", db,
		"-ssh-agent", socket, "-key", ssh.FingerprintSHA256(pub), "-listen", address)
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("litewitness: %s", out.Bytes())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			break
		} else if time.Now().After(end) {
			t.Fatalf("litewitness does not listen: %v", err)
		}
	}
	knowLog(t, db, logVKey)
	signer, err := torchwood.NewCosignatureSigner("example.org/litewitness", key)
	if err != nil {
		t.Fatal(err)
	}
	w, err := seal.NewWitness(signer.Verifier().String(), "http://"+address)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// knowLog adds a log to litewitness's database, as witnessctl does, which needs
// a module that cannot be had.
func knowLog(t *testing.T, db, vkey string) {
	t.Helper()
	conn, err := sqlite.OpenConn(db, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetBusyTimeout(10 * time.Second)
	empty := sha256.Sum256(nil)
	for query, args := range map[string][]any{
		"INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)": {origin, base64.StdEncoding.EncodeToString(empty[:])},
		"INSERT INTO key (origin, key) VALUES (?, ?)":                     {origin, vkey},
	} {
		if err := sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: args}); err != nil {
			t.Fatal(err)
		}
	}
}

// Our writer has what it publishes cosigned by litewitness, over growth and
// restarts; a rolled back copy is refused by our writer, and by the verifier
// that asks.
func TestWriterWithLitewitness(t *testing.T) {
	w := newWriter(t)
	lw := litewitness(t, w.cfg.LogKey.VerifierKey())
	policy, err := seal.NewWitnessPolicy([]seal.Witness{lw}, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Witnesses, w.cfg.WitnessClient, w.cfg.AckWitnessed = policy, &witness.Client{}, true
	trust := w.trust(t, "witness "+lw.VerifierKey+" "+lw.URL)
	opts := seal.VerifyOptions{Trust: trust, WitnessClient: &witness.Client{}}

	copied := *w
	for life := range 3 {
		w.live(t, 20, fmt.Sprint("life", life))
		r, err := seal.Verify(context.Background(), w.store, opts)
		if err != nil {
			t.Fatal(err)
		}
		if r.ExitCode() != seal.ExitProven || r.Logs[0].Witnessed.Size != r.Logs[0].Entries {
			t.Fatalf("life %d: %+v %v", life, r.Logs[0].Witnessed, r.Logs[0].Findings)
		}
		if life == 0 {
			dir := t.TempDir()
			copied.store, copied.keys = filepath.Join(dir, "store"), filepath.Join(dir, "keys")
			for from, to := range map[string]string{w.store: copied.store, w.keys: copied.keys} {
				if err := os.CopyFS(to, os.DirFS(from)); err != nil {
					t.Fatal(err)
				}
			}
			copied.cfg.Root, copied.cfg.Chain = copied.store, seal.ChainFile{FS: seal.OS, Path: filepath.Join(copied.keys, seal.ChainKeyFile)}
			if err := os.Chmod(filepath.Join(copied.keys, seal.ChainKeyFile), 0o600); err != nil {
				t.Fatal(err)
			}
			copied.cfg.Witnesses, copied.cfg.WitnessClient = w.cfg.Witnesses, w.cfg.WitnessClient
		}
	}
	var contradiction *seal.ContradictionError
	if log, err := seal.Open(copied.cfg); !errors.As(err, &contradiction) {
		if err == nil {
			_ = log.Close(context.Background())
		}
		t.Fatalf("a rolled back log: %v", err)
	}
	r, err := seal.Verify(context.Background(), copied.store, opts)
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode() != seal.ExitTampering {
		t.Fatalf("a rolled back store: %v", r.Logs[0].Findings)
	}

	// torchwood takes our cosigned checkpoint and a proof under it.
	logKey, err := note.NewVerifier(w.cfg.LogKey.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	witnessKey, err := torchwood.NewCosignatureVerifier(lw.VerifierKey)
	if err != nil {
		t.Fatal(err)
	}
	both := torchwood.ThresholdPolicy(3, torchwood.OriginPolicy(origin), torchwood.SingleVerifierPolicy(logKey), torchwood.SingleVerifierPolicy(witnessKey))
	if _, _, err := torchwood.VerifyCheckpoint(w.published(t), both); err != nil {
		t.Fatalf("torchwood on our checkpoint: %v", err)
	}
	log, err := seal.OpenLog(w.store, origin)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := log.Prove(context.Background(), 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leaves(t, w)[3]
	if err := torchwood.VerifyProof(both, tlog.RecordHash(leaf), proof); err != nil {
		t.Fatalf("torchwood on our proof: %v", err)
	}
	if err := torchwood.VerifyProof(both, tlog.RecordHash(append(leaf, 'x')), proof); err == nil {
		t.Fatal("torchwood takes our proof for another leaf")
	}
}

// A Tessera log has its checkpoints cosigned by our witness.
func TestTesseraWithOurWitness(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	skey, vkey, err := seal.GenerateLogKey("example.org/tessera")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := seal.ParseTrust([]byte("log " + vkey + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.GenerateWitnessKey("example.org/witness")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := witness.Open(witness.Config{Key: key, Logs: logs, State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(ours)
	defer srv.Close()
	defer ours.Close()

	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := tessera.NewWitness(key.VerifierKey(), u)
	if err != nil {
		t.Fatal(err)
	}
	driver, err := posix.New(ctx, posix.Config{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).WithCheckpointInterval(200*time.Millisecond).WithBatching(1, 10*time.Millisecond).
		WithWitnesses(tessera.NewWitnessGroup(1, theirs), &tessera.WitnessOptions{FailOpen: false}))
	if err != nil {
		t.Fatal(err)
	}
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 50*time.Millisecond)
	for i := range 5 {
		index, cp, err := awaiter.Await(ctx, appender.Add(ctx, tessera.NewEntry(fmt.Append(nil, "entry ", i))))
		if err != nil {
			t.Fatal(err)
		}
		v, err := note.NewVerifier(vkey)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := note.Open(cp, note.VerifierList(v, key)); err != nil || len(n.Sigs) != 2 {
			t.Fatalf("entry %d: Tessera published a checkpoint without our cosignature: %v\n%s", index.Index, err, cp)
		}
	}
	if err := shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if r := ours.Report().Logs[0]; r.Size < 5 || r.State != witness.Current {
		t.Fatalf("our witness: %+v", r)
	}
}

// leaves are the headers of a log's entries, as they lie in the segments.
func leaves(t *testing.T, w *writer) [][]byte {
	t.Helper()
	log, err := seal.OpenLog(w.store, origin)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	err = log.Entries(context.Background(), func(*seal.Header) bool { return true }, func(e *seal.Entry) error {
		b, err := os.ReadFile(filepath.Join(seal.LogDir(w.store, origin), "segment", e.Segment))
		if err != nil {
			return err
		}
		b = b[e.Offset:]
		all = append(all, bytes.Clone(b[:bytes.Index(b, []byte("\n\n"))+1]))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// published serves what our writer published, and bundles of its leaves.
type published struct {
	dir    string
	leaves [][]byte

	mu   sync.Mutex
	read map[string]bool // files
}

func (p *published) file(name string) ([]byte, error) {
	name = filepath.Join(p.dir, filepath.FromSlash(name))
	p.mu.Lock()
	p.read[name] = true
	p.mu.Unlock()
	return os.ReadFile(name)
}

func (p *published) ReadCheckpoint(context.Context) ([]byte, error) {
	return p.file("checkpoint")
}

func (p *published) ReadTile(_ context.Context, level, index uint64, width uint8) ([]byte, error) {
	return p.file(layout.TilePath(level, index, width))
}

func (p *published) ReadEntryBundle(_ context.Context, index uint64, width uint8) ([]byte, error) {
	n := uint64(width)
	if n == 0 {
		n = layout.EntryBundleWidth
	}
	var b []byte
	for _, l := range p.leaves[index*layout.EntryBundleWidth:][:n] {
		b = binary.BigEndian.AppendUint16(b, uint16(len(l)))
		b = append(b, l...)
	}
	return b, nil
}

func hashBundle(b []byte) ([][]byte, error) {
	var e api.EntryBundle
	if err := e.UnmarshalText(b); err != nil {
		return nil, err
	}
	var hs [][]byte
	for _, l := range e.Entries {
		hs = append(hs, rfc6962.DefaultHasher.HashLeaf(l))
	}
	return hs, nil
}

// Tessera's fsck computes the same root and the same tiles from our leaves as
// our writer published, and sees a flipped byte in any of them.
func TestFsck(t *testing.T) {
	w := newWriter(t)
	w.live(t, 300, "first")
	w.live(t, 300, "second") // more than two full tiles and a half
	v, err := note.NewVerifier(w.cfg.LogKey.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	dir := seal.LogDir(w.store, origin)
	check := func() (*published, error) {
		p := &published{dir: dir, leaves: leaves(t, w), read: map[string]bool{}}
		return p, fsck.New(origin, v, p, hashBundle, fsck.Opts{N: 2}).Check(context.Background())
	}
	if n := len(leaves(t, w)); n < 2*layout.EntryBundleWidth {
		t.Fatalf("only %d leaves", n)
	}
	p, err := check()
	if err != nil {
		t.Fatal(err)
	}
	for name := range p.read {
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := check(); err == nil {
			t.Errorf("fsck does not see a flipped byte in %s", name)
		}
		if err := os.WriteFile(name, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.read) < 5 { // checkpoint, two full tiles, a partial one on each of two levels
		t.Fatalf("fsck read only %v", p.read)
	}
}
