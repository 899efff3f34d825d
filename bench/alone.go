package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/seal"
)

// Sealing and signing alone: the same records, on one core, without a network
// and without a disk.

// aloneRecords is the number of records in a request.
const aloneRecords = 1000

// cost is per record, in nanoseconds: of many short turns the median and, for
// CPU, also the least, which other processes disturbed least.
type cost struct{ CPU, Wall, Least float64 }

// part is a share of the CPU time of sealing, 0 to 1.
type part struct {
	Name  string
	Share float64
}

type aloneResult struct {
	Bytes         float64 // a record, encoded, its share of resource and scope included
	Seal          cost
	HMAC, Ed25519 cost
	Parts         []part
}

// benchAlone measures in a child with one processor, garbage collection
// included.
func benchAlone(ctx context.Context, s settings) (r aloneResult, err error) {
	progress("sealing and signing on one core")
	err = doInChild(ctx, task{Role: "alone", Dir: s.dir, For: s.alone, Profile: s.profileFile("seal")}, &r, "GOMAXPROCS=1")
	return r, err
}

// alone is what the child does.
func alone(job task) (*aloneResult, error) {
	rng := rand.New(rand.NewPCG(1, 2))
	requests := make([]plog.Logs, 16)
	var r aloneResult
	for i := range requests {
		requests[i] = newRequest(rng, aloneRecords)
		b, err := new(plog.ProtoMarshaler).MarshalLogs(requests[i])
		if err != nil {
			return nil, err
		}
		r.Bytes += float64(len(b)) / aloneRecords / float64(len(requests))
	}
	w, err := openSealer(filepath.Join(job.Dir, "alone"))
	if err != nil {
		return nil, err
	}
	seal := func(ld plog.Logs) error {
		b, err := new(plog.ProtoMarshaler).MarshalLogs(ld)
		if err != nil {
			return err
		}
		return w.Append(context.Background(), seal.SignalLogs, b)
	}
	ed, err := newEd25519Signer()
	if err != nil {
		return nil, err
	}
	hmac := newHMACSigner()
	signHMAC := func(ld plog.Logs) error { return signRecords(ld, hmac) }
	signEd25519 := func(ld plog.Logs) error { return signRecords(ld, ed) }

	// In turns, so that what else the machine does meets all of them.
	costs := []*cost{&r.Seal, &r.HMAC, &r.Ed25519}
	cpu, wall := make([][]float64, len(costs)), make([][]float64, len(costs))
	for range max(3, int(job.For/turn)) {
		for i, do := range []func(plog.Logs) error{seal, signHMAC, signEd25519} {
			c, w, err := measure(requests, do, turn)
			if err != nil {
				return nil, err
			}
			cpu[i], wall[i] = append(cpu[i], c), append(wall[i], w)
		}
	}
	for i, c := range costs {
		*c = cost{median(cpu[i]), median(wall[i]), slices.Min(cpu[i])}
	}

	var cpuProfile bytes.Buffer
	if err := pprof.StartCPUProfile(&cpuProfile); err != nil {
		return nil, err
	}
	_, _, err = measure(requests, seal, max(job.For, time.Second))
	pprof.StopCPUProfile()
	if err != nil {
		return nil, err
	}
	if job.Profile != "" {
		if err := os.WriteFile(job.Profile, cpuProfile.Bytes(), 0o644); err != nil {
			return nil, err
		}
	}
	r.Parts, err = partsOf(&cpuProfile)
	return &r, errors.Join(err, w.Close(context.Background()))
}

// turn is how long one of them is measured before the next.
const turn = 100 * time.Millisecond

// measure does something to one request after the other and gives CPU time and
// elapsed time, nanoseconds a record.
func measure(requests []plog.Logs, do func(plog.Logs) error, d time.Duration) (cpu, wall float64, err error) {
	runtime.GC()                            // nobody sweeps another's garbage
	if err := do(requests[0]); err != nil { // buffers have grown
		return 0, 0, err
	}
	begin, used := time.Now(), cpuTime()
	n := 0
	for ; time.Since(begin) < d; n++ {
		if err := do(requests[n%len(requests)]); err != nil {
			return 0, 0, err
		}
	}
	records := float64(n * aloneRecords)
	return float64(cpuTime()-used) / records, float64(time.Since(begin)) / records, nil
}

