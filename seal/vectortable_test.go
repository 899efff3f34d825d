package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/note"
)

// vectors are the scenarios of testdata/vectors: whole logs, and one failure
// each. What is sealed here is sealed with all of the writer's keys, unless a
// scenario says otherwise: nothing but the broken rule speaks against it.
func vectors() []vector {
	shortly := slices.Concat(headerVectors(), bodyVectors(), indexVectors(), noteVectors())
	for i := range shortly {
		shortly[i].write = (*scene).short
	}
	return slices.Concat(wholeVectors(), endedVectors(), damageVectors(), orderVectors(), shortly,
		keyVectors(), rotationVectors(), fileVectors(), pruneVectors(), sinceVectors(), eraseVectors(), freshVectors(), svidVectors(), witnessVectors(), acceptedVectors())
}

var noTags = proven // what is seen without the auditor's key of a wrong tag

// text is a change of the header's text of a frame that find gives, above its
// tag and sum.
func text(find func(*scene) *piece, old, new string) func(*scene) {
	return func(s *scene) {
		find(s).text = func(b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				s.t.Fatalf("no %q in %q", old, b)
			}
			return bytes.Replace(b, []byte(old), []byte(new), 1)
		}
	}
}

func second(s *scene) *piece { return s.b(1) }
func opened(s *scene) *piece { return s.o(0) }

// body gives the second batch another message.
func body(msg ...byte) func(*scene) { return func(s *scene) { s.b(1).carry(msg, nil); s.renumber() } }

// compressed compresses the second batch in another way.
func compressed(with func(plain []byte) []byte) func(*scene) {
	return func(s *scene) { s.b(1).put(1, with(s.b(1).plain(s.t))) }
}

// renumber puts record numbers right after a batch has changed its count.
func (s *scene) renumber() {
	n := uint64(0)
	for _, p := range s.frames {
		if p.Kind != KindCheckpoint {
			p.FirstRecord = n
			n += p.Records
		}
	}
}

func wholeVectors() []vector {
	return []vector{
		{name: "good-two-epochs", about: "two epochs of two segments, closed; most other vectors are this log with one thing changed", want: proven},
		{name: "good-minimal", about: "open and close", want: proven, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.entry(&Header{Kind: KindClose})
			s.commit()
		}},
		{name: "good-live", about: "an epoch that has not ended", want: proven, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.batch(SignalLogs, testRequest(1, "a"))
			s.commit()
		}},
		{name: "good-example", about: "the example in docs/sealed-log.md: one record, its body in a raw zstd block", want: proven, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.batch(SignalLogs, testRequest(1, "a")).carry(vectorLogs(vectorRecord()), nil)
			s.commit()
		}},
		{name: "good-signals", about: "logs, traces and metrics in one group", want: proven, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.batch(SignalLogs, testRequest(2, "a"))
			s.batch(SignalTraces, vectorSpans())
			s.batch(SignalMetrics, vectorMetrics())
			s.commit()
		}},
		{name: "good-requests-share-an-entry", about: "two requests, concatenated", want: proven, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.batch(SignalLogs, testRequest(2, "a"), testRequest(1, "b"))
			s.commit()
		}},
		{name: "good-large-request-split", about: "a request of 10 MB as two entries of one group", want: proven, write: func(s *scene) {
			var records [][]byte
			for i := range 10 {
				records = append(records, pbField(nil, 5, pbField(nil, 1, bytes.Repeat([]byte{'a' + byte(i)}, 1<<20))))
			}
			parts, err := split(vectorLogs(records...), maxSectionBytes-seedBytes-zstdOverhead, maxEntryRecords)
			if err != nil || len(parts) != 2 {
				s.t.Fatal(len(parts), err)
			}
			s.open(AfterFirst)
			s.commit()
			for _, p := range parts {
				s.batch(SignalLogs, p)
			}
			s.commit()
		}},
		{name: "good-no-times-no-keys", about: "a record without times and attributes: time 0 0, a filter of 0 bits", want: proven, change: body(vectorLogs(nil)...)},
		{name: "good-observed-time", about: "ObservedTimestamp counts where Timestamp is 0", want: proven,
			change: body(vectorLogs(append(pbFixed64(nil, 1, 0), pbFixed64(nil, 11, 1234)...))...)},
		{name: "good-fields-in-any-order", about: "resource and scope after their records, a schema URL in front", want: proven,
			change: body(pbField(nil, 1, pbField(pbField(pbField(nil, 3, []byte("url")), 2, pbField(pbField(nil, 2, vectorRecord()), 1, []byte{})), 1, []byte{}))...)},
		{name: "good-last-value-counts", about: "an attribute with its key and its value twice", want: proven,
			change: body(vectorLogs(pbField(nil, 6, pbField(pbField(pbField(pbField(nil, 1, []byte("x")), 2, pbField(nil, 1, []byte("v"))), 1, []byte("user.id")), 2, pbField(nil, 1, []byte("w")))))...)},
		{name: "good-segments-of-one-epoch", about: "a segment ended by size: the next begins within the epoch", want: proven, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.batch(SignalLogs, testRequest(2, "a"))
			s.commit()
			s.first = s.next.Entry
			s.batch(SignalLogs, testRequest(1, "b"))
			s.commit()
		}},
		{name: "good-beats", about: "beats of a silent writer", want: proven, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			for range 3 {
				s.next.Sealed += 59e9
				s.entry(&Header{Kind: KindBeat})
				s.commit()
			}
		}},
		{name: "good-full-tile", about: "260 entries: a full tile, and a partial one on it", want: proven, write: beats(258)},
		{name: "good-auditors-of-both-suites", about: "escrows to two auditors, x25519 and mlkem768x25519; auditor.key is the first's", want: proven, write: func(s *scene) {
			s.recipients = append(s.recipients, s.second.Recipient())
			s.two()
		}},
		{name: "good-hybrid-suite", about: "auditor.key is of the suite mlkem768x25519", want: proven, write: func(s *scene) {
			s.recipients = []Recipient{s.second.Recipient()}
			s.auditor = s.second
			s.two()
		}},
		{name: "good-zstd-checksum", about: "a body with a zstd checksum", want: proven, change: compressed(func(plain []byte) []byte {
			e, _ := zstd.NewWriter(nil, zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true))
			return e.EncodeAll(plain, nil)
		})},
		{name: "good-zstd-raw-block", about: "a body that is not compressed", want: proven, change: compressed(func(plain []byte) []byte {
			return rawZstd(plain, 0xa0, nil, 4, len(plain))
		})},
		{name: "good-zstd-window-8-mib", about: "the largest window allowed", want: proven, change: compressed(func(plain []byte) []byte {
			return rawZstd(plain, 0x80, []byte{13 << 3}, 4, len(plain))
		})},
		{name: "good-zstd-size-of-8-bytes", about: "a content size in 8 bytes", want: proven, change: compressed(func(plain []byte) []byte {
			return rawZstd(plain, 0xe0, nil, 8, len(plain))
		})},
		{name: "good-key-until", about: "a log key that is trusted for more entries than there are", want: proven,
			trust: func(t string) string { return strings.Replace(t, "\nchain", " until 8\nchain", 1) }},
		{name: "good-signature-of-a-stranger", about: "a second signature, by a key that is not trusted, is passed over", want: proven, change: func(s *scene) {
			s.c(1).note = func(c Checkpoint) []byte {
				b, err := note.Sign(&note.Note{Text: c.text()}, s.log, s.stranger("example.org/witness"))
				if err != nil {
					s.t.Fatal(err)
				}
				return b
			}
		}},
		{name: "good-without-lock-and-tiles", about: "partial tiles are derived, their absence is nothing", want: proven, change: func(s *scene) { delete(s.seal(), "tile/0/000.p/8") }},
		{name: "good-file-being-replaced", about: "a *.tmp file is nothing", want: proven, change: func(s *scene) { s.seal()["checkpoint.tmp"] = []byte("x") }},
	}
}

