package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/seal"
)

const scheme = "s3://"

// IsName reports whether a store's name is that of a bucket.
func IsName(name string) bool { return strings.HasPrefix(name, scheme) }

// Open opens the store of a name for reading: a directory, or
//
//	s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path_style=true]
//
// What is not in it comes from the environment, see Config. A directory that
// does not exist is an empty store. The local side of a Journal is none: it
// holds a part only.
func Open(ctx context.Context, name string) (seal.Store, error) {
	if IsName(name) {
		cfg, err := ParseName(name)
		if err != nil {
			return seal.Store{}, err
		}
		b, err := New(ctx, cfg)
		if err != nil {
			return seal.Store{}, err
		}
		return seal.Store{FS: b, Root: "."}, nil
	}
	if fi, err := os.Stat(name); err == nil && !fi.IsDir() {
		return seal.Store{}, fmt.Errorf("%s is a file: a store is a directory, or %sBUCKET/PREFIX", name, scheme)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return seal.Store{}, err
	}
	if to, err := os.ReadFile(filepath.Join(name, journalFile)); err == nil {
		return seal.Store{}, fmt.Errorf("%s is the journal of a writer: it holds only what is not yet in its store; name that one, %s", name, strings.TrimSpace(string(to)))
	}
	return seal.Dir(name), nil
}

// ParseName parses the name of a bucket, see Open.
func ParseName(name string) (cfg Config, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("store %q: %w; write %sBUCKET/PREFIX?endpoint=https://HOST&region=NAME", name, err, scheme)
		}
	}()
	rest, ok := strings.CutPrefix(name, scheme)
	if !ok {
		return cfg, errors.New("it is not in a bucket")
	}
	rest, query, _ := strings.Cut(rest, "?")
	cfg.Bucket, cfg.Prefix, _ = strings.Cut(rest, "/")
	if cfg.Bucket == "" {
		return cfg, errors.New("it names no bucket")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return cfg, err
	}
	for k, v := range values {
		switch {
		case len(v) != 1:
			return cfg, fmt.Errorf("%s is given %d times", k, len(v))
		case k == "endpoint":
			cfg.Endpoint = v[0]
		case k == "region":
			cfg.Region = v[0]
		case k == "path_style":
			if cfg.PathStyle, err = strconv.ParseBool(v[0]); err != nil {
				return cfg, fmt.Errorf("path_style must be true or false, got %q", v[0])
			}
		default:
			return cfg, fmt.Errorf("%s is not known", k)
		}
	}
	if cfg.Endpoint != "" {
		_, err = ParseEndpoint(cfg.Endpoint)
	}
	return cfg, err
}

// Name is the name by which Open finds what cfg describes.
func (c Config) Name() string {
	v := url.Values{}
	if c.Endpoint != "" {
		v.Set("endpoint", c.Endpoint)
	}
	if c.Region != "" {
		v.Set("region", c.Region)
	}
	if c.PathStyle {
		v.Set("path_style", "true")
	}
	name := scheme + c.Bucket
	if p := strings.Trim(c.Prefix, "/"); p != "" {
		name += "/" + p
	}
	if len(v) > 0 {
		name += "?" + v.Encode()
	}
	return name
}