// openSealer opens a writer whose commits go nowhere: all of sealing but the
// disk, the signature of each commit included.
func openSealer(dir string) (*seal.Writer, error) {
	return openWriter(dir, nowhere{seal.OS})
}

// openWriter makes keys in dir, and opens a writer of a new log beside them.
func openWriter(dir string, fsys seal.FS) (*seal.Writer, error) {
	if _, err := seal.CreateTrialKeys(filepath.Join(dir, "keys"), origin); err != nil {
		return nil, err
	}
	cfg, err := writerConfig(dir, fsys)
	if err != nil {
		return nil, err
	}
	return seal.Open(cfg)
}

func writerConfig(dir string, fsys seal.FS) (cfg seal.Config, err error) {
	keys := filepath.Join(dir, "keys")
	log, err := seal.ReadLogKey(filepath.Join(keys, seal.LogKeyFile))
	if err != nil {
		return cfg, err
	}
	auditor, err := seal.ReadRecipient(filepath.Join(keys, seal.AuditorPubFile))
	if err != nil {
		return cfg, err
	}
	return seal.Config{
		Root: filepath.Join(dir, "store"), Origin: origin, LogKey: log,
		Chain:    seal.ChainFile{FS: seal.OS, Path: filepath.Join(keys, seal.ChainKeyFile)},
		Auditors: []seal.Recipient{auditor},
		FS:       fsys,
	}, nil
}

// nowhere is a file system that forgets what is written to segments.
type nowhere struct{ seal.FS }

func (n nowhere) OpenFile(name string, flag int, perm fs.FileMode) (seal.File, error) {
	f, err := n.FS.OpenFile(name, flag, perm)
	if err == nil && strings.HasSuffix(name, ".seal") {
		f = forgetful{f}
	}
	return f, err
}

type forgetful struct{ seal.File }

func (forgetful) Write(b []byte) (int, error) { return len(b), nil }
func (forgetful) Sync() error                 { return nil }

// The parts of sealing and the functions that do them; where one calls another
// the time is the inner one's.
var sealingParts = []struct {
	name  string
	calls []string
}{
	{"marshal", []string{"plog.(*ProtoMarshaler).MarshalLogs"}},
	{"hash, tree", []string{"seal.(*batchHasher).leafHash", "seal.(*batchHasher).root", "seal.(*reported).context", "seal.(*saltStream).next", "seal.newSaltStream"}},
	{"filter, times", []string{"seal.(*index).add", "seal.(*filterBuilder).append"}},
	{"scan", []string{"seal.scanScopes"}},
	{"compress", []string{"zstd.(*Encoder).EncodeAll"}},
	{"commit, sign", []string{"seal.(*Writer).commit"}},
}

// partsOf divides a CPU profile of sealing among its parts.
func partsOf(r *bytes.Buffer) ([]part, error) {
	p, err := profile.Parse(r)
	if err != nil {
		return nil, err
	}
	parts := make([]part, len(sealingParts)+1)
	for i := range sealingParts {
		parts[i].Name = sealingParts[i].name
	}
	parts[len(sealingParts)].Name = "rest (memory, scheduler)"
	var all float64
	for _, s := range p.Sample {
		v := float64(s.Value[len(s.Value)-1])
		all += v
		parts[partOf(s)].Share += v
	}
	for i := range parts {
		parts[i].Share /= all
	}
	return parts, nil
}

// partOf finds the innermost call that names a part.
func partOf(s *profile.Sample) int {
	for _, l := range s.Location {
		for _, line := range l.Line { // innermost first, as the locations are
			for part := range sealingParts {
				for _, call := range sealingParts[part].calls {
					if strings.HasSuffix(line.Function.Name, call) {
						return part
					}
				}
			}
		}
	}
	return len(sealingParts)
}