// two is an epoch of two commits, and an open epoch.
func (s *scene) two() {
	s.open(AfterFirst)
	s.commit()
	s.entry(&Header{Kind: KindClose})
	s.commit()
	s.open(AfterClean)
	s.batch(SignalLogs, testRequest(1, "a"))
	s.commit()
}

// beats is an epoch of n beats in one group, and a close.
func beats(n int) func(*scene) {
	return func(s *scene) {
		s.open(AfterFirst)
		s.commit()
		for range n {
			s.entry(&Header{Kind: KindBeat})
		}
		s.commit()
		s.entry(&Header{Kind: KindClose})
		s.commit()
	}
}

func (s *scene) stranger(name string) LogKey {
	skey, _, err := GenerateLogKey(name)
	if err != nil {
		s.t.Fatal(err)
	}
	k, err := ParseLogKey(skey)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

func pbFixed64(b []byte, num int, n uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(b, byte(num<<3|1)), n)
}

func vectorLogs(records ...[]byte) []byte {
	var scope []byte
	for _, r := range records {
		scope = pbField(scope, 2, r)
	}
	return pbField(nil, 1, pbField(nil, 2, scope))
}

func vectorRecord() []byte {
	return pbField(pbFixed64(nil, 1, 1_763_856_000_000_000_000), 6, pbField(pbField(nil, 1, []byte("user.id")), 2, pbField(nil, 1, []byte("ann"))))
}

func vectorSpans() []byte {
	span := pbField(nil, 1, bytes.Repeat([]byte{5}, 16))
	span = pbFixed64(pbFixed64(span, 7, 1_763_856_000_000_000_000), 8, 1_763_856_000_000_001_000)
	return vectorLogs(pbField(span, 9, pbField(pbField(nil, 1, []byte("mesh.join.request_id")), 2, pbField(nil, 1, []byte("r1")))))
}

func vectorMetrics() []byte {
	var metrics [][]byte
	for i, num := range []uint64{5, 7, 9, 10, 11} {
		metrics = append(metrics, pbField(nil, num, pbField(nil, 1, pbFixed64(nil, 3, uint64(1_763_856_000_000_000_000+i)))))
	}
	return vectorLogs(metrics...)
}

