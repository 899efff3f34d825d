// Command bench measures meshaudit beside the real alternatives, in one run,
// and prints the numbers and their ratios as Markdown. README.md says what is
// measured and how. It never fails for being slow; it fails if something did
// not work, an acknowledged record that is not in the log included.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

// settings are what the flags say.
type settings struct {
	dir     string        // where what is measured is stored; removed afterwards
	profile string        // directory for CPU profiles; empty: none
	rounds  int           // how often each measurement is repeated, taking turns
	warm    time.Duration // load before a measurement, not counted
	window  time.Duration // one measurement
	loads   []load        // of the receiver
	alone   time.Duration // how long sealing and signing alone are measured
	records int           // in the log that is verified and started on
	entries int           // of one record each, in another such log
	pending []int         // spans that wait
	held    time.Duration // how long that is measured, at least
	lag     time.Duration // how long records' lag is measured

	lagWindow time.Duration // the processor's meanwhile
}

func defaults() settings {
	return settings{
		rounds: 3, warm: 500 * time.Millisecond, window: 1500 * time.Millisecond,
		loads: []load{{1, 1000}, {8, 1000}, {64, 1000}, {1, 1}, {8, 1}, {64, 1}},
		alone: 3 * time.Second, records: 10_000_000, entries: 100_000,
		pending: []int{10_000, 100_000, 1_000_000}, held: 10 * time.Second, lag: time.Minute, lagWindow: 10 * time.Second,
	}
}

// short is for finding out whether the benchmark still works.
func (s *settings) short() {
	s.rounds, s.warm, s.window = 1, 200*time.Millisecond, 500*time.Millisecond
	s.loads = []load{{8, 1000}, {64, 1}}
	s.alone, s.records, s.entries = 500*time.Millisecond, 200_000, 5_000
	s.pending, s.held, s.lag = []int{10_000}, 3*time.Second, 3*time.Second
}

func main() {
	if serveAsChild() {
		return
	}
	s := defaults()
	short := flag.Bool("short", false, "a few seconds, for finding out whether the benchmark works: its numbers mean little")
	dir := flag.String("dir", ".", "directory on the disk to measure on; a directory is made in it and removed")
	flag.StringVar(&s.profile, "profile", "", "directory for a CPU profile of each measured process")
	flag.IntVar(&s.records, "records", s.records, "records in the log that is verified and started on, 1000 an entry")
	flag.IntVar(&s.entries, "entries", s.entries, "entries in another such log, of one record each")
	flag.Parse()
	if *short {
		s.short()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := runIn(ctx, *dir, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runIn runs the benchmark in a new directory below parent.
func runIn(ctx context.Context, parent string, s settings, out io.Writer) (err error) {
	if s.dir, err = os.MkdirTemp(parent, "store-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if s.profile != "" {
		if err := os.MkdirAll(s.profile, 0o755); err != nil {
			return err
		}
	}
	return run(ctx, s, out)
}

func run(ctx context.Context, s settings, out io.Writer) error {
	m, err := describeMachine(s.dir)
	if err != nil {
		return err
	}
	r := &report{machine: m}
	before := readBusy()

	if r.receive, err = benchReceive(ctx, s); err != nil {
		return fmt.Errorf("receiver and exporter: %w", err)
	}
	if r.alone, err = benchAlone(ctx, s); err != nil {
		return fmt.Errorf("sealing against signing: %w", err)
	}
	if r.decode, err = benchDecode(ctx, s); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if r.held, err = benchHold(ctx, s); err != nil {
		return fmt.Errorf("holding spans: %w", err)
	}
	if r.lag, err = benchLag(ctx, s); err != nil {
		return fmt.Errorf("lag: %w", err)
	}
	if r.long, err = benchLog(ctx, s, s.records, aloneRecords); err != nil {
		return err
	}
	if r.small, err = benchLog(ctx, s, s.entries, 1); err != nil {
		return err
	}
	r.others = readBusy().othersSince(before)
	return r.write(out)
}

// progress is for whoever waits; the report is on standard output.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
