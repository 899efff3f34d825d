package seal

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseHeader parses one header strictly: text from its first byte through
// the newline of its sum line, as hashed. Every deviation from the one
// canonical form is refused.
func ParseHeader(text []byte) (*Header, error) {
	if len(text) > maxHeaderBytes {
		return nil, grammarf("header of %d bytes, at most %d are allowed", len(text), maxHeaderBytes)
	}
	p := parser{rest: text}
	h, err := p.header()
	if err != nil {
		return nil, err
	}
	if len(p.rest) != 0 {
		return nil, grammarf("%d bytes after the sum line", len(p.rest))
	}
	// Reading is lenient nowhere; writing what was read once more, and
	// comparing, keeps it that way by construction.
	again := h.appendUntagged(make([]byte, 0, len(text)))
	if h.Kind != KindCheckpoint {
		again = appendHashLine(again, "tag", h.Tag)
	}
	again = appendSum(again, 0)
	if !bytes.Equal(again, text) {
		if bytes.Equal(again[:len(again)-9], text[:max(0, len(text)-9)]) {
			return nil, errHeaderSum
		}
		return nil, grammarf("header is not in its canonical form")
	}
	return h, nil
}

// errHeaderSum: the header's text is whole but altered.
var errHeaderSum = fmt.Errorf("%w: header does not match its sum", errGrammar)

// errHeaderCut: the text ends where more lines belong, and is a valid header
// so far.
var errHeaderCut = fmt.Errorf("%w: header is cut", errGrammar)

type parser struct{ rest []byte }

// line takes the next line, which must start with key and a space, and
// returns what follows.
func (p *parser) line(key string) (string, error) {
	if len(p.rest) == 0 {
		return "", errHeaderCut
	}
	i := bytes.IndexByte(p.rest, '\n')
	if i < 0 {
		return "", grammarf("line %q has no end", key)
	}
	l := string(p.rest[:i])
	v, ok := strings.CutPrefix(l, key+" ")
	if !ok {
		return "", grammarf("expected line %q, found %q", key, clip(l))
	}
	p.rest = p.rest[i+1:]
	return v, nil
}

func (p *parser) has(key string) bool { return bytes.HasPrefix(p.rest, []byte(key+" ")) }

func clip(s string) string {
	if before, _, secret := strings.Cut(s, secretKeyPrefix); secret {
		s = before + secretKeyPrefix + "…" // a secret key in the place of something public
	}
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

func number(s string) (uint64, error) {
	if s == "" || (s[0] == '0' && s != "0") {
		return 0, grammarf("%q is no decimal number", clip(s))
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, grammarf("%q is no decimal number", clip(s))
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, grammarf("number %q does not fit 64 bits", clip(s))
	}
	return n, nil
}

func (p *parser) numbers(key string, dst ...*uint64) error {
	v, err := p.line(key)
	if err != nil {
		return err
	}
	f := strings.Split(v, " ")
	if len(f) != len(dst) {
		return grammarf("line %q has %d values, expected %d", key, len(f), len(dst))
	}
	for i, s := range f {
		if *dst[i], err = number(s); err != nil {
			return fmt.Errorf("line %q: %w", key, err)
		}
	}
	return nil
}

// decodeBase64 takes standard, padded, canonical base64 only. Go's Strict
// decoder still skips newlines, so those are refused here.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, grammarf("newline inside base64")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, grammarf("%q is not canonical base64", clip(s))
	}
	return b, nil
}

func hash(s string) (h Hash, err error) {
	b, err := decodeBase64(s)
	if err != nil {
		return h, err
	}
	if len(b) != len(h) {
		return h, grammarf("hash of %d bytes, expected %d", len(b), len(h))
	}
	return Hash(b), nil
}

func (p *parser) hash(key string, dst *Hash) error {
	v, err := p.line(key)
	if err == nil {
		*dst, err = hash(v)
	}
	return err
}

func (p *parser) text(key string, dst *string) error {
	v, err := p.line(key)
	if err != nil {
		return err
	}
	if !validText(v) {
		return grammarf("line %q must be 1 to %d bytes of printable UTF-8", key, maxTextBytes)
	}
	*dst = v
	return nil
}

