package seal

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
)

// Damage at the end of a log that no crash explains is refused at start, with
// words that say what to do; or, if so configured, kept aside and named.
func TestDamagedTail(t *testing.T) {
	v := newVictim(t)
	segments := v.files(segmentDir)
	last := segments[len(segments)-1] // the close of the last epoch: one group
	flip := func(name string, at int) func(*memFS) {
		return edit(name, func(b []byte) []byte { b[at] ^= 1; return b })
	}
	open := func(change func(*memFS), quarantine bool) (*memFS, error) {
		m := v.fs.restart(keepAll, nil)
		change(m)
		cfg := v.memConfig(m)
		cfg.Quarantine = quarantine
		w, err := Open(cfg)
		if err != nil {
			return m, err
		}
		if err := w.Append(context.Background(), SignalLogs, testRequest(1, "later")); err != nil {
			t.Fatal(err)
		}
		closeWriter(t, w)
		return m, nil
	}
	withoutPublished := func(change func(*memFS)) func(*memFS) {
		return func(m *memFS) {
			change(m)
			delete(m.files, logDir+"/"+checkpointFile) // as if nothing had been published
			for _, tile := range v.files(tileDir) {
				delete(m.files, logDir+"/"+tile)
			}
		}
	}

	for _, quarantine := range []bool{false, true} {
		_, err := open(flip(last, 100), quarantine)
		if err == nil || !quarantine && !strings.Contains(err.Error(), "on_damaged_tail: quarantine") || quarantine && !strings.Contains(err.Error(), "cut or rolled back") {
			t.Errorf("damage to what was published, quarantine %v: %v", quarantine, err)
		}
	}
	if _, err := open(withoutPublished(flip(last, 100)), false); err == nil || !strings.Contains(err.Error(), "on_damaged_tail: quarantine") {
		t.Errorf("damage to the last group: %v", err)
	}
	m, err := open(withoutPublished(flip(last, 100)), true)
	if err != nil {
		t.Fatalf("quarantine: %v", err)
	}
	r, err := verifyStore(context.Background(), m, "/store", VerifyOptions{Trust: v.trust, Auditor: &v.auditor, AsOf: v.asOf})
	if err != nil || r.ExitCode() != ExitIncomplete || !strings.Contains(fmt.Sprint(r.Logs[0].Findings), "damaged in a way that a crash does not explain") {
		t.Errorf("after quarantine: %v %v", err, r.Logs[0].Findings)
	}

	// Two commits behind the damage: what was acknowledged may be in it.
	first := segments[0]
	drop := func(m *memFS) {
		flip(first, 100)(m)
		for _, name := range segments[1:] {
			delete(m.files, logDir+"/"+name)
		}
	}
	for _, quarantine := range []bool{false, true} {
		if _, err := open(withoutPublished(drop), quarantine); err == nil || !strings.Contains(err.Error(), "not a torn tail") {
			t.Errorf("damage with commits after it, quarantine %v: %v", quarantine, err)
		}
		if _, err := open(flip(first, 100), quarantine); err != nil {
			// Older segments are verify's to judge: a start reads the last one.
			t.Errorf("damage to an older segment keeps a writer from starting: %v", err)
		}
	}
	// Unless the tree has to be computed from them.
	if _, err := open(withoutPublished(func(*memFS) {}), false); err != nil {
		t.Errorf("without tiles: %v", err)
	}
	for offset := range bytes.Index(v.fs.files[logDir+"/"+first].data, endOfHeader) {
		if _, err := open(withoutPublished(flip(first, offset)), false); err == nil || !strings.Contains(err.Error(), "run: meshaudit verify") {
			t.Errorf("without tiles, byte %d of the first segment altered: %v", offset, err)
		}
	}
	if _, err := open(func(m *memFS) { m.files[logDir+"/"+segmentDir+"/notes"] = &inode{} }, false); err == nil || !strings.Contains(err.Error(), "notes") {
		t.Errorf("a strange file: %v", err)
	}
}
