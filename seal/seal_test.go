package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// The tree is RFC 6962's, as x/mod computes it, at every size; its tiles
// restore it.
func TestTreeIsRFC6962(t *testing.T) {
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(is []int64) ([]tlog.Hash, error) {
		hs := make([]tlog.Hash, len(is))
		for i, x := range is {
			hs[i] = stored[x]
		}
		return hs, nil
	})
	tr := new(tree)
	tiles := map[string][]byte{}
	for n := range int64(70000) {
		leaf := []byte(fmt.Sprint("entry ", n))
		hs, err := tlog.StoredHashes(n, leaf, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hs...)
		tr.push(leafHash(leaf))
		for _, f := range tr.full {
			tiles[f.path()] = f.bytes()
		}
		tr.full = nil
		if n > 600 && n%977 != 0 && n < 65530 {
			continue
		}
		want, err := tlog.TreeHash(n+1, read)
		if err != nil {
			t.Fatal(err)
		}
		if tr.root() != Hash(want) {
			t.Fatalf("root of %d entries differs from x/mod's", n+1)
		}
		for _, p := range tr.partial() {
			tiles[p.path()] = p.bytes()
		}
		again, err := treeFromTiles(tr.size, func(t tile) ([]byte, error) {
			if b, ok := tiles[t.path()]; ok {
				return b, nil
			}
			return nil, os.ErrNotExist
		})
		if err != nil || again.root() != tr.root() {
			t.Fatalf("tree of %d entries from its tiles: %v", n+1, err)
		}
	}
	if tiles["tile/0/000"] == nil || tiles["tile/1/000"] == nil {
		t.Fatal("no full tiles were made")
	}
	if p := (tile{3, 1234067, make([]Hash, 7)}).path(); p != "tile/3/x001/x234/067.p/7" {
		t.Fatalf("tile path %s is not C2SP's", p)
	}
}

func TestRecordRootIsRFC6962(t *testing.T) {
	for n := range 40 {
		var hashes []Hash
		tr := new(tree)
		for i := range n {
			h := leafHash([]byte{byte(i)})
			hashes = append(hashes, h)
			tr.push(h)
		}
		if merkleRoot(hashes) != tr.root() {
			t.Fatalf("%d leaves", n)
		}
	}
}

// anyHeader draws a valid header of any kind.
func anyHeader(r *rapid.T) *Header {
	hash := rapid.Custom(func(r *rapid.T) Hash { return Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, "hash")) })
	u64 := rapid.Uint64()
	h := &Header{
		Kind:   rapid.SampledFrom([]Kind{KindOpen, KindBatch, KindBeat, KindErase, KindPrune, KindClose, KindCheckpoint}).Draw(r, "kind"),
		Origin: rapid.StringMatching(`[a-z0-9._-]{3,40}(/[a-z0-9_-]{1,20}){0,3}`).Draw(r, "origin"),
		Prev:   hash.Draw(r, "prev"),
	}
	section := func(name, enc string) Section {
		n := rapid.Uint64Range(0, maxSectionBytes).Draw(r, "n")
		return Section{name, enc, n, n, hash.Draw(r, "section")}
	}
	if h.Kind == KindCheckpoint {
		h.Sections = []Section{section(SectionNote, EncodingRaw)}
		return h
	}
	h.Entry, h.Epoch, h.FirstRecord, h.Sealed, h.Tag = u64.Draw(r, "entry"), u64.Draw(r, "epoch"), u64.Draw(r, "first"), rapid.Uint64Max(math.MaxInt64).Draw(r, "sealed"), hash.Draw(r, "tag")
	switch h.Kind {
	case KindBatch:
		h.Records, h.Root = rapid.Uint64Range(1, maxEntryRecords).Draw(r, "records"), hash.Draw(r, "root")
		h.TimeMin = u64.Draw(r, "min")
		h.TimeMax = rapid.Uint64Range(h.TimeMin, math.MaxUint64).Draw(r, "max")
		body := section(SectionBody, SignalTraces.encoding())
		body.Plain = rapid.Uint64Range(0, maxSectionBytes).Draw(r, "plain")
		h.Sections = []Section{section(SectionFilter, EncodingBloom), body}
	case KindOpen:
		h.Open = &OpenLines{Signer: "example.org+abc+def", Chain: hash.Draw(r, "chain"), Fresh: rapid.Bool().Draw(r, "fresh"),
			Escrows:          []Escrow{{"x25519", "0123456789abcdef", make([]byte, 80)}, {"mlkem768x25519", "0123456789abcdee", make([]byte, 1168)}},
			HeartbeatSeconds: rapid.Uint64Range(1, 1<<31).Draw(r, "heartbeat"), After: AfterCrash,
			Torn: []Torn{{u64.Draw(r, "torn"), hash.Draw(r, "torn")}}}
		if rapid.Bool().Draw(r, "svid") {
			h.Sections = []Section{section(SectionSVID, EncodingRaw), section(SectionSVIDSig, EncodingRaw)}
		}
	case KindErase:
		h.Erase = &EraseLines{Target: u64.Draw(r, "target"), Erased: []Range{{0, 0}, {2, 9}, {11, 11}}, By: "ünser DPO", Reason: "Art. 17"}
		h.Sections = []Section{section(SectionFilter, EncodingBloom), section(SectionBody, SignalLogs.encoding()), section(SectionSalts, EncodingRaw), section(SectionLeaves, EncodingRaw)}
	case KindPrune:
		h.Prune = &PruneLines{First: u64.Draw(r, "keep"), Policy: "older than 400 days"}
	}
	return h
}

