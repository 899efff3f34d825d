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

// longLog is a log, how it was verified and how writers started on it.
type longLog struct {
	records, perEntry int
	bytes             int64          // stored
	verify            []verifyResult // once a round
	start             []started
}

// best is the round of verify that the machine disturbed least.
func (l *longLog) best() *verifyResult {
	best := &l.verify[0]
	for i := range l.verify {
		if l.verify[i].Took < best.Took {
			best = &l.verify[i]
		}
	}
	return best
}

// peak is the greatest of all rounds of verify.
func (l *longLog) peak() (bytes int64) {
	for i := range l.verify {
		bytes = max(bytes, l.verify[i].PeakBytes)
	}
	return bytes
}

// benchLog writes a log, verifies it and starts on it.
func benchLog(ctx context.Context, s settings, records, perEntry int) (*longLog, error) {
	dir := filepath.Join(s.dir, fmt.Sprint("log-", perEntry))
	progress("writing a log of %d records, %d an entry", records, perEntry)
	if err := writeLog(ctx, dir, records, perEntry); err != nil {
		return nil, err
	}
	written := time.Now()
	l := &longLog{records: records, perEntry: perEntry}
	var err error
	if l.bytes, err = treeBytes(filepath.Join(dir, "store")); err != nil {
		return nil, err
	}
	for round := range s.rounds {
		progress("verify, round %d", round+1)
		var r verifyResult
		job := task{Role: "verify", Dir: dir, AsOf: written, Profile: s.profileFile("verify", perEntry, round+1)}
		if err := doInChild(ctx, job, &r); err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		if r.ExitCode != seal.ExitProven || r.Records != uint64(records) {
			return nil, fmt.Errorf("verify: of %d records %d were verified, exit code %d:\n%s", records, r.Records, r.ExitCode, strings.Join(r.Findings, "\n"))
		}
		l.verify = append(l.verify, r)
	}
	if l.start, err = benchStart(ctx, s, dir, perEntry); err != nil {
		return nil, fmt.Errorf("start %w", err)
	}
	return l, os.RemoveAll(dir)
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
	report, err := seal.Verify(context.Background(), filepath.Join(job.Dir, "store"), seal.VerifyOptions{Trust: trust, Auditor: &auditor, AsOf: job.AsOf})
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

// writeLog writes and closes a log of n records, perEntry in each request and
// entry, without waiting for the disk.
func writeLog(ctx context.Context, dir string, n, perEntry int) error {
	w, err := openWriter(dir, unsynced{seal.OS})
	if err != nil {
		return err
	}
	writers := 1 // of small requests only one: others would share its entries
	if perEntry == aloneRecords {
		writers = 4
	}
	var requests atomic.Int64
	requests.Store(int64(n / perEntry))
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			src, err := newSource(uint64(i), perEntry)
			for err == nil && requests.Add(-1) >= 0 {
				err = w.Append(ctx, seal.SignalLogs, src.request())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), w.Close(ctx))
}

// unsynced is a file system that promises nothing.
type unsynced struct{ seal.FS }

func (u unsynced) OpenFile(name string, flag int, perm fs.FileMode) (seal.File, error) {
	f, err := u.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

func (unsynced) SyncDir(string) error { return nil }

type unsyncedFile struct{ seal.File }

func (unsyncedFile) Sync() error { return nil }

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
