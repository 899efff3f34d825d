// Package objectstore keeps sealed logs in a bucket of any S3-compatible store.
//
// A [Bucket] is a [seal.ObjectFS]: an object is created once, by a conditional
// PUT that is repeated byte for byte until its outcome is known, and never
// changed. Whoever comes second to a name is told of a fork. [Bucket.Probe]
// finds out whether the store does what that needs, and whether its locks
// hold. A [Journal] is a writer's local disk in front of a bucket: what is
// sealed is acknowledged when it is on the disk, and sent behind.
//
// [Open] opens a store by the name that a person gives it.
package objectstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Config says where a bucket is and how to write to it.
type Config struct {
	Bucket    string
	Prefix    string // of all keys, without slashes at its ends
	Region    string // "": AWS_REGION, AWS_DEFAULT_REGION, else what the store says
	Endpoint  string // URL; "": AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS
	PathStyle bool   // the bucket is in the URL's path, not in its host

	// Lock is put on every object that is created.
	Lock Lock

	// Fault, if set, is told of every failed request that is repeated until
	// it succeeds, and nil when it has. It may be called from several
	// goroutines.
	Fault func(error)

	// Credentials, if set, replaces the standard chain: environment, shared
	// files, then what the container, pod or instance is given.
	Credentials *credentials.Credentials

	retryAfter time.Duration // for tests; 0: 200 ms
}

// Lock is an object's retention: nobody can remove the version before it ends.
type Lock struct {
	Mode   minio.RetentionMode // "": no lock
	Retain time.Duration
}

// Bucket is a prefix of a bucket.
type Bucket struct {
	cfg    Config
	core   minio.Core
	creds  *credentials.Credentials
	name   string
	ctx    context.Context // of all requests
	cancel context.CancelFunc
	faulty atomic.Bool // cfg.Fault was told of an error that still holds
}

// New makes a Bucket. It sends nothing: what is wrong with the bucket is found
// by the first request, or by Probe. Close, or the end of ctx, ends all that it
// does.
func New(ctx context.Context, cfg Config) (*Bucket, error) {
	cfg.Prefix = strings.Trim(path.Clean("/"+cfg.Prefix), "/")
	cfg.Endpoint = firstOf(cfg.Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), "https://s3.amazonaws.com")
	cfg.Region = firstOf(cfg.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if cfg.retryAfter == 0 {
		cfg.retryAfter = 200 * time.Millisecond
	}
	u, err := ParseEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" && !strings.HasSuffix(u.Hostname(), ".amazonaws.com") {
		cfg.Region = "us-east-1" // what other stores take for theirs
	}
	b := &Bucket{cfg: cfg, name: "s3://" + path.Join(cfg.Bucket, cfg.Prefix), creds: cfg.Credentials}
	if b.creds == nil {
		b.creds = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		})
	}
	lookup := minio.BucketLookupAuto
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	secure := u.Scheme == "https"
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: b.creds, Secure: secure, Region: cfg.Region,
		BucketLookup: lookup, Transport: transport, MaxRetries: 1})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	b.core = minio.Core{Client: client}
	b.ctx, b.cancel = context.WithCancel(ctx)
	context.AfterFunc(b.ctx, transport.CloseIdleConnections)
	return b, nil
}

// ParseEndpoint parses an endpoint's URL.
func ParseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("endpoint %q must be https://HOST[:PORT] or http://HOST[:PORT], nothing more", s)
	}
	return u, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// Close ends what is in flight and all that is repeated.
func (b *Bucket) Close() { b.cancel() }

// String is s3://BUCKET/PREFIX.
func (b *Bucket) String() string { return b.name }

// key is the object's key for a name below the root ".".
func (b *Bucket) key(name string) string {
	return strings.TrimPrefix(path.Join(b.cfg.Prefix, path.Clean("/"+filepath.ToSlash(name))), "/")
}

// under is the prefix of the keys in a directory.
func (b *Bucket) under(dir string) string {
	if k := b.key(dir); k != "" {
		return k + "/"
	}
	return ""
}