// endedVectors end otherwise than with a close.
func endedVectors() []vector {
	crashed := func(s *scene, after After) {
		s.open(AfterFirst)
		s.commit()
		s.batch(SignalLogs, testRequest(2, "a"))
		s.commit()
		s.open(after)
		s.commit()
	}
	torn := func(s *scene) { // what was cut off in front of entry 2
		s.open(AfterFirst)
		s.commit()
		s.batch(SignalLogs, testRequest(2, "a"))
		s.commit()
		cut := []byte("meshaudit-seal/v1 batch\norigin " + testOrigin + "\nentry 2\nep")
		s.open(AfterCrash).Open.Torn = []Torn{{uint64(len(cut)), sha256.Sum256(cut)}}
		s.commit()
		s.seal()["torn/00000000000000000002-00000000000000000000-2500"] = cut
	}
	unpublished := func(change func([]byte) []byte) func(*scene) { // of the last segment, whose group 3 was not yet published
		return func(s *scene) {
			s.publishAt(5)
			s.join(1, s.cut(1)[:4]...)
			s.change(s.segments()[1], change)
		}
	}
	return []vector{
		{name: "end-crash", about: "an epoch ended by a crash", want: incomplete(Completeness), write: func(s *scene) { crashed(s, AfterCrash) }},
		{name: "end-fault", about: "an epoch ended by a failed write", want: incomplete(Completeness), write: func(s *scene) { crashed(s, AfterFault) }},
		{name: "end-torn-kept", about: "what a recovery cut off is in torn/, and named", want: incomplete(Completeness), write: torn},
		{name: "end-torn-missing", about: "what a recovery cut off is named, but not there", want: incomplete(Completeness), write: func(s *scene) {
			torn(s)
			delete(s.files, "torn/00000000000000000002-00000000000000000000-2500")
		}},
		{name: "end-torn-changed", about: "a file in torn/ is not the one that open names", want: tampering(Integrity), write: func(s *scene) {
			torn(s)
			s.change("torn/00000000000000000002-00000000000000000000-2500", func(b []byte) []byte { b[30] ^= 1; return b })
		}},
		{name: "end-torn-emptied", about: "a file in torn/ is empty, and not the one that open names", want: tampering(Integrity), write: func(s *scene) {
			torn(s)
			s.files["torn/00000000000000000002-00000000000000000000-2500"] = []byte{}
		}},
		{name: "end-torn-not-named", about: "a file in torn/ that no open names", want: tampering(Integrity), change: func(s *scene) {
			s.seal()["torn/00000000000000000002-00000000000000000000-2500"] = []byte("x")
		}},
		{name: "end-torn-of-another-entry", about: "a named file in torn/ under another entry's number", want: tampering(Integrity), write: func(s *scene) {
			torn(s)
			s.files["torn/00000000000000000001-00000000000000000000-2500"] = s.files["torn/00000000000000000002-00000000000000000000-2500"]
			delete(s.files, "torn/00000000000000000002-00000000000000000000-2500")
		}},
		{name: "end-torn-next", about: "a file in torn/ for the entry to come: a recovery was cut short", want: proven, change: func(s *scene) {
			s.seal()["torn/00000000000000000008-00000000000000000004-2500"] = []byte("meshaudit-seal/v1 ba")
		}},
		{name: "end-cut-in-header", about: "the file ends within a header", want: incomplete(Completeness), change: unpublished(func(b []byte) []byte {
			return b[:bytes.LastIndex(b, []byte("root "))+9]
		})},
		{name: "end-cut-in-body", about: "the file ends within a body", want: incomplete(Completeness), change: unpublished(func(b []byte) []byte {
			return b[:bytes.LastIndex(b, []byte("meshaudit-seal/v1 checkpoint"))-7]
		})},
		{name: "end-cut-before-checkpoint", about: "whole entries, without their checkpoint", want: incomplete(Completeness), change: unpublished(func(b []byte) []byte {
			return b[:bytes.LastIndex(b, []byte("meshaudit-seal/v1 checkpoint"))]
		})},
		{name: "end-recovery-cut-short", about: "a tail was copied to torn/, and is still where it was: whole entries, and a part of their checkpoint", want: incomplete(Completeness), change: func(s *scene) {
			unpublished(func(b []byte) []byte {
				f := s.cut(1)
				return append(bytes.Join(f[:3], nil), f[3][:100]...)
			})(s)
			s.files["torn/00000000000000000005-00000000000000000004-935"] = s.files[s.segments()[1]][935:]
		}},
		{name: "end-recovery-of-whole-commit", about: "a recovery was cut short when it had copied a commit to torn/ that is whole", want: proven, change: func(s *scene) {
			f := s.cut(1)
			s.seal()[fmt.Sprintf("torn/%020d-%020d-%d", 7, 4, len(bytes.Join(f[:6], nil)))] = bytes.Join(f[6:], nil)
		}},
		{name: "end-zeros", about: "blocks of zeros after the last commit: never written", want: incomplete(Completeness), change: func(s *scene) {
			s.change(s.segments()[1], func(b []byte) []byte { return append(b, make([]byte, 2048)...) })
		}},
		{name: "end-garbage", about: "what no crash leaves, after the last commit", want: tampering(Integrity), change: func(s *scene) {
			s.change(s.segments()[1], func(b []byte) []byte { return append(b, "garbage"...) })
		}},
		{name: "end-empty-segment", about: "a segment was created, and nothing written", want: proven, change: func(s *scene) {
			s.seal()["segment/00000000000000000008.seal"] = []byte{}
		}},
		{name: "end-stale", about: "silence for longer than two heartbeats", want: incomplete(Freshness), late: 3 * time.Minute},
		{name: "end-clock-stepped-back", about: "an open sealed before the close in front of it", want: incomplete(Order), change: func(s *scene) {
			s.from(s.o(1), func(h *Header) { h.Sealed -= 3600e9 })
			s.next.Sealed -= 3600e9
		}},
		{name: "end-truncated", about: "the last commit is gone, which was published", want: tampering(Completeness), change: func(s *scene) {
			f := s.cut(1)
			s.join(1, f[:len(f)-2]...)
		}},
		{name: "end-truncated-segment", about: "the last segment is gone, which was published", want: tampering(Completeness), change: func(s *scene) {
			delete(s.seal(), s.segments()[1])
		}},
		{name: "end-unpublished", about: "the checkpoint file is gone", want: incomplete(Completeness), late: 20 * time.Second, change: func(s *scene) {
			delete(s.seal(), checkpointFile)
		}},
	}
}

// damageVectors are changes of stored bytes, as a disk or an editor makes them.
func damageVectors() []vector {
	in := func(what string, at int) func(*scene) { return func(s *scene) { s.flip(0, what, at) } }
	return []vector{
		{name: "flip-magic", about: "a bit of a header's first line", want: tampering(Integrity), change: in("meshaudit-seal/v1 batch", 19)},
		{name: "flip-header", about: "a bit of an entry number", want: tampering(Integrity), change: in("entry 1\n", 6)},
		{name: "flip-root", about: "a bit of a record root", want: tampering(Integrity), change: in("\nroot ", 8)},
		{name: "flip-tag", about: "a bit of a tag", want: tampering(Integrity), change: in("\ntag ", 8)},
		{name: "flip-sum", about: "a bit of a sum", want: tampering(Integrity), change: in("\nsum ", 5)},
		{name: "flip-filter", about: "a bit of a filter", want: tampering(Integrity), change: func(s *scene) {
			s.seal()
			n := int(s.b(0).Sections[0].Stored)
			s.change(s.segments()[0], func(b []byte) []byte {
				i := bytes.Index(b, s.b(0).sections[0])
				b[i+n-1] ^= 4
				return b
			})
		}},
		{name: "flip-body", about: "a bit of a body", want: tampering(Integrity), change: func(s *scene) {
			s.seal()
			s.change(s.segments()[0], func(b []byte) []byte { b[bytes.Index(b, s.b(1).sections[1])+40] ^= 1; return b })
		}},
		{name: "flip-note", about: "a bit of a signed root", want: tampering(Integrity), change: in("\n\n"+testOrigin+"\n1\n", len("\n\n"+testOrigin+"\n1\n")+3)},
		{name: "flip-signature", about: "a bit of a signature", want: tampering(Integrity), change: in("\u2014 ", len("\u2014 ")+len(testOrigin)+20)},
		{name: "flip-tile", about: "a bit of a tile", want: tampering(Integrity), change: func(s *scene) {
			s.change("tile/0/000.p/8", func(b []byte) []byte { b[40] ^= 1; return b })
		}},
		{name: "flip-published", about: "a bit of the published checkpoint's root", want: tampering(Integrity), change: func(s *scene) {
			s.change(checkpointFile, func(b []byte) []byte { b[len(testOrigin)+10] ^= 1; return b })
		}},
		{name: "zeros-in-the-middle", about: "a batch's sections are overwritten with zeros, and no erase ordered that", want: tampering(Integrity), change: func(s *scene) {
			s.b(0).store = func(sections [][]byte) []byte { return make([]byte, len(sections[0])+len(sections[1])) }
		}},
		{name: "byte-inserted", about: "a byte between two frames", want: tampering(Integrity), change: func(s *scene) {
			f := s.cut(0)
			s.join(0, slices.Concat(f[:2], [][]byte{{'\n'}}, f[2:])...)
		}},
	}
}

