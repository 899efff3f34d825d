package seal

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// A cosignature is a witness's word that, at a time, a checkpoint was the
// largest that it had seen of a log, and continued all that it had seen before
// (C2SP tlog-cosignature, Ed25519). x/mod does not know that key type.

const (
	algCosignatureV1    = 4
	cosignatureBytes    = 8 + ed25519.SignatureSize // time and signature
	maxWitnessNameBytes = 255
)

// ValidWitnessName checks the name of a witness, by convention a URL without a
// scheme.
func ValidWitnessName(name string) error {
	if name == "" || len(name) > maxWitnessNameBytes || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '+' }) {
		return fmt.Errorf("witness name %q must have 1 to %d bytes and no space and no +, e.g. example.org/witness/a", clip(name), maxWitnessNameBytes)
	}
	return nil
}

func cosignatureKeyHash(name string, pub ed25519.PublicKey) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write([]byte{algCosignatureV1})
	h.Write(pub)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

func keyText(name string, hash uint32, key []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, hash, base64.StdEncoding.EncodeToString(append([]byte{algCosignatureV1}, key...)))
}

// parseKeyText takes NAME+HASH+BASE64 of an Ed25519 cosignature key apart.
func parseKeyText(s string) (name string, hash uint32, key []byte, err error) {
	f := strings.Split(s, "+")
	if len(f) < 3 {
		return "", 0, nil, errors.New("is not NAME+HASH+KEY")
	}
	name = f[0]
	if err := ValidWitnessName(name); err != nil {
		return "", 0, nil, err
	}
	h, err := strconv.ParseUint(f[1], 16, 32)
	if err != nil || f[1] != fmt.Sprintf("%08x", h) {
		return "", 0, nil, errors.New("is not NAME+HASH+KEY")
	}
	b, err := decodeBase64(strings.Join(f[2:], "+")) // base64 may hold a +
	if err != nil {
		return "", 0, nil, err
	}
	if len(b) == 0 || b[0] != algCosignatureV1 {
		return "", 0, nil, errors.New("is no Ed25519 cosignature key (type 4)")
	}
	if len(b) != 1+ed25519.PublicKeySize {
		return "", 0, nil, fmt.Errorf("holds a key of %d bytes, expected %d", len(b)-1, ed25519.PublicKeySize)
	}
	return name, uint32(h), b[1:], nil
}

// cosignatureKey is a witness's public key.
type cosignatureKey struct {
	name string
	hash uint32
	pub  ed25519.PublicKey
}

var _ note.Verifier = (*cosignatureKey)(nil)

func parseCosignatureKey(vkey string) (*cosignatureKey, error) {
	name, hash, pub, err := parseKeyText(vkey)
	if err == nil && hash != cosignatureKeyHash(name, pub) {
		err = errors.New("has a hash that is not the key's")
	}
	if err != nil {
		return nil, fmt.Errorf("witness key %q: %w", clip(vkey), err)
	}
	return &cosignatureKey{name, hash, pub}, nil
}

func (k *cosignatureKey) Name() string    { return k.name }
func (k *cosignatureKey) KeyHash() uint32 { return k.hash }

// Verify checks a cosignature of a checkpoint's text.
func (k *cosignatureKey) Verify(msg, sig []byte) bool {
	if len(sig) != cosignatureBytes {
		return false
	}
	t := binary.BigEndian.Uint64(sig)
	return t <= math.MaxInt64 && ed25519.Verify(k.pub, cosignedMessage(t, msg), sig[8:])
}

func cosignedMessage(t uint64, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", t), text...)
}

// WitnessKey is a witness's secret key.
type WitnessKey struct {
	cosignatureKey
	priv ed25519.PrivateKey
}

// GenerateWitnessKey makes the key of a witness.
func GenerateWitnessKey(name string) (*WitnessKey, error) {
	if err := ValidWitnessName(name); err != nil {
		return nil, err
	}
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return newWitnessKey(name, seed), nil
}

