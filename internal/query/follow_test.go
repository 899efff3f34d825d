package query

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

// follower is a Follow under way.
type follower struct {
	t     *testing.T
	names chan string
	idle  chan error
	done  chan error
	stats Stats
}

func follow(t *testing.T, ctx context.Context, store string, q Query) *follower {
	f := &follower{t: t, names: make(chan string), idle: make(chan error), done: make(chan error, 1)}
	go func() {
		var err error
		f.stats, err = q.Follow(ctx, seal.Dir(store), time.Millisecond, func(r *Record) error {
			f.names <- r.Log.Body().AsString()
			return nil
		}, func(failed error) error {
			select {
			case f.idle <- failed:
			case <-ctx.Done():
			}
			return nil
		})
		f.done <- err
	}()
	return f
}

// gives waits for records.
func (f *follower) gives(want ...string) {
	f.t.Helper()
	for _, w := range want {
		for found := false; !found; {
			select {
			case name := <-f.names:
				if found = true; name != w {
					f.t.Fatalf("got %s, want %s of %s", name, w, want)
				}
			case <-f.idle:
			case err := <-f.done:
				f.t.Fatalf("ended with %v, want %s of %s", err, w, want)
			}
		}
	}
}

// ends waits for the end.
func (f *follower) ends() error {
	for {
		select {
		case name := <-f.names:
			f.t.Errorf("another record: %s", name)
		case <-f.idle:
		case err := <-f.done:
			return err
		}
	}
}

// What is sealed meanwhile is found once, in logs that begin meanwhile too.
func TestFollow(t *testing.T) {
	store := t.TempDir()
	a := newTestLog(t, store, "example.org/a")
	a.append(time.Second, record("a1", 0), record("a2", 0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := follow(t, ctx, store, Query{})
	f.gives("a1", "a2")
	a.append(2*time.Second, record("a3", 0))
	f.gives("a3")
	b := newTestLog(t, store, "example.org/b")
	b.append(time.Second, record("b1", 0))
	f.gives("b1")
	a.append(3*time.Second, event("mesh.evidence", record("evidence", 0)), record("a4", 0))
	f.gives("a4")
	a.close()
	b.append(4*time.Second, record("b2", 0))
	f.gives("b2")
	b.close()
	cancel()
	if err := f.ends(); err != nil || f.stats.Records != 6 {
		t.Fatal(err, f.stats)
	}
}

func TestFollowEnds(t *testing.T) {
	store := t.TempDir()
	a := newTestLog(t, store, "example.org/a")
	a.append(time.Second, record("a1", 0), record("a2", 0), record("a3", 0))
	defer a.close()

	t.Run("at the limit", func(t *testing.T) {
		f := follow(t, t.Context(), store, Query{Limit: 2})
		f.gives("a1", "a2")
		if err := f.ends(); err != nil || !f.stats.Limited {
			t.Fatal(err, f.stats)
		}
	})
	t.Run("with the reader", func(t *testing.T) {
		gone := errors.New("gone")
		stop := func(*Record) error { return gone }
		if _, err := new(Query).Follow(t.Context(), seal.Dir(store), time.Hour, stop, nil); err != gone {
			t.Fatal(err)
		}
		all := 0
		count := func(*Record) error { all++; return nil }
		if _, err := new(Query).Follow(t.Context(), seal.Dir(store), time.Hour, count, func(error) error { return gone }); err != gone || all != 3 {
			t.Fatal(err, all)
		}
	})
	t.Run("where there is none", func(t *testing.T) {
		f := follow(t, t.Context(), t.TempDir(), Query{})
		if err := f.ends(); err == nil || !strings.Contains(err.Error(), "no log in") {
			t.Fatal(err)
		}
	})
	for name, origins := range map[string][]string{
		"where a log vanishes":        {"example.org/b", "example.org/a"},
		"where the only log vanishes": {"example.org/b"},
	} {
		t.Run(name, func(t *testing.T) {
			store := t.TempDir()
			for _, origin := range origins {
				l := newTestLog(t, store, origin)
				l.append(time.Second, record("r", 0))
				l.close()
			}
			f := follow(t, t.Context(), store, Query{})
			for range origins {
				f.gives("r")
			}
			if err := os.RemoveAll(seal.LogDir(store, "example.org/b")); err != nil {
				t.Fatal(err)
			}
			var damage *DamageError
			if err := f.ends(); !errors.As(err, &damage) || damage.Origin != "example.org/b" {
				t.Fatal(err)
			}
		})
	}
}

// outOfReach is a file system that can be listed, and nothing in it be got at.
type outOfReach struct{ seal.FS }

func (outOfReach) Stat(name string) (fs.FileInfo, error) {
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrPermission}
}

// A log that cannot be got at has not vanished, and is not left out in silence.
func TestOutOfReach(t *testing.T) {
	dir := t.TempDir()
	l := newTestLog(t, dir, "example.org/a")
	l.append(time.Second, record("r", 0))
	l.close()
	store := seal.Dir(dir)
	store.FS = outOfReach{store.FS}
	var damage *DamageError
	if _, err := new(Query).Run(t.Context(), store, nil); !errors.Is(err, fs.ErrPermission) || errors.As(err, &damage) {
		t.Fatal(err)
	}
	if _, err := originsSince(store, nil, places{"example.org/a": {}}); err != nil {
		t.Fatal(err)
	}
}

// A store that cannot be read for a while is tried again, and nothing is missed.
func TestFollowTriesAgain(t *testing.T) {
	store := t.TempDir()
	a := newTestLog(t, store, "example.org/a")
	a.append(time.Second, record("a1", 0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := follow(t, ctx, store, Query{})
	f.gives("a1")
	a.close()
	moved := store + ".moved"
	if err := os.Rename(store, moved); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(moved)
	for err := error(nil); err == nil; {
		err = <-f.idle
	}
	if err := os.Rename(moved, store); err != nil {
		t.Fatal(err)
	}
	b := newTestLog(t, store, "example.org/b")
	b.append(time.Second, record("b1", 0))
	f.gives("b1")
	b.close()
	cancel()
	if err := f.ends(); err != nil || f.stats.Records != 2 {
		t.Fatal(err, f.stats)
	}
}
