package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// Escrow: every open carries the epoch's chain key, sealed with HPKE (RFC
// 9180) to each auditor, so that an auditor can replay the HMAC chain later
// and nobody on the writer's machine can.

const recipientIDBytes = 8

// suite is an HPKE KEM of format v1; KDF and AEAD are HKDF-SHA256 and
// AES-256-GCM in all of them.
type suite struct {
	name        string
	kem         func() hpke.KEM
	escrowBytes int // encapsulated key, chain key and AEAD tag
}

var suites = []suite{
	{"x25519", func() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }, 32 + 32 + 16},
	{"mlkem768x25519", hpke.MLKEM768X25519, 1120 + 32 + 16}, // also safe against a quantum computer
}

func suiteNamed(name string) (*suite, error) {
	for i := range suites {
		if suites[i].name == name {
			return &suites[i], nil
		}
	}
	return nil, fmt.Errorf("unknown escrow suite %q (known: x25519, mlkem768x25519)", clip(name))
}

func suiteByName(name string) (hpke.KEM, error) {
	s, err := suiteNamed(name)
	if err != nil {
		return nil, err
	}
	return s.kem(), nil
}

// Recipient is an auditor's public key, to which chain keys are escrowed.
type Recipient struct {
	Suite string
	key   hpke.PublicKey
}

// ID is the first 16 hex digits of SHA-256(KEM id, 2 bytes || public key).
func (r Recipient) ID() string {
	h := sha256.Sum256(append(binary.BigEndian.AppendUint16(nil, r.key.KEM().ID()), r.key.Bytes()...))
	return hex.EncodeToString(h[:recipientIDBytes])
}

const (
	recipientMagic = "meshaudit-auditor"
	auditorMagic   = "meshaudit-auditor-key/v1"
)

// String is the one-line form that ParseRecipient reads.
func (r Recipient) String() string {
	return fmt.Sprintf("%s %s %s", recipientMagic, r.Suite, base64.StdEncoding.EncodeToString(r.key.Bytes()))
}

// ParseRecipient parses "meshaudit-auditor SUITE BASE64"; text after it on
// further lines must be empty or start with #.
func ParseRecipient(s string) (Recipient, error) {
	var line string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		if line != "" {
			return Recipient{}, fmt.Errorf("an auditor's public key is one line, found a second: %q", clip(l))
		}
		line = l
	}
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != recipientMagic {
		return Recipient{}, fmt.Errorf("not an auditor's public key: expected %q, a suite and base64, got %q", recipientMagic, clip(line))
	}
	kem, err := suiteByName(f[1])
	if err != nil {
		return Recipient{}, err
	}
	b, err := decodeBase64(f[2])
	if err != nil {
		return Recipient{}, fmt.Errorf("auditor's public key: %w", err)
	}
	pub, err := kem.NewPublicKey(b)
	if err != nil {
		return Recipient{}, fmt.Errorf("auditor's public key: %w", err)
	}
	return Recipient{f[1], pub}, nil
}

// ReadRecipient reads an auditor's public key from a file.
func ReadRecipient(path string) (Recipient, error) {
	b, err := readFile(OS, path, maxKeyFileBytes)
	if err != nil {
		return Recipient{}, err
	}
	r, err := ParseRecipient(string(b))
	if err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// AuditorKey is an auditor's private key.
type AuditorKey struct {
	Suite string
	key   hpke.PrivateKey
}

// NewAuditorKey makes a key pair of the given suite.
func NewAuditorKey(suite string) (AuditorKey, error) {
	kem, err := suiteByName(suite)
	if err != nil {
		return AuditorKey{}, err
	}
	k, err := kem.GenerateKey()
	if err != nil {
		return AuditorKey{}, err
	}
	return AuditorKey{suite, k}, nil
}

// Recipient is the public half.
func (a AuditorKey) Recipient() Recipient { return Recipient{a.Suite, a.key.PublicKey()} }

// MarshalText is the content of an auditor key file.
func (a AuditorKey) MarshalText() ([]byte, error) {
	b, err := a.key.Bytes()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\nsuite %s\nkey %s\n", auditorMagic, a.Suite, base64.StdEncoding.EncodeToString(b)), nil
}

// UnmarshalText is the inverse of MarshalText.
func (a *AuditorKey) UnmarshalText(b []byte) error {
	v, ok := strings.CutPrefix(string(b), auditorMagic+"\n")
	if !ok {
		return fmt.Errorf("not an auditor's key: the first line must be %q", auditorMagic)
	}
	p := parser{rest: []byte(v)}
	suite, err := p.line("suite")
	if err != nil {
		return err
	}
	kem, err := suiteByName(suite)
	if err != nil {
		return err
	}
	line, err := p.line("key")
	if err != nil {
		return err
	}
	raw, err := decodeBase64(line)
	if err != nil {
		return fmt.Errorf("auditor's key: the line \"key\" is not base64")
	}
	k, err := kem.NewPrivateKey(raw)
	if err != nil {
		return fmt.Errorf("auditor's key: %w", err)
	}
	a.Suite, a.key = suite, k
	return nil
}

// ReadAuditorKey reads an auditor key file. A file that others may read is
// refused.
func ReadAuditorKey(path string) (AuditorKey, error) {
	var a AuditorKey
	b, err := readSecret(path)
	if err != nil {
		return a, err
	}
	if err := a.UnmarshalText(b); err != nil {
		return a, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// escrowInfo binds a ciphertext to its place in one log.
func escrowInfo(origin string, epoch uint64, recipient string) []byte {
	return fmt.Appendf(nil, "meshaudit-seal/v1 escrow\n%s\n%d\n%s", origin, epoch, recipient)
}

func (k ChainKey) escrow(origin string, r Recipient) (Escrow, error) {
	id := r.ID()
	ct, err := hpke.Seal(r.key, hpke.HKDFSHA256(), hpke.AES256GCM(), escrowInfo(origin, k.Epoch, id), k.Secret[:])
	if err != nil {
		return Escrow{}, fmt.Errorf("escrow to auditor %s: %w", id, err)
	}
	return Escrow{r.Suite, id, ct}, nil
}

// openEscrow recovers the chain key that an open states, or says why not.
func (a AuditorKey) openEscrow(h *Header) (ChainKey, error) {
	k := ChainKey{Epoch: h.Epoch}
	id := a.Recipient().ID()
	for _, e := range h.Open.Escrows {
		if e.Recipient != id || e.Suite != a.Suite {
			continue
		}
		b, err := hpke.Open(a.key, hpke.HKDFSHA256(), hpke.AES256GCM(), escrowInfo(h.Origin, h.Epoch, id), e.Ciphertext)
		if err != nil || len(b) != len(k.Secret) {
			return k, fmt.Errorf("escrow to auditor %s does not open", id)
		}
		k.Secret = [32]byte(b)
		if k.Commitment() != h.Open.Chain {
			return k, fmt.Errorf("escrow to auditor %s holds another key than the one that %q commits to", id, "chain")
		}
		return k, nil
	}
	return k, errNotEscrowed
}

var errNotEscrowed = fmt.Errorf("no escrow for this auditor's key")