// orderVectors move what is sealed.
func orderVectors() []vector {
	moved := func(move func(f [][]byte) [][]byte) func(*scene) {
		return func(s *scene) { s.join(0, move(s.cut(0))...) }
	}
	// Segment 0: 0 open, 1 checkpoint | 2 batch, 3 batch, 4 checkpoint | 5 close, 6 checkpoint.
	return []vector{
		{name: "frame-dropped", about: "a batch is cut out", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { return slices.Delete(f, 2, 3) })},
		{name: "frame-doubled", about: "a batch stands twice", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { return slices.Insert(f, 2, f[2]) })},
		{name: "frames-swapped", about: "two batches change places", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { f[2], f[3] = f[3], f[2]; return f })},
		{name: "checkpoint-frame-dropped", about: "a checkpoint frame is cut out", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { return slices.Delete(f, 1, 2) })},
		{name: "checkpoint-frame-doubled", about: "a checkpoint frame stands twice", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { return slices.Insert(f, 1, f[1]) })},
		{name: "group-dropped", about: "a commit is cut out", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { return slices.Delete(f, 2, 5) })},
		{name: "group-doubled", about: "a commit stands twice", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { return slices.Concat(f[:5], f[2:]) })},
		{name: "groups-swapped", about: "two commits change places", want: tampering(Order), change: moved(func(f [][]byte) [][]byte { return slices.Concat(f[:2], f[5:], f[2:5]) })},
		{name: "segment-dropped", about: "the first segment is gone, and no prune ordered that", want: tampering(Completeness), change: func(s *scene) { delete(s.seal(), s.segments()[0]) }},
		{name: "segments-swapped", about: "two segments change names", want: tampering(Order), change: func(s *scene) {
			n, f := s.segments(), s.seal()
			f[n[0]], f[n[1]] = f[n[1]], f[n[0]]
		}},
		{name: "segment-renamed", about: "a segment's name does not say its first entry", want: tampering(Completeness), change: func(s *scene) {
			n, f := s.segments(), s.seal()
			f["segment/00000000000000000005.seal"] = f[n[1]]
			delete(f, n[1])
		}},
		{name: "spliced-from-another-log", about: "a batch of another writer", want: tampering(Order), change: func(s *scene) {
			other := newScene(s.t)
			for _, p := range other.frames {
				p.Origin = "example.org/meshaudit/edge-1"
			}
			f := s.cut(0)
			f[2] = other.cut(0)[2]
			s.join(0, f...)
		}},
		{name: "spliced-from-the-same-origin", about: "a batch of a writer with the same origin and other keys", want: tampering(Order), change: func(s *scene) {
			f := s.cut(0)
			f[3] = newScene(s.t).cut(0)[3]
			s.join(0, f...)
		}},
		{name: "spliced-from-another-epoch", about: "a batch of a later epoch in the place of one", want: tampering(Order), change: func(s *scene) {
			f := s.cut(0)
			f[3] = s.cut(1)[2]
			s.join(0, f...)
		}},
		{name: "prev-of-an-entry", about: "a batch whose prev is not the frame before", want: tampering(Order), change: func(s *scene) { s.b(1).Prev, s.b(1).keepPrev = Hash{1}, true }},
		{name: "prev-of-a-checkpoint", about: "a checkpoint frame whose prev is not the frame before", want: tampering(Order), change: func(s *scene) { s.c(1).Prev, s.c(1).keepPrev = Hash{1}, true }},
		{name: "prev-of-the-first", about: "an entry 0 whose prev is not zeros", want: tampering(Order), change: func(s *scene) { s.o(0).Prev, s.o(0).keepPrev = Hash{1}, true }},
		{name: "entry-gap", about: "an entry number is left out", want: tampering(Order), change: func(s *scene) { s.from(s.b(1), func(h *Header) { h.Entry++ }) }},
		{name: "entry-twice", about: "an entry number stands twice", want: tampering(Order), change: func(s *scene) { s.from(s.b(1), func(h *Header) { h.Entry-- }) }},
		{name: "record-gap", about: "a record number is left out", want: tampering(Order), change: func(s *scene) { s.from(s.b(1), func(h *Header) { h.FirstRecord++ }) }},
		{name: "epoch-gap", about: "an epoch number is left out", want: tampering(Order), change: func(s *scene) { s.from(s.o(1), func(h *Header) { h.Epoch++ }) }},
		{name: "epoch-of-one-batch", about: "a batch of another epoch", want: tampering(Order), change: func(s *scene) { s.b(1).Epoch++ }},
		{name: "first-epoch-is-1", about: "a log that begins with epoch 1", want: tampering(Order), change: func(s *scene) { s.from(s.o(0), func(h *Header) { h.Epoch++ }) }},
		{name: "first-is-no-open", about: "a log that begins with a batch", want: tampering(Order), write: func(s *scene) {
			s.batch(SignalLogs, testRequest(1, "a"))
			s.frames[0].chain = s.epoch
			s.commit()
		}},
		{name: "sealed-back", about: "an entry sealed before the one in front of it, within an epoch", want: tampering(Order), change: func(s *scene) { s.b(1).Sealed -= 5e9 }},
		{name: "other-origin", about: "an entry of another origin", want: tampering(Order), change: func(s *scene) { s.b(1).Origin = "example.org/other" }},
		{name: "after-clean-without-close", about: "an open that says clean, and no close before it", want: tampering(Order), write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.open(AfterClean)
			s.commit()
		}},
		{name: "after-crash-behind-close", about: "an open that says crash, right after a close", want: tampering(Order), change: func(s *scene) { s.o(1).Open.After = AfterCrash }},
		{name: "after-first-twice", about: "an open that says first, and is not", want: tampering(Order), change: func(s *scene) { s.o(1).Open.After = AfterFirst }},
		{name: "entry-behind-close", about: "a beat between close and open", want: tampering(Order), write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.entry(&Header{Kind: KindClose})
			s.commit()
			s.entry(&Header{Kind: KindBeat})
			s.commit()
		}},
	}
}

