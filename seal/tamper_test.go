package seal

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// victim is a small log of two epochs and three segments, closed.
type victim struct {
	*testKeys
	fs   *memFS
	asOf time.Time
}

func newVictim(t testing.TB) *victim {
	t.Helper()
	k := newTestKeys(t)
	m := newMemFS()
	for epoch := range 2 {
		cfg := k.memConfig(m)
		cfg.SegmentMaxBytes = 3000
		w := openWriter(t, cfg)
		for i := range 2 {
			if err := w.Append(context.Background(), SignalLogs, testRequest(2+8*i, fmt.Sprint(epoch, i))); err != nil {
				t.Fatal(err)
			}
		}
		closeWriter(t, w)
	}
	return &victim{k, m, time.Now().Add(time.Minute)}
}

// with verifies the log after a change to a copy of it.
func (v *victim) with(t testing.TB, change func(m *memFS)) *Report {
	t.Helper()
	m := v.fs.restart(keepAll, nil)
	change(m)
	r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: v.trust, Auditor: &v.auditor, AsOf: v.asOf})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var logDir = LogDir("/store", testOrigin)

// files are the names below the log's directory that start with prefix, in
// order.
func (v *victim) files(prefix string) []string {
	var names []string
	for name := range v.fs.files {
		if rel, ok := strings.CutPrefix(name, logDir+"/"); ok && strings.HasPrefix(rel, prefix) {
			names = append(names, rel)
		}
	}
	slices.Sort(names)
	return names
}

func edit(name string, change func([]byte) []byte) func(*memFS) {
	return func(m *memFS) {
		n := m.files[logDir+"/"+name]
		n.data = change(n.data)
	}
}

func (v *victim) expect(t *testing.T, what string, code int, change func(m *memFS)) *Report {
	t.Helper()
	r := v.with(t, change)
	if r.ExitCode() != code {
		var fs []Finding
		for _, l := range r.Logs {
			fs = append(fs, l.Findings...)
		}
		t.Fatalf("%s: exit code %d, expected %d: %v %v", what, r.ExitCode(), code, r.Findings, fs)
	}
	return r
}

func TestUntouchedIsProven(t *testing.T) {
	r := newVictim(t).expect(t, "untouched", ExitProven, func(*memFS) {})
	l := r.Logs[0]
	if !l.Trusted || !l.Pinned || !l.TagsProven || l.Entries != 8 || l.Records != 24 || l.Epochs != 2 || l.LastEntry != 7 {
		t.Fatalf("%+v", l)
	}
}

// Every byte of every file is flipped, and each time verify says tampering.
func TestEveryFlippedByteIsTampering(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	flipped := 0
	for _, name := range v.files("") {
		if name == lockName {
			continue
		}
		for i := 0; i < len(v.fs.files[logDir+"/"+name].data); i += sweepStep {
			r := v.expect(t, fmt.Sprintf("%s, byte %d", name, i), ExitTampering, edit(name, func(b []byte) []byte {
				b[i] ^= 1 << (i % 8)
				return b
			}))
			first := r.Logs[0].First()
			if first == nil || strings.HasPrefix(name, segmentDir) && (first.Segment != name && first.Segment != checkpointFile || first.Offset > int64(i)) {
				t.Fatalf("%s, byte %d: reported as %v", name, i, first)
			}
			flipped++
		}
	}
	t.Logf("%d bytes flipped", flipped)
}

// frames are the byte ranges of a segment's frames.
func (v *victim) frames(t testing.TB, name string) [][]byte {
	data := v.fs.files[logDir+"/"+name].data
	fr := newFrameReader(bytes.NewReader(data), 0)
	var fs [][]byte
	for fr.offset < int64(len(data)) {
		start := fr.offset
		if _, err := fr.next(); err != nil {
			t.Fatal(err)
		}
		fs = append(fs, data[start:fr.offset:fr.offset])
	}
	return fs
}

// The tail is cut at every byte. What was published shows the cut; if that is
// gone too, it looks like a crash, and is called incomplete, never proven.
func TestEveryCutTailIsSeen(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	v.asOf = v.asOf.Add(time.Hour)
	segments := v.files(segmentDir)
	for s, name := range segments {
		size := len(v.fs.files[logDir+"/"+name].data)
		for cut := 0; cut < size; cut += sweepStep {
			drop := func(m *memFS) {
				edit(name, func(b []byte) []byte { return b[:cut] })(m)
				for _, later := range segments[s+1:] {
					delete(m.files, logDir+"/"+later)
				}
			}
			v.expect(t, fmt.Sprintf("%s cut at %d", name, cut), ExitTampering, drop)
			r := v.with(t, func(m *memFS) {
				drop(m)
				for f := range m.files {
					if rel, ok := strings.CutPrefix(f, logDir+"/"); ok && !strings.HasPrefix(rel, segmentDir) {
						delete(m.files, f)
					}
				}
			})
			if r.ExitCode() != ExitIncomplete {
				t.Fatalf("%s cut at %d, nothing published left: exit code %d: %v", name, cut, r.ExitCode(), r.Logs[0].Findings)
			}
		}
	}
}

