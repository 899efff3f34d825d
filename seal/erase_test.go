package seal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// erasing is a log in memory of which records are erased.
type erasing struct {
	*victim
	originals map[uint64][][]byte // by entry: its records as they were sealed
}

// newErasing makes a log whose batches have the given numbers of records, each
// in a segment of its own where small is set.
func newErasing(t testing.TB, small bool, sizes ...int) *erasing {
	t.Helper()
	k, m := newTestKeys(t), newMemFS()
	cfg := k.memConfig(m)
	if small {
		cfg.SegmentMaxBytes = 1
	}
	w := openWriter(t, cfg)
	for i, n := range sizes {
		if err := w.Append(context.Background(), SignalLogs, testRequest(n, fmt.Sprint("b", i))); err != nil {
			t.Fatal(err)
		}
	}
	closeWriter(t, w)
	e := &erasing{&victim{k, m, time.Now().Add(time.Minute)}, map[uint64][][]byte{}}
	for _, r := range e.records(t, m) {
		e.originals[r.entry] = append(e.originals[r.entry], r.bytes)
	}
	return e
}

func (e *erasing) erase(t testing.TB, entry uint64, positions ...uint64) {
	t.Helper()
	w := openWriter(t, e.memConfig(e.fs))
	if err := w.Erase(context.Background(), []Erasure{e.of(entry, positions...)}, "dpo@example.org", "Art. 17"); err != nil {
		t.Fatal(err)
	}
	closeWriter(t, w)
}

// of names records of a batch as it is now.
func (e *erasing) of(entry uint64, positions ...uint64) Erasure { return of(e.fs, entry, positions...) }

func of(m *memFS, entry uint64, positions ...uint64) Erasure {
	erasure := Erasure{Entry: entry, Positions: positions}
	l := &Log{Origin: testOrigin, dir: logDir, fs: m}
	if b, err := l.entry(context.Background(), entry); err == nil {
		erasure.Root = b.Root
	}
	return erasure
}

type readRecord struct {
	entry, number, position uint64
	bytes                   []byte
}

