package seal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// A proof shows offline, without the log and without any secret, that one
// record was sealed: it is a C2SP tlog-proof of the record's entry, whose
// extra data leads from the record to the entry's header.

const proofMagic = "c2sp.org/tlog-proof@v1"

// MaxProofBytes bounds a proof: one record, what it was reported under, a
// header, two paths and a checkpoint.
const MaxProofBytes = 2*maxSectionBytes + 64<<10

// Proof is what a proof says.
type Proof struct {
	Signal     Signal
	Record     Record
	Number     uint64 // of the record, over the log's life
	Header     *Header
	Checkpoint Checkpoint
	Cosigned   []Cosignature // on the checkpoint, by witnesses of the trust file
}

// Request is the proven record alone, as an OTLP export request.
func (p *Proof) Request() []byte {
	r := p.Record
	return appendScope(nil, &reported{r.Resource, r.ResourceSchemaURL, r.Scope, r.ScopeSchemaURL}, [][]byte{r.Bytes})
}

// Prove makes the proof of one record: the index-th that was sealed in entry,
// under the log's published checkpoint or, in an object store, under the last
// one in the log if none that was published covers it.
func (l *Log) Prove(ctx context.Context, entry uint64, index int) ([]byte, error) {
	note, c, err := l.publishedCheckpoint()
	if direct(l.fs) && (errors.Is(err, fs.ErrNotExist) || err == nil && entry >= c.Size) {
		note, c, err = l.lastCheckpoint()
	}
	if err != nil {
		return nil, fmt.Errorf("published checkpoint: %w", err)
	}
	if entry >= c.Size {
		return nil, fmt.Errorf("entry %d is not yet under the published checkpoint, which has %d entries; try again in a second", entry, c.Size)
	}
	e, err := l.entry(ctx, entry)
	if err != nil {
		return nil, err
	}
	extra, err := e.proveRecord(index)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", entry, err)
	}
	tree := tlog.Tree{N: int64(c.Size), Hash: tlog.Hash(c.Root)}
	path, err := tlog.ProveRecord(tree.N, int64(entry), tlog.TileHashReader(tree, proofTiles{tileReader{l}, ctx}))
	if err != nil {
		return nil, fmt.Errorf("the tiles do not lead to the published checkpoint: %w; run: meshaudit verify", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofMagic, base64.StdEncoding.EncodeToString(extra), entry)
	for _, h := range path {
		fmt.Fprintf(&b, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	b.WriteByte('\n')
	b.Write(note)
	return b.Bytes(), nil
}

func (l *Log) publishedCheckpoint() (note []byte, c Checkpoint, err error) {
	if note, _, err = newestCheckpoint(l.fs, l.dir); err == nil {
		c, err = openCheckpoint(note, nil)
	}
	return note, c, err
}

// lastCheckpoint is the one that the log's last segment ends with.
func (l *Log) lastCheckpoint() (note []byte, c Checkpoint, err error) {
	firsts, _, _, err := lastSegments(l.fs, l.dir)
	if err != nil {
		return nil, c, err
	}
	if len(firsts) == 0 {
		return nil, c, errors.New("the log is empty")
	}
	name := segmentName(firsts[len(firsts)-1])
	f, err := openRead(l.fs, filepath.Join(l.dir, segmentDir, name))
	if err != nil {
		return nil, c, err
	}
	defer f.Close()
	fr := newFrameReader(f, 0)
	fr.skip = func(h *Header) bool { return h.Kind != KindCheckpoint }
	for {
		fm, err := fr.next()
		switch {
		case err == io.EOF && note != nil:
			c, err = openCheckpoint(note, nil)
			return note, c, err
		case err != nil:
			return nil, c, fmt.Errorf("segment %s, offset %d: %w; run: meshaudit verify", name, fr.offset, err)
		case fm.Kind == KindCheckpoint:
			note = fm.sections[0]
		}
	}
}

// leaves are the leaf hashes of some entries, from their headers.
func (l *Log) leaves(ctx context.Context, from, until uint64) (b []byte, err error) {
	firsts, _, err := segments(l.fs, l.dir)
	if err != nil {
		return nil, err
	}
	i, exact := slices.BinarySearch(firsts, from)
	if !exact && i > 0 {
		i--
	}
	all := func(*Header) bool { return true }
	for ; i < len(firsts) && firsts[i] < until; i++ {
		if _, err := l.segment(ctx, Place{segment: firsts[i]}, i == len(firsts)-1, all, func(e *Entry) error {
			if n := e.Header.Entry; n >= from && n < until {
				h := e.LeafHash()
				b = append(b, h[:]...)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if uint64(len(b)) != (until-from)*sha256.Size {
		return nil, fmt.Errorf("the log does not hold all entries from %d to %d", from, until-1)
	}
	return b, nil
}

// entry reads one entry, with its sections.
func (l *Log) entry(ctx context.Context, number uint64) (*Entry, error) {
	firsts, _, err := segments(l.fs, l.dir)
	if err != nil {
		return nil, err
	}
	i, exact := slices.BinarySearch(firsts, number)
	if !exact {
		i--
	}
	var found *Entry
	if i >= 0 {
		_, err = l.segment(ctx, Place{segment: firsts[i]}, i == len(firsts)-1, func(h *Header) bool { return h.Entry != number },
			func(e *Entry) error {
				if e.Header.Entry != number {
					return nil
				}
				found = e
				return ErrStop
			})
	}
	if found == nil && (err == nil || err == ErrStop) {
		err = fmt.Errorf("the log has no entry %d", number)
	}
	if found != nil {
		err = nil
	}
	return found, err
}

// proveRecord gives the extra data of a proof.
func (e *Entry) proveRecord(index int) ([]byte, error) {
	if e.Kind != KindBatch || len(e.parts) < 2 {
		return nil, fmt.Errorf("a %s entry holds no records", e.Kind)
	}
	d := batchDecoders.Get().(*batchDecoder)
	defer batchDecoders.Put(d)
	c, err := e.content(d)
	if err != nil {
		return nil, err
	}
	leaves, err := c.hash(&d.hasher, e.Records)
	if err != nil {
		return nil, err
	}
	switch {
	case index < 0 || index >= len(leaves):
		return nil, fmt.Errorf("it has %d records, not a record %d", len(leaves), index)
	case contains(c.erased, uint64(index)):
		return nil, fmt.Errorf("record %d of it is erased, by entry %d", index, e.Erasure.Entry)
	}
	left := 0 // before it
	for i := range index {
		if !contains(c.erased, uint64(i)) {
			left++
		}
	}
	salt := c.salts[left*saltBytes:][:saltBytes]
	var rec Record
	n := 0
	err = EachRecord(c.msg, func(r Record) error {
		if n++; n <= left {
			return nil
		}
		rec = r
		return ErrStop
	})
	if err != nil && err != ErrStop {
		return nil, err
	}
	path := merklePath(leaves, index)
	var hashes []byte
	for i := range path {
		hashes = append(hashes, path[i][:]...)
	}
	var extra []byte
	number := binary.BigEndian.AppendUint64(nil, e.FirstRecord+uint64(index))
	for _, part := range [][]byte{e.text, number, salt, rec.Resource, rec.ResourceSchemaURL, rec.Scope, rec.ScopeSchemaURL, rec.Bytes, hashes} {
		extra = binary.BigEndian.AppendUint32(extra, uint32(len(part)))
		extra = append(extra, part...)
	}
	return extra, nil
}

// merklePath is the RFC 6962 audit path of leaf i, from its sibling up. It
// overwrites nodes.
func merklePath(nodes []Hash, i int) (path []Hash) {
	for len(nodes) > 1 {
		if sibling := i ^ 1; sibling < len(nodes) {
			path = append(path, nodes[sibling])
		}
		half := len(nodes) / 2
		for k := range half {
			nodes[k] = nodeHash(&nodes[2*k], &nodes[2*k+1])
		}
		if len(nodes)%2 == 1 {
			nodes[half] = nodes[len(nodes)-1]
			half++
		}
		nodes, i = nodes[:half], i/2
	}
	return path
}

// tileReader gives a log's tiles to x/mod's tlog, which checks them.
type tileReader struct{ l *Log }

func (r tileReader) Height() int                     { return bits.TrailingZeros(tileWidth) }
func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		var err error
		if data[i], err = readTile(r.l.fs, r.l.dir, tile{t.L, uint64(t.N), make([]Hash, t.W)}); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// proofTiles makes what is not there of level 0 from the entries.
type proofTiles struct {
	tileReader
	ctx context.Context
}

func (r proofTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		one, err := r.tileReader.ReadTiles(tiles[i : i+1])
		if err == nil {
			data[i] = one[0]
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) || t.L > 0 {
			return nil, err
		}
		from := uint64(t.N) * tileWidth
		if data[i], err = r.l.leaves(r.ctx, from, from+uint64(t.W)); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// ErrNoKey: the proof may be good, but nobody is trusted to say so.
var ErrNoKey = errors.New("the trust file has no key")

// CheckProof checks a proof against the keys of a trust file. Its errors say
// at which step the chain from the record to a trusted signature breaks.
func CheckProof(b []byte, trust *Trust) (*Proof, error) {
	if len(b) > MaxProofBytes {
		return nil, fmt.Errorf("a proof has at most %d bytes", MaxProofBytes)
	}
	head, note, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		return nil, errors.New("not a proof: no empty line in front of the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	if lines[0] != proofMagic {
		return nil, fmt.Errorf("not a proof: the first line must be %q", proofMagic)
	}
	if len(lines) < 3 {
		return nil, errors.New("proof: the lines \"extra\" and \"index\" are missing")
	}
	p := parser{rest: []byte(lines[1] + "\n" + lines[2] + "\n")}
	extra64, err := p.line("extra")
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	extra, err := decodeBase64(extra64)
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	var index uint64
	if err := p.numbers("index", &index); err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	var path tlog.RecordProof
	for _, l := range lines[3:] {
		h, err := hash(l)
		if err != nil {
			return nil, fmt.Errorf("proof: inclusion path: %w", err)
		}
		path = append(path, tlog.Hash(h))
	}

	var proof Proof
	if proof.Checkpoint, err = openCheckpoint(note, nil); err != nil {
		return nil, fmt.Errorf("proof: checkpoint: %w", err)
	}
	c := proof.Checkpoint
	key := trust.key(c.Origin, c.Size)
	if key == nil {
		return nil, fmt.Errorf("%w for %s", ErrNoKey, c.Origin)
	}
	if _, err := openCheckpoint(note, key.verifier); err != nil {
		return nil, fmt.Errorf("the checkpoint is not signed by the trusted key of %s", c.Origin)
	}
	if proof.Cosigned, err = trust.witnesses().cosignatures(note); err != nil {
		return nil, fmt.Errorf("the checkpoint: %w", err)
	}
	header, err := proof.fromExtra(extra)
	if err != nil {
		return nil, fmt.Errorf("proof: extra data: %w", err)
	}
	switch h := proof.Header; {
	case h.Origin != c.Origin:
		return nil, fmt.Errorf("the entry is of %s, the checkpoint of %s", h.Origin, c.Origin)
	case h.Entry != index:
		return nil, fmt.Errorf("the header is of entry %d, the proof of entry %d", h.Entry, index)
	case index >= c.Size || c.Size >= 1<<62:
		return nil, fmt.Errorf("entry %d is not among the %d that the checkpoint states", index, c.Size)
	}
	if err := tlog.CheckRecord(path, int64(c.Size), tlog.Hash(c.Root), int64(index), tlog.Hash(leafHash(header))); err != nil {
		return nil, errors.New("the entry does not lead to the root that the checkpoint states")
	}
	return &proof, nil
}

// fromExtra takes the extra data apart and checks that the record is in the
// entry whose header it returns.
func (p *Proof) fromExtra(extra []byte) (header []byte, err error) {
	var parts [9][]byte
	for i := range parts {
		if len(extra) < 4 || uint64(binary.BigEndian.Uint32(extra)) > uint64(len(extra)-4) {
			return nil, errors.New("it is cut")
		}
		n := binary.BigEndian.Uint32(extra)
		parts[i], extra = extra[4:4+n], extra[4+n:]
	}
	if len(extra) != 0 {
		return nil, fmt.Errorf("%d bytes too many", len(extra))
	}
	header, number, salt, hashes := parts[0], parts[1], parts[2], parts[8]
	p.Record = Record{parts[3], parts[4], parts[5], parts[6], parts[7]}
	if p.Header, err = ParseHeader(header); err != nil {
		return nil, err
	}
	if p.Header.Kind != KindBatch {
		return nil, fmt.Errorf("a %s entry holds no records", p.Header.Kind)
	}
	if p.Signal, err = signalOf(p.Header.Sections[1].Encoding); err != nil {
		return nil, err
	}
	if len(number) != 8 || len(salt) != saltBytes || len(hashes)%len(Hash{}) != 0 {
		return nil, errors.New("a part has the wrong length")
	}
	p.Number = binary.BigEndian.Uint64(number)
	if p.Number < p.Header.FirstRecord || p.Number-p.Header.FirstRecord >= p.Header.Records {
		return nil, fmt.Errorf("record %d is not in entry %d", p.Number, p.Header.Entry)
	}
	var path tlog.RecordProof
	for h := range slices.Chunk(hashes, len(Hash{})) {
		path = append(path, tlog.Hash(h))
	}
	r := reported{p.Record.Resource, p.Record.ResourceSchemaURL, p.Record.Scope, p.Record.ScopeSchemaURL}
	leaf := new(batchHasher).leafHash(salt, r.context(), p.Record.Bytes)
	if err := tlog.CheckRecord(path, int64(p.Header.Records), tlog.Hash(p.Header.Root), int64(p.Number-p.Header.FirstRecord), tlog.Hash(leaf)); err != nil {
		return nil, fmt.Errorf("the record, or what it was reported under, is not the one that entry %d sealed", p.Header.Entry)
	}
	return header, nil
}
