package seal

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
)

// A log key is replaced between two epochs: the last checkpoint of the one is
// signed by both keys, and the next epoch opens after "rotation" with the new
// signer. A crash at any point of that is taken up at the next start.

// Rotation is a log key replaced by another.
type Rotation struct {
	Old, New string // verifier keys
	Size     uint64 // entries up to which the old one signed
}

// TrustLines are the lines of a trust file that take the place of the old
// key's.
func (r Rotation) TrustLines() string {
	return fmt.Sprintf("log %s until %d\nlog %s\n", r.Old, r.Size, r.New)
}

// signed says who signed the last checkpoint of a log.
type signed uint8

const (
	byLogKey    signed = iota
	byPrevious         // not yet by the log key: to be handed over
	bySuccessor        // by the log key and the one before it: handed over, not yet opened
)

// signerOf finds out who signed a checkpoint of this log.
func (w *Writer) signerOf(msg []byte) (signed, error) {
	n, err := note.Open(msg, note.VerifierList(w.verifier))
	if err == nil {
		for _, other := range n.UnverifiedSigs {
			if other.Name == w.cfg.Origin {
				return bySuccessor, nil
			}
		}
		return byLogKey, nil
	}
	var unverified *note.UnverifiedNoteError
	if w.previous != nil && errors.As(err, &unverified) {
		_, err = note.Open(msg, note.VerifierList(w.previous))
		return byPrevious, err
	}
	return 0, err
}

// handOver recovers a log under its previous key and hands it over to the new
// one.
func (w *Writer) handOver(at *logState, key ChainKey, after After, torn []Torn) (*logState, error) {
	previous, log := w.cfg.PreviousLogKey, w.cfg.LogKey
	s, err := w.openEpoch(at, key, previous, after, torn)
	if err != nil {
		return nil, err
	}
	defer s.abandon()
	s.signers = append(s.signers, log)
	if _, err := s.commit(nil, &Header{Kind: KindClose}, uint64(w.cfg.Now().UnixNano())); err != nil {
		return nil, err
	}
	if key, err = w.cfg.Chain.Load(); err != nil {
		return nil, err
	}
	next, err := w.openEpoch(s, key, log, AfterRotation, nil)
	if err == nil && w.cfg.Rotated != nil {
		w.cfg.Rotated(Rotation{previous.VerifierKey(), log.VerifierKey(), s.entry})
	}
	return next, err
}

// --- verification ---

// signers is what a verification knows of the keys that sign a log.
type signers struct {
	epoch string // verifier key that the last open names
	note  []byte // the last checkpoint
	heir  heir

	vouched    *TrustedKey // by the SVID of the last open
	byIdentity bool        // the trust file has no key of this log, but identities
	unvouched  bool        // and some epoch has none of them

	published     *TrustedKey // in force at the published checkpoint
	publishedNote []byte
}

// heir is a key that a trusted one handed the log over to, and that the trust
// file does not know.
type heir struct {
	of  string // the trusted one
	key *TrustedKey
}

// key is the key that must have signed a checkpoint of this size, behind the
// entries walked so far; nil if none is trusted.
func (v *verification) key(size uint64) *TrustedKey {
	if v.signers.byIdentity {
		return v.signers.vouched
	}
	k := v.opts.Trust.key(v.report.Origin, size)
	if h := &v.signers.heir; k != nil && h.key != nil && h.of == k.VerifierKey {
		return h.key
	}
	return k
}

// signer checks the log key that an epoch names.
func (v *verification) signer(f *frame) {
	o, before := f.Open, v.signers.epoch
	v.signers.epoch = o.Signer
	if before != "" {
		switch rotated := o.After == AfterRotation; {
		case rotated != (o.Signer != before):
			v.found(Tampering, Integrity, nextIsolate, "%s comes after %s, but its log key is %s", f.name(), o.After, map[bool]string{true: "the same", false: "another"}[rotated])
			return
		case rotated && !signedBy(v.signers.note, before, o.Signer):
			v.found(Tampering, Integrity, nextIsolate, "%s has a new log key, and no checkpoint in front of it is signed by both", f.name())
			return
		case rotated:
			v.inherit(f, before)
		}
	}
	v.identity(f)
	if k := v.key(f.Entry + 1); k != nil {
		v.report.Trusted = true
		if o.Signer != k.VerifierKey {
			v.found(Tampering, Integrity, nextOtherKey, "%s names another log key than the trusted one", f.name())
		}
	}
}

// inherit judges a proper handover. A trust file that knows the new key has the
// old one bounded. One that does not is out of date, or the old key was stolen:
// that cannot be told from the log.
func (v *verification) inherit(f *frame, before string) {
	trusted := v.opts.Trust.key(v.report.Origin, f.Entry)
	if trusted == nil || trusted.Until != noBound || v.key(f.Entry).VerifierKey != before {
		return
	}
	verifier, err := note.NewVerifier(f.Open.Signer)
	if err != nil || verifier.Name() != v.report.Origin {
		return // of another log: signer says so
	}
	v.signers.heir = heir{trusted.VerifierKey, &TrustedKey{f.Open.Signer, noBound, verifier}}
	v.found(Incomplete, Integrity,
		"ask the writer's owner; if it was them, put these lines in the place of the old key's in the trust file:\n"+Rotation{before, f.Open.Signer, f.Entry}.TrustLines(),
		"the log key was replaced at %s, by one that the trust file does not know; so could a thief of the old key", f.name())
}

// publishedSignature checks who signed the published checkpoint.
func (v *verification) publishedSignature() {
	p, key := v.published, v.signers.published
	if p == nil {
		return
	}
	if key == nil || p.Size > v.covered {
		key = v.key(p.Size)
	}
	if key == nil {
		return
	}
	if _, err := openCheckpoint(v.signers.publishedNote, key.verifier); err != nil {
		v.foundAt(v.publishedAs, 0, 0, Tampering, Integrity, nextIsolate, "the published checkpoint is not signed by the trusted log key")
		v.published = nil
	}
}
