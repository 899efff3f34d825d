package sealedlogexporter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/pkcs11key"
	"github.com/meshaudit/meshaudit/seal"
)

// Config is the exporter's configuration.
type Config struct {
	// Directory is the store; each origin has a directory in it. With S3 it is
	// the local journal in front of the bucket. Required, but for s3 in mode
	// direct.
	Directory string `mapstructure:"directory"`

	// S3 keeps the store in a bucket. Default: none.
	S3 *S3Config `mapstructure:"s3"`

	// Origin names this writer's log and never changes. Default:
	// local/<host name>. Every writer needs its own.
	Origin string `mapstructure:"origin"`

	// Keys says where the keys are.
	Keys KeysConfig `mapstructure:"keys"`

	// SPIFFE says from where the writer has its identity, if it has one.
	SPIFFE SPIFFEConfig `mapstructure:"spiffe"`

	// Heartbeat is the longest silence: after it an empty entry is sealed,
	// so that missing ones can be told from none. Whole seconds. Default:
	// 60s. Costs about 1 kB each.
	Heartbeat time.Duration `mapstructure:"heartbeat"`

	// SegmentMaxBytes ends a segment file at the commit that passes it.
	// Default: 64 MiB. A restart after a crash copies the last segment.
	SegmentMaxBytes int64 `mapstructure:"segment_max_bytes"`

	// SegmentMaxAge ends a segment file so long after it was begun. Default:
	// 0, never; with s3 10s, which is how far the bucket lags.
	SegmentMaxAge time.Duration `mapstructure:"segment_max_age"`

	// EpochMaxAge ends an epoch and begins the next, under the next chain
	// key and in a new segment. Retention prunes whole epochs. Default: 24h;
	// 0: only at a start.
	EpochMaxAge time.Duration `mapstructure:"epoch_max_age"`

	// Retention prunes what is older or more than this, after sealing the
	// order to do so. Default: keep everything.
	Retention RetentionConfig `mapstructure:"retention"`

	// MaxPendingBytes bounds the requests that wait for the disk; further
	// callers wait outside. Default: 64 MiB.
	MaxPendingBytes int64 `mapstructure:"max_pending_bytes"`

	// EraseRequests is a directory into which `meshaudit erase --requests` puts
	// what is to be erased from this log. It is looked into every second.
	// Who may write to it may erase, so it must not be writable for everyone.
	// Default: none.
	EraseRequests string `mapstructure:"erase_requests"`

	// OnDamagedTail says what to do at start with damage in the last commit
	// that a crash does not explain: refuse (default) or quarantine, which
	// keeps it aside in torn/ and goes on. A torn tail, as a crash leaves
	// it, is always kept aside.
	OnDamagedTail string `mapstructure:"on_damaged_tail"`

	// Witnesses cosign what is published. Default: none.
	Witnesses WitnessesConfig `mapstructure:"witnesses"`

	// Timestamps says who timestamps what is published. Default: nobody.
	Timestamps TimestampsConfig `mapstructure:"timestamps"`
}

// RetentionConfig says what to keep, at least the newest epoch.
type RetentionConfig struct {
	// MaxAge prunes epochs that ended longer ago. Default: 0, no bound.
	MaxAge time.Duration `mapstructure:"max_age"`

	// MaxBytes prunes the oldest epochs while the segments are larger than
	// this. Default: 0, no bound.
	MaxBytes int64 `mapstructure:"max_bytes"`
}

// KeysConfig says where a writer's keys are.
type KeysConfig struct {
	// Create makes all keys, an auditor's too, if there are none: for
	// trying out. Default: false.
	Create bool `mapstructure:"create"`

	// Directory holds log.key, chain.key and *.pub where no path of their
	// own is given. Default: "keys" beside the store's directory.
	Directory string `mapstructure:"directory"`

	// LogKey is the key that signs checkpoints: a file, or a PKCS#11 URI
	// ("pkcs11:token=…;object=…?module-path=…&pin-source=…"), which needs a
	// collector built with cgo.
	LogKey string `mapstructure:"log_key"`

	// PreviousLogKey is the log key, file or PKCS#11 URI, that LogKey replaces; at
	// start it hands the log over. Default: log.key.previous in Directory,
	// if it is there.
	PreviousLogKey string `mapstructure:"previous_log_key"`

	// Chain is kept (default) or fresh: a new HMAC chain at every start,
	// for a writer without a persistent disk. The chain then shows no
	// replacement of whole epochs by a thief of the log key.
	Chain string `mapstructure:"chain"`

	// ChainKey is the file of the HMAC chain's key. It is replaced at every
	// start, so it must be on a writable volume, or ChainState given.
	ChainKey string `mapstructure:"chain_key"`

	// ChainState is where the chain key lives from the first start on, if
	// ChainKey is mounted read-only, as a Kubernetes Secret is.
	ChainState string `mapstructure:"chain_state"`

	// Auditors are the auditors' public keys: files, or the keys themselves
	// ("meshaudit-auditor …"). At least one is needed.
	Auditors []string `mapstructure:"auditors"`
}

const (
	damageRefuse     = "refuse"
	damageQuarantine = "quarantine"

	chainKept  = "kept"
	chainFresh = "fresh"
)

