package main

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
)

// report is all that was measured.
type report struct {
	machine machine
	receive []received
	alone   aloneResult
	decode  []decoded
	held    []held
	lag     *lagResult
	long    *longLog // many records in each entry
	small   *longLog // one
	others  float64  // part of the machine's CPU time that others used meanwhile
}

func (r *report) write(out io.Writer) error {
	var b bytes.Buffer
	r.writeMachine(&b)
	r.writeReceive(&b)
	r.writeAlone(&b)
	r.writeDecode(&b)
	r.writeHeld(&b)
	r.writeLag(&b)
	r.writeLogs(&b)
	r.writeTargets(&b)
	_, err := out.Write(b.Bytes())
	return err
}

func (r *report) writeMachine(b *bytes.Buffer) {
	m := &r.machine
	fmt.Fprintf(b, "# meshaudit beside the alternatives\n\n")
	fmt.Fprintf(b, "- %s, %d CPUs, %.0f GiB, %s, %s\n", m.cpu, runtime.NumCPU(), float64(m.memoryBytes)/(1<<30), m.kernel, runtime.Version())
	fmt.Fprintf(b, "- 4 KiB written and synced: p50 %s, p99 %s\n", duration(m.fsync[0]), duration(m.fsync[1]))
	fmt.Fprintf(b, "- %s\n", strings.Join(m.versions, ", "))
	if r.others >= 0 {
		fmt.Fprintf(b, "- %s; others used %.0f%% of the CPU time meanwhile\n", m.date.Format(time.DateTime+" MST"), 100*r.others)
	}
}

func (r *report) writeReceive(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## OTLP/gRPC to disk\n\nSenders × records in a request; `sealed_log` is synced and signed before it is acknowledged, `file` is neither; `stored` is a record's share of the disk. Medians of the rounds.\n\n")
	fmt.Fprintf(b, "| load | exporter | records/s | of `file` | requests/s | CPU a record | p50 | p99 | stored |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for i := range r.receive {
		rec := &r.receive[i]
		for _, e := range exporters {
			m := func(number func(*outcome) float64) float64 { return rec.median(e, number) }
			fmt.Fprintf(b, "| %s | %s | %.0f | %.2f | %.0f | %.2f µs | %s | %s | %.0f B |\n", rec.load, e,
				m((*outcome).recordsPerSecond), median(rec.ratios(e, file)), m((*outcome).requestsPerSecond),
				1e6*m((*outcome).cpuPerRecord), seconds(m(func(o *outcome) float64 { return o.percentile(0.5) })),
				seconds(m(func(o *outcome) float64 { return o.percentile(0.99) })), m((*outcome).bytesPerRecord))
		}
	}
}

func (r *report) writeAlone(b *bytes.Buffer) {
	a := &r.alone
	fmt.Fprintf(b, "\n## Sealing against signing\n\nOne core, %d records of %.0f bytes a request.\n\n", aloneRecords, a.Bytes)
	fmt.Fprintf(b, "| a record | CPU, median | least | elapsed | of sealing |\n|---|--:|--:|--:|--:|\n")
	for _, row := range []struct {
		name string
		cost cost
	}{
		{"sealed: marshal, hash, tree, filter, compress, sign the commit", a.Seal},
		{"RFC 8785 JSON, HMAC-SHA256", a.HMAC},
		{"RFC 8785 JSON, Ed25519", a.Ed25519},
	} {
		fmt.Fprintf(b, "| %s | %.2f µs | %.2f µs | %.2f µs | %.1f × |\n", row.name, row.cost.CPU/1e3, row.cost.Least/1e3, row.cost.Wall/1e3, row.cost.CPU/a.Seal.CPU)
	}
	fmt.Fprintf(b, "\nOf sealing, by a CPU profile:")
	for i, p := range a.Parts {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(b, " %s %.2f µs", p.Name, p.Share*a.Seal.CPU/1e3)
	}
	b.WriteString(".\n")
}

func (r *report) writeLogs(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## verify\n\nWith the auditor's key, on %d cores, from the page cache.\n\n", r.long.best().Processors)
	fmt.Fprintf(b, "| log | round | records/s | took | CPU a record | peak memory |\n|---|--:|--:|--:|--:|--:|\n")
	for _, l := range []*longLog{r.long, r.small} {
		for i := range l.verify {
			o := &l.verify[i]
			fmt.Fprintf(b, "| %s | %d | %.0f | %s | %.2f µs | %.0f MiB |\n", l, i+1, o.perSecond(), duration(o.Took),
				o.CPU.Seconds()*1e6/float64(o.Records), float64(o.PeakBytes)/(1<<20))
		}
	}
	fmt.Fprintf(b, "\n## Start\n\nUntil the first record is acknowledged, from the page cache. Medians of the rounds.\n\n")
	fmt.Fprintf(b, "| log | start | took | CPU | peak memory |\n|---|---|--:|--:|--:|\n")
	for _, l := range []*longLog{r.long, r.small} {
		for i := range l.start {
			c := &l.start[i]
			fmt.Fprintf(b, "| %s | %s | %s | %s | %.0f MiB |\n", l, c.name, seconds(c.took()),
				seconds(median(c.of(func(r *startResult) float64 { return r.CPU.Seconds() }))),
				median(c.of(func(r *startResult) float64 { return float64(r.PeakBytes) }))/(1<<20))
		}
	}
}

func (l *longLog) String() string {
	return fmt.Sprintf("%d records, %d an entry, %.0f MB", l.records, l.perEntry, float64(l.bytes)/1e6)
}