func TestMissingAndStrangeFiles(t *testing.T) {
	v := newVictim(t)
	v.expect(t, "whole log", ExitIncomplete, func(m *memFS) {
		for f := range m.files {
			delete(m.files, f)
		}
		for d := range m.dirs {
			if strings.HasPrefix(d, "/store/") {
				delete(m.dirs, d)
			}
		}
	})
	put := func(name string) func(*memFS) {
		return func(m *memFS) {
			m.dirs[path.Dir(name)] = true
			m.files[name] = &inode{data: []byte("x")}
		}
	}
	for _, name := range []string{"/store/notes.txt", logDir + "/notes.txt", logDir + "/segment/notes.txt", logDir + "/torn/0-0-0", logDir + "/tile/0/001", logDir + "/tile/0/x000/000"} {
		v.expect(t, name, ExitTampering, put(name))
	}
	for _, tile := range v.files(tileDir) {
		v.expect(t, tile+" dropped", ExitProven, func(m *memFS) { delete(m.files, logDir+"/"+tile) }) // partial: superseded and derived
	}
}

// A thief has the log key and everything on the machine, but not the keys of
// entries already sealed.
func TestThiefsRewrite(t *testing.T) {
	v := newVictim(t)
	thief := newMemFS()
	cfg := v.memConfig(thief)
	other := NewChainKey() // E_0 is gone from the machine
	text, _ := other.MarshalText()
	thief.files["/keys/chain"].data = text
	w := openWriter(t, cfg)
	if err := w.Append(context.Background(), SignalLogs, testRequest(5, "forged")); err != nil {
		t.Fatal(err)
	}
	closeWriter(t, w)

	r, err := verifyStore(context.Background(), thief, "/store", VerifyOptions{Trust: v.trust, AsOf: v.asOf})
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode() != ExitTampering || !strings.Contains(fmt.Sprint(r.Logs[0].Findings), "pinned") {
		t.Fatalf("the pinned chain does not catch a new history: %v", r.Logs[0].Findings)
	}

	// Keeping the true open, with its chain and escrow, and forging what
	// follows it: the signatures are good, only the tags are not.
	name := v.files(segmentDir)[0]
	open := v.frames(t, name)[0]
	fr := newFrameReader(bytes.NewReader(open), 0)
	fm, err := fr.next()
	if err != nil {
		t.Fatal(err)
	}
	forged := newMemFS()
	if err := forged.MkdirAll(logDir+"/"+segmentDir, 0); err != nil {
		t.Fatal(err)
	}
	fcfg := v.memConfig(forged)
	s := &logState{cfg: &fcfg, dir: logDir, signers: []note.Signer{v.log}, tree: new(tree), entry: 1, prev: fm.id(), sealed: fm.Sealed, keys: other.ratchet()}
	s.tree.push(leafHash(fm.text))
	s.buf = slices.Clone(open)
	p := &pending{msgs: [][]byte{testRequest(5, "forged")}}
	if err := p.encode(); err != nil {
		t.Fatal(err)
	}
	b := p.sealed
	s.appendEntry(&Header{Kind: KindBatch, Records: b.records, Root: b.root, TimeMin: b.min, TimeMax: b.max, Sections: b.sections[:]}, b.filter, b.body)
	if err := s.write(0); err != nil {
		t.Fatal(err)
	}
	opts := VerifyOptions{Trust: v.trust, AsOf: time.Unix(0, int64(fm.Sealed))}
	r, err = verifyStore(context.Background(), forged, "/store", opts)
	if err != nil || r.ExitCode() != ExitProven {
		t.Fatalf("without the auditor's key nothing is wrong with it: %v %v", err, r.Logs[0].Findings)
	}
	opts.Auditor = &v.auditor
	r, err = verifyStore(context.Background(), forged, "/store", opts)
	if err != nil || r.ExitCode() != ExitTampering || !strings.Contains(fmt.Sprint(r.Logs[0].Findings), "wrong tag") {
		t.Fatalf("the auditor does not catch the forgery: %v %v", err, r.Logs[0].Findings)
	}
}

