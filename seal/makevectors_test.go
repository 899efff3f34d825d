package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/note"
)

// The generator of testdata/vectors. A vector that exists is never written
// again: implementations elsewhere count on it.
//
//go:generate go test -run ^TestMakeVectors$ -vectors=write .

var writeVectors = flag.String("vectors", "", "write: add the vectors that are not there yet")

// vector is one scenario.
type vector struct {
	name, about string
	want        verdict                   // with the auditor's key, and
	alone       *verdict                  // without it; nil: the same
	change      func(s *scene)            // of a whole log, see newScene
	trust       func(trust string) string // nil: as it is
	since       func(s *scene) (b []byte) // nil: none
	accepted    func(s *scene) []byte     // nil: no list of accepted findings
	late        time.Duration             // how long after the last entry it is verified
	write       func(s *scene)            // instead of newScene's log
}

// verdict is what a table states; the rest of an expectation is what Verify
// reports, reviewed once.
type verdict struct {
	exit int
	axis Axis
}

func tampering(a Axis) verdict  { return verdict{ExitTampering, a} }
func incomplete(a Axis) verdict { return verdict{ExitIncomplete, a} }

var proven = verdict{exit: ExitProven}

// vectorStart is when the first entry of every vector is sealed.
const vectorStart = 1_763_856_001_000_000_000

// scene is a log as a list of frames, which a scenario changes before they are
// sealed, and then as files.
type scene struct {
	t testing.TB
	*testKeys
	second     AuditorKey // mlkem768x25519
	recipients []Recipient

	frames []*piece
	next   Header   // numbers of the next entry
	epoch  ChainKey // of the next open
	first  uint64   // entry that the segment begins with

	prev  Hash
	tree  *tree
	trust string            // the trust file's log lines, if there are several
	files map[string][]byte // below the log's directory, once sealed

	witnesses []*WitnessKey     // lines of the trust file, with a quorum of 2
	reviewer  LogKey            // of accepted findings
	beside    map[string][]byte // files beside the trust file
}

// piece is a frame to be sealed.
type piece struct {
	*Header
	sections [][]byte
	segment  uint64 // its first entry
	chain    ChainKey
	signer   LogKey

	keepPrev, keepTag bool                           // as they are in Header
	text              func(text []byte) []byte       // changes what is above tag and sum
	whole             func(text []byte) []byte       // changes the header after that
	note              func(c Checkpoint) []byte      // instead of one by signer
	store             func(sections [][]byte) []byte // instead of the sections
	vouched           *testIdentity                  // of an open
}

func emptyScene(t testing.TB) *scene {
	k := newTestKeys(t)
	second, err := NewAuditorKey("mlkem768x25519")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, testKeys: k, second: second, recipients: []Recipient{k.auditor.Recipient()}, epoch: k.chain}
	s.next.Sealed = vectorStart
	return s
}

// short is one epoch: open, a group of two batches, close.
func (s *scene) short() {
	s.open(AfterFirst)
	s.commit()
	s.batch(SignalLogs, testRequest(3, "a"))
	s.batch(SignalLogs, testRequest(2, "b"))
	s.commit()
	s.entry(&Header{Kind: KindClose})
	s.commit()
}

// newScene is short and a second epoch: open, batch, beat, close.
func newScene(t testing.TB) *scene {
	s := emptyScene(t)
	s.short()
	s.open(AfterClean)
	s.commit()
	s.batch(SignalLogs, testRequest(2, "c"))
	s.commit()
	s.entry(&Header{Kind: KindBeat})
	s.commit()
	s.entry(&Header{Kind: KindClose})
	s.commit()
	return s
}

func (s *scene) entry(h *Header, sections ...[]byte) *piece {
	h.Origin, h.Entry, h.Epoch, h.FirstRecord, h.Sealed = testOrigin, s.next.Entry, s.next.Epoch, s.next.FirstRecord, s.next.Sealed
	p := &piece{Header: h, sections: sections, segment: s.first}
	for i := range h.Sections {
		p.describe(i)
	}
	s.frames = append(s.frames, p)
	s.next.Entry++
	s.next.FirstRecord += h.Records
	s.next.Sealed += 1e9
	return p
}

func (s *scene) commit() *piece {
	p := &piece{Header: &Header{Kind: KindCheckpoint, Origin: testOrigin}, segment: s.first, signer: s.log}
	s.frames = append(s.frames, p)
	return p
}

func (s *scene) open(after After) *piece {
	if after != AfterFirst {
		s.next.Epoch++
		s.epoch = s.epoch.Next()
	}
	s.first = s.next.Entry
	o := &OpenLines{Signer: s.log.VerifierKey(), Chain: s.epoch.Commitment(), HeartbeatSeconds: 60, After: after}
	for _, r := range s.recipients {
		e, err := s.epoch.escrow(testOrigin, r)
		if err != nil {
			s.t.Fatal(err)
		}
		o.Escrows = append(o.Escrows, e)
	}
	p := s.entry(&Header{Kind: KindOpen, Open: o})
	p.chain = s.epoch
	return p
}

