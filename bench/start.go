package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

// Starting on a long log: until the first record is acknowledged.

// startCase is what a writer finds when it starts.
type startCase struct {
	name             string
	crashed, noTiles bool
}

var startCases = []startCase{
	{name: "after a clean stop"},
	{name: "after a crash", crashed: true},
	{name: "after a crash, the tiles lost", crashed: true, noTiles: true},
}

type startResult struct {
	Took, CPU time.Duration
	PeakBytes int64
}

// started is how a case went, once a round.
type started struct {
	startCase
	rounds []startResult
}

func (s *started) of(number func(*startResult) float64) (all []float64) {
	for i := range s.rounds {
		all = append(all, number(&s.rounds[i]))
	}
	return all
}

func (s *started) took() float64 {
	return median(s.of(func(r *startResult) float64 { return r.Took.Seconds() }))
}

// benchStart starts writers on twins of the log in dir, which was closed.
func benchStart(ctx context.Context, s settings, dir string, perEntry int) ([]started, error) {
	all := make([]started, len(startCases))
	for i, c := range startCases {
		all[i].startCase = c
	}
	for round := range s.rounds {
		for i := range all {
			c := &all[i]
			progress("start %s, round %d", c.name, round+1)
			twin := dir + ".twin"
			err := c.prepare(dir, twin)
			if err == nil {
				var r startResult
				err = doInChild(ctx, task{Role: "start", Dir: twin, Profile: s.profileFile("start", perEntry, c.name, round+1)}, &r)
				c.rounds = append(c.rounds, r)
			}
			if err = errors.Join(err, os.RemoveAll(twin)); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return all, nil
}

// prepare makes a twin of a log and its keys, as the case says. Only the last
// segment, which a start may replace, is copied.
func (c *startCase) prepare(dir, twin string) error {
	segments, err := filepath.Glob(filepath.Join(seal.LogDir(filepath.Join(dir, "store"), origin), "segment", "*.seal"))
	if err != nil {
		return err
	}
	last := slices.Max(segments)
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		to := filepath.Join(twin, rel)
		switch {
		case d.IsDir() && d.Name() == "tile" && c.noTiles:
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case name != last && slices.Contains(segments, name):
			return os.Link(name, to)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if name == last && c.crashed { // in the midst of the next group
			b = append(b, "meshaudit-seal/v1 batch\norigin "+origin+"\n"...)
		}
		return os.WriteFile(to, b, 0o600)
	})
}

// start is what the child does.
func start(job task) (*startResult, error) {
	cfg, err := writerConfig(job.Dir, seal.OS)
	if err != nil {
		return nil, err
	}
	src, err := newSource(1, 1)
	if err != nil {
		return nil, err
	}
	begin, used := time.Now(), cpuTime()
	w, err := seal.Open(cfg)
	if err != nil {
		return nil, err
	}
	if err := w.Append(context.Background(), seal.SignalLogs, src.request()); err != nil {
		return nil, err
	}
	r := &startResult{Took: time.Since(begin), CPU: cpuTime() - used}
	if r.PeakBytes, err = peakMemory(); err != nil {
		return nil, err
	}
	return r, w.Close(context.Background())
}
