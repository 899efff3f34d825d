package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

// machine is what the numbers depend on.
type machine struct {
	cpu, kernel string
	memoryBytes int64
	fsync       [2]time.Duration // p50 and p99 of 4 KiB written and synced
	versions    []string
	date        time.Time
}

func describeMachine(dir string) (m machine, err error) {
	m = machine{cpu: runtime.GOARCH, kernel: runtime.GOOS, date: time.Now().UTC()}
	if v := lineOf("/proc/cpuinfo", "model name"); v != "" {
		m.cpu = v
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.kernel += " " + strings.TrimSpace(string(b))
	}
	var kib int64
	if _, err := fmt.Sscanf(lineOf("/proc/meminfo", "MemTotal"), "%d kB", &kib); err == nil {
		m.memoryBytes = kib << 10
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if strings.HasSuffix(d.Path, "/otlpreceiver") || strings.HasSuffix(d.Path, "/fileexporter") || strings.HasSuffix(d.Path, "/jcs") {
				m.versions = append(m.versions, filepath.Base(d.Path)+" "+d.Version)
			}
		}
	}
	m.fsync, err = measureFsync(dir)
	return m, err
}

// memoryAvailable is what a new process could take, in bytes; 0 if unknown.
func memoryAvailable() int64 {
	var kib int64
	if _, err := fmt.Sscanf(lineOf("/proc/meminfo", "MemAvailable"), "%d kB", &kib); err != nil {
		return 0
	}
	return kib << 10
}

// lineOf is what a line of a file in /proc says; empty where there is none.
func lineOf(name, key string) string {
	b, _ := os.ReadFile(name)
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// measureFsync says what a durable acknowledgement costs at least: on a file
// system in memory, next to nothing.
func measureFsync(dir string) (p [2]time.Duration, err error) {
	f, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return p, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	took := make([]time.Duration, 100)
	for i := range took {
		begin := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return p, err
		}
		if err := f.Sync(); err != nil {
			return p, err
		}
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return [2]time.Duration{took[50], took[99]}, nil
}

// busy is CPU time used up to a moment: by the whole machine, and by this
// process and its children that have ended.
type busy struct {
	all, own time.Duration
	at       time.Time
	known    bool
}

func readBusy() busy {
	b := busy{at: time.Now()}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return b
	}
	// In hundredths of a second: user, nice, system, idle, iowait, irq,
	// softirq, steal.
	var t [8]int64
	if _, err := fmt.Sscanf(string(stat), "cpu %d %d %d %d %d %d %d %d", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]); err != nil {
		return b
	}
	b.all = time.Duration(t[0]+t[1]+t[2]+t[5]+t[6]+t[7]) * (time.Second / 100)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) != nil {
			return b
		}
		b.own += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.known = true
	return b
}

// othersSince is which part of the machine's CPU time others have used since:
// 0 to 1, or below 0 if it cannot be told.
func (b busy) othersSince(before busy) float64 {
	if !b.known || !before.known {
		return -1
	}
	others := (b.all - before.all) - (b.own - before.own)
	return max(0, others.Seconds()) / (b.at.Sub(before.at).Seconds() * float64(runtime.NumCPU()))
}