// A rollback of store and chain key together is a valid, older log: it is
// caught by what others know, or by its silence.
func TestRolledBackStoreIsNotFresh(t *testing.T) {
	v := newVictim(t)
	v.asOf = v.asOf.Add(24 * time.Hour)
	r := v.expect(t, "a day later", ExitIncomplete, func(*memFS) {})
	if r.Logs[0].Axis(Freshness) != Incomplete || r.Logs[0].Axis(Integrity) != Note {
		t.Fatalf("%v", r.Logs[0].Findings)
	}
}

func TestWithoutTrustNothingIsProven(t *testing.T) {
	v := newVictim(t)
	r, err := verifyStore(context.Background(), v.fs, "/store", VerifyOptions{AsOf: v.asOf})
	if err != nil || r.ExitCode() != ExitIncomplete {
		t.Fatalf("%v %v", err, r)
	}
	other := newTestKeys(t)
	r, err = verifyStore(context.Background(), v.fs, "/store", VerifyOptions{Trust: other.trust, AsOf: v.asOf})
	if err != nil || r.ExitCode() != ExitTampering {
		t.Fatalf("another key of the same origin: %v %v", err, r.Logs[0].Findings)
	}
	r, err = verifyStore(context.Background(), v.fs, "/store", VerifyOptions{Trust: v.trust, Auditor: &other.auditor, AsOf: v.asOf})
	if err != nil || r.ExitCode() != ExitIncomplete {
		t.Fatalf("another auditor: %v %v", err, r.Logs[0].Findings)
	}
}

// An older checkpoint, kept elsewhere, shows a rollback and a rewrite that
// nothing in the store shows, and excuses what was reviewed before it.
func TestSinceAnOlderCheckpoint(t *testing.T) {
	k, m := newTestKeys(t), newMemFS()
	write := func(m *memFS, name string) {
		w := openWriter(t, k.memConfig(m))
		if err := w.Append(context.Background(), SignalLogs, testRequest(3, name)); err != nil {
			t.Fatal(err)
		}
		closeWriter(t, w)
	}
	write(m, "first")
	fork := m.restart(keepAll, nil) // store and chain key, copied
	write(m, "second")
	since := m.files[logDir+"/"+checkpointFile].data
	write(fork, "other second") // another history, by the same keys
	verify := func(m *memFS) *Report {
		r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: k.trust, Auditor: &k.auditor, Since: since})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := verify(m); r.ExitCode() != ExitProven {
		t.Fatalf("%v", r.Logs[0].Findings)
	}
	write(m, "third")
	if r := verify(m); r.ExitCode() != ExitProven {
		t.Fatalf("a longer log: %v", r.Logs[0].Findings)
	}
	if r := verify(fork); r.ExitCode() != ExitTampering || !strings.Contains(fmt.Sprint(r.Logs[0].Findings), "another root") {
		t.Fatalf("another history: %v", r.Logs[0].Findings)
	}
	rolledBack := fork.restart(keepAll, nil)
	for _, name := range []string{"/segment/00000000000000000003.seal", "/segment/00000000000000000004.seal", "/segment/00000000000000000005.seal"} {
		delete(rolledBack.files, logDir+name)
	}
	delete(rolledBack.files, logDir+"/"+checkpointFile)
	if r := verify(rolledBack); r.ExitCode() != ExitTampering || !strings.Contains(fmt.Sprint(r.Logs[0].Findings), "cut or rolled back") {
		t.Fatalf("rolled back: %v", r.Logs[0].Findings)
	}
	gone := newMemFS()
	if r := verify(gone); r.ExitCode() != ExitTampering {
		t.Fatalf("gone: %v", r.Findings)
	}

	// A crash is excused by a checkpoint that was published after it.
	w := openWriter(t, k.memConfig(m))
	if err := w.Append(context.Background(), SignalLogs, testRequest(1, "before the crash")); err != nil {
		t.Fatal(err)
	}
	crashed := m.restart(keepAll, nil)
	closeWriter(t, w)
	write(crashed, "after the crash")
	if r := verify(crashed); r.ExitCode() != ExitIncomplete {
		t.Fatalf("a crash since: %v", r.Logs[0].Findings)
	}
	since = crashed.files[logDir+"/"+checkpointFile].data
	if r := verify(crashed); r.ExitCode() != ExitProven {
		t.Fatalf("a crash before: %v", r.Logs[0].Findings)
	}
	other := newTestKeys(t)
	if _, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: other.trust, Since: since}); err == nil {
		t.Fatal("an older checkpoint that nobody trusted signed")
	}
}
