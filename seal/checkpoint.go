package seal

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint is a C2SP tlog-checkpoint: a signed statement of how many
// entries a log has, and of their root.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   Hash
}

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

func (c Checkpoint) sign(keys ...note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text()}, keys...)
}

// signedBy reports whether each of the verifier keys signed a checkpoint.
func signedBy(msg []byte, vkeys ...string) bool {
	var verifiers []note.Verifier
	for _, k := range vkeys {
		v, err := note.NewVerifier(k)
		if err != nil {
			return false
		}
		verifiers = append(verifiers, v)
	}
	n, err := note.Open(msg, note.VerifierList(verifiers...))
	return err == nil && len(n.Sigs) == len(vkeys)
}

// parseCheckpoint parses a checkpoint's text, without its signatures.
func parseCheckpoint(text string) (c Checkpoint, err error) {
	f := strings.SplitN(text, "\n", 4)
	if len(f) != 4 {
		return c, grammarf("checkpoint has fewer than 3 lines")
	}
	if f[3] != "" {
		return c, grammarf("checkpoint has lines after its root")
	}
	c.Origin = f[0]
	if err := ValidOrigin(c.Origin); err != nil {
		return c, grammarf("checkpoint: %v", err)
	}
	if c.Size, err = number(f[1]); err != nil {
		return c, err
	}
	c.Root, err = hash(f[2])
	return c, err
}

// openCheckpoint checks a signed note against one key, or, with none, only
// its form.
func openCheckpoint(msg []byte, key note.Verifier) (Checkpoint, error) {
	verifiers := note.VerifierList()
	if key != nil {
		verifiers = note.VerifierList(key)
	}
	n, err := note.Open(msg, verifiers)
	var unverified *note.UnverifiedNoteError
	if key == nil && errors.As(err, &unverified) {
		n, err = unverified.Note, nil
	}
	if err != nil {
		return Checkpoint{}, err
	}
	// x/mod reads base64 with loose last bits; then one note would have
	// several texts.
	for _, s := range append(n.Sigs, n.UnverifiedSigs...) {
		if _, err := decodeBase64(s.Base64); err != nil {
			return Checkpoint{}, fmt.Errorf("signature by %s: %w", s.Name, err)
		}
	}
	return parseCheckpoint(n.Text)
}

// GenerateLogKey makes an Ed25519 log key for origin: the signer key, to be
// kept secret by the writer, and the verifier key, to be pinned by verifiers,
// both in signed-note form.
func GenerateLogKey(origin string) (skey, vkey string, err error) {
	if err := ValidOrigin(origin); err != nil {
		return "", "", err
	}
	return note.GenerateKey(rand.Reader, origin)
}

// LogKey signs checkpoints; it may live in a file or in an HSM.
type LogKey interface {
	note.Signer
	VerifierKey() string // signed-note form
}

type fileLogKey struct {
	note.Signer
	vkey string
}

func (k fileLogKey) VerifierKey() string { return k.vkey }

// ParseLogKey parses a signer key in signed-note form.
func ParseLogKey(skey string) (LogKey, error) {
	skey = strings.TrimSpace(skey)
	s, err := note.NewSigner(skey)
	if err != nil {
		return nil, errors.New(`not a log key: expected one line that starts with "PRIVATE+KEY+"; make one with: meshaudit keygen writer`)
	}
	// PRIVATE+KEY+<name>+<hash>+<base64 of algorithm byte and seed>
	f := strings.SplitN(skey, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(f[4])
	if err != nil || len(seed) != 1+ed25519.SeedSize || seed[0] != 1 {
		return nil, errors.New("log key is not an Ed25519 key")
	}
	pub := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(s.Name(), pub)
	if err != nil {
		return nil, err
	}
	return fileLogKey{s, vkey}, nil
}

// ReadLogKey reads a log key file. A file that others may read is refused.
func ReadLogKey(path string) (LogKey, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	k, err := ParseLogKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}
