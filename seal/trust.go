package seal

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Trust is what a verifier knows beforehand, from a trust file:
//
//	# comment
//	log VKEY [until SIZE]     a writer's key; the log's name is in it
//	chain ORIGIN BASE64       the pinned commitment to its first chain key
//	chain ORIGIN fresh        its writer begins a new chain at every start
//	spiffe ID BUNDLE [ORIGIN] writers with such an SVID; see TrustedIdentity
//	tsa FILE                  timestamp authorities: their certificates, or of CAs above
//	witness VKEY [URL]        whose cosignatures count, and where to ask it
//	reviewer VKEY             who may accept what is incomplete
//	quorum N                  how many witnesses are enough; without it, all
//
// Keys are never taken from the log itself.
type Trust struct {
	Keys      []TrustedKey
	Chains    map[string]Hash
	Fresh     map[string]bool // origins
	Witnesses *WitnessPolicy  // never nil; may be empty

	Identities  []TrustedIdentity
	Authorities []*x509.Certificate // for timestamps
	Reviewers   []note.Verifier
}

// TrustedKey is a writer's verifier key; it signs checkpoints of at most Until
// entries.
type TrustedKey struct {
	VerifierKey string
	Until       uint64
	verifier    note.Verifier
}

// noBound is the Until of a key that is in force.
const noBound = math.MaxUint64

// Origin is the log that the key signs for.
func (k TrustedKey) Origin() string { return k.verifier.Name() }

// ParseTrust parses a trust file. Files that it names are relative to the
// working directory.
func ParseTrust(b []byte) (*Trust, error) { return parseTrust(b, ".") }

func parseTrust(b []byte, dir string) (*Trust, error) {
	t := &Trust{Chains: map[string]Hash{}, Fresh: map[string]bool{}}
	var witnesses []Witness
	quorum := 0
	n := 0
	for l := range strings.Lines(string(b)) {
		n++
		f := strings.Fields(l)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		var err error
		switch {
		case f[0] == "log" && (len(f) == 2 || len(f) == 4 && f[2] == "until"):
			k := TrustedKey{VerifierKey: f[1], Until: noBound}
			if k.verifier, err = note.NewVerifier(f[1]); err != nil {
				err = fmt.Errorf("verifier key %q is malformed", clip(f[1]))
			} else if err = ValidOrigin(k.Origin()); err == nil && len(f) == 4 {
				k.Until, err = number(f[3])
			}
			if err == nil {
				err = t.add(k)
			}
		case f[0] == "tsa" && len(f) == 2:
			var certs []*x509.Certificate
			if certs, err = readCertificates(f[1], dir); err != nil {
				err = fmt.Errorf("timestamp authority: %w", err)
			}
			t.Authorities = append(t.Authorities, certs...)
		case f[0] == "spiffe" && (len(f) == 3 || len(f) == 4):
			var i TrustedIdentity
			i, err = parseIdentity(f[1:], dir)
			t.Identities = append(t.Identities, i)
		case f[0] == "chain" && len(f) == 3:
			if err = ValidOrigin(f[1]); err == nil && f[2] == "fresh" {
				t.Fresh[f[1]] = true
			} else if err == nil {
				if _, twice := t.Chains[f[1]]; twice {
					err = fmt.Errorf("a second chain for %s", f[1])
				} else {
					t.Chains[f[1]], err = hash(f[2])
				}
			}
		case f[0] == "witness" && (len(f) == 2 || len(f) == 3):
			var w Witness
			if w, err = NewWitness(f[1], strings.Join(f[2:], "")); err == nil {
				witnesses = append(witnesses, w)
				_, err = NewWitnessPolicy(witnesses, 0)
			}
		case f[0] == "reviewer" && len(f) == 2:
			var r note.Verifier
			if r, err = note.NewVerifier(f[1]); err != nil {
				err = fmt.Errorf("verifier key %q is malformed", clip(f[1]))
			}
			t.Reviewers = append(t.Reviewers, r)
		case f[0] == "quorum" && len(f) == 2:
			var q uint64
			if q, err = number(f[1]); err == nil && (q == 0 || q > 1000 || quorum != 0) {
				err = fmt.Errorf("there is one quorum, of 1 or more witnesses")
			}
			quorum = int(min(q, 1000))
		default:
			err = fmt.Errorf("expected \"log VKEY [until SIZE]\", \"chain ORIGIN BASE64\", \"spiffe ID-PATTERN BUNDLE-FILE [ORIGIN-PATTERN]\", \"tsa FILE\", \"witness VKEY [URL]\", \"reviewer VKEY\" or \"quorum N\", found %q", clip(strings.TrimSpace(l)))
		}
		if err != nil {
			return nil, fmt.Errorf("trust file, line %d: %w", n, err)
		}
	}
	var err error
	if t.Witnesses, err = NewWitnessPolicy(witnesses, quorum); err != nil {
		return nil, fmt.Errorf("trust file: %w", err)
	}
	return t, nil
}

// add adds a key. Two keys must not claim the same end of a log.
func (t *Trust) add(k TrustedKey) error {
	for _, other := range t.Keys {
		if other.Origin() == k.Origin() && other.Until == k.Until && other.VerifierKey != k.VerifierKey {
			return fmt.Errorf("two keys of %s without a bound between them: give the older one its \"until SIZE\"; verify says which", k.Origin())
		}
	}
	t.Keys = append(t.Keys, k)
	return nil
}

// ReadTrust reads a trust file.
func ReadTrust(path string) (*Trust, error) {
	b, err := readFile(OS, path, 16<<20)
	if err != nil {
		return nil, err
	}
	t, err := parseTrust(b, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// TrustLines are the lines that pin a new writer in a trust file.
func TrustLines(vkey, origin string, chain Hash) string {
	return fmt.Sprintf("log %s\nchain %s %s\n", vkey, origin, base64.StdEncoding.EncodeToString(chain[:]))
}

// key finds the key that signs a checkpoint of the given size: of those whose
// bound is not passed, the one with the least.
func (t *Trust) key(origin string, size uint64) (found *TrustedKey) {
	if t == nil {
		return nil
	}
	for i := range t.Keys {
		if k := &t.Keys[i]; k.Origin() == origin && size <= k.Until && (found == nil || k.Until < found.Until) {
			found = k
		}
	}
	return found
}

// knows reports whether some key is trusted for the log of origin, whatever its
// bound.
func (t *Trust) knows(origin string) bool {
	return t != nil && slices.ContainsFunc(t.Keys, func(k TrustedKey) bool { return k.Origin() == origin })
}

// Origins are the logs that the trust file expects to find: those that it
// names.
func (t *Trust) Origins() []string {
	var os []string
	seen := map[string]bool{}
	for _, k := range t.Keys {
		if o := k.Origin(); !seen[o] {
			seen[o] = true
			os = append(os, o)
		}
	}
	for _, i := range t.Identities {
		if o := i.Origin; !strings.Contains(o, "*") && !seen[o] {
			seen[o] = true
			os = append(os, o)
		}
	}
	return os
}
