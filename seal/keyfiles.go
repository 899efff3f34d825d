package seal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the files that CreateWriterKeys and CreateAuditorKey make.
const (
	LogKeyFile         = "log.key"          // secret: signs checkpoints
	PreviousLogKeyFile = "log.key.previous" // secret: the one that log.key replaces, until the writer has started
	ChainKeyFile       = "chain.key"        // secret: moves on with every epoch
	AuditorKeyFile     = "auditor.key"      // secret: belongs to the auditor, elsewhere
	AuditorPubFile     = "auditor.pub"
	TrustFile          = "trust"       // what a verifier pins
	WitnessKeyFile     = "witness.key" // secret: cosigns checkpoints
	WitnessPubFile     = "witness.pub"
)

// CreateWriterKeys makes the two secrets of a new writer and its trust file in
// dir, which it creates if need be. Nothing is overwritten. It returns the
// trust file's lines.
func CreateWriterKeys(dir, origin string) (trust string, err error) {
	skey, vkey, err := GenerateLogKey(origin)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := WriteSecret(filepath.Join(dir, LogKeyFile), []byte(skey+"\n")); err != nil {
		return "", err
	}
	return CreateChainKey(dir, origin, vkey)
}

// CreateChainKey is CreateWriterKeys for a log key that is elsewhere.
func CreateChainKey(dir, origin, vkey string) (trust string, err error) {
	chain := NewChainKey()
	chainText, err := chain.MarshalText()
	if err != nil {
		return "", err
	}
	trust = TrustLines(vkey, origin, chain.Commitment())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return trust, errors.Join(
		WriteSecret(filepath.Join(dir, ChainKeyFile), chainText),
		WritePublic(filepath.Join(dir, TrustFile), []byte(trust)))
}

// RotateLogKey makes a new log key of the same origin in dir and keeps the old
// one as the previous key, which hands the log over at the writer's next start.
// What a crash cut short, it finishes when it is called again. It returns the
// new verifier key.
func RotateLogKey(dir string) (vkey string, err error) {
	current, previous, next := filepath.Join(dir, LogKeyFile), filepath.Join(dir, PreviousLogKeyFile), filepath.Join(dir, LogKeyFile+".next")
	key, err := ReadLogKey(current)
	if errors.Is(err, fs.ErrNotExist) { // between the two renames
		if key, err = ReadLogKey(next); err == nil {
			return key.VerifierKey(), errors.Join(os.Rename(next, current), OS.SyncDir(dir))
		}
		return "", fmt.Errorf("no log key to replace: %s: %w", current, fs.ErrNotExist)
	}
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(previous); err == nil {
		return "", fmt.Errorf("%s exists: the last rotation is not done until the writer has started with both keys; after that remove it", previous)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	skey, vkey, err := GenerateLogKey(key.Name())
	if err != nil {
		return "", err
	}
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := WriteSecret(next, []byte(skey+"\n")); err != nil {
		return "", err
	}
	return vkey, cmp.Or(os.Rename(current, previous), os.Rename(next, current), OS.SyncDir(dir))
}

// CreateAuditorKey makes an auditor's key pair of the given suite in dir.
// Nothing is overwritten.
func CreateAuditorKey(dir, suite string) (Recipient, error) {
	k, err := NewAuditorKey(suite)
	if err != nil {
		return Recipient{}, err
	}
	text, err := k.MarshalText()
	if err != nil {
		return Recipient{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Recipient{}, err
	}
	if err := WriteSecret(filepath.Join(dir, AuditorKeyFile), text); err != nil {
		return Recipient{}, err
	}
	r := k.Recipient()
	return r, WritePublic(filepath.Join(dir, AuditorPubFile), []byte(r.String()+"\n"))
}

// CreateWitnessKey makes a witness's key in dir. Nothing is overwritten.
func CreateWitnessKey(dir, name string) (*WitnessKey, error) {
	k, err := GenerateWitnessKey(name)
	if err != nil {
		return nil, err
	}
	text, err := k.MarshalText()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := WriteSecret(filepath.Join(dir, WitnessKeyFile), text); err != nil {
		return nil, err
	}
	return k, WritePublic(filepath.Join(dir, WitnessPubFile), []byte("witness "+k.VerifierKey()+"\n"))
}

// CreateTrialKeys makes all keys of a writer and of its auditor in one
// directory, all or none, unless the directory has keys already. It is for
// trying out: an auditor's key does not belong on the writer's machine.
func CreateTrialKeys(dir, origin string) (created bool, err error) {
	if _, err := os.Stat(filepath.Join(dir, LogKeyFile)); err == nil {
		return false, nil
	}
	tmp := dir + tmpSuffix
	if err := os.RemoveAll(tmp); err != nil {
		return false, err
	}
	if _, err := CreateWriterKeys(tmp, origin); err != nil {
		return false, err
	}
	if _, err := CreateAuditorKey(tmp, "mlkem768x25519"); err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return false, fmt.Errorf("%w: %s must be absent or empty, or hold all keys", err, dir)
	}
	return true, OS.SyncDir(filepath.Dir(dir))
}