func (s *scene) batch(sig Signal, msgs ...[]byte) *piece {
	b, err := encodeBatch(sig, msgs, func(b []byte) { rand.Read(b) })
	if err != nil {
		s.t.Fatal(err)
	}
	return s.entry(&Header{Kind: KindBatch, Records: b.records, Root: b.root, TimeMin: b.min, TimeMax: b.max, Sections: b.sections[:]}, b.filter, b.body)
}

// describe puts a section line right after its bytes were changed.
func (p *piece) describe(i int) {
	s := &p.Sections[i]
	s.Stored, s.Hash = uint64(len(p.sections[i])), sha256.Sum256(p.sections[i])
	if s.Name != SectionBody {
		s.Plain = s.Stored
	}
}

func (p *piece) put(i int, b []byte) {
	p.sections[i] = b
	p.describe(i)
}

// plain is seed and message of a batch.
func (p *piece) plain(t testing.TB) []byte {
	d := new(batchDecoder)
	var err error
	if d.zstd, err = zstd.NewReader(nil); err != nil {
		t.Fatal(err)
	}
	seed, msg, err := d.open(&p.Sections[1], p.sections[1])
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(seed[:], msg)
}

// carry gives a batch another message, right or malformed; compress nil: one
// raw block.
func (p *piece) carry(msg []byte, compress func(plain []byte) []byte) {
	var seed [seedBytes]byte
	rand.Read(seed[:])
	plain := slices.Concat(seed[:], msg)
	h := new(batchHasher)
	sig, err := signalOf(p.Sections[1].Encoding)
	if err == nil {
		err = h.run(sig, seed, msg)
	}
	if err == nil { // malformed ones keep what the header says
		p.Records, p.Root, p.TimeMin, p.TimeMax = uint64(len(h.leaves)), h.root(), h.index.min, h.index.max
		p.put(0, h.filter.append(nil, [nonceBytes]byte{7}, h.index.keys))
	}
	if compress == nil {
		compress = func(plain []byte) []byte { return rawZstd(plain, 0xa0, nil, 4, len(plain)) }
	}
	p.Sections[1].Plain = uint64(len(plain))
	p.put(1, compress(plain))
}

// rawZstd is a zstd frame of one raw block under any frame header.
func rawZstd(plain []byte, descriptor byte, between []byte, sizeBytes, size int) []byte {
	b := append([]byte{0x28, 0xb5, 0x2f, 0xfd, descriptor}, between...)
	b = append(b, binary.LittleEndian.AppendUint64(nil, uint64(size))[:sizeBytes]...)
	n := uint32(len(plain))<<3 | 1
	return append(append(b, byte(n), byte(n>>8), byte(n>>16)), plain...)
}

func (s *scene) kind(k Kind) (ps []*piece) {
	for _, p := range s.frames {
		if p.Kind == k {
			ps = append(ps, p)
		}
	}
	return ps
}

// b is batch i, o open i, c checkpoint frame i.
func (s *scene) b(i int) *piece { return s.kind(KindBatch)[i] }
func (s *scene) o(i int) *piece { return s.kind(KindOpen)[i] }
func (s *scene) c(i int) *piece { return s.kind(KindCheckpoint)[i] }

// from changes an entry and all after it.
func (s *scene) from(p *piece, change func(*Header)) {
	for _, q := range s.frames[slices.Index(s.frames, p):] {
		if q.Kind != KindCheckpoint {
			change(q.Header)
		}
	}
}

