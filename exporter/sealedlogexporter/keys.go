package sealedlogexporter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/pkcs11key"
	"github.com/meshaudit/meshaudit/seal"
)

// keys are what a writer needs, found by the configuration.
type keys struct {
	log      seal.LogKey
	previous seal.LogKey     // nil: none is being replaced
	chain    seal.ChainStore // nil: fresh at every start
	auditors []seal.Recipient
	tokens   []*pkcs11key.Key // that hold log keys
}

// open opens a log key in a file or, by a PKCS#11 URI, in a token.
func (k *keys) open(where, origin string) (seal.LogKey, error) {
	if !strings.HasPrefix(where, pkcs11key.Scheme) {
		return seal.ReadLogKey(where)
	}
	t, err := pkcs11key.Open(where, origin)
	if err != nil {
		return nil, err
	}
	k.tokens = append(k.tokens, t)
	return t, nil
}

func (k *keys) close() (err error) {
	if k == nil {
		return nil
	}
	for _, t := range k.tokens {
		err = errors.Join(err, t.Close())
	}
	k.tokens = nil
	return err
}

func (c *Config) loadKeys(origin string, logger *zap.Logger) (_ *keys, err error) {
	dir := c.keysDirectory()
	if c.Keys.Create {
		if err := c.createKeys(dir, origin, logger); err != nil {
			return nil, err
		}
	}
	var k keys
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.log, err = k.open(orFile(c.Keys.LogKey, dir, seal.LogKeyFile), origin); err != nil {
		return nil, absent(err, "`keys::log_key`", "meshaudit keygen writer --origin "+origin+" --out "+dir)
	}
	k.previous, err = k.open(orFile(c.Keys.PreviousLogKey, dir, seal.PreviousLogKeyFile), origin)
	if err != nil && (c.Keys.PreviousLogKey != "" || !errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("`keys::previous_log_key`: %w", err)
	}
	if c.Keys.Chain == chainKept {
		if k.chain, err = c.chainStore(orFile(c.Keys.ChainKey, dir, seal.ChainKeyFile)); err != nil {
			return nil, absent(err, "`keys::chain_key`", "meshaudit keygen writer --origin "+origin+" --out "+dir)
		}
	}
	auditors := c.Keys.Auditors
	if len(auditors) == 0 {
		if auditors, err = filepath.Glob(filepath.Join(dir, "*.pub")); err != nil {
			return nil, err
		}
		slices.Sort(auditors)
	}
	for _, a := range auditors {
		read := seal.ReadRecipient
		if strings.HasPrefix(a, "meshaudit-auditor ") {
			read = seal.ParseRecipient
		}
		r, err := read(a)
		if err != nil {
			return nil, absent(err, "`keys::auditors`", "meshaudit keygen auditor")
		}
		k.auditors = append(k.auditors, r)
	}
	if len(k.auditors) == 0 {
		return nil, fmt.Errorf("`keys::auditors` is empty and %s holds no *.pub: without an auditor nobody can ever check the HMAC chain; on the auditor's machine run: meshaudit keygen auditor", dir)
	}
	return &k, nil
}

func orFile(path, dir, name string) string {
	if path != "" {
		return path
	}
	return filepath.Join(dir, name)
}

// absent says how to make a key that is not there.
func absent(err error, setting, command string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w; make it with `%s`, or, to try out, set `keys: {create: true}`", setting, err, command)
	}
	return fmt.Errorf("%s: %w", setting, err)
}

func (c *Config) createKeys(dir, origin string, logger *zap.Logger) error {
	if _, err := os.Stat(filepath.Join(dir, seal.LogKeyFile)); errors.Is(err, fs.ErrNotExist) {
		store, end, err := c.store()
		if err != nil {
			return err
		}
		_, err = store.OpenLog(origin)
		end()
		if err == nil {
			return fmt.Errorf("there is a log of %s in %s but no keys in %s: restore its keys, or give a new `origin`", origin, store, dir)
		}
	}
	created, err := seal.CreateTrialKeys(dir, origin)
	if err != nil {
		return fmt.Errorf("`keys::create`: %w", err)
	}
	if created {
		logger.Warn("Created keys for trying out. auditor.key belongs to an auditor: move it off this machine, and trust to whoever verifies.",
			zap.String("directory", dir))
	}
	return nil
}

// chainStore opens the chain key where it can be replaced.
func (c *Config) chainStore(path string) (seal.ChainStore, error) {
	if c.Keys.ChainState != "" {
		state := c.Keys.ChainState
		if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) {
			k, err := seal.ReadChainKey(path)
			if err != nil {
				return nil, err
			}
			text, err := k.MarshalText()
			if err != nil {
				return nil, err
			}
			if err := seal.WriteSecret(state, text); err != nil {
				return nil, fmt.Errorf("`keys::chain_state`: %w", err)
			}
		}
		path = state
	}
	if _, err := seal.ReadChainKey(path); err != nil {
		return nil, err
	}
	const fix = "the chain key moves on at every start and needs a writable place; set `keys::chain_state` to a file on one"
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		return nil, fmt.Errorf("%s is a symbolic link, as in a mounted Secret: %s", path, fix)
	}
	probe, err := os.CreateTemp(filepath.Dir(path), ".writable-*")
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, fix)
	}
	return seal.ChainFile{FS: seal.OS, Path: path}, errors.Join(probe.Close(), os.Remove(probe.Name()))
}
