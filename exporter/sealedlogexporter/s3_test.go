package sealedlogexporter

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// Whether it works is tested against servers, in test/s3.
func TestS3Config(t *testing.T) {
	valid := func(change func(*Config)) error {
		cfg := createDefaultConfig()
		cfg.Directory, cfg.S3 = "journal", &S3Config{Bucket: "audit"}
		change(cfg)
		return cfg.Validate()
	}
	direct := func(c *Config) { c.Directory, c.S3.Mode, c.Keys.Directory = "", "direct", "keys" }
	for _, ok := range []func(*Config){
		func(*Config) {},
		direct,
		func(c *Config) { c.S3.ObjectLock = ObjectLockConfig{"compliance", 24 * time.Hour} },
	} {
		assert.NoError(t, valid(ok))
	}
	for want, change := range map[string]func(*Config){
		"`s3::bucket` must be":                                          func(c *Config) { c.S3.Bucket = "audit/mesh" },
		"`s3::endpoint`: endpoint \"minio:9000\" must":                  func(c *Config) { c.S3.Endpoint = "minio:9000" },
		"`s3::mode` must be":                                            func(c *Config) { c.S3.Mode = "fast" },
		"`directory` is required":                                       func(c *Config) { c.Directory = "" },
		"`directory` has no use":                                        func(c *Config) { direct(c); c.Directory = "store" },
		"`keys::directory` is required":                                 func(c *Config) { direct(c); c.Keys.Directory = "" },
		"`s3::linger` must be at least 1s":                              func(c *Config) { direct(c); c.S3.Linger = time.Millisecond },
		"`s3::linger` is for `mode: direct`":                            func(c *Config) { c.S3.Linger = time.Second },
		"`s3::journal_max_bytes` and":                                   func(c *Config) { direct(c); c.S3.KeepLocal = time.Hour },
		"`s3::journal_max_bytes` must not":                              func(c *Config) { c.S3.JournalMaxBytes = -1 },
		"`s3::keep_local` must be at least 1s":                          func(c *Config) { c.S3.KeepLocal = -1 },
		"`segment_max_age` must":                                        func(c *Config) { c.SegmentMaxAge = time.Millisecond },
		"`s3::object_lock::mode` must be compliance or governance if":   func(c *Config) { c.S3.ObjectLock.Retain = time.Hour },
		"`s3::object_lock::mode` must be compliance or governance, got": func(c *Config) { c.S3.ObjectLock = ObjectLockConfig{"legal", time.Hour} },
		"`s3::object_lock::retain` must":                                func(c *Config) { c.S3.ObjectLock = ObjectLockConfig{"governance", 0} },
		"is shorter than `s3::object_lock::retain`": func(c *Config) {
			c.S3.ObjectLock = ObjectLockConfig{"governance", 48 * time.Hour}
			c.Retention.MaxAge = 24 * time.Hour
		},
	} {
		assert.ErrorContains(t, valid(change), want)
	}
}
