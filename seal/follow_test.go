package seal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A log that is written meanwhile is read on from where the reader was: every
// entry once, through new segments and epochs.
func TestEntriesFrom(t *testing.T) {
	k, root := newTestKeys(t), t.TempDir()
	cfg := k.config(t, root)
	cfg.SegmentMaxBytes = 1 // a segment for each commit group
	var place Place
	var got []uint64
	follow := func() {
		t.Helper()
		l, err := OpenLog(root, testOrigin)
		if err != nil {
			t.Fatal(err)
		}
		if place, err = l.EntriesFrom(context.Background(), place, nil, func(e *Entry) error {
			got = append(got, e.Header.Entry)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for epoch := range 3 {
		w := openWriter(t, cfg)
		for i := range 3 {
			if err := w.Append(context.Background(), SignalLogs, testRequest(2, fmt.Sprint(epoch, i))); err != nil {
				t.Fatal(err)
			}
			follow()
			follow() // nothing is new
		}
		closeWriter(t, w)
		cfg.SegmentMaxBytes = 1 << 20 // and one for all
	}
	follow()
	for i, entry := range got {
		if entry != uint64(i) {
			t.Fatalf("read %d", got)
		}
	}
	if len(got) != 3*5 {
		t.Fatalf("read %d", got)
	}

	l, err := OpenLog(root, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		if at, err := l.EntriesFrom(context.Background(), place, nil, nil); err == nil || !strings.Contains(err.Error(), what) || at != place {
			t.Errorf("got %v and %v, want %q", at, err, what)
		}
	}
	segments, err := filepath.Glob(filepath.Join(LogDir(root, testOrigin), segmentDir, "*"))
	if err != nil || len(segments) < 4 {
		t.Fatal(segments, err)
	}
	last := slices.Max(segments)
	if err := os.Truncate(last, 100); err != nil {
		t.Fatal(err)
	}
	refused("it was cut")
	if err := os.Remove(last); err != nil {
		t.Fatal(err)
	}
	refused("are gone")
}
