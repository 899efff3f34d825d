package sealedlogexporter

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"go.opentelemetry.io/collector/component"

	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/seal"
)

// S3Config says in which bucket the store is, in any S3-compatible object store.
// Credentials come from the standard chain: environment, shared files, then what
// the container, pod or instance is given.
type S3Config struct {
	// Bucket must exist. Required.
	Bucket string `mapstructure:"bucket"`

	// Prefix of all keys; writers of several origins may share it. Default:
	// none.
	Prefix string `mapstructure:"prefix"`

	// Region of the bucket. Default: AWS_REGION, AWS_DEFAULT_REGION, or what
	// the store says.
	Region string `mapstructure:"region"`

	// Endpoint is the store's URL. Default: AWS_ENDPOINT_URL_S3,
	// AWS_ENDPOINT_URL, or AWS itself.
	Endpoint string `mapstructure:"endpoint"`

	// ForcePathStyle puts the bucket into the URL's path instead of its host.
	// Default: false, but for endpoints that are known to need it.
	ForcePathStyle bool `mapstructure:"force_path_style"`

	// Mode is journaled (default): acknowledged when on the local disk, sent
	// behind; or direct: acknowledged when in the bucket, nothing on the
	// disk, at the cost of up to Linger and a request for each answer.
	Mode string `mapstructure:"mode"`

	// Linger is, in mode direct, the least time from one object to the next.
	// Default: 1s, which is also the least. It bounds what requests cost.
	Linger time.Duration `mapstructure:"linger"`

	// ObjectLock locks every object when it is created. Default: no lock.
	ObjectLock ObjectLockConfig `mapstructure:"object_lock"`

	// JournalMaxBytes bounds, in mode journaled, what is not yet in the
	// bucket; beyond it requests are refused, retryably. Default: 10 GiB.
	JournalMaxBytes int64 `mapstructure:"journal_max_bytes"`

	// KeepLocal is how long, in mode journaled, segments stay on the local
	// disk after they were sent: for the processor's `recover_from`, twice
	// its `window` at least. Default: 1h.
	KeepLocal time.Duration `mapstructure:"keep_local"`
}

// ObjectLockConfig is the lock on each object.
type ObjectLockConfig struct {
	// Mode is compliance, which nobody can lift, or governance, which who has
	// the permission can. Default: none.
	Mode string `mapstructure:"mode"`

	// Retain is how long an object is kept from when it was created.
	Retain time.Duration `mapstructure:"retain"`
}

const (
	modeJournaled = "journaled"
	modeDirect    = "direct"

	defaultSegmentMaxAge   = 10 * time.Second
	defaultLinger          = time.Second
	defaultJournalMaxBytes = 10 << 30
	defaultKeepLocal       = time.Hour
)

func (c *Config) direct() bool { return c.S3 != nil && c.S3.Mode == modeDirect }

func (s *S3Config) validate(fault func(string, ...any)) {
	if s.Bucket == "" || strings.Contains(s.Bucket, "/") {
		fault("`s3::bucket` must be a bucket's name, got %q", s.Bucket)
	}
	if s.Endpoint != "" {
		if _, err := objectstore.ParseEndpoint(s.Endpoint); err != nil {
			fault("`s3::endpoint`: %w", err)
		}
	}
	switch s.Mode {
	case "", modeJournaled:
		if s.Linger != 0 {
			fault("`s3::linger` is for `mode: direct`; in mode journaled set `segment_max_age`")
		}
	case modeDirect:
		if s.Linger != 0 && s.Linger < time.Second {
			fault("`s3::linger` must be at least 1s, got %v", s.Linger)
		}
		if s.JournalMaxBytes != 0 || s.KeepLocal != 0 {
			fault("`s3::journal_max_bytes` and `s3::keep_local` have no use with `mode: direct`")
		}
	default:
		fault("`s3::mode` must be %q or %q, got %q", modeJournaled, modeDirect, s.Mode)
	}
	if s.JournalMaxBytes < 0 {
		fault("`s3::journal_max_bytes` must not be negative, got %d", s.JournalMaxBytes)
	}
	if s.KeepLocal != 0 && s.KeepLocal < time.Second {
		fault("`s3::keep_local` must be at least 1s, or 0 for the default, got %v", s.KeepLocal)
	}
	switch l := s.ObjectLock; {
	case l.Mode == "" && l.Retain != 0:
		fault("`s3::object_lock::mode` must be compliance or governance if `retain` is given")
	case l.Mode == "":
	case l.Mode != "compliance" && l.Mode != "governance":
		fault("`s3::object_lock::mode` must be compliance or governance, got %q", l.Mode)
	case l.Retain < time.Minute:
		fault("`s3::object_lock::retain` must be at least 1m, got %v", l.Retain)
	}
}

// bucket opens the bucket that is configured.
func (s *S3Config) bucket(fault func(error)) (*objectstore.Bucket, error) {
	return objectstore.New(context.Background(), objectstore.Config{
		Bucket: s.Bucket, Prefix: s.Prefix, Region: s.Region, Endpoint: s.Endpoint, PathStyle: s.ForcePathStyle,
		Lock:  objectstore.Lock{Mode: minio.RetentionMode(strings.ToUpper(s.ObjectLock.Mode)), Retain: s.ObjectLock.Retain},
		Fault: fault,
	})
}

// openStore says where the log goes, by the configuration. It fills in what a
// bucket needs.
func (w *writer) openStore(cfg *seal.Config, host component.Host) error {
	s := w.cfg.S3
	if s == nil {
		return nil
	}
	var err error
	fault := w.faults(host, &w.status.unsent, "Sealed log does not get into the bucket; trying on")
	if w.bucket, err = s.bucket(fault); err != nil {
		return err
	}
	if s.Mode == modeDirect {
		if err = w.bucket.Probe(); err == nil {
			cfg.FS, cfg.Root, cfg.Linger = w.bucket, ".", orDefault(s.Linger, defaultLinger)
			return nil
		}
	} else if w.journal, err = objectstore.NewJournal(objectstore.JournalConfig{
		Root: cfg.Root, Origin: cfg.Origin, Bucket: w.bucket,
		KeepLocal: orDefault(s.KeepLocal, defaultKeepLocal),
		MaxBytes:  orDefault(s.JournalMaxBytes, defaultJournalMaxBytes),
		Fault:     fault,
		Uploaded: func(n int64) {
			w.telemetry.SealedLogUploads.Add(context.Background(), 1)
			w.telemetry.SealedLogUploadedBytes.Add(context.Background(), n)
		},
	}); err == nil {
		cfg.FS, cfg.SegmentMaxAge = w.journal, orDefault(cfg.SegmentMaxAge, defaultSegmentMaxAge)
		return nil
	}
	w.bucket.Close()
	return err
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// closeStore sends what can be sent, and ends all requests.
func (w *writer) closeStore(ctx context.Context) error {
	var err error
	if w.journal != nil {
		err = w.journal.Close(ctx)
	}
	if w.bucket != nil {
		w.bucket.Close()
	}
	return err
}

// store is where the log is, to look for one that is there.
func (c *Config) store() (seal.Store, func(), error) {
	if !c.direct() {
		return seal.Dir(c.Directory), func() {}, nil
	}
	b, err := c.S3.bucket(nil)
	if err != nil {
		return seal.Store{}, nil, err
	}
	return seal.Store{FS: b, Root: "."}, b.Close, nil
}

func isFork(err error) bool {
	var fork *seal.ForkError
	return errors.As(err, &fork)
}