// records are all that a reader finds.
func (e *erasing) records(t testing.TB, m *memFS) (all []readRecord) {
	t.Helper()
	l := &Log{Origin: testOrigin, dir: logDir, fs: m}
	if err := l.Entries(context.Background(), nil, func(b *Entry) error {
		if b.Kind != KindBatch {
			return nil
		}
		_, msg, err := b.Body()
		if err != nil {
			return err
		}
		i := 0
		return EachRecord(msg, func(r Record) error {
			n := b.Number(i)
			all = append(all, readRecord{b.Header.Entry, n, n - b.FirstRecord, bytes.Clone(r.Bytes)})
			i++
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// holds reports whether any file has these bytes; bodies are looked into.
func holds(t testing.TB, m *memFS, what []byte) bool {
	t.Helper()
	for name, n := range m.files {
		if bytes.Contains(n.data, what) {
			return true
		}
		if !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		fr := newFrameReader(bytes.NewReader(n.data), 0)
		d := batchDecoders.Get().(*batchDecoder)
		for {
			f, err := fr.next()
			if err != nil && !errors.Is(err, errSectionHash) {
				break
			}
			if f.Kind != KindBatch && f.Kind != KindErase {
				continue
			}
			if plain, err := d.decompress(&f.Sections[1], f.sections[1]); err == nil && bytes.Contains(plain, what) {
				return true
			}
		}
		batchDecoders.Put(d)
	}
	return false
}

// Any records are erased, in any order and any number of steps: the others are
// read as before, under their own numbers, and proven one by one; the erased
// ones are in no file; and verify proves the log, and says what was erased.
func TestErase(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(1, 40), 1, 4).Draw(r, "sizes")
		e := newErasing(t, rapid.Bool().Draw(r, "segment each"), sizes...)
		gone := map[[2]uint64]bool{}
		for range rapid.IntRange(1, 4).Draw(r, "steps") {
			entry := rapid.Uint64Range(1, uint64(len(sizes))).Draw(r, "entry")
			positions := rapid.SliceOfN(rapid.Uint64Max(uint64(len(e.originals[entry])-1)), 1, 12).Draw(r, "positions")
			if rapid.IntRange(0, 9).Draw(r, "all") == 0 {
				for p := range e.originals[entry] {
					positions = append(positions, uint64(p))
				}
			}
			e.erase(t, entry, positions...)
			for _, p := range positions {
				gone[[2]uint64{entry, p}] = true
			}
		}
		left := map[[2]uint64][]byte{}
		for _, rec := range e.records(t, e.fs) {
			left[[2]uint64{rec.entry, rec.position}] = rec.bytes
		}
		l := &Log{Origin: testOrigin, dir: logDir, fs: e.fs}
		for entry, records := range e.originals {
			for p, want := range records {
				at := [2]uint64{entry, uint64(p)}
				proof, err := l.Prove(context.Background(), entry, p)
				if gone[at] {
					if left[at] != nil || holds(t, e.fs, want) {
						r.Fatalf("record %v is still there", at)
					}
					if err == nil || !strings.Contains(err.Error(), "erased") {
						r.Fatalf("a proof of erased record %v: %v", at, err)
					}
					continue
				}
				if !bytes.Equal(left[at], want) {
					r.Fatalf("record %v is %q, was %q", at, left[at], want)
				}
				if err != nil {
					r.Fatal(err)
				}
				if p, err := CheckProof(proof, e.trust); err != nil || !bytes.Equal(p.Record.Bytes, want) {
					r.Fatalf("proof of record %v: %v", at, err)
				}
			}
		}
		report := e.with(t, func(*memFS) {})
		log := report.Logs[0]
		if report.ExitCode() != ExitProven || log.ErasedRecords != uint64(len(gone)) || !log.TagsProven {
			r.Fatalf("%d of %d erased: %v", log.ErasedRecords, len(gone), log.Findings)
		}
		if said := fmt.Sprint(log.Findings); !strings.Contains(said, `"dpo@example.org"`) || !strings.Contains(said, `"Art. 17"`) {
			r.Fatalf("who erased, and why, is not said: %s", said)
		}
	})
}

// What holds a message together stays as it is, what only the erased records
// were reported under goes.
func TestEraseKeepsWhatRecordsWereReportedUnder(t *testing.T) {
	field := func(tag byte, parts ...[]byte) []byte { return appendBytesField(nil, tag, bytes.Join(parts, nil)) }
	rec := func(s string) []byte { return field(2, field(5, []byte(s))) }
	scope := func(name string, records ...[]byte) []byte {
		return field(2, field(3, []byte("url")), bytes.Join(records, nil), field(1, []byte{10, 1, name[0]}))
	}
	msg := slices.Concat(
		field(1, scope("a", rec("0"), rec("1")), field(1, []byte("\x0a\x00")), scope("b", rec("2"))),
		field(1, scope("c", rec("3"))),
		field(1, field(3, []byte("nothing under it"))))
	erased := []bool{false, true, true, true}
	i := -1
	got, err := withoutRecords(msg, func() bool { i++; return erased[i] })
	want := field(1, scope("a", rec("0")), field(1, []byte("\x0a\x00")))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v\n%q\n%q", err, got, want)
	}
}

func TestEraseIsRefused(t *testing.T) {
	e := newErasing(t, false, 3)
	w := openWriter(t, e.memConfig(e.fs))
	defer closeWriter(t, w)
	for _, tc := range []struct {
		erasure    Erasure
		by, reason string
		want       string
	}{
		{e.of(0, 0), "a", "b", "entry 0 is no batch but open"},
		{e.of(99, 0), "a", "b", "the log has no entry 99"},
		{e.of(1, 3), "a", "b", "entry 1: there is no record 3 in it, it has 3"},
		{Erasure{1, Hash{}, []uint64{0}}, "a", "b", "entry 1 is another batch than the one that was read"},
		{e.of(1, 0), "", "b", "must be 1 to 1024 bytes"},
		{e.of(1, 0), "a", "b\nc", "must be 1 to 1024 bytes"},
		{e.of(1, 0), "a", strings.Repeat("b", 1025), "must be 1 to 1024 bytes"},
	} {
		if err := w.Erase(context.Background(), []Erasure{tc.erasure}, tc.by, tc.reason); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, expected %q", tc.erasure, err, tc.want)
		}
	}
	if n := len(e.records(t, e.fs)); n != 3 {
		t.Fatalf("%d records are left", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Erase(ctx, []Erasure{e.of(1, 0)}, "a", "b"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// A header has a bound, and so have the separate positions of one batch.
func TestEraseOfTooManyRuns(t *testing.T) {
	e := newErasing(t, false, 20000)
	w := openWriter(t, e.memConfig(e.fs))
	defer closeWriter(t, w)
	var odd []uint64
	for p := uint64(1); p < 20000; p += 2 {
		odd = append(odd, p)
	}
	if err := w.Erase(context.Background(), []Erasure{e.of(1, odd...)}, "a", "b"); err == nil || !strings.Contains(err.Error(), "10000 separate runs") {
		t.Fatal(err)
	}
	if err := w.Erase(context.Background(), []Erasure{e.of(1, odd[:4000]...)}, "a", "b"); err != nil {
		t.Fatal(err)
	}
	if n := len(e.records(t, e.fs)); n != 16000 {
		t.Fatalf("%d records are left", n)
	}
}

// Erasing what is erased seals nothing, and writing goes on beside it.
func TestEraseAgain(t *testing.T) {
	e := newErasing(t, true, 5, 5)
	w := openWriter(t, e.memConfig(e.fs))
	again := func() {
		if err := w.Erase(context.Background(), []Erasure{e.of(1, 1, 2), e.of(2, 4)}, "a", "b"); err != nil {
			t.Fatal(err)
		}
		if err := w.Append(context.Background(), SignalLogs, testRequest(1, "x")); err != nil {
			t.Fatal(err)
		}
	}
	again()
	again()
	closeWriter(t, w)
	r := e.with(t, func(*memFS) {})
	// open, 2 batches, close; open, 2 erases, 2 batches, close
	if l := r.Logs[0]; r.ExitCode() != ExitProven || l.Entries != 10 || l.ErasedRecords != 3 {
		t.Fatalf("%+v", l)
	}
}

// What a crash or a fault left undone is said, and done at the next start, or
// by the next erasure.
func TestErasureOrderedNotDone(t *testing.T) {
	e := newErasing(t, true, 200)
	before := e.fs.restart(keepAll, nil)
	e.erase(t, 1, 2)
	batch := logDir + "/" + e.files(segmentDir)[1]
	undone := func() *memFS {
		m := e.fs.restart(keepAll, nil)
		m.files[batch].data = slices.Clone(before.files[batch].data)
		return m
	}
	said := func(m *memFS, code int) {
		t.Helper()
		r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: e.trust, AsOf: e.asOf})
		if err != nil || r.ExitCode() != code {
			t.Fatalf("%v %v", err, r.Logs[0].Findings)
		}
		if code == ExitIncomplete && !strings.Contains(fmt.Sprint(r.Logs[0].Findings), "ordered by entry 4, not done") {
			t.Fatalf("%v", r.Logs[0].Findings)
		}
	}
	m := undone()
	said(m, ExitIncomplete)
	w := openWriter(t, e.memConfig(m))
	if err := w.Erase(context.Background(), nil, "a", "finish"); err != nil {
		t.Fatal(err)
	}
	closeWriter(t, w)
	said(m, ExitProven)

	// As a crash leaves it: without a close, and the body partly done.
	m = undone()
	at := bytes.Index(m.files[batch].data, []byte("\n\n")) + 2000 // within the body
	clear(m.files[batch].data[at/tornBlock*tornBlock:][:tornBlock])
	last := logDir + "/" + e.files(segmentDir)[len(e.files(segmentDir))-1]
	frames := e.frames(t, strings.TrimPrefix(last, logDir+"/"))
	m.files[last].data = bytes.Join(frames[:len(frames)-2], nil)
	delete(m.files, logDir+"/"+checkpointFile)
	for name := range m.files {
		if strings.Contains(name, "/tile/") {
			delete(m.files, name)
		}
	}
	said(m, ExitIncomplete)
	closeWriter(t, openWriter(t, e.memConfig(m)))
	if holds(t, m, e.originals[1][2]) {
		t.Fatal("the start does not carry out what is ordered")
	}
}

// Nothing but what an erase orders can be missing, and nothing of an erase can
// be changed.
func TestTamperedErasures(t *testing.T) {
	e := newErasing(t, true, 6, 4)
	whole := e.fs.restart(keepAll, nil)
	e.erase(t, 1, 1, 2)
	once := e.fs.restart(keepAll, nil)
	e.erase(t, 1, 5)
	segments := e.files(segmentDir)
	batch, other, first := segments[1], segments[2], segments[4]
	second := ""
	for _, name := range segments {
		if bytes.Contains(e.fs.files[logDir+"/"+name].data, []byte("erased 1-2 5\n")) {
			second = name
		}
	}
	e.expect(t, "untouched", ExitProven, func(*memFS) {})

	from := func(m *memFS, name string) func(*memFS) {
		return func(to *memFS) { to.files[logDir+"/"+name].data = slices.Clone(m.files[logDir+"/"+name].data) }
	}
	e.expect(t, "the batch is put back", ExitIncomplete, from(whole, batch))
	e.expect(t, "the first erase is put back", ExitIncomplete, from(once, first))
	e.expect(t, "another batch is overwritten", ExitTampering, edit(other, wipe(t, KindBatch)))
	e.expect(t, "the newest erase is overwritten", ExitTampering, edit(second, wipe(t, KindErase)))
	e.expect(t, "a byte of the batch is not zero", ExitIncomplete, edit(batch, func(b []byte) []byte {
		b[bytes.Index(b, make([]byte, 100))+50] = 1
		return b
	}))
	e.expect(t, "fewer are said to be erased", ExitTampering, edit(second, func(b []byte) []byte {
		return bytes.Replace(b, []byte("erased 1-2 5\n"), []byte("erased 1-2\n"), 1)
	}))

	// Every byte of the newest erase, and of the batch's header.
	data := e.fs.files[logDir+"/"+second].data
	for i := 0; i < len(data); i += sweepStep {
		e.expect(t, fmt.Sprintf("%s, byte %d", second, i), ExitTampering, edit(second, func(b []byte) []byte {
			b[i] ^= 1 << (i % 8)
			return b
		}))
	}
	e.expect(t, "the erase is dropped", ExitTampering, func(m *memFS) { delete(m.files, logDir+"/"+second) })
}

// wipe overwrites the sections of a segment's frames of a kind.
func wipe(t testing.TB, kind Kind) func([]byte) []byte {
	return func(b []byte) []byte {
		fr := newFrameReader(bytes.NewReader(b), 0)
		for {
			f, err := fr.next()
			if err != nil {
				return b
			}
			if f.Kind == kind {
				clear(b[f.offset+int64(len(f.text))+1 : f.offset+f.size])
			}
		}
	}
}

// A writer with all keys seals erases that are none: the rules alone speak
// against them.
func TestResealedErasures(t *testing.T) {
	for _, tc := range []struct {
		what, want string
		change     func(h *Header, s [][]byte)
	}{
		{"nothing", "", func(*Header, [][]byte) {}},
		{"another leaf", "do not lead to the batch's record root", func(_ *Header, s [][]byte) { s[3][0] ^= 1 }},
		{"another salt", "do not lead to the batch's record root", func(_ *Header, s [][]byte) { s[2][0] ^= 1 }},
		{"leaves swapped", "do not lead to the batch's record root", func(_ *Header, s [][]byte) {
			a := slices.Clone(s[3][:32])
			copy(s[3], s[3][32:64])
			copy(s[3][32:], a)
		}},
		{"positions moved", "do not lead to the batch's record root", func(h *Header, _ [][]byte) { h.Erase.Erased = []Range{{2, 3}} }},
		{"fewer positions", "bytes of leaf hashes", func(h *Header, _ [][]byte) { h.Erase.Erased = []Range{{1, 1}} }},
		{"a position too many", "position 9 is erased", func(h *Header, _ [][]byte) { h.Erase.Erased = []Range{{1, 1}, {9, 9}} }},
		{"a leaf too many", "bytes of leaf hashes", func(_ *Header, s [][]byte) { s[3] = append(s[3], make([]byte, 32)...) }},
		{"a salt missing", "position 5 is erased", func(h *Header, s [][]byte) { h.Erase.Erased = []Range{{1, 1}, {5, 5}}; s[2] = s[2][16:] }},
		{"a record more than there was", "accounts for 7 records", func(h *Header, s [][]byte) {
			h.Erase.Erased, s[3] = []Range{{1, 3}}, append(s[3], make([]byte, 32)...)
		}},
		{"another filter", "filter does not match", func(_ *Header, s [][]byte) { s[0][len(s[0])-1] ^= 1 }},
		{"a filter cut", "filter is shorter", func(_ *Header, s [][]byte) { s[0] = s[0][:10] }},
		{"spans", "not a canonical OTLP message", func(h *Header, _ [][]byte) { h.Sections[1].Encoding = SignalTraces.encoding() }},
		{"a body cut", "frame is cut", func(_ *Header, s [][]byte) { s[1] = s[1][:len(s[1])-1] }},
		{"of the open", "erases records of entry 0, which is no batch", func(h *Header, _ [][]byte) { h.Erase.Target = 0 }},
		{"of another batch", "is no erase of entry 2", func(h *Header, _ [][]byte) { h.Erase.Target = 2 }},
		{"of itself", "yet to come", func(h *Header, _ [][]byte) { h.Erase.Target = 5 }},
		{"of an entry to come", "yet to come", func(h *Header, _ [][]byte) { h.Erase.Target = 99 }},
	} {
		t.Run(tc.what, func(t *testing.T) {
			e := newErasing(t, false, 6, 4)
			w := openWriter(t, e.memConfig(e.fs))
			log := &Log{Origin: testOrigin, dir: logDir, fs: e.fs}
			want := map[uint64][]Range{1: {{1, 2}}}
			bs, err := log.erasable(context.Background(), want, 99)
			if err != nil {
				t.Fatal(err)
			}
			o, err := bs[0].order(context.Background(), log, want[1], "a", "b")
			if err != nil {
				t.Fatal(err)
			}
			tc.change(o.header, o.sections)
			for i := range o.sections {
				s := &o.header.Sections[i]
				s.Stored, s.Hash = uint64(len(o.sections[i])), sha256.Sum256(o.sections[i])
				if s.Name != SectionBody {
					s.Plain = s.Stored
				}
			}
			if err := w.submit(context.Background(), o); err != nil {
				t.Fatal(err)
			}
			closeWriter(t, w)
			r := e.with(t, func(*memFS) {})
			if said := fmt.Sprint(r.Logs[0].Findings); (r.ExitCode() == ExitTampering) != (tc.want != "") || !strings.Contains(said, tc.want) {
				t.Fatalf("exit code %d: %s", r.ExitCode(), said)
			}
		})
	}
}

// An erase gives back nothing that an earlier one took.
func TestErasureSupersedesWholly(t *testing.T) {
	e := newErasing(t, true, 6)
	e.erase(t, 1, 1, 2)
	w := openWriter(t, e.memConfig(e.fs))
	log := &Log{Origin: testOrigin, dir: logDir, fs: e.fs}
	entry, err := log.entry(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	d := new(batchDecoder)
	*d = *batchDecoders.Get().(*batchDecoder)
	c, err := entry.content(d)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := c.without([]Range{{4, 4}}, 6, &d.hasher)
	if err != nil {
		t.Fatal(err)
	}
	// Position 2 comes back, in the place of what it hashes to.
	rest.erased = []Range{{1, 1}, {4, 4}}
	enc := batchEncoders.Get().(*batchEncoder)
	o := &order{header: &Header{Kind: KindErase, Erase: &EraseLines{1, rest.erased, "a", "b"}}, done: make(chan error, 1)}
	if o.header.Sections, o.sections, err = enc.encodeErase(rest); err != nil {
		t.Fatal(err)
	}
	if err := w.submit(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	closeWriter(t, w)
	r := e.with(t, func(*memFS) {})
	if said := fmt.Sprint(r.Logs[0].Findings); r.ExitCode() != ExitTampering || !strings.Contains(said, "leaves out records of entry 1") {
		t.Fatal(said)
	}
}

// A pruned batch needs no root any more, and its erase proves what it can.
func TestErasedBatchIsPruned(t *testing.T) {
	k, m := newTestKeys(t), newMemFS()
	c := &clock{time.Unix(1_800_000_000, 0)}
	for day := range 6 {
		cfg := k.memConfig(m)
		cfg.Now, cfg.Retention = c.now, Retention{MaxAge: 72 * time.Hour}
		w := openWriter(t, cfg)
		if err := w.Append(context.Background(), SignalLogs, testRequest(5, fmt.Sprint("d", day))); err != nil {
			t.Fatal(err)
		}
		if day == 3 {
			if err := w.Erase(context.Background(), []Erasure{of(m, 4, 1)}, "a", "b"); err != nil {
				t.Fatal(err)
			}
		}
		closeWriter(t, w)
		c.t = c.t.Add(24 * time.Hour)
	}
	r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: k.trust, Auditor: &k.auditor, AsOf: c.t.Add(-24 * time.Hour)})
	if err != nil || r.ExitCode() != ExitProven {
		t.Fatal(err, r.Logs[0].Findings)
	}
	if firsts, _, _ := segments(m, logDir); firsts[0] <= 4 {
		t.Fatal("the erased batch is not pruned")
	}
	w := openWriter(t, k.memConfig(m)) // looks for no target that is gone
	if err := w.Erase(context.Background(), nil, "a", "b"); err != nil {
		t.Fatal(err)
	}
	closeWriter(t, w)
}

// Readers and a verifier go on beside a writer that erases.
func TestEraseBesideReaders(t *testing.T) {
	e := newErasing(t, true, 30, 30, 30, 30)
	w := openWriter(t, e.memConfig(e.fs))
	done := make(chan error, 1)
	go func() {
		for p := range uint64(15) {
			for entry := range uint64(4) {
				if err := w.Erase(context.Background(), []Erasure{e.of(entry+1, 2*p)}, "a", "b"); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		for _, r := range e.records(t, e.fs) {
			if !bytes.Equal(r.bytes, e.originals[r.entry][r.position]) {
				t.Fatalf("record %d of entry %d is another", r.position, r.entry)
			}
		}
		r, err := verifyStore(context.Background(), e.fs, "/store", VerifyOptions{Trust: e.trust, Auditor: &e.auditor})
		if err != nil {
			t.Fatal(err)
		}
		if r.ExitCode() == ExitTampering {
			t.Fatal(r.Logs[0].Findings)
		}
	}
	closeWriter(t, w)
	if n := len(e.records(t, e.fs)); n != 60 {
		t.Fatalf("%d records are left", n)
	}
}

// What a lock keeps is ordered to be erased, the rest is erased, and erasing
// goes on; when the lock has ended, it is done.
func TestEraseUnderALock(t *testing.T) {
	k, m := newTestKeys(t), newMemFS()
	cfg := k.memConfig(m)
	cfg.FS, cfg.maintainEvery = memObjects{m}, time.Millisecond
	w := openWriter(t, cfg)
	defer closeWriter(t, w)
	for i := range 3 {
		if err := w.Append(context.Background(), SignalLogs, testRequest(5, fmt.Sprint("b", i))); err != nil {
			t.Fatal(err)
		}
	}
	until := time.Now().Add(300 * time.Millisecond)
	m.mu.Lock()
	m.retained = map[string]time.Time{logDir + "/" + segmentDir + "/" + segmentName(1): until}
	m.mu.Unlock()
	name := func(entry uint64) Erasure {
		e := Erasure{Entry: entry, Positions: []uint64{1, 2}}
		b, err := (&Log{Origin: testOrigin, dir: logDir, fs: memObjects{m}}).entry(context.Background(), entry)
		if err != nil {
			t.Fatal(err)
		}
		e.Root = b.Root
		return e
	}
	err := w.Erase(context.Background(), []Erasure{name(1), name(2)}, "a", "b")
	var locked *LockedError
	if !errors.As(err, &locked) || !locked.Until.Equal(until) || !strings.Contains(err.Error(), "entry 1: ordered, not done") {
		t.Fatal(err)
	}
	if err := w.Erase(context.Background(), []Erasure{name(3)}, "a", "b"); err != nil {
		t.Fatal(err)
	}
	verify := func() *LogReport {
		r, err := verifyStore(context.Background(), memObjects{m}, "/store", VerifyOptions{Trust: k.trust, Auditor: &k.auditor})
		if err != nil {
			t.Fatal(err)
		}
		return r.Logs[0]
	}
	if l := verify(); l.Axis(Erasures) != Incomplete || l.ErasedRecords != 6 || strings.Count(fmt.Sprint(l.Findings), "not done") != 1 {
		t.Fatal(l.Findings)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l := verify()
		if l.Axis(Erasures) == Note {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(l.Findings)
		}
	}
}

func FuzzEraseRebuild(f *testing.F) {
	f.Add(testRequest(3, "a"), uint64(0), uint64(1))
	f.Add(testRequest(1, "a"), uint64(0), uint64(0))
	f.Add([]byte{10, 4, 18, 2, 18, 0}, uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, msg []byte, first, last uint64) {
		n, err := checkRequest(SignalLogs, msg)
		if err != nil || n == 0 || n > 1000 || first > last || last >= uint64(n) {
			return
		}
		h := new(batchHasher)
		c := &content{sig: SignalLogs, msg: msg, salts: bytes.Repeat([]byte{7}, n*saltBytes)}
		all, err := c.hash(h, uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		rest, err := c.without([]Range{{first, last}}, uint64(n), h)
		if err != nil {
			t.Fatal(err)
		}
		if len(rest.msg) > len(msg) {
			t.Fatalf("%d bytes became %d", len(msg), len(rest.msg))
		}
		again, err := rest.hash(h, uint64(n))
		if err != nil || !slices.Equal(again, all) {
			t.Fatalf("other leaves: %v", err)
		}
	})
}
