package seal

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// newCrashedVictim is a log of three epochs; the second ended in a crash, with a
// tail that is kept in torn/. past are its states after every epoch.
func newCrashedVictim(t *testing.T) (v *victim, past []*memFS) {
	k, m := newTestKeys(t), newMemFS()
	for epoch := range 3 {
		cfg := k.memConfig(m)
		cfg.SegmentMaxBytes = 3000
		w := openWriter(t, cfg)
		for i := range 2 {
			if err := w.Append(context.Background(), SignalLogs, testRequest(2+8*i, fmt.Sprint(epoch, i))); err != nil {
				t.Fatal(err)
			}
		}
		old := m
		if epoch == 1 {
			m = m.restart(keepAll, nil)
			delete(m.files, logDir+"/"+checkpointFile)
			v := &victim{k, m, time.Time{}}
			segments := v.files(segmentDir)
			edit(segments[len(segments)-1], func(b []byte) []byte { return b[:len(b)-50] })(m)
			for _, tile := range v.files(tileDir) {
				delete(m.files, logDir+"/"+tile)
			}
		}
		closeWriter(t, w)
		past = append(past, old.restart(keepAll, nil))
	}
	return &victim{k, m, time.Now().Add(time.Minute)}, past[:2]
}

// Whatever is moved within a log, or into it from another log or epoch, is
// reported as tampering: frames, groups, segments, tiles, checkpoint, torn
// tails. The test prints how each kind of change is classed.
func TestTamperSweep(t *testing.T) {
	t.Parallel()
	v, past := newCrashedVictim(t)
	other, _ := newCrashedVictim(t)
	v.expect(t, "before", ExitIncomplete, func(*memFS) {})
	classed := map[string]map[string]int{}
	count := func(kind string, f *Finding) {
		if classed[kind] == nil {
			classed[kind] = map[string]int{}
		}
		classed[kind][f.Axis.String()]++
	}
	tampering := func(kind, what string, change func(*memFS)) {
		t.Helper()
		count(kind, v.expect(t, kind+": "+what, ExitTampering, change).Logs[0].First())
	}
	names := v.files(segmentDir)
	groups := func(frames [][]byte) (gs [][]byte) {
		var g []byte
		for _, f := range frames {
			g = append(g, f...)
			if bytes.HasPrefix(f, []byte(magic+string(KindCheckpoint))) {
				gs, g = append(gs, g), nil
			}
		}
		return gs
	}
	for unit, cut := range map[string]func([][]byte) [][]byte{"frame": func(fs [][]byte) [][]byte { return fs }, "group": groups} {
		var foreign [][]byte
		for _, name := range other.files(segmentDir) {
			foreign = append(foreign, cut(other.frames(t, name))...)
		}
		for s, name := range names {
			us := cut(v.frames(t, name))
			elsewhere := cut(v.frames(t, names[(s+len(names)/2)%len(names)]))
			for i := range us {
				what := fmt.Sprintf("%d of %s", i, name)
				put := func(kind string, parts ...[][]byte) {
					tampering(unit+" "+kind, what, edit(name, func([]byte) []byte { return bytes.Join(slices.Concat(parts...), nil) }))
				}
				before, after := us[:i], us[i+1:]
				put("dropped", before, after)
				put("doubled", before, us[i:i+1], us[i:])
				if i > 0 {
					put("swapped", us[:i-1], us[i:i+1], us[i-1:i], after)
				}
				for _, f := range foreign {
					put("from another log", before, [][]byte{f}, after)
				}
				for _, f := range elsewhere {
					put("from elsewhere", before, [][]byte{f}, after)
					put("from elsewhere, inserted", before, [][]byte{f}, us[i:])
				}
			}
		}
	}
	at := func(m *memFS, name string) *inode { return m.files[logDir+"/"+name] }
	for i, name := range names {
		tampering("segment dropped", name, func(m *memFS) { delete(m.files, logDir+"/"+name) })
		tampering("segment followed by garbage", name, edit(name, func(b []byte) []byte { return append(b, "garbage"...) }))
		tampering("segments from here on dropped", name, func(m *memFS) {
			for _, n := range names[i:] {
				delete(m.files, logDir+"/"+n)
			}
		})
		tampering("segment from another log", name, edit(name, func([]byte) []byte {
			o := other.files(segmentDir)
			return other.fs.files[logDir+"/"+o[i%len(o)]].data
		}))
		if i > 0 {
			tampering("segments swapped", name, func(m *memFS) {
				a, b := at(m, name), at(m, names[i-1])
				a.data, b.data = b.data, a.data
			})
			tampering("segment doubled", name, func(m *memFS) { at(m, name).data = slices.Clone(at(m, names[i-1]).data) })
		}
	}
	for _, name := range slices.Concat(v.files(tileDir), v.files(tornDir), []string{checkpointFile}) {
		kind, _, _ := strings.Cut(name, "/")
		data := v.fs.files[logDir+"/"+name].data
		for i := 0; i < len(data); i += sweepStep {
			tampering(kind+" flipped", fmt.Sprintf("%s, byte %d", name, i), edit(name, func(b []byte) []byte { b[i] ^= 1 << (i % 8); return b }))
			if kind != checkpointFile || i < len(data)-1 {
				tampering(kind+" cut", fmt.Sprintf("%s at %d", name, i), edit(name, func(b []byte) []byte { return b[:i] }))
			}
		}
		if theirs := other.files(kind); len(theirs) > 0 {
			tampering(kind+" from another log", name, edit(name, func([]byte) []byte { return other.fs.files[logDir+"/"+theirs[0]].data }))
		}
		late := *v
		late.asOf = v.asOf.Add(20 * time.Second)
		late.expect(t, name+" dropped", ExitIncomplete, func(m *memFS) { delete(m.files, logDir+"/"+name) })
	}

	// The whole directory as it once was is a valid, older log: an older
	// checkpoint that was kept elsewhere shows it.
	for i, old := range past {
		opts := VerifyOptions{Trust: v.trust, Auditor: &v.auditor, AsOf: v.asOf, Since: v.fs.files[logDir+"/"+checkpointFile].data}
		r, err := verifyStore(context.Background(), old, "/store", opts)
		if err != nil || r.ExitCode() != ExitTampering {
			t.Errorf("rolled back to epoch %d: %v %v", i, err, r.Logs[0].Findings)
		}
		count("whole directory rolled back", r.Logs[0].First())
	}
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(classed)) {
		for _, n := range classed[kind] {
			total += n
		}
		t.Logf("%-32s %v", kind, classed[kind])
	}
	t.Logf("%d changes, each reported as tampering", total)
}
