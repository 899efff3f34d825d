package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"path"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/meshaudit/meshaudit/seal"
)

// RefusedError: the store was reached, and must not be used as it is.
type RefusedError struct {
	Bucket string
	Err    error
}

func (e *RefusedError) Error() string { return e.Bucket + ": " + e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

const (
	// probeRetain is how long a probe is locked. Until then a clock that goes
	// differently does not matter.
	probeRetain = 2 * time.Minute

	// probeOld is when another writer's probe is surely over.
	probeOld = 10 * time.Minute
)

// Probe finds out whether the bucket is there and does what a log needs: that a
// second conditional PUT of a name is refused and, with a lock, that a locked
// version cannot be removed. It leaves a small object in the directory
// seal.ProbeDir as long as it is locked. A *RefusedError says that asking again
// won't help.
func (b *Bucket) Probe() error {
	err := b.probe()
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	if isRefusal(err) && !areExpired(err) {
		return b.refuse("%w", b.explain(err))
	}
	return err
}

func (b *Bucket) refuse(format string, args ...any) error {
	return &RefusedError{b.name, fmt.Errorf(format, args...)}
}

func (b *Bucket) probe() error {
	locks := b.cfg.Lock.Mode != ""
	if locks {
		if err := b.canLock(); err != nil {
			return err
		}
	}
	id := make([]byte, 8)
	rand.Read(id)
	name := path.Join(seal.ProbeDir, hex.EncodeToString(id))
	opts := b.createOptions(time.Now())
	if locks {
		opts.RetainUntilDate = time.Now().Add(probeRetain).Truncate(time.Second)
	}
	first := []byte("meshaudit asks whether this store keeps what it is given\n")
	put, err := b.send(name, bytes.NewReader(first), digestOf(first), opts)
	switch {
	case status(err) == http.StatusNotImplemented:
		return b.refuse("the store does not know `If-None-Match: *` (%w): it cannot keep two writers apart; use a store that has conditional writes", err)
	case err != nil:
		return err
	}
	second := []byte("a second object of the same name\n")
	_, err = b.send(name, bytes.NewReader(second), digestOf(second), opts)
	switch {
	case err == nil:
		return b.refuse("the store ignores `If-None-Match: *` and overwrites objects: two writers would not see each other; use a store that has conditional writes")
	case status(err) == http.StatusNotImplemented:
		return b.refuse("the store does not know `If-None-Match: *` (%w): it cannot keep two writers apart; use a store that has conditional writes", err)
	case status(err) != http.StatusPreconditionFailed:
		return err
	}
	if !locks {
		return errors.Join(b.Remove(name), b.cleanProbes())
	}
	if put.VersionID == "" {
		return b.refuse("a new object has no version id: versioning is off, so nothing can be locked; turn on versioning and object lock, or take `object_lock` away")
	}
	ctx, cancel := context.WithTimeout(b.ctx, requestTimeout)
	defer cancel()
	err = b.core.RemoveObject(ctx, b.cfg.Bucket, b.key(name), minio.RemoveObjectOptions{VersionID: put.VersionID})
	if err != nil && !isRefusal(err) {
		return err // no answer, or none that tells
	}
	there, e := b.same(name, digestOf(first))
	switch {
	case err == nil || errors.Is(e, errAbsent) || e == nil && !there:
		return b.refuse("the store removed a version that its lock (%s, until %s) should keep: it accepts object locks and does not enforce them; use another store, or take `object_lock` away", b.cfg.Lock.Mode, opts.RetainUntilDate.UTC().Format(time.RFC3339))
	case e != nil:
		return e
	}
	until, e := b.lockedVersion(name, put.VersionID)
	if e == nil && until.Before(opts.RetainUntilDate) {
		return b.refuse("the store kept a version that was to be locked, but does not say that it is: it may have refused to remove it for another reason (%v); allow s3:GetObjectRetention to these credentials, or use a store that states its locks", err)
	}
	if e != nil {
		return e
	}
	return b.cleanProbes()
}

// canLock looks at what the store says of the bucket. If it does not say, the
// rest of the probe tells.
func (b *Bucket) canLock() error {
	ctx, cancel := context.WithTimeout(b.ctx, requestTimeout)
	defer cancel()
	if v, err := b.core.GetBucketVersioning(ctx, b.cfg.Bucket); err == nil && !v.Enabled() {
		return b.refuse("versioning is off in bucket %s, so nothing can be locked; turn on versioning and object lock, or take `object_lock` away", b.cfg.Bucket)
	}
	enabled, _, _, _, err := b.core.GetObjectLockConfig(ctx, b.cfg.Bucket)
	if code(err) == "ObjectLockConfigurationNotFoundError" || err == nil && enabled != "Enabled" {
		return b.refuse("bucket %s has no object lock; make one that has (it is chosen when a bucket is created), or take `object_lock` away", b.cfg.Bucket)
	}
	return nil
}

// cleanProbes removes the probes of earlier starts whose locks have ended.
func (b *Bucket) cleanProbes() error {
	names := map[string]bool{}
	err := b.versions("list versions of", seal.ProbeDir, b.under(seal.ProbeDir), func(key string, all []version) error {
		if time.Since(all[len(all)-1].time) > probeOld {
			names[path.Join(seal.ProbeDir, path.Base(key))] = true
		}
		return nil
	})
	for name := range names {
		_ = b.Remove(name) // it may be locked for longer, or removals forbidden
	}
	return err
}