// answer is what the store said, if err is its answer.
func answer(err error) (a minio.ErrorResponse) {
	errors.As(err, &a)
	return a
}

// status is a failed answer's HTTP status, 0 if there was none.
func status(err error) int { return answer(err).StatusCode }

func code(err error) string { return answer(err).Code }

// isAbsent reports whether err says that there is no such object.
func isAbsent(err error) bool {
	return status(err) == http.StatusNotFound && code(err) != minio.NoSuchBucket
}

// isRefusal reports whether err is the store's considered answer, which asking
// again does not change.
func isRefusal(err error) bool {
	s := status(err)
	return s >= 300 && s < 500 && s != http.StatusRequestTimeout && s != http.StatusTooManyRequests && s != http.StatusConflict
}

// areExpired reports whether err says that the credentials are no longer good.
func areExpired(err error) bool {
	switch code(err) {
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired":
		return true
	}
	return false
}

// explain adds to an error what to do about it.
func (b *Bucket) explain(err error) error {
	advice := ""
	switch c := code(err); {
	case err == nil:
		return nil
	case c == minio.NoSuchBucket:
		advice = "there is no bucket " + b.cfg.Bucket + "; create it, with versioning and object lock"
	case areExpired(err):
		advice = "the credentials have expired; renew them where they come from"
	case c == minio.InvalidAccessKeyID || c == minio.SignatureDoesNotMatch:
		advice = "the store does not know these credentials; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what the pod or instance is given"
	case c == "RequestTimeTooSkewed":
		advice = "this machine's clock and the store's differ; set the clock"
	case c == minio.AuthorizationHeaderMalformed, c == minio.InvalidRegion, c == "PermanentRedirect", status(err) == http.StatusMovedPermanently, status(err) == http.StatusTemporaryRedirect:
		advice = fmt.Sprintf("the bucket is not in region %q; set `region`, or AWS_REGION", b.cfg.Region)
		if r := answer(err).Region; r != "" {
			advice += " to " + r
		}
	case status(err) == http.StatusForbidden:
		advice = "access is denied: are there credentials, and do they allow s3:GetObject, s3:PutObject, s3:ListBucket, s3:ListBucketVersions and, for locks, s3:PutObjectRetention and s3:GetObjectRetention?"
	default:
		return err
	}
	return &explained{err, advice}
}

type explained struct {
	err    error
	advice string
}

func (e *explained) Error() string { return e.err.Error() + ": " + e.advice }
func (e *explained) Unwrap() error { return e.err }

// attempts is how often what is read is asked for before it fails: some seconds.
const attempts = 6

// try does what only reads, and repeats it where that can help.
func (b *Bucket) try(op, name string, do func(context.Context) error) error {
	wait := b.cfg.retryAfter
	for n := 1; ; n++ {
		ctx, cancel := context.WithTimeout(b.ctx, requestTimeout)
		err := do(ctx)
		cancel()
		if err == nil {
			return nil
		}
		expired := areExpired(err)
		if expired {
			b.creds.Expire() // perhaps they were renewed
		}
		if b.ctx.Err() != nil || n == attempts || isRefusal(err) && (!expired || n > 1) {
			return b.pathError(op, name, err)
		}
		select {
		case <-time.After(wait):
		case <-b.ctx.Done():
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// requestTimeout bounds one request, beside the time that its bytes take.
const requestTimeout = 30 * time.Second

func (b *Bucket) pathError(op, name string, err error) error {
	if isAbsent(err) {
		err = errAbsent
	} else if b.ctx.Err() != nil {
		err = errors.Join(b.ctx.Err(), err)
	} else {
		err = b.explain(err)
	}
	return &os.PathError{Op: op, Path: b.name + "/" + path.Clean(filepath.ToSlash(name)), Err: err}
}

func (b *Bucket) fault(err error) {
	if b.cfg.Fault == nil {
		return
	}
	if err != nil {
		b.faulty.Store(true)
		b.cfg.Fault(err)
	} else if b.faulty.Swap(false) {
		b.cfg.Fault(nil)
	}
}