// writeTargets says of each target whether it was reached here.
func (r *report) writeTargets(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## Targets\n\n| target | measured | reached |\n|---|---|---|\n")
	line := func(target string, reached bool, format string, args ...any) {
		yes := map[bool]string{true: "yes", false: "**no**"}[reached]
		fmt.Fprintf(b, "| %s | %s | %s |\n", target, fmt.Sprintf(format, args...), yes)
	}
	a := &r.alone
	line("sealing ≤ 3 µs a record on one core", a.Seal.CPU <= 3000, "%.2f µs (least %.2f)", a.Seal.CPU/1e3, a.Seal.Least/1e3)
	line("≥ 15 × faster than JSON and HMAC", a.HMAC.CPU >= 15*a.Seal.CPU, "%.1f × (least %.1f)", a.HMAC.CPU/a.Seal.CPU, a.HMAC.Least/a.Seal.Least)
	if rec := r.of(load{8, 1000}); rec != nil {
		of := rec.ratios(sealedLog, file)
		line("8 × 1000: ≥ 0.8 × `file`", median(of) >= 0.8, "%.2f × (rounds: %.2f)", median(of), of)
	}
	if rec := r.of(load{64, 1}); rec != nil {
		rate := rec.median(sealedLog, (*outcome).requestsPerSecond)
		line("64 × 1: ≥ 5000 acknowledged requests/s", rate >= 5000, "%.0f", rate)
		batch, plain := median(rec.ratios(sealedLog, queuedBatch)), median(rec.ratios(sealedLog, queued))
		line("64 × 1: ≥ 10 × a batching queue with `wait_for_result`", batch >= 10, "%.1f × (without batching %.1f ×)", batch, plain)
	}
	for i := range r.held {
		h := &r.held[i]
		if h.scarce {
			continue
		}
		cpu, heap := h.cpu(groupbytrace)/h.cpu(meshaudit), h.heap(groupbytrace)/h.heap(meshaudit)
		line(fmt.Sprintf("%d spans pending: faster and smaller than `groupbytrace`", h.pending), cpu > 1 && heap > 1, "%.2f ×, %.1f ×", cpu, heap)
		line(fmt.Sprintf("%d spans pending: ≤ 700 bytes each", h.pending), h.heap(meshaudit) <= 700, "%.0f", h.heap(meshaudit))
	}
	worst := max(r.lag.Complete.P99, r.lag.Partial.P99)
	line("p99 from last piece to sealed record ≤ window + 1 s, at 70% load", worst <= r.lag.Window+time.Second, "%s, window %v", duration(worst), r.lag.Window)
	l := r.long
	best := l.best()
	line("verify ≥ 1 000 000 records/s", best.perSecond() >= 1_000_000, "%.0f (its CPU time would allow %.0f)", best.perSecond(), best.allowed())
	peak := max(l.peak(), r.small.peak())
	line("verify ≤ 64 MiB", peak <= 64<<20 && peak > 0, "%.0f MiB", float64(peak)/(1<<20))
	for i := range l.start {
		c := &l.start[i]
		limit := map[bool]float64{false: 1, true: 30}[c.noTiles]
		line(fmt.Sprintf("start %s < %.0f s", c.name, limit), c.took() < limit, "%s, on %d records", seconds(c.took()), l.records)
	}
}

func (r *report) of(l load) *received {
	for i := range r.receive {
		if r.receive[i].load == l {
			return &r.receive[i]
		}
	}
	return nil
}

func seconds(s float64) string { return duration(time.Duration(s * float64(time.Second))) }

// duration with three digits.
func duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func (r *report) writeHeld(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## Holding spans\n\nThe same spans, 20 000 a second, held for the same time. `meshaudit` also redacts and names each, passes it on, and makes a record of each call; "+
		"`groupbytrace` holds and hands on. CPU while as many leave as come, without decoding. Medians of the rounds.\n\n")
	fmt.Fprintf(b, "| pending spans | `meshaudit`, CPU a span | `groupbytrace` | ratio | `meshaudit`, heap a pending span | `groupbytrace` | ratio |\n|--:|--:|--:|--:|--:|--:|--:|\n")
	for i := range r.held {
		h := &r.held[i]
		if h.scarce {
			fmt.Fprintf(b, "| %d | too little memory was free | | | | | |\n", h.pending)
			continue
		}
		fmt.Fprintf(b, "| %d | %.2f µs | %.2f µs | %.2f × | %.0f B | %.0f B | %.1f × |\n", h.pending,
			1e6*h.cpu(meshaudit), 1e6*h.cpu(groupbytrace), h.cpu(groupbytrace)/h.cpu(meshaudit),
			h.heap(meshaudit), h.heap(groupbytrace), h.heap(groupbytrace)/h.heap(meshaudit))
	}
}

func (r *report) writeLag(b *bytes.Buffer) {
	l := r.lag
	fmt.Fprintf(b, "\n## Lag\n\nFrom an action's last piece of evidence to its record, sealed and synced. At %.0f pieces/s, %.0f%% of the most (%.0f pieces/s), %.2f cores.\n\n",
		l.Rate, 100*l.Rate/l.Most, l.Most, l.CPU)
	fmt.Fprintf(b, "| records | | p50 | p99 | most |\n|---|--:|--:|--:|--:|\n")
	fmt.Fprintf(b, "| complete | %d | %s | %s | %s |\n", l.Complete.Records, duration(l.Complete.P50), duration(l.Complete.P99), duration(l.Complete.Max))
	fmt.Fprintf(b, "| partial: the called side never reports | %d | %s | %s | %s |\n", l.Partial.Records, duration(l.Partial.P50), duration(l.Partial.P99), duration(l.Partial.Max))
}