func headerText(h *Header) []byte {
	b := h.appendUntagged(nil)
	if h.Kind != KindCheckpoint {
		b = appendHashLine(b, "tag", h.Tag)
	}
	return appendSum(b, 0)
}

// What is written is read back the same; any other byte string is refused, or
// it would be written the same.
func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := headerText(anyHeader(r))
		h, err := ParseHeader(text)
		if err != nil {
			r.Fatalf("%v:\n%s", err, text)
		}
		if !bytes.Equal(headerText(h), text) {
			r.Fatalf("read back otherwise:\n%s\n%s", text, headerText(h))
		}
		cut := rapid.IntRange(0, len(text)-1).Draw(r, "cut")
		if _, err := ParseHeader(text[:cut]); err == nil {
			r.Fatalf("a header cut at %d is accepted", cut)
		}
		if err := cutHeader(text[:cut]); cut > 0 && err != errCut {
			r.Fatalf("a file that ends at %d in a header is no torn tail: %v", cut, err)
		}
	})
}

// Every deviation from the grammar is refused, each with its own words. The
// sum is made right, so that nothing hides behind it.
func TestStrictHeader(t *testing.T) {
	good := `meshaudit-seal/v1 batch
origin example.org/a
entry 4711
epoch 12
records 5 1
prev AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
sealed 9
root AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
time 1 2
section filter bloom/v1 32 32 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
section body otlp-logs+zstd 9 40 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
tag AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
`
	if _, err := ParseHeader(appendSum([]byte(good), 0)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ old, new, want string }{
		{"seal/v1", "seal/v2", "unknown format version"},
		{"v1 batch", "v1 bitch", "unknown kind"},
		{"v1 batch", "v1 beat", "with 1 records"},
		{"example.org/a", "example.org//a", "empty, . and .."},
		{"example.org/a", "Example.org/a", "only a-z"},
		{"entry 4711", "entry 04711", "no decimal number"},
		{"entry 4711", "entry +4711", "no decimal number"},
		{"entry 4711", "entry 99999999999999999999", "does not fit"},
		{"entry 4711\n", "", `expected line "entry"`},
		{"epoch 12\n", "epoch 12\nepoch 12\n", `expected line "records"`},
		{"epoch 12\n", "epoch  12\n", "has 2 values"},
		{"epoch 12\n", "epoch 12\r\n", "no decimal number"},
		{"records 5 1", "records 5 0", "with 0 records"},
		{"records 5 1", "records 5 65537", "at most 65536"},
		{"prev AAAA", "prev AAA", "base64"},
		{"prev AAAA", "prev !AAA", "base64"},
		{"AAA=\nsealed", "AAB=\nsealed", "base64"},
		{"time 1 2", "time 2 1", "out of order"},
		{"bloom/v1 32 32", "bloom/v1 32 33", "two lengths differ"},
		{"otlp-logs+zstd 9", "otlp-logs+lzma 9", "unknown body encoding"},
		{"otlp-logs+zstd 9 40", "otlp-logs+zstd 9 8388609", "at most 8388608"},
		{"section filter", "section body", "encoding"},
		{"section body", "section bodi", "encoding"},
		{"sealed 9\n", "sealed 9\nhello 1\n", `expected line "root"`},
	} {
		bad := strings.Replace(good, tc.old, tc.new, 1)
		_, err := ParseHeader(appendSum([]byte(bad), 0))
		if !errors.Is(err, errGrammar) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q for %q: error %v, expected %q", tc.new, tc.old, err, tc.want)
		}
	}
	text := appendSum([]byte(good), 0)
	text[len(text)-2] ^= 1
	if _, err := ParseHeader(text); err != errHeaderSum {
		t.Errorf("wrong sum: %v", err)
	}
}