func validText(s string) bool {
	return s != "" && len(s) <= maxTextBytes && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func (p *parser) header() (*Header, error) {
	if len(p.rest) == 0 {
		return nil, errHeaderCut
	}
	i := bytes.IndexByte(p.rest, '\n')
	if i < 0 || !bytes.HasPrefix(p.rest, []byte(magic)) {
		if bytes.HasPrefix(p.rest, []byte(magicFamily)) {
			return nil, grammarf("unknown format version %q; a newer meshaudit may read it", clip(string(p.rest[:max(0, i)])))
		}
		return nil, grammarf("frame does not start with %q", strings.TrimSpace(magic))
	}
	h := &Header{Kind: Kind(p.rest[len(magic):i])}
	p.rest = p.rest[i+1:]
	switch h.Kind {
	case KindOpen, KindBatch, KindBeat, KindErase, KindPrune, KindClose, KindCheckpoint:
	default:
		return nil, grammarf("unknown kind of frame %q", clip(string(h.Kind)))
	}
	var err error
	if h.Origin, err = p.line("origin"); err != nil {
		return nil, err
	}
	if err := ValidOrigin(h.Origin); err != nil {
		return nil, grammarf("%v", err)
	}
	if h.Kind == KindCheckpoint {
		err = p.hash("prev", &h.Prev)
	} else {
		err = p.entryLines(h)
	}
	if err != nil {
		return nil, err
	}
	if err := p.sections(h); err != nil {
		return nil, err
	}
	if h.Kind != KindCheckpoint {
		if err := p.hash("tag", &h.Tag); err != nil {
			return nil, err
		}
	}
	if _, err := p.line("sum"); err != nil {
		return nil, err
	}
	return h, nil
}

func (p *parser) entryLines(h *Header) error {
	if err := cmp.Or(
		p.numbers("entry", &h.Entry),
		p.numbers("epoch", &h.Epoch),
		p.numbers("records", &h.FirstRecord, &h.Records),
		p.hash("prev", &h.Prev),
		p.numbers("sealed", &h.Sealed),
	); err != nil {
		return err
	}
	if (h.Kind == KindBatch) != (h.Records > 0) {
		return grammarf("%s entry with %d records", h.Kind, h.Records)
	}
	if h.Sealed > math.MaxInt64 {
		return grammarf("sealed at %d, after the year 2262", h.Sealed)
	}
	if h.Records > maxEntryRecords {
		return grammarf("%d records in an entry, at most %d are allowed", h.Records, maxEntryRecords)
	}
	switch h.Kind {
	case KindBatch:
		if err := cmp.Or(p.hash("root", &h.Root), p.numbers("time", &h.TimeMin, &h.TimeMax)); err != nil {
			return err
		}
		if h.TimeMin > h.TimeMax {
			return grammarf("line \"time\" is out of order")
		}
	case KindOpen:
		h.Open = new(OpenLines)
		return p.open(h.Open)
	case KindErase:
		h.Erase = new(EraseLines)
		return p.erase(h.Erase)
	case KindPrune:
		h.Prune = new(PruneLines)
		return cmp.Or(p.numbers("first", &h.Prune.First), p.text("policy", &h.Prune.Policy))
	}
	return nil
}

func (p *parser) open(o *OpenLines) error {
	if err := p.text("signer", &o.Signer); err != nil {
		return err
	}
	v, err := p.line("chain")
	if err != nil {
		return err
	}
	v, o.Fresh = strings.CutSuffix(v, " fresh")
	if o.Chain, err = hash(v); err != nil {
		return err
	}
	for p.has("escrow") {
		v, err := p.line("escrow")
		if err != nil {
			return err
		}
		f := strings.Split(v, " ")
		if len(f) != 3 {
			return grammarf("line \"escrow\" has %d values, expected 3", len(f))
		}
		suite, err := suiteNamed(f[0])
		if err != nil {
			return grammarf("%v", err)
		}
		if b, err := hex.DecodeString(f[1]); err != nil || len(b) != recipientIDBytes || f[1] != strings.ToLower(f[1]) {
			return grammarf("line \"escrow\": recipient %q is not %d hex digits", clip(f[1]), 2*recipientIDBytes)
		}
		ct, err := decodeBase64(f[2])
		if err != nil {
			return err
		}
		if len(ct) != suite.escrowBytes {
			return grammarf("escrow of %d bytes, %s has %d", len(ct), f[0], suite.escrowBytes)
		}
		o.Escrows = append(o.Escrows, Escrow{f[0], f[1], ct})
	}
	if len(p.rest) == 0 {
		return errHeaderCut
	}
	if len(o.Escrows) == 0 {
		return grammarf("open without an escrow")
	}
	if err := p.numbers("heartbeat", &o.HeartbeatSeconds); err != nil {
		return err
	}
	if o.HeartbeatSeconds == 0 || o.HeartbeatSeconds > 1<<31 {
		return grammarf("heartbeat of %d seconds", o.HeartbeatSeconds)
	}
	if v, err = p.line("after"); err != nil {
		return err
	}
	switch o.After = After(v); o.After {
	case AfterFirst, AfterClean, AfterCrash, AfterFault, AfterRotation:
	default:
		return grammarf("unknown after %q", clip(v))
	}
	for p.has("torn") {
		v, err := p.line("torn")
		if err != nil {
			return err
		}
		n, sum, _ := strings.Cut(v, " ")
		var t Torn
		if t.Bytes, err = number(n); err != nil {
			return err
		}
		if t.SHA256, err = hash(sum); err != nil {
			return err
		}
		o.Torn = append(o.Torn, t)
	}
	return nil
}

func (p *parser) erase(e *EraseLines) error {
	if err := p.numbers("target", &e.Target); err != nil {
		return err
	}
	v, err := p.line("erased")
	if err != nil {
		return err
	}
	for s := range strings.SplitSeq(v, " ") {
		first, last, isRange := strings.Cut(s, "-")
		var r Range
		if r.First, err = number(first); err != nil {
			return err
		}
		r.Last = r.First
		if isRange {
			if r.Last, err = number(last); err != nil {
				return err
			}
			if r.Last <= r.First {
				return grammarf("erased range %q", clip(s))
			}
		}
		if n := len(e.Erased); n > 0 && r.First <= e.Erased[n-1].Last+1 {
			return grammarf("erased positions must ascend, adjacent ones joined, at %q", clip(s))
		}
		if r.Last >= maxEntryRecords {
			return grammarf("erased position %d is beyond any entry", r.Last)
		}
		e.Erased = append(e.Erased, r)
	}
	return cmp.Or(p.text("by", &e.By), p.text("reason", &e.Reason))
}

// sectionsOf are the sections that a kind has, in their order.
var sectionsOf = map[Kind][]string{
	KindOpen:       {SectionSVID, SectionSVIDSig}, // both or none
	KindBatch:      {SectionFilter, SectionBody},
	KindBeat:       nil,
	KindPrune:      nil,
	KindClose:      nil,
	KindErase:      {SectionFilter, SectionBody, SectionSalts, SectionLeaves},
	KindCheckpoint: {SectionNote},
}

func (p *parser) sections(h *Header) error {
	for p.has("section") {
		v, err := p.line("section")
		if err != nil {
			return err
		}
		f := strings.Split(v, " ")
		if len(f) != 5 {
			return grammarf("line \"section\" has %d values, expected 5", len(f))
		}
		s := Section{Name: f[0], Encoding: f[1]}
		if s.Stored, err = number(f[2]); err != nil {
			return err
		}
		if s.Plain, err = number(f[3]); err != nil {
			return err
		}
		if s.Hash, err = hash(f[4]); err != nil {
			return err
		}
		if s.Stored > maxSectionBytes || s.Plain > maxSectionBytes {
			return grammarf("section %s of %d bytes stored, %d plain; at most %d are allowed", clip(s.Name), s.Stored, s.Plain, maxSectionBytes)
		}
		want := EncodingRaw
		switch s.Name {
		case SectionFilter:
			want = EncodingBloom
		case SectionBody:
			want = s.Encoding
			if _, err := signalOf(s.Encoding); err != nil {
				return grammarf("%v", err)
			}
		}
		if s.Encoding != want {
			return grammarf("section %s in encoding %q", clip(s.Name), clip(s.Encoding))
		}
		if s.Name != SectionBody && s.Stored != s.Plain {
			return grammarf("section %s is stored as it is, but its two lengths differ", clip(s.Name))
		}
		h.Sections = append(h.Sections, s)
	}
	if len(p.rest) == 0 {
		return errHeaderCut
	}
	want := sectionsOf[h.Kind]
	if h.Kind == KindOpen && len(h.Sections) == 0 {
		want = nil
	}
	if len(h.Sections) != len(want) {
		return grammarf("%s with %d sections, expected %d", h.Kind, len(h.Sections), len(want))
	}
	for i, s := range h.Sections {
		if s.Name != want[i] {
			return grammarf("%s with section %q where %q belongs", h.Kind, clip(s.Name), want[i])
		}
	}
	return nil
}
