package seal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The HMAC chain. Every epoch has a chain key; from it one key an entry is
// ratcheted, used for that entry's tag and forgotten. Who takes the machine
// finds only the keys of what is still to come.

const (
	labelEpoch     = "meshaudit-seal/v1 epoch"
	labelNextEpoch = "meshaudit-seal/v1 next epoch"
	labelTag       = "meshaudit-seal/v1 tag"
	labelNext      = "meshaudit-seal/v1 next"
	labelChain     = "meshaudit-seal/v1 chain"
)

func expand(key []byte, label string) (out [32]byte) {
	b, err := hkdf.Expand(sha256.New, key, label, len(out))
	if err != nil {
		panic(err) // only for a length that SHA-256 cannot give
	}
	return [32]byte(b)
}

// ChainKey is an epoch's secret, E_e in docs/sealed-log.md.
type ChainKey struct {
	Epoch  uint64
	Secret [32]byte
}

// NewChainKey draws the chain key of epoch 0.
func NewChainKey() ChainKey {
	var k ChainKey
	rand.Read(k.Secret[:])
	return k
}

// Commitment is what open states and what an auditor pins: it binds the
// secret without giving it away.
func (k ChainKey) Commitment() Hash {
	return sha256.Sum256(append([]byte(labelChain), k.Secret[:]...))
}

// Next is the chain key of the next epoch.
func (k ChainKey) Next() ChainKey {
	return ChainKey{k.Epoch + 1, expand(k.Secret[:], labelNextEpoch)}
}

// ratchet holds the key of the next entry, k_j, and nothing older.
type ratchet struct{ key [32]byte }

func (k ChainKey) ratchet() ratchet { return ratchet{expand(k.Secret[:], labelEpoch)} }

// tag computes the tag of the next entry over its header text and steps on.
func (r *ratchet) tag(header []byte) (tag Hash) {
	tagKey := expand(r.key[:], labelTag)
	m := hmac.New(sha256.New, tagKey[:])
	m.Write(header)
	m.Sum(tag[:0])
	r.key = expand(r.key[:], labelNext)
	return tag
}

// --- the chain key file ---

const chainKeyMagic = "meshaudit-chain-key/v1"

// MarshalText is the content of a chain key file: a magic line, the epoch and
// the key in base64.
func (k ChainKey) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%s\nepoch %d\nkey %s\n", chainKeyMagic, k.Epoch,
		base64.StdEncoding.EncodeToString(k.Secret[:])), nil
}

// UnmarshalText is the inverse of MarshalText.
func (k *ChainKey) UnmarshalText(b []byte) error {
	v, ok := strings.CutPrefix(string(b), chainKeyMagic+"\n")
	if !ok {
		return fmt.Errorf("not a chain key: the first line must be %q", chainKeyMagic)
	}
	p := parser{rest: []byte(v)}
	if err := p.numbers("epoch", &k.Epoch); err != nil {
		return err
	}
	if err := p.hash("key", (*Hash)(&k.Secret)); err != nil {
		return errors.New("chain key: the line \"key\" must hold 32 bytes in base64")
	}
	if len(p.rest) != 0 {
		return errors.New("chain key: unexpected text after the line \"key\"")
	}
	return nil
}

// ReadChainKey reads a chain key file. A file that others may read is refused.
func ReadChainKey(path string) (ChainKey, error) {
	var k ChainKey
	b, err := readSecret(path)
	if err != nil {
		return k, err
	}
	if err := k.UnmarshalText(b); err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// maxKeyFileBytes bounds what is read of any key file.
const maxKeyFileBytes = 64 << 10

// readSecret reads a small file that holds a secret. It follows symbolic
// links, as Kubernetes mounts Secrets, and allows the group to read (0440),
// but never everyone.
func readSecret(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := fi.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets everyone on this machine at a secret key; run: chmod 600 %s", path, mode, path)
	}
	if fi.Size() > maxKeyFileBytes {
		return nil, fmt.Errorf("%s: %d bytes are too many for a key file", path, fi.Size())
	}
	return os.ReadFile(path)
}

// WriteSecret creates a file, mode 0600, that must not exist, durably.
func WriteSecret(path string, b []byte) error { return writeNew(path, b, 0o600) }

// WritePublic creates a file, mode 0644, that must not exist, durably.
func WritePublic(path string, b []byte) error { return writeNew(path, b, 0o644) }

func writeNew(path string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return OS.SyncDir(filepath.Dir(path))
}

// ChainStore keeps a writer's chain key between epochs. Replace must be
// durable, and must leave no copy of the old key, before it returns.
type ChainStore interface {
	Load() (ChainKey, error)
	Replace(ChainKey) error
}

// ChainFile is a ChainStore in a file.
type ChainFile struct {
	FS   FS
	Path string
}

// freshChain keeps a chain key in memory, from a start to the next one.
type freshChain struct {
	key   ChainKey
	begun bool
	first uint64 // the epoch that it began with
}

func (c *freshChain) begin(epoch uint64) {
	c.key, c.begun, c.first = NewChainKey(), true, epoch
	c.key.Epoch = epoch
}

// Load gives the key.
func (c *freshChain) Load() (ChainKey, error) { return c.key, nil }

// Replace forgets the key that is there.
func (c *freshChain) Replace(k ChainKey) error {
	c.key = k
	return nil
}

// Load reads the key.
func (c ChainFile) Load() (ChainKey, error) {
	var k ChainKey
	if c.FS == OS {
		return ReadChainKey(c.Path)
	}
	b, err := readFile(c.FS, c.Path, maxKeyFileBytes)
	if err != nil {
		return k, err
	}
	return k, k.UnmarshalText(b)
}

// Replace puts k in the place of the key that is there, atomically and
// durably. What a disk keeps of the old file's blocks is beyond its reach:
// docs/keys.md says what to do about that.
func (c ChainFile) Replace(k ChainKey) error {
	b, err := k.MarshalText()
	if err != nil {
		return err
	}
	if err := replaceFile(c.FS, c.Path, b, 0o600); err != nil {
		return fmt.Errorf("replace the chain key: %w", err)
	}
	return nil
}
