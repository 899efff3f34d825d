package s3

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/seal"
)

// erasures names the first record of every batch that the writer's own view of
// its log has.
func (w *writer) erasures(t *testing.T, r *running) (all []seal.Erasure) {
	t.Helper()
	store := seal.Store{FS: r.journal, Root: w.root()}
	if w.Direct {
		store = seal.Store{FS: r.bucket, Root: "."}
	}
	l, err := store.OpenLog(origin)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Entries(t.Context(), func(*seal.Header) bool { return true }, func(e *seal.Entry) error {
		if e.Kind == seal.KindBatch {
			all = append(all, seal.Erasure{Entry: e.Header.Entry, Root: e.Root, Positions: []uint64{0}})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// What is erased is in no version of any object; the rest is proven. That goes
// for segments that are sent, that are being written, and that are both.
func TestErase(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		w := newWriter(t, gateway, bucket(t, gateway, "versions"), direct)
		r := w.mustOpen(t)
		for i := range 3 {
			r.mustAppend(t, fmt.Sprint("sent ", i))
		}
		if !direct {
			time.Sleep(w.MaxAge)
			eventually(t, "the journal is sent", func() bool { return r.journal.Pending() == 0 })
		}
		r.mustAppend(t, "not yet sent")
		gone := w.erasures(t, r)
		if len(gone) != 4 {
			t.Fatalf("%d batches", len(gone))
		}
		if err := r.Erase(t.Context(), gone, "dpo", "case"); err != nil {
			t.Fatal(err)
		}
		r.mustAppend(t, "after")
		mustClose(t, r)
		report := w.verify(t)
		wantExit(t, report, 0, "4 records of 4 batches were erased")
		if have := w.records(t); len(have) != 1 || have["after"] != 1 {
			t.Errorf("left are %v", have)
		}
		mustClose(t, w.mustOpen(t)) // what is there is a log to go on with
		wantExit(t, w.verify(t), 0, "")
	})
}

// What a lock keeps is not erased, and that is said: by whom it is kept, until
// when, and that it is ordered.
func TestEraseLocked(t *testing.T) {
	w := newWriter(t, gateway, bucket(t, gateway, "lock"), true)
	w.Bucket.Lock = objectstore.Lock{Mode: minio.Compliance, Retain: time.Hour}
	r := w.mustOpen(t)
	r.mustAppend(t, "a", "b")
	err := r.Erase(t.Context(), w.erasures(t, r), "dpo", "case")
	var locked *seal.LockedError
	if !errors.As(err, &locked) || time.Until(locked.Until) < 50*time.Minute {
		t.Fatal(err)
	}
	mustClose(t, r)
	wantExit(t, w.verify(t), seal.ExitIncomplete, "ordered by entry 3, not done")
	if have := w.records(t); have["a"] != 1 || have["b"] != 1 {
		t.Errorf("left are %v", have)
	}
}

// An erase that breaks off between the bucket and the local disk, or between the
// new version and the old one, is no fork, and is done when asked to finish.
func TestEraseBrokenOff(t *testing.T) {
	modes(t, func(t *testing.T, direct bool) {
		p := newProxy(t, gateway, always(pass))
		w := newWriter(t, p.URL, bucket(t, gateway, "versions"), direct)
		r := w.mustOpen(t)
		r.mustAppend(t, "gone", "kept")
		if !direct {
			time.Sleep(w.MaxAge)
			eventually(t, "the journal is sent", func() bool { return r.journal.Pending() == 0 })
		}
		gone := w.erasures(t, r)[:1]
		p.set(func(r *http.Request) action {
			// The journal's last segment in the bucket is to stay the one that
			// is overwritten.
			if r.Method == http.MethodDelete || !direct && r.Header.Get("If-None-Match") != "" {
				return fail
			}
			return pass
		})
		if err := r.Erase(t.Context(), gone, "dpo", "case"); err == nil {
			t.Fatal("erased, though the old version is still there")
		}
		mustClose(t, r)
		if p.count(fail) == 0 {
			t.Fatal("nothing was refused")
		}
		p.set(always(pass))
		r = w.mustOpen(t)
		r.mustAppend(t, "after")
		if !direct {
			eventually(t, "the journal is sent", func() bool { return r.journal.Pending() == 0 })
		}
		if err := r.Erase(t.Context(), nil, "dpo", "finish"); err != nil {
			t.Fatal(err)
		}
		mustClose(t, r)
		wantExit(t, w.verify(t), 0, "1 records of 1 batches were erased")
		if have := w.records(t); len(have) != 2 || have["gone"] != 0 || have["kept"] != 1 || have["after"] != 1 {
			t.Errorf("left are %v", have)
		}
	})
}
