// Package inventory says which version of which workload stands behind a SPIFFE
// ID, as whoever deploys it states: in the configuration, or in a file that a
// deployment pipeline writes and that is read again when it changes.
//
// An entry may say since when it holds, so that an action is told by what was
// deployed at its time, however late it is reported.
package inventory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/query"
)

// Bounds of a file: some 400 bytes an entry.
const (
	maxFile    = 8 << 20
	maxEntries = 20_000
)

// An Entry is what stands behind SPIFFE IDs. Fields that are empty are not
// stated.
type Entry struct {
	// ID is a SPIFFE ID, or a pattern in which * stands for any text, and {namespace}
	// and {name} for a part of the path that is that of the workload. Required.
	ID          string `mapstructure:"id" yaml:"id"`
	Namespace   string `mapstructure:"namespace" yaml:"namespace"`
	Name        string `mapstructure:"name" yaml:"name"`
	Kind        string `mapstructure:"kind" yaml:"kind"`
	Version     string `mapstructure:"version" yaml:"version"`
	Revision    string `mapstructure:"revision" yaml:"revision"`
	ImageDigest string `mapstructure:"image_digest" yaml:"image_digest"`
	// Since is when it was deployed, RFC 3339. Default: always.
	Since string `mapstructure:"since" yaml:"since"`
}

// An item is an entry, compiled.
type item struct {
	glob     query.Glob
	parts    *regexp.Regexp // what of an ID is which field, nil if none is
	since    int64          // unix nanoseconds
	workload evidence.Workload
}

const spiffeScheme = "spiffe://"

// placeholders stand in an entry's ID for a field of the workload.
var placeholders = strings.NewReplacer("{namespace}", "*", "{name}", "*")

// of is what the entry says of an ID, if that matches.
func (it *item) of(id string) (w evidence.Workload, ok bool) {
	if !it.glob.Match(id) {
		return w, false
	}
	w = it.workload
	if it.parts != nil {
		found := it.parts.FindStringSubmatch(id)
		if found == nil {
			return w, false
		}
		for i, field := range it.parts.SubexpNames() {
			switch field {
			case "namespace":
				w.Namespace = evidence.Text(found[i], evidence.MaxName)
			case "name":
				w.Name = evidence.Text(found[i], evidence.MaxName)
			}
		}
	}
	return w, true
}

// compileParts compiles an ID with placeholders.
func (e *Entry) compileParts() (*regexp.Regexp, error) {
	for placeholder, field := range map[string]string{"{namespace}": e.Namespace, "{name}": e.Name} {
		switch n := strings.Count(e.ID, placeholder); {
		case n > 1, n == 1 && field != "":
			return nil, fmt.Errorf("%s is said twice", placeholder)
		}
	}
	if strings.ContainsAny(placeholders.Replace(e.ID), "{}") {
		return nil, fmt.Errorf("`id` knows {namespace} and {name}, got %q", e.ID)
	}
	expr := strings.NewReplacer(
		`\*`, `.*`, `\{namespace\}`, `(?P<namespace>[^/]+)`, `\{name\}`, `(?P<name>[^/]+)`,
	).Replace(regexp.QuoteMeta(strings.TrimPrefix(e.ID, spiffeScheme)))
	return regexp.Compile(`^` + spiffeScheme + expr + `$`)
}

func (e *Entry) compile() (it item, err error) {
	var errs []error
	if it.glob, err = query.ParseIDGlob(placeholders.Replace(e.ID)); err != nil {
		errs = append(errs, fmt.Errorf("`id`: %w", err))
	} else if strings.ContainsAny(e.ID, "{}") {
		if it.parts, err = e.compileParts(); err != nil {
			errs = append(errs, err)
		}
	}
	if e.Since != "" {
		t, err := time.Parse(time.RFC3339, e.Since)
		if err != nil || t.Year() < 1970 || t.Year() > 2261 {
			errs = append(errs, fmt.Errorf("`since` must be a time such as 2026-11-24T18:00:00Z, got %q", e.Since))
		}
		it.since = t.UnixNano()
	}
	it.workload = evidence.Workload{
		Namespace: e.Namespace, Name: e.Name, Kind: e.Kind, Version: e.Version, Revision: e.Revision, ImageDigest: e.ImageDigest,
	}
	for _, s := range [...]string{e.Namespace, e.Name, e.Kind, e.Version, e.Revision, e.ImageDigest} {
		if evidence.Text(s, evidence.MaxName) != s {
			errs = append(errs, fmt.Errorf("a field must be UTF-8 of at most %d bytes, got %.40q…", evidence.MaxName, s))
		}
	}
	if it.workload == (evidence.Workload{}) && it.parts == nil {
		errs = append(errs, errors.New("it says nothing of the workload: give `name`, `version`, `image_digest` …"))
	}
	return it, errors.Join(errs...)
}

