package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// batchHasher computes what a batch's header and filter state of its body. The
// writer and the verifier share it; buffers are kept between batches.
type batchHasher struct {
	leaves []Hash // record leaf hashes, in order
	index  index
	filter filterBuilder
	leaf   []byte // 0x00 || salt || context || record
	salts  []byte
}

var zeros [256 * saltBytes]byte

// saltStream gives the salt of record 0, 1, …: the AES-256-CTR keystream of
// the seed, 16 bytes each.
type saltStream struct {
	ctr cipher.Stream
	buf []byte
	off int
}

func newSaltStream(seed [seedBytes]byte, buf []byte) saltStream {
	block, err := aes.NewCipher(seed[:])
	if err != nil {
		panic(err) // only for a key length that AES does not have
	}
	var iv [aes.BlockSize]byte
	buf = slices.Grow(buf[:0], len(zeros))[:len(zeros)]
	return saltStream{cipher.NewCTR(block, iv[:]), buf, len(zeros)}
}

func (s *saltStream) next() []byte {
	if s.off == len(s.buf) {
		s.ctr.XORKeyStream(s.buf, zeros[:])
		s.off = 0
	}
	s.off += saltBytes
	return s.buf[s.off-saltBytes : s.off]
}

// run hashes and indexes every record of msg.
func (b *batchHasher) run(sig Signal, seed [seedBytes]byte, msg []byte) error {
	salts := newSaltStream(seed, b.salts)
	b.salts = salts.buf
	return b.hash(sig, &salts, msg)
}

// hash is run with salts from elsewhere, which must suffice.
func (b *batchHasher) hash(sig Signal, salts *saltStream, msg []byte) error {
	b.leaves = b.leaves[:0]
	b.index = index{keys: b.index.keys[:0]}
	err := scanScopes(msg, func(r *reported, scope []byte) error {
		context := r.context()
		return scanRecords(scope, func(rec []byte) error {
			if len(b.leaves) == maxEntryRecords {
				return envelopef("more than %d records in one entry", maxEntryRecords)
			}
			b.leaves = append(b.leaves, b.leafHash(salts.next(), context, rec))
			return b.index.add(sig, rec)
		})
	})
	b.index.finish()
	return err
}

func (b *batchHasher) leafHash(salt []byte, context Hash, rec []byte) Hash {
	l := append(b.leaf[:0], 0)
	l = append(l, salt...)
	l = append(l, context[:]...)
	l = append(l, rec...)
	b.leaf = l
	return sha256.Sum256(l)
}

// root is the RFC 6962 root over the leaves, which it overwrites.
func (b *batchHasher) root() Hash { return merkleRoot(b.leaves) }

// merkleRoot computes the RFC 6962 tree head over leaf hashes, in place.
// Pairing level by level, an odd last node carried up, is the same tree as
// the RFC's split at the largest power of two.
func merkleRoot(nodes []Hash) Hash {
	if len(nodes) == 0 {
		return sha256.Sum256(nil)
	}
	for len(nodes) > 1 {
		half := len(nodes) / 2
		for i := range half {
			nodes[i] = nodeHash(&nodes[2*i], &nodes[2*i+1])
		}
		if len(nodes)%2 == 1 {
			nodes[half] = nodes[len(nodes)-1]
			half++
		}
		nodes = nodes[:half]
	}
	return nodes[0]
}

func nodeHash(l, r *Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[1+sha256.Size:], r[:])
	return sha256.Sum256(b[:])
}

// sealedBatch is a batch entry but for its place in the log: everything that
// can be computed before the entries in front of it are known.
type sealedBatch struct {
	records      uint64
	root         Hash
	min, max     uint64
	sections     [2]Section
	filter, body []byte // as stored
}

// batchEncoder turns requests into sealed batches.
type batchEncoder struct {
	hasher batchHasher
	plain  []byte // seed || message
	zstd   *zstd.Encoder
}

var batchEncoders = &sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20),
		zstd.WithSingleSegment(true), // so that the frame always states its content size
		zstd.WithZeroFrames(true))    // nothing is a frame too: an erase may leave no record
	if err != nil {
		panic(err) // only for options that do not fit each other
	}
	return &batchEncoder{zstd: e}
}}

// encodeBatch seals the concatenation of msgs, requests of one signal, into
// one batch. Fresh random seed and nonce are drawn from rnd.
func encodeBatch(sig Signal, msgs [][]byte, rnd func([]byte)) (*sealedBatch, error) {
	e := batchEncoders.Get().(*batchEncoder)
	defer batchEncoders.Put(e)

	var seed [seedBytes]byte
	var nonce [nonceBytes]byte
	rnd(seed[:])
	rnd(nonce[:])
	e.plain = append(e.plain[:0], seed[:]...)
	for _, m := range msgs {
		e.plain = append(e.plain, m...)
	}
	if len(e.plain) > maxSectionBytes {
		return nil, fmt.Errorf("batch of %d bytes does not fit a section", len(e.plain))
	}
	if err := e.hasher.run(sig, seed, e.plain[seedBytes:]); err != nil {
		return nil, err
	}
	x := &e.hasher.index
	s := &sealedBatch{
		records: uint64(len(e.hasher.leaves)),
		root:    e.hasher.root(),
		min:     x.min, max: x.max,
	}
	s.filter = e.hasher.filter.append(nil, nonce, x.keys)
	s.body = e.zstd.EncodeAll(e.plain, make([]byte, 0, len(e.plain)/3+256))
	if len(s.body) > maxSectionBytes {
		// Random bytes grow by a little when "compressed".
		return nil, fmt.Errorf("%w: %d bytes after compression", ErrTooLarge, len(s.body))
	}
	s.sections = [2]Section{
		{SectionFilter, EncodingBloom, uint64(len(s.filter)), uint64(len(s.filter)), sha256.Sum256(s.filter)},
		{SectionBody, sig.encoding(), uint64(len(s.body)), uint64(len(e.plain)), sha256.Sum256(s.body)},
	}
	return s, nil
}