func (s *scene) sign(c Checkpoint, key note.Signer) []byte {
	b, err := c.sign(key)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// seal gives every frame its place, tag, sum and signature, and makes the
// files.
func (s *scene) seal() map[string][]byte {
	if s.files != nil {
		return s.files
	}
	s.files, s.tree = map[string][]byte{"lock": nil}, new(tree)
	var keys ratchet
	for _, p := range s.frames {
		if p.Kind == KindOpen {
			keys = p.chain.ratchet()
		}
		if !p.keepPrev {
			p.Prev = s.prev
		}
		if p.vouched != nil {
			var err error
			if p.sections, err = p.vouch(p.vouched.chain, p.vouched.key); err != nil {
				s.t.Fatal(err)
			}
		}
		if p.Kind == KindCheckpoint {
			c := Checkpoint{testOrigin, s.tree.size, s.tree.root()}
			b := []byte(nil)
			if p.note != nil {
				b = p.note(c)
			} else {
				b = s.sign(c, p.signer)
			}
			p.sections, p.Sections = [][]byte{b}, []Section{{Name: SectionNote, Encoding: EncodingRaw}}
			p.describe(0)
			s.files[checkpointFile] = b
		}
		text := p.appendUntagged(nil)
		if p.text != nil {
			text = p.text(text)
		}
		if p.Kind != KindCheckpoint {
			if tag := keys.tag(text); !p.keepTag {
				p.Tag = tag
			}
			text = appendHashLine(text, "tag", p.Tag)
		}
		text = appendSum(text, 0)
		if p.whole != nil {
			text = p.whole(text)
		}
		s.prev = sha256.Sum256(text)
		if p.Kind != KindCheckpoint {
			s.tree.push(leafHash(text))
		}
		stored := bytes.Join(p.sections, nil)
		if p.store != nil {
			stored = p.store(p.sections)
		}
		name := segmentDir + "/" + segmentName(p.segment)
		s.files[name] = slices.Concat(s.files[name], text, []byte("\n"), stored)
	}
	for _, t := range append(s.tree.full, s.tree.partial()...) {
		s.files[t.path()] = t.bytes()
	}
	return s.files
}

// segments are the names of the segment files.
func (s *scene) segments() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(s.seal())) {
		if strings.HasPrefix(name, segmentDir) {
			names = append(names, name)
		}
	}
	return names
}

// cut are the frames of segment i as they are stored.
func (s *scene) cut(i int) [][]byte {
	data := s.seal()[s.segments()[i]]
	fr := newFrameReader(bytes.NewReader(data), 0)
	var frames [][]byte
	for fr.offset < int64(len(data)) {
		start := fr.offset
		if _, err := fr.next(); err != nil {
			s.t.Fatal(err)
		}
		frames = append(frames, data[start:fr.offset:fr.offset])
	}
	return frames
}

// join puts frames in the place of segment i.
func (s *scene) join(i int, frames ...[]byte) { s.seal()[s.segments()[i]] = bytes.Join(frames, nil) }

// change changes bytes of a stored file.
func (s *scene) change(name string, fn func([]byte) []byte) {
	f := s.seal()
	if f[name] == nil {
		s.t.Fatalf("no file %s", name)
	}
	f[name] = fn(slices.Clone(f[name]))
}

// flip flips a bit in segment i: at bytes behind the first occurrence of what.
func (s *scene) flip(i int, what string, at int) {
	s.change(s.segments()[i], func(b []byte) []byte {
		n := bytes.Index(b, []byte(what))
		if n < 0 {
			s.t.Fatalf("no %q in segment %d", what, i)
		}
		b[n+at] ^= 1
		return b
	})
}

// publishAt puts back the checkpoint file and the tiles as they were at a size.
func (s *scene) publishAt(size uint64) {
	f := s.seal()
	tr := new(tree)
	for i := range s.segments() {
		for _, frame := range s.cut(i) {
			fm, err := newFrameReader(bytes.NewReader(frame), 0).next()
			if err != nil {
				s.t.Fatal(err)
			}
			if fm.Kind != KindCheckpoint && tr.size < size {
				tr.push(leafHash(fm.text))
			}
		}
	}
	maps.DeleteFunc(f, func(name string, _ []byte) bool { return strings.HasPrefix(name, tileDir) })
	for _, t := range append(tr.full, tr.partial()...) {
		f[t.path()] = t.bytes()
	}
	f[checkpointFile] = s.sign(Checkpoint{testOrigin, size, tr.root()}, s.log)
}

// expectation is expect.json.
type expectation struct {
	About   string    `json:"about"`
	AsOf    time.Time `json:"as_of"`
	Auditor answer    `json:"with_auditor"`
	Alone   answer    `json:"without_auditor"`
}

type answer struct {
	Exit    int     `json:"exit"`
	First   *object `json:"first,omitempty"` // the first bad object, of the worst class
	Entries uint64  `json:"entries"`
	Records uint64  `json:"records"`
	Proven  *uint64 `json:"last_proven_entry,omitempty"`
}

// object says what is wrong where; without a file it is the log as a whole.
type object struct {
	Class  string `json:"class"`
	Axis   string `json:"axis"`
	File   string `json:"file,omitempty"` // below the log's directory
	Offset int64  `json:"offset"`
}

func answerOf(r *Report) answer {
	a := answer{Exit: r.ExitCode()}
	var first *Finding
	for i := range r.Findings {
		if f := &r.Findings[i]; first == nil || f.Class > first.Class {
			first = f
		}
	}
	for _, l := range r.Logs {
		a.Entries, a.Records = a.Entries+l.Entries, a.Records+l.Records
		if f := l.First(); f != nil && (first == nil || f.Class > first.Class) {
			first = f
		}
		if l.Proven {
			a.Proven = &l.LastEntry
		}
	}
	if first != nil {
		a.First = &object{first.Class.String(), first.Axis.String(), first.Segment, first.Offset}
	}
	return a
}