// A table finds entries: the first in their order that matches and holds.
type table struct {
	exact map[string][]int // by SPIFFE ID, ascending
	globs []int            // the others, ascending
	items []item
}

func compile(lists ...[]Entry) (*table, error) {
	t := &table{exact: make(map[string][]int)}
	var errs []error
	for _, list := range lists {
		for i := range list {
			it, err := list[i].compile()
			if err != nil {
				errs = append(errs, fmt.Errorf("entry %d: %w", i, err))
				continue
			}
			n := len(t.items)
			t.items = append(t.items, it)
			if id, ok := it.glob.Exact(); ok {
				t.exact[id] = append(t.exact[id], n)
			} else {
				t.globs = append(t.globs, n)
			}
		}
	}
	return t, errors.Join(errs...)
}

func (t *table) find(id string, at int64) (evidence.Workload, bool) {
	best := len(t.items)
	for _, n := range t.exact[id] {
		if t.items[n].since <= at {
			best = n
			break
		}
	}
	for _, n := range t.globs {
		if n >= best {
			break
		}
		if it := &t.items[n]; it.since <= at {
			if w, ok := it.of(id); ok {
				return w, true
			}
		}
	}
	if best == len(t.items) {
		return evidence.Workload{}, false
	}
	return t.items[best].workload, true
}

// Check reports every fault of a list of entries.
func Check(entries []Entry) error {
	_, err := compile(entries)
	return err
}

// Parse reads a file: YAML or JSON, a list of entries under `workloads`.
func Parse(b []byte) ([]Entry, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	var file struct {
		Workloads []Entry `yaml:"workloads"`
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	switch err := d.Decode(&file); {
	case errors.Is(err, io.EOF): // perhaps it is just being written
		return nil, errors.New("it is empty; write `workloads: []` for none")
	case err != nil:
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if len(file.Workloads) > maxEntries {
		return nil, fmt.Errorf("%d entries, at most %d are read", len(file.Workloads), maxEntries)
	}
	return file.Workloads, nil
}

// An Inventory is safe for concurrent use.
type Inventory struct {
	now    atomic.Pointer[table]
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// interval between two looks at a file.
const interval = 10 * time.Second

// Open takes the entries and, before them, those of a file ("": none), which is
// followed until Close. A file that cannot be read is an error; when it cannot be
// read any more, what it said last holds, and report is told, once, and with nil
// when it can be again. It gives nil if there is neither.
func Open(entries []Entry, path string, report func(error)) (*Inventory, error) {
	if len(entries) == 0 && path == "" {
		return nil, nil
	}
	var last []byte
	i := &Inventory{cancel: func() {}}
	read := func() error {
		var of []Entry
		var content []byte
		if path != "" {
			var err error
			if content, err = readFile(path); err != nil {
				return err
			}
			if last != nil && bytes.Equal(content, last) {
				return nil
			}
			if of, err = Parse(content); err != nil {
				return err
			}
		}
		t, err := compile(of, entries)
		if err != nil {
			return err
		}
		last = content
		i.now.Store(t)
		return nil
	}
	if err := read(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if path != "" {
		ctx, cancel := context.WithCancel(context.Background())
		i.cancel = cancel
		i.done.Go(func() { follow(ctx, read, report) })
	}
	return i, nil
}

func follow(ctx context.Context, read func() error, report func(error)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := read()
		if failing != (err != nil) {
			report(err)
		}
		failing = err != nil
	}
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1)) // Parse refuses what is longer
}

// Of is the workload that stood behind a SPIFFE ID at a time, in unix
// nanoseconds.
func (i *Inventory) Of(id spiffeid.ID, at int64) (evidence.Workload, bool) {
	if i == nil || id.IsZero() {
		return evidence.Workload{}, false
	}
	return i.now.Load().find(id.String(), at)
}

// Close stops following. It may be called twice.
func (i *Inventory) Close() {
	if i != nil {
		i.cancel()
		i.done.Wait()
	}
}
