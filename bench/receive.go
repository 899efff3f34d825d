package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter"
	"github.com/meshaudit/meshaudit/seal"
)

// The exporters that are compared.
const (
	sealedLog   = "sealed_log"
	file        = "file"
	queued      = "sealed_log, queue"
	queuedBatch = "sealed_log, queue, batch"
)

var exporters = []string{sealedLog, file, queued, queuedBatch}

const origin = "example.org/meshaudit/bench"

// received are the outcomes of one load, by exporter, one for each round.
type received struct {
	load     load
	outcomes map[string][]outcome
}

// median is a number's median over an exporter's rounds.
func (r *received) median(exporter string, number func(*outcome) float64) float64 {
	var of []float64
	for i := range r.outcomes[exporter] {
		of = append(of, number(&r.outcomes[exporter][i]))
	}
	return median(of)
}

// ratios are those of two exporters' throughput, round by round: the two were
// measured shortly after each other.
func (r *received) ratios(a, b string) (of []float64) {
	for i := range r.outcomes[a] {
		of = append(of, float64(r.outcomes[a][i].Requests)/float64(max(1, r.outcomes[b][i].Requests)))
	}
	return of
}

func median(of []float64) float64 {
	s := slices.Sorted(slices.Values(of))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// benchReceive measures OTLP/gRPC → exporter. The exporters take turns, so that
// what else the machine does meets all of them.
func benchReceive(ctx context.Context, s settings) ([]received, error) {
	var all []received
	for _, l := range s.loads {
		r := received{l, map[string][]outcome{}}
		for round := range s.rounds {
			for _, e := range exporters {
				progress("%s, %s records, round %d", e, l, round+1)
				o, err := benchExporter(ctx, s, e, l)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", e, l, err)
				}
				r.outcomes[e] = append(r.outcomes[e], o)
			}
		}
		all = append(all, r)
	}
	return all, nil
}

func benchExporter(ctx context.Context, s settings, name string, l load) (o outcome, err error) {
	dir, err := os.MkdirTemp(s.dir, "receive-")
	if err != nil {
		return o, err
	}
	// What is removed need not be written back while the next one is measured.
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := startChild(ctx, task{
		Role: "receive", Exporter: name, Dir: dir,
		Profile: s.profileFile("receive", name, l.senders, l.records),
	})
	if err != nil {
		return o, err
	}
	var address string
	if err := c.ask("", &address); err != nil {
		return o, errors.Join(err, c.end())
	}
	o, err = send(ctx, address, l, s.warm, s.window, func() (used time.Duration, err error) {
		err = c.ask("usage", &used)
		return used, err
	})
	if err = errors.Join(err, c.end()); err != nil {
		return o, err
	}
	store := filepath.Join(dir, "store")
	if o.Stored, err = treeBytes(store); err != nil || name == file {
		return o, err
	}
	sealed, err := countSealed(ctx, store)
	if err == nil && sealed != o.Sent {
		err = fmt.Errorf("%d records were acknowledged, %d are in the log", o.Sent, sealed)
	}
	return o, err
}

// countSealed counts the records in a store, by its entries' headers.
func countSealed(ctx context.Context, store string) (n int, err error) {
	l, err := seal.OpenLog(store, origin)
	if err != nil {
		return 0, err
	}
	onlyHeaders := func(*seal.Header) bool { return true }
	err = l.Entries(ctx, onlyHeaders, func(e *seal.Entry) error {
		n += int(e.Records)
		return nil
	})
	return n, err
}

// receive is a collector's pipeline, the OTLP receiver and one exporter, for
// as long as the parent asks for its usage.
func receive(job task, t *talk) (err error) {
	ctx := context.Background()
	log, err := zap.NewProduction(zap.IncreaseLevel(zap.ErrorLevel))
	if err != nil {
		return err
	}
	set := componenttest.NewNopTelemetrySettings()
	set.Logger = log
	host := componenttest.NewNopHost()
	exp, err := newExporter(ctx, job, set)
	if err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	rec, err := newReceiver(ctx, address, set, exp)
	if err != nil {
		return err
	}
	if err := exp.Start(ctx, host); err != nil {
		return t.reply(nil, err)
	}
	defer func() { err = errors.Join(err, exp.Shutdown(ctx)) }()
	if err := rec.Start(ctx, host); err != nil {
		return t.reply(nil, err)
	}
	defer func() { err = errors.Join(err, rec.Shutdown(ctx)) }()
	if err := t.reply(address, nil); err != nil {
		return err
	}
	for {
		if _, err := t.heard(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := t.reply(cpuTime(), nil); err != nil {
			return err
		}
	}
}

// freeAddress is one that nobody listens on at this moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// configure gives a factory's configuration with the given settings, as the
// collector makes it of its file.
func configure(cfg component.Config, settings map[string]any) (component.Config, error) {
	if err := confmap.NewFromStringMap(settings).Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, confmap.Validate(cfg)
}

func newReceiver(ctx context.Context, address string, ts component.TelemetrySettings, next exporter.Logs) (receiver.Logs, error) {
	f := otlpreceiver.NewFactory()
	cfg, err := configure(f.CreateDefaultConfig(), map[string]any{
		"protocols": map[string]any{"grpc": map[string]any{"endpoint": address}},
	})
	if err != nil {
		return nil, err
	}
	return f.CreateLogs(ctx, receiver.Settings{ID: component.NewID(f.Type()), TelemetrySettings: ts}, cfg, next)
}

func newExporter(ctx context.Context, job task, ts component.TelemetrySettings) (exporter.Logs, error) {
	if job.Exporter == file {
		f := fileexporter.NewFactory()
		cfg, err := configure(f.CreateDefaultConfig(), map[string]any{
			"path": filepath.Join(job.Dir, "store", "logs"), "create_directory": true, "format": "proto", "compression": "zstd",
		})
		if err != nil {
			return nil, err
		}
		return f.CreateLogs(ctx, exporter.Settings{ID: component.NewID(f.Type()), TelemetrySettings: ts}, cfg)
	}
	f := sealedlogexporter.NewFactory()
	cfg, err := configure(f.CreateDefaultConfig(), map[string]any{
		"directory": filepath.Join(job.Dir, "store"), "origin": origin, "keys": map[string]any{"create": true},
	})
	if err != nil {
		return nil, err
	}
	set := exporter.Settings{ID: component.NewID(f.Type()), TelemetrySettings: ts}
	exp, err := f.CreateLogs(ctx, set, cfg)
	if err != nil || job.Exporter == sealedLog {
		return exp, err
	}
	return behindQueue(ctx, set, cfg, exp, job.Exporter == queuedBatch)
}

// behindQueue puts the collector's own sending queue in front of an exporter,
// with its defaults and `wait_for_result`, the only way in which it does not
// acknowledge before the export; `batch: {}` for batching.
func behindQueue(ctx context.Context, set exporter.Settings, cfg component.Config, exp exporter.Logs, batch bool) (exporter.Logs, error) {
	q := exporterhelper.NewDefaultQueueConfig()
	q.WaitForResult = true
	if batch {
		q.Batch = configoptional.Some(*q.Batch.GetOrInsertDefault())
	}
	return exporterhelper.NewLogs(ctx, set, cfg, exp.ConsumeLogs,
		exporterhelper.WithQueue(configoptional.Some(q)),
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{Timeout: 0}),
		exporterhelper.WithCapabilities(exp.Capabilities()),
		exporterhelper.WithStart(exp.Start),
		exporterhelper.WithShutdown(exp.Shutdown))
}