// headerVectors are headers that the grammar refuses, sealed all the same.
func headerVectors() []vector {
	type c struct {
		name, about string
		find        func(*scene) *piece
		old, new    string
	}
	checkpoint := func(s *scene) *piece { return s.c(1) }
	var vs []vector
	for _, c := range []c{
		{"version", "an unknown version", second, "meshaudit-seal/v1", "meshaudit-seal/v2"},
		{"kind", "an unknown kind", second, "v1 batch", "v1 bunch"},
		{"line", "an unknown line", second, "\nroot ", "\nsize 7\nroot "},
		{"line-missing", "a line is missing", second, "\nentry 2", ""},
		{"lines-swapped", "two lines in the wrong order", second, "entry 2\nepoch 0\n", "epoch 0\nentry 2\n"},
		{"encoding", "an unknown encoding", second, "otlp-logs+zstd", "otlp-logs+gzip"},
		{"section", "an unknown section", second, "section filter", "section finder"},
		{"sections-swapped", "a section of another kind", checkpoint, "section note", "section body"},
		{"suite", "an unknown escrow suite", opened, "escrow x25519", "escrow x448"},
		{"after", "an unknown after", opened, "after first", "after lunch"},
		{"heartbeat-0", "a heartbeat of 0", opened, "heartbeat 60", "heartbeat 0"},
		{"leading-zero", "a number with a leading zero", second, "entry 2\n", "entry 02\n"},
		{"sign", "a number with a sign", second, "entry 2\n", "entry +2\n"},
		{"number-65-bits", "a number that does not fit 64 bits", second, "entry 2\n", "entry 18446744073709551616\n"},
		{"two-spaces", "two spaces", second, "entry 2\n", "entry  2\n"},
		{"trailing-space", "a space at a line's end", second, "entry 2\n", "entry 2 \n"},
		{"carriage-return", "a carriage return", second, "entry 2\n", "entry 2\r\n"},
		{"base64-unpadded", "base64 without padding", opened, "=\nescrow", "\nescrow"},
		{"base64-url", "base64 of the URL alphabet", checkpoint, "prev ", "prev -"},
		{"origin-dots", "an origin with a .. element", second, testOrigin, "example.org/../edge-0"},
		{"origin-upper-case", "an origin with an upper case letter", second, testOrigin, "example.org/meshaudit/Edge-0"},
		{"sealed-2262", "sealed after 2^63 ns", second, "\nsealed ", "\nsealed 9"},
		{"section-too-large", "a section of more than 8 MiB", second, "section filter bloom/v1 40 40", "section filter bloom/v1 8388609 8388609"},
		{"section-lengths", "a section that is stored as it is, of two lengths", second, "section filter bloom/v1 40 40", "section filter bloom/v1 40 41"},
		{"records-too-many", "an entry of 65537 records", second, "records 3 2", "records 3 65537"},
		{"records-of-close", "a close with records", func(s *scene) *piece { return s.kind(KindClose)[0] }, "records 5 0", "records 5 1"},
		{"time-backwards", "the least event time after the greatest", second, "\ntime 1", "\ntime 9"},
	} {
		vs = append(vs, vector{name: "header-" + c.name, about: c.about, want: tampering(Integrity), change: text(c.find, c.old, c.new)})
	}
	whole := func(name, about string, change func([]byte) []byte) vector {
		return vector{name: "header-" + name, about: about, want: tampering(Integrity), change: func(s *scene) { s.b(1).whole = change }}
	}
	return append(vs,
		vector{name: "header-base64-newline", about: "base64 with a newline in it, which many decoders skip", want: tampering(Integrity), change: func(s *scene) {
			s.b(1).text = func(b []byte) []byte {
				i := bytes.Index(b, []byte("prev ")) + 20
				return slices.Concat(b[:i], []byte("\n"), b[i:])
			}
		}},
		vector{name: "header-base64-loose-bits", about: "base64 whose last bits are not zero", want: tampering(Integrity), change: func(s *scene) {
			s.b(1).text = func(b []byte) []byte {
				i := bytes.Index(b, []byte("=\nsealed "))
				const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
				b[i-1] = alphabet[strings.IndexByte(alphabet, b[i-1])+1]
				return b
			}
		}},
		whole("sum-upper-case", "a sum in upper case", func(b []byte) []byte { return append(b[:len(b)-9], strings.ToUpper(string(b[len(b)-9:]))...) }),
		whole("sum-missing", "no sum line", func(b []byte) []byte { return b[:len(b)-13] }),
		whole("text-behind-sum", "a line after the sum", func(b []byte) []byte { return append(b, "more 1\n"...) }),
		vector{name: "header-too-long", about: "a header of more than 32 KiB", want: tampering(Integrity), change: func(s *scene) {
			for range 700 {
				s.o(0).Open.Torn = append(s.o(0).Open.Torn, Torn{Bytes: 1})
			}
		}},
		vector{name: "header-no-escrow", about: "an open without an escrow", want: tampering(Integrity), change: func(s *scene) { s.o(0).Open.Escrows = nil }},
		vector{name: "header-escrow-short", about: "an escrow that is a byte too short", want: tampering(Integrity), change: func(s *scene) {
			e := &s.o(0).Open.Escrows[0]
			e.Ciphertext = e.Ciphertext[:79]
		}},
	)
}