// keptBuffer is how large a buffer may be that is kept for the next batch.
const keptBuffer = 2 << 20

// batchDecoder opens bodies; it keeps its buffers between batches.
type batchDecoder struct {
	hasher batchHasher
	zstd   *zstd.Decoder
	buf    []byte // what body is decompressed into
	filter []byte
}

var batchDecoders = &sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow),
		zstd.WithDecoderMaxMemory(maxSectionBytes), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err)
	}
	return &batchDecoder{zstd: d}
}}

// shrink gives up a large buffer.
func (d *batchDecoder) shrink() {
	if cap(d.buf) > keptBuffer {
		d.buf = nil
	}
}

// open decompresses a body. The result is valid until the next call.
func (d *batchDecoder) open(s *Section, stored []byte) (seed [seedBytes]byte, msg []byte, err error) {
	plain, err := d.decompress(s, stored)
	if err != nil {
		return seed, nil, err
	}
	if len(plain) < seedBytes {
		return seed, nil, errors.New("body is shorter than its seed")
	}
	return [seedBytes]byte(plain), plain[seedBytes:], nil
}

// decompress gives a body's bytes, which are valid until the next call.
func (d *batchDecoder) decompress(s *Section, stored []byte) ([]byte, error) {
	if err := checkZstdFrame(stored, s.Plain); err != nil {
		return nil, err
	}
	d.buf = slices.Grow(d.buf[:0], int(s.Plain))
	plain, err := d.zstd.DecodeAll(stored, d.buf[:0:s.Plain])
	if err != nil {
		return nil, fmt.Errorf("body does not decompress: %w", err)
	}
	if uint64(len(plain)) != s.Plain {
		return nil, fmt.Errorf("body holds %d bytes, its section line says %d", len(plain), s.Plain)
	}
	return plain, nil
}

// verify recomputes all that a batch's header and filter say of its body.
func (d *batchDecoder) verify(h *Header, filter, stored []byte) error {
	s := &h.Sections[1]
	sig, err := signalOf(s.Encoding)
	if err != nil {
		return err
	}
	seed, msg, err := d.open(s, stored)
	if err != nil {
		return err
	}
	if err := d.hasher.run(sig, seed, msg); err != nil {
		return err
	}
	if n := uint64(len(d.hasher.leaves)); n != h.Records {
		return fmt.Errorf("body holds %d records, the header says %d", n, h.Records)
	}
	if d.hasher.root() != h.Root {
		return errors.New("records do not match the record root")
	}
	x := &d.hasher.index
	if x.min != h.TimeMin || x.max != h.TimeMax {
		return fmt.Errorf("event times span %d to %d, the header says %d to %d", x.min, x.max, h.TimeMin, h.TimeMax)
	}
	return d.checkFilter(filter, x.keys)
}

// checkFilter compares a filter with the one of keys.
func (d *batchDecoder) checkFilter(filter []byte, keys []uint64) error {
	if len(filter) < nonceBytes {
		return errors.New("filter is shorter than its nonce")
	}
	d.filter = d.hasher.filter.append(d.filter[:0], [nonceBytes]byte(filter), keys)
	if !bytes.Equal(d.filter, filter) {
		return errors.New("filter does not match the records: a search would miss some")
	}
	return nil
}

// checkZstdFrame checks that b is exactly one zstd frame with a content size
// of plain, no dictionary and a bounded window. Decoders silently accept
// skippable and concatenated frames, in which something could hide.
func checkZstdFrame(b []byte, plain uint64) error {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return fmt.Errorf("body is no zstd frame: %w", err)
	}
	switch {
	case h.Skippable:
		return errors.New("body is a skippable zstd frame")
	case !h.HasFCS || h.FrameContentSize != plain:
		return fmt.Errorf("zstd frame states a content of %d bytes, the section line %d", h.FrameContentSize, plain)
	case h.DictionaryID != 0:
		return errors.New("zstd frame wants a dictionary")
	case h.WindowSize > maxZstdWindow:
		return fmt.Errorf("zstd window of %d bytes, at most %d are allowed", h.WindowSize, maxZstdWindow)
	}
	rest := b[h.HeaderSize:]
	for last := false; !last; {
		if len(rest) < 3 {
			return errors.New("zstd frame is cut")
		}
		v := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		last = v&1 == 1
		size := int(v >> 3)
		if v>>1&3 == 1 { // run-length: one byte, repeated
			size = 1
		}
		if len(rest)-3 < size {
			return errors.New("zstd frame is cut")
		}
		rest = rest[3+size:]
	}
	if h.HasCheckSum {
		if len(rest) < 4 {
			return errors.New("zstd frame is cut")
		}
		rest = rest[4:]
	}
	if len(rest) != 0 {
		return fmt.Errorf("%d bytes after the zstd frame", len(rest))
	}
	return nil
}