// A decompressor accepts skippable and concatenated frames silently; something
// could hide there.
func TestOneZstdFrameOnly(t *testing.T) {
	enc := func(b []byte, opts ...zstd.EOption) []byte {
		e, err := zstd.NewWriter(nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(b, nil)
	}
	plain := bytes.Repeat([]byte("meshaudit"), 100)
	one := enc(plain, zstd.WithSingleSegment(true))
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0}, "abc"...)
	for name, tc := range map[string]struct {
		b    []byte
		ok   bool
		size uint64
	}{
		"one frame":        {one, true, 900},
		"with a checksum":  {enc(plain, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true)), true, 900},
		"incompressible":   {enc(randomBytes(300000), zstd.WithSingleSegment(true)), true, 300000},
		"two frames":       {append(bytes.Clone(one), one...), false, 900},
		"skippable behind": {append(bytes.Clone(one), skippable...), false, 900},
		"skippable before": {append(bytes.Clone(skippable), one...), false, 900},
		"a byte behind":    {append(bytes.Clone(one), 0), false, 900},
		"cut":              {one[:len(one)-1], false, 900},
		"other size":       {one, false, 901},
		"nothing":          {nil, false, 0},
		"no zstd":          {[]byte("hello, world"), false, 12},
	} {
		if err := checkZstdFrame(tc.b, tc.size); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestEnvelopeIsStrict(t *testing.T) {
	good := testRequest(2, "x")
	if n, err := checkRequest(SignalLogs, good); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	res := pbField(nil, 1, nil)
	for name, msg := range map[string][]byte{
		"unknown field":       append(bytes.Clone(good), 4<<3|wireBytes, 0),
		"group":               append(bytes.Clone(good), 1<<3|3),
		"cut":                 good[:len(good)-1],
		"non-minimal varint":  {1<<3 | wireBytes, 0x82, 0x00, 1<<3 | wireBytes, 0x00},
		"two resources":       pbField(nil, 1, append(bytes.Clone(res), res...)),
		"varint for resource": pbField(nil, 1, []byte{1 << 3, 7}),
		"field number 0":      {0x02, 0x00},
	} {
		if _, err := checkRequest(SignalLogs, msg); !errors.Is(err, errEnvelope) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A request of any size is sealed in one group, record by record under what it
// was reported under; only a record that fits nowhere is refused.
func TestLargeRequestsAreSplit(t *testing.T) {
	k := newTestKeys(t)
	root := filepath.Join(t.TempDir(), "store")
	w := openWriter(t, k.config(t, root))
	n := maxEntryRecords + 5
	if err := w.Append(context.Background(), SignalLogs, testRequest(n, "many")); err != nil {
		t.Fatal(err)
	}
	var scope []byte
	for i := range 5 {
		kv := pbField(pbField(nil, 1, []byte("audit.record.id")), 2, pbField(nil, 1, fmt.Append(nil, "big-", i)))
		scope = pbField(scope, 2, pbField(pbField(nil, 6, kv), 5, pbField(nil, 1, randomBytes(3<<20))))
	}
	big := pbField(nil, 1, pbField(pbField(nil, 1, []byte("\x12\x00")), 2, scope))
	if err := w.Append(context.Background(), SignalLogs, big); err != nil {
		t.Fatal(err)
	}
	tooBig := pbField(nil, 1, pbField(nil, 2, pbField(nil, 2, pbField(nil, 5, randomBytes(maxSectionBytes)))))
	if err := w.Append(context.Background(), SignalLogs, tooBig); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("a record that fits nowhere: %v", err)
	}
	closeWriter(t, w)
	ids := recordIDs(t, root)
	if len(ids) != n+5 || ids[0] != "many-0" || ids[n-1] != fmt.Sprint("many-", n-1) || ids[n+4] != "big-4" {
		t.Fatalf("%d records: %v … %v", len(ids), ids[0], ids[len(ids)-1])
	}
	r, err := Verify(context.Background(), root, VerifyOptions{Trust: k.trust, Auditor: &k.auditor})
	if err != nil || r.ExitCode() != ExitProven {
		t.Fatalf("%v %v", err, r.Logs[0].Findings)
	}
}

// A caller that loses patience gives its bytes back only when they are
// written, so that a hanging disk cannot fill the memory.
func TestPendingBytesAreBounded(t *testing.T) {
	b := budget{free: 100, max: 100}
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.acquire(ctx, 60); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() { waiting <- b.acquire(ctx, 60) }()
	for range 1000 {
		b.mu.Lock()
		n := len(b.waiters)
		b.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-waiting; err != context.Canceled {
		t.Fatal(err)
	}
	if b.free != 40 {
		t.Fatalf("%d bytes free", b.free)
	}
	b.release(60)
	if err := b.acquire(context.Background(), 1000); err != nil || b.free != 0 {
		t.Fatal("a request larger than all takes all", err, b.free)
	}
	b.release(1000)
	if b.free != 100 {
		t.Fatalf("%d bytes free", b.free)
	}
}

func TestKeysRoundTrip(t *testing.T) {
	for _, suite := range []string{"x25519", "mlkem768x25519"} {
		a, err := NewAuditorKey(suite)
		if err != nil {
			t.Fatal(err)
		}
		text, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var b AuditorKey
		if err := b.UnmarshalText(text); err != nil {
			t.Fatal(err)
		}
		r, err := ParseRecipient("# the auditor\n" + a.Recipient().String() + "\n")
		if err != nil || r.ID() != b.Recipient().ID() {
			t.Fatal(err)
		}
		k := ChainKey{7, [32]byte{1, 2, 3}}
		e, err := k.escrow(testOrigin, r)
		if err != nil {
			t.Fatal(err)
		}
		h := &Header{Origin: testOrigin, Epoch: 7, Open: &OpenLines{Chain: k.Commitment(), Escrows: []Escrow{e}}}
		if got, err := b.openEscrow(h); err != nil || got != k {
			t.Fatal(got, err)
		}
		h.Epoch = 8 // moved to another place, it does not open
		if _, err := b.openEscrow(h); err == nil {
			t.Fatal("an escrow opens in another epoch")
		}
	}
}

// The ratchet, pinned to what a few lines of Python with hmac and hashlib give.
func TestChainVector(t *testing.T) {
	var k ChainKey
	for i := range k.Secret {
		k.Secret[i] = byte(i)
	}
	r := k.ratchet()
	first, second := r.tag([]byte("header 0")), r.tag([]byte("header 1"))
	got := fmt.Sprintf("%x\n%x\n%x\n%x", k.Commitment(), k.Next().Secret, first, second)
	const want = "d5ae13817fa8477a0d7a22dbdfeff70965ae0cdc74f677f18618d6a89496945a\n100cf663d9d98a7780800ddaac40495187925fb6b671aa4c20370338bb3eebee\nafb351816d733b0d9a5138ead9fa883495543e06948d13c667bc339d3c0bed91\n6477f7d73fd56152325dfeee0a13c6aeff742867c035c0ee90757970223eb49d"
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte("meshaudit-seal/v1 close\norigin a\n"))
	f.Add(headerText(&Header{Kind: KindBeat, Origin: "a", Entry: 3, Sealed: 9}))
	f.Add(headerText(&Header{Kind: KindPrune, Origin: "a", Prune: &PruneLines{3, "p"}}))
	f.Add(headerText(&Header{Kind: KindErase, Origin: "a", Erase: &EraseLines{1, []Range{{0, 4}}, "b", "r"}, Sections: []Section{
		{Name: "filter", Encoding: "bloom/v1"}, {Name: "body", Encoding: "otlp-logs+zstd"}, {Name: "salts", Encoding: "raw"}, {Name: "leaves", Encoding: "raw"}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHeader(b); err == nil && !bytes.Equal(headerText(h), b) {
			t.Fatalf("two texts for one header:\n%q\n%q", b, headerText(h))
		}
	})
}

func FuzzFrameReader(f *testing.F) {
	v := newVictim(f)
	for _, name := range v.files(segmentDir) {
		f.Add(v.fs.files[logDir+"/"+name].data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := newFrameReader(bytes.NewReader(b), 0)
		for fr.offset <= int64(len(b)) {
			if fm, err := fr.next(); err != nil && (fm == nil || !errors.Is(err, errSectionHash)) {
				return
			}
		}
		t.Fatal("read beyond the end")
	})
}

func FuzzEachRecord(f *testing.F) {
	f.Add(uint8(0), testRequest(3, "a"))
	f.Add(uint8(1), testRequest(1, "b"))
	f.Add(uint8(2), binary.AppendUvarint(nil, 10))
	f.Fuzz(func(t *testing.T, sig uint8, msg []byte) {
		var records [][]byte
		if EachRecord(msg, func(r Record) error { records = append(records, r.Bytes); return nil }) != nil {
			return
		}
		if _, err := checkRequest(Signal(sig%3), msg); err != nil {
			return
		}
		parts, err := split(msg, 256, 2)
		if err != nil {
			return
		}
		var again [][]byte
		for _, p := range parts {
			if err := EachRecord(p, func(r Record) error { again = append(again, r.Bytes); return nil }); err != nil {
				t.Fatalf("a part is no valid request: %v", err)
			}
		}
		if len(again) != len(records) {
			t.Fatalf("%d records, %d after the split", len(records), len(again))
		}
		for i := range again {
			if !bytes.Equal(again[i], records[i]) {
				t.Fatalf("record %d differs after the split", i)
			}
		}
	})
}

// BenchmarkSeal seals batches of 1000 records: scan, salt, hash, tree, index,
// filter, compress. Marshalling is the exporter's.
func BenchmarkSeal(b *testing.B) {
	msg := testRequest(1000, "bench")
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		p := &pending{msgs: [][]byte{msg}}
		if err := p.encode(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
}

// A filter finds every key that is in it, and few that are not; keys that are
// there twice change nothing.
func TestFilter(t *testing.T) {
	var b filterBuilder
	for _, n := range []int{0, 1, 2, 1000} {
		keys := make([]uint64, 0, 2*n)
		for i := range n {
			keys = append(keys, FilterKey("trace_id", fmt.Sprint(i)))
		}
		once := bytes.Clone(b.append(nil, [nonceBytes]byte{7}, append([]uint64(nil), keys...)))
		twice := b.append(nil, [nonceBytes]byte{7}, append(keys, keys...))
		if !bytes.Equal(once, twice) || len(once) != nonceBytes+8*((n*filterBitsPerKey+63)/64) {
			t.Fatalf("%d keys: %d bytes, or other bits when each is there twice", n, len(once))
		}
		wrong := 0
		for i := range n {
			if !Filter(once).MayContain(FilterKey("trace_id", fmt.Sprint(i))) {
				t.Fatalf("key %d of %d is not found", i, n)
			}
			if Filter(once).MayContain(FilterKey("record_id", fmt.Sprint(i))) {
				wrong++
			}
		}
		if wrong > n/20 {
			t.Fatalf("%d of %d keys are found that are not there", wrong, n)
		}
	}
	if got := b.distinct([]uint64{0, 3, 0, 3, 5}, 1); len(got) != 3 {
		t.Fatalf("distinct keys %v", got)
	}
}