// bodyVectors are bodies whose section hash is right.
func bodyVectors() []vector {
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9}
	raw := func(plain []byte) []byte { return rawZstd(plain, 0xa0, nil, 4, len(plain)) }
	zstdCase := func(name, about string, with func([]byte) []byte) vector {
		return vector{name: "zstd-" + name, about: about, want: tampering(Integrity), change: compressed(with)}
	}
	otlp := func(name, about string, msg ...byte) vector {
		return vector{name: "otlp-" + name, about: about, want: tampering(Integrity), change: body(msg...)}
	}
	record := vectorRecord()
	scope := pbField(nil, 2, record)
	return []vector{
		zstdCase("skippable-behind", "a skippable frame behind the body", func(p []byte) []byte { return append(raw(p), skippable...) }),
		zstdCase("skippable-before", "a skippable frame in front of the body", func(p []byte) []byte { return append(slices.Clone(skippable), raw(p)...) }),
		zstdCase("two-frames", "two frames that concatenate to the body", func(p []byte) []byte { return append(raw(p[:40]), raw(p[40:])...) }),
		zstdCase("empty-frame-behind", "an empty frame behind the body", func(p []byte) []byte { return append(raw(p), raw(nil)...) }),
		zstdCase("trailing-byte", "a byte behind the body", func(p []byte) []byte { return append(raw(p), 0) }),
		zstdCase("cut", "a frame without its last byte", func(p []byte) []byte { return raw(p)[:len(raw(p))-1] }),
		zstdCase("no-content-size", "a frame that does not state its content size", func(p []byte) []byte { return rawZstd(p, 0, []byte{0x38}, 0, 0) }),
		zstdCase("other-content-size", "a frame that states another content size", func(p []byte) []byte { return rawZstd(p, 0xa0, nil, 4, len(p)+1) }),
		zstdCase("dictionary", "a frame that wants a dictionary", func(p []byte) []byte { return rawZstd(p, 0xa1, []byte{7}, 4, len(p)) }),
		zstdCase("window", "a window of more than 8 MiB", func(p []byte) []byte { return rawZstd(p, 0x80, []byte{13<<3 | 1}, 4, len(p)) }),
		zstdCase("wrong-checksum", "a checksum that is not the content's", func(p []byte) []byte {
			return append(rawZstd(p, 0xa4, nil, 4, len(p)), 1, 2, 3, 4)
		}),
		zstdCase("reserved-block", "a block of the reserved type", func(p []byte) []byte { b := raw(p); b[9] |= 6; return b }),
		zstdCase("reserved-bit", "a frame with the reserved bit", func(p []byte) []byte { return rawZstd(p, 0xa8, nil, 4, len(p)) }),
		{name: "zstd-plain-length", about: "the section line states another plain length", want: tampering(Integrity), change: func(s *scene) { s.b(1).Sections[1].Plain++ }},
		{name: "body-shorter-than-seed", about: "a body of 31 bytes", want: tampering(Integrity), change: func(s *scene) {
			s.b(1).Sections[1].Plain = 31
			s.b(1).put(1, raw(make([]byte, 31)))
		}},
		{name: "body-other-seed", about: "records salted with another seed than the body's", want: tampering(Integrity), change: func(s *scene) {
			p := s.b(1).plain(s.t)
			p[0] ^= 1
			s.b(1).put(1, raw(p))
		}},
		{name: "body-other-record", about: "a record that is not the one in the record root", want: tampering(Integrity), change: func(s *scene) {
			p := s.b(1).plain(s.t)
			p[bytes.Index(p, []byte("/orders/42"))+8] = '7'
			s.b(1).put(1, raw(p))
		}},
		{name: "body-other-resource", about: "records under another resource than the one sealed", want: tampering(Integrity), change: func(s *scene) {
			p := s.b(1).plain(s.t)
			p[bytes.Index(p, []byte("\x12\x03\x0a\x01b"))+4] = 'c'
			s.b(1).put(1, raw(p))
		}},
		{name: "body-other-scope", about: "records under another scope than the one sealed", want: tampering(Integrity), change: func(s *scene) {
			p := s.b(1).plain(s.t)
			p[bytes.LastIndex(p, []byte("scope"))] = 'S'
			s.b(1).put(1, raw(p))
		}},
		{name: "body-count", about: "a header that states one record more", want: tampering(Integrity), change: func(s *scene) { s.b(1).Records++; s.renumber() }},
		{name: "body-root", about: "a header with another record root", want: tampering(Integrity), change: func(s *scene) { s.b(1).Root[0] ^= 1 }},
		{name: "body-of-another-signal", about: "logs that say they are traces", want: tampering(Integrity), change: func(s *scene) { s.b(1).Sections[1].Encoding = "otlp-traces+zstd" }},
		{name: "otlp-empty", about: "an empty message, in a batch of one record", want: tampering(Integrity), change: func(s *scene) {
			s.b(1).carry(nil, nil)
			s.b(1).Records = 1
			s.renumber()
		}},
		otlp("unknown-field", "an unknown field of the request", append(vectorLogs(record), pbField(nil, 2, []byte("x"))...)...),
		otlp("unknown-field-of-resource", "an unknown field beside the scopes", pbField(nil, 1, pbField(pbField(nil, 2, scope), 9, []byte("x")))...),
		otlp("resource-twice", "two resources of one ResourceLogs", pbField(nil, 1, pbField(pbField(pbField(nil, 1, []byte{}), 1, []byte{}), 2, scope))...),
		otlp("schema-url-twice", "two schema URLs of one scope", pbField(nil, 1, pbField(nil, 2, pbField(pbField(slices.Clone(scope), 3, nil), 3, nil)))...),
		otlp("group", "a group in a record", vectorLogs(append(slices.Clone(record), 0x7b, 0x7c))...),
		otlp("long-varint", "a varint that is longer than need be", vectorLogs(append(slices.Clone(record), 0x78, 0x81, 0))...),
		otlp("long-tag", "a tag that is longer than need be", append([]byte{0x8a, 0}, vectorLogs(record)[1:]...)...),
		otlp("cut", "a record that ends within a field", vectorLogs([]byte{0x2a, 5, 1})...),
	}
}

// indexVectors hide records from a search, or from a range of time.
func indexVectors() []vector {
	filter := func(name, about string, change func(b []byte) []byte) vector {
		return vector{name: name, about: about, want: tampering(Integrity), change: func(s *scene) {
			s.b(1).put(0, change(slices.Clone(s.b(1).sections[0])))
		}}
	}
	times := func(name, about string, change func(*Header)) vector {
		return vector{name: name, about: about, want: tampering(Integrity), change: func(s *scene) { change(s.b(1).Header) }}
	}
	return []vector{
		filter("filter-hides", "a filter without one of its bits", func(b []byte) []byte {
			for i := nonceBytes; ; i++ {
				if b[i] != 0 {
					b[i] &= b[i] - 1
					return b
				}
			}
		}),
		filter("filter-bit-more", "a filter with a bit too many", func(b []byte) []byte {
			for i := nonceBytes; ; i++ {
				if b[i] != 0xff {
					b[i] |= b[i] + 1
					return b
				}
			}
		}),
		filter("filter-longer", "a filter of 64 bits more", func(b []byte) []byte { return append(b, make([]byte, 8)...) }),
		filter("filter-empty", "a filter of no bytes", func([]byte) []byte { return nil }),
		filter("filter-no-nonce", "a filter without its nonce", func(b []byte) []byte { return b[nonceBytes:] }),
		times("time-hides", "event times that do not reach to the last record", func(h *Header) { h.TimeMax-- }),
		times("time-wider", "event times that begin before the first record", func(h *Header) { h.TimeMin-- }),
		times("time-none", "0 0, though there are event times", func(h *Header) { h.TimeMin, h.TimeMax = 0, 0 }),
	}
}