func createDefaultConfig() *Config {
	return &Config{
		Heartbeat:       60 * time.Second,
		EpochMaxAge:     24 * time.Hour,
		SegmentMaxBytes: 64 << 20,
		MaxPendingBytes: 64 << 20,
		OnDamagedTail:   damageRefuse,
		Keys:            KeysConfig{Chain: chainKept},
		Witnesses:       WitnessesConfig{Ack: ackStored, Timeout: 5 * time.Second},
		Timestamps:      TimestampsConfig{Every: time.Hour},
	}
}

// Validate reports every fault of the configuration.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Directory == "" && !c.direct() {
		fault("`directory` is required: where the sealed log is kept")
	}
	if c.direct() {
		if c.Directory != "" {
			fault("`directory` has no use with `s3::mode: direct`: leave it out, or take mode journaled")
		}
		if c.Keys.Directory == "" && (c.Keys.LogKey == "" || c.Keys.ChainKey == "" && c.Keys.Chain != chainFresh) {
			fault("`keys::directory` is required with `s3::mode: direct`: there is no `directory` beside which keys could be looked for")
		}
	}
	if c.S3 != nil {
		c.S3.validate(fault)
		if l := c.S3.ObjectLock; l.Mode != "" && c.Retention.MaxAge > 0 && c.Retention.MaxAge < l.Retain {
			fault("`retention::max_age` (%v) is shorter than `s3::object_lock::retain` (%v): nothing can be pruned before its lock ends", c.Retention.MaxAge, l.Retain)
		}
	}
	if c.SegmentMaxAge != 0 && c.SegmentMaxAge < time.Second {
		fault("`segment_max_age` must be at least 1s, or 0 for never, got %v", c.SegmentMaxAge)
	}
	if c.Origin != "" {
		if err := seal.ValidOrigin(c.Origin); err != nil {
			fault("`origin`: %w", err)
		}
	}
	if c.Heartbeat < time.Second || c.Heartbeat%time.Second != 0 {
		fault("`heartbeat` must be whole seconds, at least 1s, got %v", c.Heartbeat)
	}
	if c.SegmentMaxBytes < 1<<20 {
		fault("`segment_max_bytes` must be at least 1 MiB, got %d", c.SegmentMaxBytes)
	}
	if c.EpochMaxAge != 0 && c.EpochMaxAge < time.Minute {
		fault("`epoch_max_age` must be at least 1m, or 0 for never, got %v", c.EpochMaxAge)
	}
	// Not less, or a number without a unit would prune all but the newest epoch.
	if c.Retention.MaxAge != 0 && c.Retention.MaxAge < time.Minute {
		fault("`retention::max_age` must be at least 1m, or 0 for no bound, got %v", c.Retention.MaxAge)
	}
	if c.Retention.MaxBytes < 0 {
		fault("`retention::max_bytes` must not be negative, got %d", c.Retention.MaxBytes)
	}
	if c.MaxPendingBytes < 1<<20 {
		fault("`max_pending_bytes` must be at least 1 MiB, got %d", c.MaxPendingBytes)
	}
	if c.OnDamagedTail != damageRefuse && c.OnDamagedTail != damageQuarantine {
		fault("`on_damaged_tail` must be %q or %q, got %q", damageRefuse, damageQuarantine, c.OnDamagedTail)
	}
	c.Witnesses.validate(fault)
	if k := &c.Keys; k.Create && (k.LogKey != "" || k.PreviousLogKey != "" || k.ChainKey != "" || k.ChainState != "" || len(k.Auditors) > 0) {
		fault("`keys::create` makes all keys in `keys::directory`: give no other key beside it")
	}
	if k := &c.Keys; k.Chain != chainKept && k.Chain != chainFresh {
		fault("`keys::chain` must be %q or %q, got %q", chainKept, chainFresh, k.Chain)
	} else if k.Chain == chainFresh && (k.ChainKey != "" || k.ChainState != "") {
		fault("`keys::chain: fresh` keeps no chain key: give neither `keys::chain_key` nor `keys::chain_state`")
	}
	for setting, key := range map[string]string{"log_key": c.Keys.LogKey, "previous_log_key": c.Keys.PreviousLogKey} {
		if strings.HasPrefix(key, pkcs11key.Scheme) {
			if _, err := pkcs11key.ParseURI(key); err != nil {
				fault("`keys::%s`: %w", setting, err)
			}
		}
	}
	c.Timestamps.validate(fault)
	if err := c.SPIFFE.validate(); err != nil {
		fault("`spiffe::workload_api`: %w", err)
	}
	for i, a := range c.Keys.Auditors {
		if strings.HasPrefix(a, "meshaudit-auditor ") {
			if _, err := seal.ParseRecipient(a); err != nil {
				fault("`keys::auditors[%d]`: %w", i, err)
			}
		}
	}
	return errors.Join(errs...)
}

// origin is the configured origin or, by default, the host's.
func (c *Config) origin() (string, error) {
	if c.Origin != "" {
		return c.Origin, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("no host name for the default `origin`: %w", err)
	}
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	return "local/" + clean, nil
}

func (c *Config) keysDirectory() string {
	if c.Keys.Directory != "" {
		return c.Keys.Directory
	}
	return filepath.Join(filepath.Dir(filepath.Clean(c.Directory)), "keys")
}