// TestMakeVectors makes every vector, and checks that Verify answers what the
// table states. With -vectors=write those that are not committed are written.
func TestMakeVectors(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1) // the same keys, salts and escrows each time
			dir := filepath.Join(t.TempDir(), v.name)
			v.make(t, dir)
			committed := filepath.Join(vectorsDir, v.name)
			if _, err := os.Stat(committed); err == nil {
				return
			}
			if t.Failed() {
				return
			}
			if *writeVectors != "write" {
				t.Fatalf("%s is not committed: go generate ./seal, then check what it says", v.name)
			}
			if err := os.CopyFS(committed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			addToManifest(t, v.name)
		})
	}
}

func (v *vector) make(t *testing.T, dir string) {
	s := emptyScene(t)
	if v.write != nil {
		v.write(s)
	} else {
		s = newScene(t)
	}
	var since []byte
	if v.since != nil {
		since = v.since(s)
	}
	if v.change != nil {
		v.change(s)
	}
	files := map[string][]byte{}
	for name, b := range s.seal() {
		if name, ok := strings.CutPrefix(name, "../"); ok {
			files["store/"+name] = b
		} else {
			files["store/"+filepath.Base(LogDir("", testOrigin))+"/"+name] = b
		}
	}
	trust := TrustLines(s.log.VerifierKey(), testOrigin, s.chain.Commitment())
	if s.trust != "" {
		_, chain, _ := strings.Cut(trust, "\n")
		trust = s.trust + chain
	}
	if v.trust != nil {
		trust = v.trust(trust)
	}
	for _, w := range s.witnesses {
		trust += "witness " + w.VerifierKey() + "\n"
	}
	if s.witnesses != nil {
		trust += "quorum 2\n"
	}
	files["trust"] = []byte(trust)
	key, err := s.auditor.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	files["auditor.key"] = key
	if since != nil {
		files["since"] = since
	}
	maps.Copy(files, s.beside)
	if v.accepted != nil {
		files["accepted"] = v.accepted(s)
		trust += "reviewer " + s.reviewer.VerifierKey() + "\n"
		files["trust"] = []byte(trust)
	}
	delete(files, "store/"+filepath.Base(LogDir("", testOrigin))+"/lock") // nobody reads it
	asOf := time.Unix(0, int64(s.next.Sealed)).Add(v.late).UTC()
	for name, b := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "store"), 0o755); err != nil {
		t.Fatal(err)
	}
	alone := v.want
	if v.alone != nil {
		alone = *v.alone
	}
	e := expectation{About: v.about, AsOf: asOf}
	for _, c := range []struct {
		want    verdict
		got     *answer
		auditor bool
	}{{v.want, &e.Auditor, true}, {alone, &e.Alone, false}} {
		*c.got = verifyVector(t, dir, asOf, c.auditor)
		if c.got.Exit != c.want.exit || c.got.First != nil && c.got.First.Axis != c.want.axis.String() {
			b, _ := json.Marshal(c.got)
			t.Errorf("auditor %v: got %s, want exit %d, axis %s", c.auditor, b, c.want.exit, c.want.axis)
		}
	}
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "expect.json"), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// verifyVector verifies the vector in dir as expect.json says.
func verifyVector(t *testing.T, dir string, asOf time.Time, auditor bool) answer {
	t.Helper()
	opts := VerifyOptions{AsOf: asOf}
	var err error
	if opts.Trust, err = ReadTrust(filepath.Join(dir, "trust")); err != nil {
		t.Fatal(err)
	}
	if auditor {
		b, err := os.ReadFile(filepath.Join(dir, "auditor.key"))
		if err != nil {
			t.Fatal(err)
		}
		opts.Auditor = new(AuditorKey)
		if err := opts.Auditor.UnmarshalText(b); err != nil {
			t.Fatal(err)
		}
	}
	if opts.Since, err = os.ReadFile(filepath.Join(dir, "since")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if opts.Accepted, err = os.ReadFile(filepath.Join(dir, "accepted")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	r, err := Verify(t.Context(), filepath.Join(dir, "store"), opts)
	if err != nil {
		return answer{Exit: ExitFailed}
	}
	return answerOf(r)
}

// addToManifest notes the sums of a new vector's files.
func addToManifest(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(vectorsDir, manifestFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, file := range filesBelow(t, filepath.Join(vectorsDir, name)) {
		if _, err := fmt.Fprintf(f, "%s  %s\n", sumOf(t, file), filepath.ToSlash(file[len(vectorsDir)+1:])); err != nil {
			t.Fatal(err)
		}
	}
}