func newWitnessKey(name string, seed []byte) *WitnessKey {
	priv := ed25519.NewKeyFromSeed(seed)
	pub := priv.Public().(ed25519.PublicKey)
	return &WitnessKey{cosignatureKey{name, cosignatureKeyHash(name, pub), pub}, priv}
}

// secretKeyPrefix begins the secret keys of logs, witnesses and reviewers.
const secretKeyPrefix = "PRIVATE+KEY+"

// MarshalText is the form of a witness's key file.
func (k *WitnessKey) MarshalText() ([]byte, error) {
	return []byte(secretKeyPrefix + keyText(k.name, k.hash, k.priv.Seed()) + "\n"), nil
}

// VerifierKey is the public key, in signed-note form.
func (k *WitnessKey) VerifierKey() string { return keyText(k.name, k.hash, k.pub) }

// ParseWitnessKey parses a witness's key file.
func ParseWitnessKey(text string) (*WitnessKey, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), secretKeyPrefix)
	if !ok {
		return nil, fmt.Errorf("not a witness key: expected one line that starts with %q; make one with: meshaudit keygen witness", secretKeyPrefix)
	}
	name, hash, seed, err := parseKeyText(rest)
	if err != nil {
		return nil, errors.New("not a witness key: expected NAME+HASH+BASE64 of key type 4; make one with: meshaudit keygen witness")
	}
	k := newWitnessKey(name, seed)
	if k.hash != hash {
		return nil, errors.New("witness key: its hash is not the key's")
	}
	return k, nil
}

// ReadWitnessKey reads a witness's key file. A file that others may read is
// refused.
func ReadWitnessKey(path string) (*WitnessKey, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	k, err := ParseWitnessKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// Cosign signs a checkpoint's text, at a time, and returns the line to add to
// its note.
func (k *WitnessKey) Cosign(text string, at time.Time) string {
	t := uint64(max(0, at.Unix()))
	b := binary.BigEndian.AppendUint32(nil, k.hash)
	b = binary.BigEndian.AppendUint64(b, t)
	b = append(b, ed25519.Sign(k.priv, cosignedMessage(t, []byte(text)))...)
	return signatureLine(k.name, base64.StdEncoding.EncodeToString(b))
}

func signatureLine(name, b64 string) string { return fmt.Sprintf("— %s %s\n", name, b64) }

// CosignedAt is the time in a cosignature, without its key hash.
func CosignedAt(sig []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(sig)), 0).UTC()
}

// Cosignature is a witness's signature on a checkpoint.
type Cosignature struct {
	Witness *Witness
	Time    time.Time // whole seconds
	line    string
}

// cosignatures are those on a note by the policy's witnesses, at most one of
// each; those by others are passed over. One that bears a witness's name and
// key hash and is not its signature is an error.
func (p *WitnessPolicy) cosignatures(msg []byte) ([]Cosignature, error) {
	if p == nil || len(p.Witnesses) == 0 {
		return nil, nil
	}
	keys := make([]note.Verifier, len(p.Witnesses))
	for i := range p.Witnesses {
		keys[i] = p.Witnesses[i].key
	}
	n, err := note.Open(msg, note.VerifierList(keys...))
	var none *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &none):
		return nil, nil
	case errors.As(err, &invalid):
		return nil, fmt.Errorf("the cosignature that bears the name of %s is not its own", invalid.Name)
	case err != nil:
		return nil, err
	}
	var cs []Cosignature
	for _, s := range n.Sigs {
		b, err := decodeBase64(s.Base64)
		if err != nil {
			return nil, fmt.Errorf("cosignature of %s: %w", s.Name, err)
		}
		for i := range p.Witnesses {
			if w := &p.Witnesses[i]; w.key.name == s.Name && w.key.hash == s.Hash {
				cs = append(cs, Cosignature{w, CosignedAt(b[4:]), signatureLine(s.Name, s.Base64)})
			}
		}
	}
	return cs, nil
}
