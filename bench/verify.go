package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

type verifyResult struct {
	Records    uint64
	Took       time.Duration
	CPU        time.Duration
	PeakBytes  int64 // of the process's memory; 0 where it cannot be told
	Processors int
	ExitCode   int
	Findings   []string
}

func (r *verifyResult) perSecond() float64 { return float64(r.Records) / r.Took.Seconds() }

// allowed is how many records a second its CPU time would allow, had nothing
// else run on the machine.
func (r *verifyResult) allowed() float64 {
	return float64(r.Records) / r.CPU.Seconds() * float64(r.Processors)
}

// verified is a log and how it was verified, once a round.
type verified struct {
	records int
	bytes   int64 // stored
	rounds  []verifyResult
}

// best is the round that the machine disturbed least.
func (v *verified) best() *verifyResult {
	best := &v.rounds[0]
	for i := range v.rounds {
		if v.rounds[i].Took < best.Took {
			best = &v.rounds[i]
		}
	}
	return best
}

// peak is the greatest of all rounds.
func (v *verified) peak() (bytes int64) {
	for i := range v.rounds {
		bytes = max(bytes, v.rounds[i].PeakBytes)
	}
	return bytes
}

func benchVerify(ctx context.Context, s settings) (*verified, error) {
	dir := filepath.Join(s.dir, "verify")
	progress("writing a log of %d records", s.records)
	if err := writeLog(ctx, dir, s.records); err != nil {
		return nil, err
	}
	v := &verified{records: s.records}
	var err error
	if v.bytes, err = treeBytes(filepath.Join(dir, "store")); err != nil {
		return nil, err
	}
	for round := range s.rounds {
		progress("verify, round %d", round+1)
		var r verifyResult
		if err := doInChild(ctx, task{Role: "verify", Dir: dir, Profile: s.profileFile("verify", round+1)}, &r); err != nil {
			return nil, err
		}
		if r.ExitCode != seal.ExitProven || r.Records != uint64(s.records) {
			return nil, fmt.Errorf("of %d records %d were verified, exit code %d:\n%s", s.records, r.Records, r.ExitCode, strings.Join(r.Findings, "\n"))
		}
		v.rounds = append(v.rounds, r)
	}
	return v, nil
}

// verify is what the child does: all checks there are, the auditor's included.
func verify(job task) (*verifyResult, error) {
	keys := filepath.Join(job.Dir, "keys")
	trust, err := seal.ReadTrust(filepath.Join(keys, seal.TrustFile))
	if err != nil {
		return nil, err
	}
	auditor, err := seal.ReadAuditorKey(filepath.Join(keys, seal.AuditorKeyFile))
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	report, err := seal.Verify(context.Background(), filepath.Join(job.Dir, "store"), seal.VerifyOptions{Trust: trust, Auditor: &auditor})
	if err != nil {
		return nil, err
	}
	r := &verifyResult{Took: time.Since(begin), CPU: cpuTime(), Processors: runtime.GOMAXPROCS(0), ExitCode: report.ExitCode()}
	for _, f := range report.Findings {
		r.Findings = append(r.Findings, f.String())
	}
	for _, l := range report.Logs {
		r.Records += l.Records
		for _, f := range l.Findings {
			r.Findings = append(r.Findings, f.String())
		}
	}
	r.PeakBytes, err = peakMemory()
	return r, err
}

// writeLog writes and closes a log of n records, 1000 a request.
func writeLog(ctx context.Context, dir string, n int) error {
	w, err := openWriter(dir, seal.OS)
	if err != nil {
		return err
	}
	const writers = 4
	var requests atomic.Int64
	requests.Store(int64(n / aloneRecords))
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			src, err := newSource(uint64(i), aloneRecords)
			for err == nil && requests.Add(-1) >= 0 {
				err = w.Append(ctx, seal.SignalLogs, src.request())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), w.Close(ctx))
}

// treeBytes adds up the sizes of all files below dir.
func treeBytes(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		n += fi.Size()
		return nil
	})
	return n, err
}

// peakMemory is the most memory that this process has had at once. Linux's
// getrusage would count the parent's too, as it was at the fork.
func peakMemory() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "VmHWM:"); ok {
			var kib int64
			_, err := fmt.Sscanf(v, "%d kB", &kib)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}
