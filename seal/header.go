package seal

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	magicFamily = "meshaudit-seal/" // of all versions
	magic       = magicFamily + "v1 "
)

// Kind is what a frame carries: one of the six kinds of entry, or a
// checkpoint, which is no entry.
type Kind string

const (
	KindOpen       Kind = "open"
	KindBatch      Kind = "batch"
	KindBeat       Kind = "beat"
	KindErase      Kind = "erase"
	KindPrune      Kind = "prune"
	KindClose      Kind = "close"
	KindCheckpoint Kind = "checkpoint"
)

// After says how the epoch before an open ended.
type After string

const (
	AfterFirst    After = "first"    // there was none
	AfterClean    After = "clean"    // with a close
	AfterCrash    After = "crash"    // without one
	AfterFault    After = "fault"    // a write or fsync failed, the process lived on
	AfterRotation After = "rotation" // with a close, to change the log key
)

// Hash is a SHA-256.
type Hash = [sha256.Size]byte

// Header is the text in front of every frame: what is hashed, signed and
// chained. Fields that a kind does not have are zero.
type Header struct {
	Kind        Kind
	Origin      string
	Entry       uint64 // number of this entry
	Epoch       uint64
	FirstRecord uint64 // number of the next record, also where Records is 0
	Records     uint64
	Prev        Hash   // SHA-256 of the previous frame's header
	Sealed      uint64 // writer's clock, unix nanoseconds

	Root             Hash   // batch: RFC 6962 root over its record leaves
	TimeMin, TimeMax uint64 // batch: event times, unix nanoseconds; 0 0: none

	Open     *OpenLines
	Erase    *EraseLines
	Prune    *PruneLines
	Sections []Section
	Tag      Hash
}

// OpenLines are the lines of an open entry alone.
type OpenLines struct {
	Signer           string // verifier key of the log key, signed-note form
	Chain            Hash   // commitment to the epoch's chain key
	Fresh            bool   // the chain begins here: no persistent disk
	Escrows          []Escrow
	HeartbeatSeconds uint64
	After            After
	Torn             []Torn
}

// Escrow is the epoch's chain key, sealed to one auditor.
type Escrow struct {
	Suite      string
	Recipient  string
	Ciphertext []byte // enc || ct
}

// Torn is what a recovery cut off and kept aside.
type Torn struct {
	Bytes  uint64
	SHA256 Hash
}

// EraseLines are the lines of an erase entry alone.
type EraseLines struct {
	Target     uint64
	Erased     []Range // positions within the target, all so far, ascending
	By, Reason string
}

// Range is First..Last, both included.
type Range struct{ First, Last uint64 }

// PruneLines are the lines of a prune entry alone.
type PruneLines struct {
	First  uint64 // the first entry that is kept
	Policy string
}

// Section describes one of the byte strings that follow a header.
type Section struct {
	Name, Encoding string
	Stored, Plain  uint64 // lengths in bytes
	Hash           Hash   // of the stored bytes
}

// Section names and encodings.
const (
	SectionFilter  = "filter"
	SectionBody    = "body"
	SectionNote    = "note"
	SectionSalts   = "salts"
	SectionLeaves  = "leaves"
	SectionSVID    = "svid"
	SectionSVIDSig = "svid-sig"

	EncodingRaw   = "raw"
	EncodingBloom = "bloom/v1"
)

// errGrammar is wrapped by every refusal of a header's text.
var errGrammar = errors.New("not format v1")

func grammarf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errGrammar, fmt.Sprintf(format, args...))
}

// ValidOrigin reports why s cannot be a writer's origin, or nil.
func ValidOrigin(s string) error {
	if len(s) == 0 || len(s) > maxOriginBytes {
		return fmt.Errorf("origin must be 1 to %d bytes, got %d", maxOriginBytes, len(s))
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("._/-", c) < 0 {
			return fmt.Errorf("origin %q: only a-z 0-9 . _ / - are allowed", s)
		}
	}
	for e := range strings.SplitSeq(s, "/") {
		if e == "" || e == "." || e == ".." {
			return fmt.Errorf("origin %q: empty, . and .. elements are not allowed", s)
		}
	}
	return nil
}

func appendHash(b []byte, h Hash) []byte { return base64.StdEncoding.AppendEncode(b, h[:]) }