// noteVectors are about signed checkpoints.
func noteVectors() []vector {
	checkpoint := func(name, about string, want verdict, note func(s *scene, c Checkpoint) []byte) vector {
		return vector{name: name, about: about, want: want, change: func(s *scene) {
			s.c(1).note = func(c Checkpoint) []byte { return note(s, c) }
		}}
	}
	return []vector{
		checkpoint("note-by-a-stranger", "a checkpoint signed by another key of the same name", tampering(Integrity), func(s *scene, c Checkpoint) []byte { return s.sign(c, s.stranger(testOrigin)) }),
		checkpoint("note-other-origin", "a checkpoint of another log", tampering(Integrity), func(s *scene, c Checkpoint) []byte {
			c.Origin = "example.org/other"
			return s.sign(c, s.log)
		}),
		checkpoint("note-other-size", "a checkpoint of one entry more", tampering(Completeness), func(s *scene, c Checkpoint) []byte { c.Size++; return s.sign(c, s.log) }),
		checkpoint("note-other-root", "a checkpoint with another root", tampering(Integrity), func(s *scene, c Checkpoint) []byte { c.Root[0] ^= 1; return s.sign(c, s.log) }),
		checkpoint("note-leading-zero", "a size with a leading zero", tampering(Integrity), func(s *scene, c Checkpoint) []byte {
			b, _ := note.Sign(&note.Note{Text: strings.Replace(c.text(), "\n3\n", "\n03\n", 1)}, s.log)
			return b
		}),
		checkpoint("note-fourth-line", "a checkpoint with an extension line", tampering(Integrity), func(s *scene, c Checkpoint) []byte {
			b, _ := note.Sign(&note.Note{Text: c.text() + "more\n"}, s.log)
			return b
		}),
		checkpoint("note-loose-signature", "a signature whose base64 is not canonical", tampering(Integrity), func(s *scene, c Checkpoint) []byte {
			b := s.sign(c, s.stranger("example.org/a")) // 68 bytes: the last character has 4 loose bits
			b = append(s.sign(c, s.log), b[bytes.LastIndex(b, []byte("\u2014")):]...)
			i := bytes.LastIndexByte(b, '=') - 1
			b[i]++
			return b
		}),
		checkpoint("note-unsigned", "a checkpoint without a signature", tampering(Integrity), func(s *scene, c Checkpoint) []byte { return []byte(c.text() + "\n") }),
	}
}

// keyVectors are about keys, tags and pins.
func keyVectors() []vector {
	return []vector{
		{name: "trust-none", about: "a trust file without lines", want: incomplete(Integrity), trust: func(string) string { return "# nobody\n" }},
		{name: "trust-key-alone", about: "the chain is not pinned", want: incomplete(Completeness), trust: func(t string) string { return t[:strings.Index(t, "chain ")] }},
		{name: "trust-pin-alone", about: "no key is trusted", want: incomplete(Integrity), trust: func(t string) string { return t[strings.Index(t, "chain "):] }},
		{name: "trust-other-pin", about: "the chain begins with another key than the pinned one", want: tampering(Integrity),
			trust: func(t string) string {
				return t[:strings.Index(t, "chain ")] + "chain " + testOrigin + " " + strings.Repeat("A", 43) + "=\n"
			}},
		{name: "trust-other-log-missing", about: "a trusted origin has no log", want: incomplete(Completeness), trust: func(t string) string {
			return t + "log " + (&scene{}).stranger("example.org/meshaudit/edge-1").VerifierKey() + "\n"
		}},
		{name: "trust-log-missing", about: "an empty store", want: incomplete(Completeness), change: func(s *scene) { s.seal(); clear(s.files) }},
		{name: "trust-key-until", about: "checkpoints beyond the bound of the only key", want: tampering(Integrity), trust: func(t string) string { return strings.Replace(t, "\nchain", " until 4\nchain", 1) }},
		{name: "signer-other", about: "an open that names another log key", want: tampering(Integrity), change: func(s *scene) { s.o(1).Open.Signer = s.stranger(testOrigin).VerifierKey() }},
		{name: "tag-of-a-thief", about: "an entry sealed with the log key, but without the chain key", want: tampering(Integrity), alone: &noTags, change: func(s *scene) {
			s.b(1).keepTag = true
			rand.Read(s.b(1).Tag[:])
		}},
		{name: "thief-rewrites", about: "the true open, and behind it another history: sealed with the log key, without the chain key", want: tampering(Integrity), alone: &noTags, write: func(s *scene) {
			s.open(AfterFirst).chain = NewChainKey()
			s.frames[0].chain = s.epoch
			s.commit()
			s.batch(SignalLogs, testRequest(2, "forged")).keepTag = true
			s.commit()
			s.entry(&Header{Kind: KindClose}).keepTag = true
			s.commit()
		}},
		{name: "thief-begins-anew", about: "another history from the first entry on, with the log key: the pin shows it", want: tampering(Integrity), write: func(s *scene) {
			pinned := s.epoch
			s.epoch = NewChainKey()
			s.two()
			s.chain = pinned
		}},
		{name: "escrow-does-not-open", about: "an escrow that was changed", want: tampering(Integrity), alone: &noTags, change: func(s *scene) { s.o(1).Open.Escrows[0].Ciphertext[70] ^= 1 }},
		{name: "escrow-of-another-key", about: "an escrow of another key than chain states", want: tampering(Integrity), alone: &noTags, change: func(s *scene) {
			k := NewChainKey()
			k.Epoch = 1
			s.o(1).Open.Escrows[0], _ = k.escrow(testOrigin, s.recipients[0])
		}},
		{name: "escrow-of-another-epoch", about: "the escrow of the epoch before", want: tampering(Integrity), alone: &noTags, change: func(s *scene) { s.o(1).Open.Escrows[0] = s.o(0).Open.Escrows[0] }},
		{name: "escrow-to-others", about: "not escrowed to this auditor", want: incomplete(Integrity), alone: &noTags, write: func(s *scene) {
			s.recipients = []Recipient{s.second.Recipient()}
			s.two()
		}},
		{name: "chain-not-ratcheted", about: "an epoch whose chain key does not follow from the one before", want: tampering(Integrity), alone: &noTags, write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.entry(&Header{Kind: KindClose})
			s.commit()
			s.epoch.Secret[0] ^= 1
			s.open(AfterClean)
			s.commit()
		}},
	}
}

// rotationVectors are about a log key that was replaced.
func rotationVectors() []vector {
	// The handover is the checkpoint for 2 entries.
	rotated := func(both bool) func(*scene) {
		return func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.entry(&Header{Kind: KindClose})
			old, handover := s.log, s.commit()
			s.log = s.stranger(testOrigin)
			if next := s.log; both {
				handover.note = func(c Checkpoint) []byte {
					b, err := c.sign(old, next)
					if err != nil {
						s.t.Fatal(err)
					}
					return b
				}
			}
			s.open(AfterRotation)
			s.commit()
			s.trust = fmt.Sprintf("log %s until 2\nlog %s\n", old.VerifierKey(), s.log.VerifierKey())
		}
	}
	firstKeyAlone := func(t string) string {
		old, rest, _ := strings.Cut(t, " until 2\n")
		return old + "\n" + rest[strings.Index(rest, "chain "):]
	}
	return []vector{
		{name: "good-rotation", about: "the log key was replaced; the trust file knows both", want: proven, write: rotated(true)},
		{name: "rotation-unknown", about: "the log key was replaced; the trust file knows the old one alone", want: incomplete(Integrity), write: rotated(true), trust: firstKeyAlone},
		{name: "rotation-without-handover", about: "the log key was replaced, and the old one did not sign that", want: tampering(Integrity), write: rotated(false)},
		{name: "rotation-of-nothing", about: "an open that says rotation, by the same log key", want: tampering(Integrity), change: func(s *scene) { s.o(1).Open.After = AfterRotation }},
		{name: "rotation-until-later", about: "the old key is trusted for more entries than it signed", want: tampering(Integrity), write: rotated(true),
			trust: func(t string) string { return strings.Replace(t, "until 2", "until 4", 1) }},
	}
}