func appendLine(b []byte, key string, value []byte) []byte {
	b = append(b, key...)
	b = append(b, ' ')
	b = append(b, value...)
	return append(b, '\n')
}

func appendNumber(b []byte, key string, ns ...uint64) []byte {
	b = append(b, key...)
	for _, n := range ns {
		b = append(b, ' ')
		b = strconv.AppendUint(b, n, 10)
	}
	return append(b, '\n')
}

func appendHashLine(b []byte, key string, h Hash) []byte {
	b = append(b, key...)
	b = append(b, ' ')
	b = appendHash(b, h)
	return append(b, '\n')
}

// appendUntagged writes the header up to where its tag goes.
func (h *Header) appendUntagged(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, h.Kind...)
	b = append(b, '\n')
	b = appendLine(b, "origin", []byte(h.Origin))
	if h.Kind == KindCheckpoint {
		b = appendHashLine(b, "prev", h.Prev)
		return h.appendSections(b)
	}
	b = appendNumber(b, "entry", h.Entry)
	b = appendNumber(b, "epoch", h.Epoch)
	b = appendNumber(b, "records", h.FirstRecord, h.Records)
	b = appendHashLine(b, "prev", h.Prev)
	b = appendNumber(b, "sealed", h.Sealed)
	switch h.Kind {
	case KindBatch:
		b = appendHashLine(b, "root", h.Root)
		b = appendNumber(b, "time", h.TimeMin, h.TimeMax)
	case KindOpen:
		b = h.Open.append(b)
	case KindErase:
		b = appendNumber(b, "target", h.Erase.Target)
		b = append(b, "erased"...)
		for _, r := range h.Erase.Erased {
			b = append(b, ' ')
			b = strconv.AppendUint(b, r.First, 10)
			if r.Last != r.First {
				b = append(b, '-')
				b = strconv.AppendUint(b, r.Last, 10)
			}
		}
		b = append(b, '\n')
		b = appendLine(b, "by", []byte(h.Erase.By))
		b = appendLine(b, "reason", []byte(h.Erase.Reason))
	case KindPrune:
		b = appendNumber(b, "first", h.Prune.First)
		b = appendLine(b, "policy", []byte(h.Prune.Policy))
	}
	return h.appendSections(b)
}

func (o *OpenLines) append(b []byte) []byte {
	b = appendLine(b, "signer", []byte(o.Signer))
	b = append(b, "chain "...)
	b = appendHash(b, o.Chain)
	if o.Fresh {
		b = append(b, " fresh"...)
	}
	b = append(b, '\n')
	for _, e := range o.Escrows {
		b = fmt.Appendf(b, "escrow %s %s ", e.Suite, e.Recipient)
		b = base64.StdEncoding.AppendEncode(b, e.Ciphertext)
		b = append(b, '\n')
	}
	b = appendNumber(b, "heartbeat", o.HeartbeatSeconds)
	b = appendLine(b, "after", []byte(o.After))
	for _, t := range o.Torn {
		b = append(b, "torn "...)
		b = strconv.AppendUint(b, t.Bytes, 10)
		b = append(b, ' ')
		b = appendHash(b, t.SHA256)
		b = append(b, '\n')
	}
	return b
}

func (h *Header) appendSections(b []byte) []byte {
	for i := range h.Sections {
		s := &h.Sections[i]
		b = append(b, "section "...)
		b = append(b, s.Name...)
		b = append(b, ' ')
		b = append(b, s.Encoding...)
		b = append(b, ' ')
		b = strconv.AppendUint(b, s.Stored, 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, s.Plain, 10)
		b = append(b, ' ')
		b = appendHash(b, s.Hash)
		b = append(b, '\n')
	}
	return b
}

// tagAndSumBytes is the length of the two lines that end an entry's header.
const tagAndSumBytes = len("tag \n") + 44 + len("sum \n") + 8

// appendSum closes the header text b[start:] with its sum line. What is
// hashed, chained and made a leaf is b[start:] of the result; the frame
// continues with one empty line.
func appendSum(b []byte, start int) []byte {
	sum := sha256.Sum256(b[start:])
	b = append(b, "sum "...)
	b = hex.AppendEncode(b, sum[:4])
	return append(b, '\n')
}