// fileVectors are about the files of a store.
func fileVectors() []vector {
	extra := func(name, file string) vector {
		return vector{name: "file-" + name, about: "a file that does not belong: " + file, want: tampering(Integrity), change: func(s *scene) { s.seal()[file] = []byte("x") }}
	}
	return []vector{
		extra("in-store", "../notes.txt"),
		extra("in-log", "notes.txt"),
		extra("in-segment", "segment/notes.txt"),
		extra("segment-short-name", "segment/9.seal"),
		extra("in-torn", "torn/notes.txt"),
		extra("in-tile", "tile/0/notes"),
		extra("tile-ahead", "tile/0/001.p/1"),
		extra("tile-not-canonical", "tile/0/x000/000.p/8"),
		{name: "tile-full-wrong", about: "a full tile that the entries do not give", want: tampering(Integrity), write: func(s *scene) {
			beats(255)(s)
			s.change("tile/0/000", func(b []byte) []byte { b[77] ^= 1; return b })
		}},
		{name: "tile-full-missing", about: "a full tile that the published checkpoint covers is missing", want: incomplete(Completeness), write: func(s *scene) {
			beats(255)(s)
			delete(s.seal(), "tile/0/000")
		}},
		{name: "tile-short", about: "a tile without its last hash", want: tampering(Integrity), change: func(s *scene) {
			s.change("tile/0/000.p/8", func(b []byte) []byte { return b[:len(b)-32] })
		}},
		{name: "published-ahead", about: "a published checkpoint of more entries than there are", want: tampering(Completeness), change: func(s *scene) {
			s.seal()[checkpointFile] = s.sign(Checkpoint{testOrigin, 9, s.tree.root()}, s.log)
		}},
		{name: "published-other-root", about: "a published checkpoint with another root: two histories", want: tampering(Integrity), change: func(s *scene) {
			s.seal()[checkpointFile] = s.sign(Checkpoint{testOrigin, 8, Hash{1}}, s.log)
		}},
		{name: "published-by-a-stranger", about: "a published checkpoint signed by another key", want: tampering(Integrity), change: func(s *scene) {
			s.seal()[checkpointFile] = s.sign(Checkpoint{testOrigin, 8, s.tree.root()}, s.stranger(testOrigin))
		}},
		{name: "published-other-origin", about: "a published checkpoint of another log", want: tampering(Integrity), change: func(s *scene) {
			s.seal()[checkpointFile] = s.sign(Checkpoint{"example.org/other", 8, s.tree.root()}, s.stranger("example.org/other"))
		}},
		{name: "published-older", about: "a published checkpoint that lags behind", want: proven, change: func(s *scene) { s.publishAt(5) }},
	}
}

// pruneVectors are about what was pruned.
func pruneVectors() []vector {
	pruned := func(s *scene, first uint64) {
		s.open(AfterFirst)
		s.commit()
		s.batch(SignalLogs, testRequest(2, "old"))
		s.commit()
		s.entry(&Header{Kind: KindClose})
		s.commit()
		s.open(AfterClean)
		s.commit()
		s.entry(&Header{Kind: KindPrune, Prune: &PruneLines{first, "older than 3 days"}})
		s.commit()
		s.batch(SignalLogs, testRequest(1, "new"))
		s.commit()
	}
	drop := func(s *scene) { delete(s.seal(), s.segments()[0]) }
	return []vector{
		{name: "prune-done", about: "the first segment was pruned", want: proven, write: func(s *scene) { pruned(s, 3); drop(s) }},
		{name: "prune-ordered", about: "a prune that is ordered and not done", want: proven, write: func(s *scene) { pruned(s, 3) }},
		{name: "prune-of-less", about: "more is gone than the prune ordered", want: tampering(Completeness), write: func(s *scene) { pruned(s, 2); drop(s) }},
		{name: "prune-of-the-future", about: "a prune that keeps from an entry to come on", want: tampering(Completeness), write: func(s *scene) { pruned(s, 99) }},
		{name: "prune-tiles-missing", about: "the tiles of what was pruned are gone", want: incomplete(Completeness), write: func(s *scene) {
			pruned(s, 3)
			drop(s)
			delete(s.files, "tile/0/000.p/6")
		}},
	}
}

// sinceVectors are verified with an older checkpoint.
func sinceVectors() []vector {
	at := func(size uint64) func(*scene) []byte {
		return func(s *scene) []byte {
			other := &scene{t: s.t, testKeys: s.testKeys, files: map[string][]byte{}}
			maps.Copy(other.files, s.seal())
			other.publishAt(size)
			return other.files[checkpointFile]
		}
	}
	return []vector{
		{name: "since-held", about: "the log still is what the older checkpoint stated", want: proven, since: at(5)},
		{name: "since-rewritten", about: "the older checkpoint has another root", want: tampering(Integrity), since: func(s *scene) []byte {
			return s.sign(Checkpoint{testOrigin, 4, Hash{7}}, s.log)
		}},
		{name: "since-longer", about: "the older checkpoint states more entries: rolled back, with all that was published", want: tampering(Completeness), since: func(s *scene) []byte {
			return s.sign(Checkpoint{testOrigin, 9, Hash{7}}, s.log)
		}},
		{name: "since-no-commit", about: "the older checkpoint is of a size at which the log has no commit", want: tampering(Integrity), since: at(2)},
		{name: "since-log-gone", about: "the log of the older checkpoint is gone", want: tampering(Completeness), since: at(8), change: func(s *scene) { clear(s.files) }},
		{name: "since-after-crash", about: "a crash before the older checkpoint was reviewed then", want: proven, since: at(4), write: func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			s.batch(SignalLogs, testRequest(1, "a"))
			s.commit()
			s.open(AfterCrash)
			s.commit()
			s.entry(&Header{Kind: KindBeat})
			s.commit()
		}},
	}
}
