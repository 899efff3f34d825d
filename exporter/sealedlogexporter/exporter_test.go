package sealedlogexporter

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter/internal/metadata"
	"github.com/meshaudit/meshaudit/exporter/sealedlogexporter/internal/metadatatest"
	"github.com/meshaudit/meshaudit/internal/erasure"
	"github.com/meshaudit/meshaudit/seal"
)

func TestConfig(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	load := func(name string) *Config {
		cfg := createDefaultConfig()
		sub, err := conf.Sub(name)
		require.NoError(t, err)
		require.NoError(t, sub.Unmarshal(cfg))
		return cfg
	}

	cfg := load("sealed_log")
	require.NoError(t, cfg.Validate())
	want := createDefaultConfig()
	want.Directory = "/var/lib/meshaudit/store"
	assert.Equal(t, want, cfg)
	assert.Equal(t, "/var/lib/meshaudit/keys", cfg.keysDirectory())

	cfg = load("sealed_log/full")
	require.NoError(t, cfg.Validate())
	assert.Equal(t, &Config{
		Directory: "/var/lib/meshaudit/store", Origin: "example.org/meshaudit/edge-0", Heartbeat: 30 * time.Second,
		SPIFFE:      SPIFFEConfig{WorkloadAPI: "unix:///run/spire/agent.sock"},
		Timestamps:  TimestampsConfig{confighttp.ClientConfig{Endpoint: "https://tsa.example.org"}, 30 * time.Minute},
		EpochMaxAge: 12 * time.Hour, Retention: RetentionConfig{MaxAge: 400 * 24 * time.Hour, MaxBytes: 1 << 40},
		SegmentMaxBytes: 16 << 20, MaxPendingBytes: 32 << 20, OnDamagedTail: "quarantine", EraseRequests: "/run/meshaudit/erase",
		Witnesses: WitnessesConfig{Quorum: 1, Ack: "witnessed", Timeout: 2 * time.Second, List: []WitnessConfig{{
			VerifierKey:  "example.org/witness/a+058a9c34+BIEqPIZ7I6b7UTocchjG0kJG0mfYh5tYpqvXJiI9lZ7q",
			ClientConfig: confighttp.ClientConfig{Endpoint: "https://witness.example.org"}}}},
		Keys: KeysConfig{
			Directory: "/etc/meshaudit/keys", LogKey: "/run/secrets/meshaudit/log.key",
			Chain: "kept", ChainKey: "/run/secrets/meshaudit/chain.key", ChainState: "/var/lib/meshaudit/chain.key",
			Auditors: []string{"/etc/meshaudit/auditors/a.pub", "/etc/meshaudit/auditors/b.pub"},
		},
	}, cfg)

	err = load("sealed_log/wrong").Validate()
	for _, setting := range []string{"`directory`", "`origin`", "`heartbeat`", "`segment_max_bytes`", "`epoch_max_age`", "`retention::max_age`", "`retention::max_bytes`", "`on_damaged_tail`", "`keys::create`", "`keys::chain` must be", "`spiffe::workload_api`", "`timestamps::every`", "`timestamps::endpoint`", "`witnesses::ack`", "`witnesses::timeout`", "`witnesses::list[0]`", "`witnesses::list[0]::endpoint`"} {
		assert.ErrorContains(t, err, setting, "every fault is reported at once")
	}
}

// testConfig is a configuration that works, on a fresh directory.
func testConfig(t *testing.T) *Config {
	cfg := createDefaultConfig()
	cfg.Directory = filepath.Join(t.TempDir(), "run", "store")
	cfg.Origin = "example.org/test"
	cfg.Keys.Create = true
	return cfg
}

func start(t *testing.T, f exporter.Factory, cfg *Config) (exporter.Logs, exporter.Traces, exporter.Metrics) {
	t.Helper()
	ctx, set := context.Background(), exportertest.NewNopSettings(metadata.Type)
	l, err := f.CreateLogs(ctx, set, cfg)
	require.NoError(t, err)
	tr, err := f.CreateTraces(ctx, set, cfg)
	require.NoError(t, err)
	m, err := f.CreateMetrics(ctx, set, cfg)
	require.NoError(t, err)
	for _, c := range []component.Component{l, tr, m} {
		require.NoError(t, c.Start(ctx, componenttest.NewNopHost()))
	}
	return l, tr, m
}

func logs(n int) plog.Logs {
	d := plog.NewLogs()
	s := d.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	for range n {
		s.LogRecords().AppendEmpty().Body().SetStr("x")
	}
	return d
}

func verify(t *testing.T, cfg *Config) *seal.Report {
	t.Helper()
	trust, err := seal.ReadTrust(filepath.Join(cfg.keysDirectory(), seal.TrustFile))
	require.NoError(t, err)
	key, err := seal.ReadAuditorKey(filepath.Join(cfg.keysDirectory(), seal.AuditorKeyFile))
	require.NoError(t, err)
	report, err := seal.Verify(context.Background(), cfg.Directory, seal.VerifyOptions{Trust: trust, Auditor: &key})
	require.NoError(t, err)
	return report
}

// The three signals of one component share one log, closed by the last of
// them, in any order; shutting down twice or unstarted does no harm.
func TestLifecycle(t *testing.T) {
	cfg, f, ctx := testConfig(t), NewFactory(), context.Background()
	for range 2 {
		l, tr, m := start(t, f, cfg)
		require.NoError(t, l.ConsumeLogs(ctx, logs(2)))
		td := ptrace.NewTraces()
		td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().SetName("s")
		require.NoError(t, tr.ConsumeTraces(ctx, td))
		md := pmetric.NewMetrics()
		md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(1)
		require.NoError(t, l.Shutdown(ctx))
		require.NoError(t, l.Shutdown(ctx))
		require.NoError(t, m.ConsumeMetrics(ctx, md), "the others are still there")
		require.NoError(t, tr.Shutdown(ctx))
		require.NoError(t, m.Shutdown(ctx))
	}
	r := verify(t, cfg)
	assert.Equal(t, 0, r.ExitCode(), "%v", r)
	assert.EqualValues(t, 8, r.Logs[0].Records)

	unstarted, err := f.CreateLogs(ctx, exportertest.NewNopSettings(metadata.Type), cfg)
	require.NoError(t, err)
	require.NoError(t, unstarted.Shutdown(ctx))
}

// Records are erased while the exporter writes, by who may put a request into
// its directory.
func TestEraseRequests(t *testing.T) {
	cfg, f, ctx := testConfig(t), NewFactory(), context.Background()
	cfg.EraseRequests = t.TempDir()
	l, tr, m := start(t, f, cfg)
	require.NoError(t, l.ConsumeLogs(ctx, logs(3)))
	log, err := seal.OpenLog(cfg.Directory, cfg.Origin)
	require.NoError(t, err)
	plan := erasure.Log{Origin: cfg.Origin}
	require.NoError(t, log.Entries(ctx, nil, func(e *seal.Entry) error {
		if e.Kind == seal.KindBatch {
			plan.Erasures = append(plan.Erasures, seal.Erasure{Entry: e.Header.Entry, Root: e.Root, Positions: []uint64{1}})
		}
		return nil
	}))
	require.NoError(t, erasure.Ask(ctx, cfg.EraseRequests, erasure.NewRequest(plan, "dpo", "case")))
	plan.Erasures[0].Root[0] ^= 1
	require.ErrorContains(t, erasure.Ask(ctx, cfg.EraseRequests, erasure.NewRequest(plan, "dpo", "case")), "another batch than the one that was read")
	for _, c := range []component.Component{l, tr, m} {
		require.NoError(t, c.Shutdown(ctx))
	}
	r := verify(t, cfg)
	assert.Equal(t, 0, r.ExitCode(), "%v", r)
	assert.EqualValues(t, 1, r.Logs[0].ErasedRecords)

	require.NoError(t, os.Chmod(cfg.EraseRequests, 0o777))
	bad, err := f.CreateLogs(ctx, exportertest.NewNopSettings(metadata.Type), cfg)
	require.NoError(t, err)
	require.ErrorContains(t, bad.Start(ctx, componenttest.NewNopHost()), "`erase_requests`")
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*testing.T, *Config)
		want  []string
	}{
		"no keys": {func(_ *testing.T, c *Config) { c.Keys.Create = false }, []string{"meshaudit keygen writer --origin example.org/test", "keys: {create: true}"}},
		"readable by all": {func(t *testing.T, c *Config) {
			run(t, c)
			must(t, os.Chmod(filepath.Join(c.keysDirectory(), "log.key"), 0o644))
		}, []string{"0644", "chmod 600"}},
		"no auditor": {func(t *testing.T, c *Config) {
			run(t, c)
			must(t, os.Remove(filepath.Join(c.keysDirectory(), "auditor.pub")))
		}, []string{"meshaudit keygen auditor"}},
		"no chain key": {func(t *testing.T, c *Config) {
			run(t, c)
			must(t, os.Remove(filepath.Join(c.keysDirectory(), "chain.key")))
		}, []string{"`keys::chain_key`"}},
		"old chain key":     {rollBackChainKey, []string{"epoch 0", "last epoch is 1", "rolled back"}},
		"store removed":     {func(t *testing.T, c *Config) { run(t, c); must(t, os.RemoveAll(c.Directory)) }, []string{"epoch 1", "holds no log"}},
		"keys removed":      {func(t *testing.T, c *Config) { run(t, c); must(t, os.RemoveAll(c.keysDirectory())) }, []string{"no keys", "restore"}},
		"another log key":   {replaceLogKey, []string{"not signed by this log key"}},
		"mounted chain key": {linkChainKey, []string{"symbolic link", "`keys::chain_state`"}},
		"not a directory": {func(t *testing.T, c *Config) {
			must(t, os.MkdirAll(filepath.Dir(c.Directory), 0o755))
			must(t, os.WriteFile(c.Directory, nil, 0o600))
		}, []string{"not a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			tc.spoil(t, cfg)
			l, err := NewFactory().CreateLogs(context.Background(), exportertest.NewNopSettings(metadata.Type), cfg)
			require.NoError(t, err, "creating has no side effects")
			err = l.Start(context.Background(), componenttest.NewNopHost())
			for _, w := range tc.want {
				assert.ErrorContains(t, err, w)
			}
			require.NoError(t, l.Shutdown(context.Background()))
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	require.NoError(t, err)
}

// run starts and stops the exporter once.
func run(t *testing.T, cfg *Config) {
	l, tr, m := start(t, NewFactory(), cfg)
	must(t, l.ConsumeLogs(context.Background(), logs(1)))
	for _, c := range []component.Component{l, tr, m} {
		must(t, c.Shutdown(context.Background()))
	}
}

func rollBackChainKey(t *testing.T, c *Config) {
	run(t, c)
	path := filepath.Join(c.keysDirectory(), "chain.key")
	b, err := os.ReadFile(path)
	must(t, err)
	run(t, c)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(b), "epoch 1", "epoch 0", 1)), 0o600))
}

func replaceLogKey(t *testing.T, c *Config) {
	run(t, c)
	skey, _, err := seal.GenerateLogKey(c.Origin)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(c.keysDirectory(), "log.key"), []byte(skey), 0o600))
}

// linkChainKey lays the keys out as Kubernetes mounts a Secret.
func linkChainKey(t *testing.T, c *Config) {
	run(t, c)
	path := filepath.Join(c.keysDirectory(), "chain.key")
	must(t, os.Mkdir(filepath.Join(c.keysDirectory(), "..data"), 0o755))
	must(t, os.Rename(path, filepath.Join(c.keysDirectory(), "..data", "chain.key")))
	must(t, os.Chmod(filepath.Join(c.keysDirectory(), "..data", "chain.key"), 0o440))
	must(t, os.Symlink(filepath.Join("..data", "chain.key"), path))
}

func TestMountedSecretWithChainState(t *testing.T) {
	cfg := testConfig(t)
	must(t, os.MkdirAll(filepath.Dir(cfg.keysDirectory()), 0o755))
	_, err := seal.CreateTrialKeys(cfg.keysDirectory(), cfg.Origin)
	must(t, err)
	linkedChainKey := *cfg
	linkedChainKey.Keys.Create = false
	linkedChainKey.Keys.ChainState = filepath.Join(t.TempDir(), "chain.key")
	path := filepath.Join(cfg.keysDirectory(), "chain.key")
	must(t, os.Mkdir(filepath.Join(cfg.keysDirectory(), "..data"), 0o755))
	must(t, os.Rename(path, filepath.Join(cfg.keysDirectory(), "..data", "chain.key")))
	must(t, os.Chmod(filepath.Join(cfg.keysDirectory(), "..data", "chain.key"), 0o440))
	must(t, os.Symlink(filepath.Join("..data", "chain.key"), path))
	for range 3 {
		run(t, &linkedChainKey)
	}
	assert.Equal(t, 0, verify(t, cfg).ExitCode())
}

// Every auditor, of either suite, checks the chain alone; another one cannot.
func TestSeveralAuditors(t *testing.T) {
	cfg := testConfig(t)
	elsewhere := map[string]string{"x25519": t.TempDir(), "mlkem768x25519": t.TempDir(), "": t.TempDir()}
	_, err := seal.CreateTrialKeys(cfg.keysDirectory(), cfg.Origin)
	must(t, err)
	cfg.Keys.Create = false
	for suite, dir := range elsewhere {
		if suite == "" {
			_, err = seal.CreateAuditorKey(dir, "x25519") // whom the writer does not know
			must(t, err)
			continue
		}
		r, err := seal.CreateAuditorKey(dir, suite)
		must(t, err)
		cfg.Keys.Auditors = append(cfg.Keys.Auditors, r.String())
	}
	run(t, cfg)
	trust, err := seal.ReadTrust(filepath.Join(cfg.keysDirectory(), seal.TrustFile))
	must(t, err)
	for suite, dir := range elsewhere {
		key, err := seal.ReadAuditorKey(filepath.Join(dir, seal.AuditorKeyFile))
		must(t, err)
		r, err := seal.Verify(context.Background(), cfg.Directory, seal.VerifyOptions{Trust: trust, Auditor: &key})
		must(t, err)
		assert.Equal(t, suite != "", r.Logs[0].TagsProven, suite)
		assert.Equal(t, suite == "", r.ExitCode() == seal.ExitIncomplete, "%v", r.Logs[0].Findings)
	}
}

// Without a chain key, a new chain begins at every start; a trust file that
// says so is satisfied.
func TestFreshChain(t *testing.T) {
	cfg := testConfig(t)
	cfg.Keys.Chain = "fresh"
	for range 2 {
		run(t, cfg)
	}
	trust := filepath.Join(cfg.keysDirectory(), seal.TrustFile)
	assert.Equal(t, seal.ExitTampering, verify(t, cfg).ExitCode(), "the pinned chain is not this log's")
	b, err := os.ReadFile(trust)
	must(t, err)
	log, _, _ := strings.Cut(string(b), "\n")
	must(t, os.WriteFile(trust, []byte(log+"\n"), 0o600))
	assert.Equal(t, seal.ExitIncomplete, verify(t, cfg).ExitCode())
	must(t, os.WriteFile(trust, []byte(log+"\nchain "+cfg.Origin+" fresh\n"), 0o600))
	r := verify(t, cfg)
	assert.Equal(t, seal.ExitProven, r.ExitCode(), "%v", r.Logs[0].Findings)
	assert.True(t, r.Logs[0].TagsProven)

	cfg.Keys.ChainState = "chain.state"
	assert.ErrorContains(t, cfg.Validate(), "`keys::chain: fresh` keeps no chain key")
}

// A log key is replaced between two runs; the lines that the exporter writes
// down are what a verifier needs.
func TestRotatedLogKey(t *testing.T) {
	cfg := testConfig(t)
	run(t, cfg)
	_, err := seal.RotateLogKey(cfg.keysDirectory())
	must(t, err)
	run(t, cfg)
	r := verify(t, cfg)
	assert.Equal(t, seal.ExitIncomplete, r.ExitCode(), "%v", r.Logs[0].Findings)

	lines, err := os.ReadFile(filepath.Join(cfg.keysDirectory(), rotatedFile))
	must(t, err)
	assert.Contains(t, r.Logs[0].First().Next, string(lines))
	trust := filepath.Join(cfg.keysDirectory(), seal.TrustFile)
	b, err := os.ReadFile(trust)
	must(t, err)
	_, chain, _ := strings.Cut(string(b), "\n")
	must(t, os.WriteFile(trust, append(lines, chain...), 0o600))
	r = verify(t, cfg)
	assert.Equal(t, seal.ExitProven, r.ExitCode(), "%v", r.Logs[0].Findings)

	must(t, os.Remove(filepath.Join(cfg.keysDirectory(), seal.PreviousLogKeyFile)))
	run(t, cfg)
	assert.Equal(t, seal.ExitProven, verify(t, cfg).ExitCode())

	cfg.Keys.Create, cfg.Keys.PreviousLogKey = false, filepath.Join(t.TempDir(), "absent")
	l, err := NewFactory().CreateLogs(context.Background(), exportertest.NewNopSettings(metadata.Type), cfg)
	must(t, err)
	assert.ErrorContains(t, l.Start(context.Background(), componenttest.NewNopHost()), "`keys::previous_log_key`")
}

func TestSecondWriterIsRefused(t *testing.T) {
	cfg := testConfig(t)
	l, tr, m := start(t, NewFactory(), cfg)
	other := *cfg
	second, err := NewFactory().CreateLogs(context.Background(), exportertest.NewNopSettings(metadata.Type), &other)
	require.NoError(t, err)
	err = second.Start(context.Background(), componenttest.NewNopHost())
	assert.ErrorContains(t, err, "another writer has this log open")
	assert.ErrorContains(t, err, "`origin`")
	for _, c := range []component.Component{l, tr, m} {
		must(t, c.Shutdown(context.Background()))
	}
}

// A request that can never be sealed is refused for good, and does no harm to
// those that wait beside it.
func TestOversizedRecordIsPermanent(t *testing.T) {
	cfg := testConfig(t)
	l, tr, m := start(t, NewFactory(), cfg)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { assert.NoError(t, l.ConsumeLogs(context.Background(), logs(3))) })
	}
	big := logs(1)
	big.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().SetStr(strings.Repeat("x", 9<<20))
	err := l.ConsumeLogs(context.Background(), big)
	assert.True(t, consumererror.IsPermanent(err))
	assert.ErrorIs(t, err, seal.ErrTooLarge)
	wg.Wait()
	for _, c := range []component.Component{l, tr, m} {
		must(t, c.Shutdown(context.Background()))
	}
	assert.False(t, consumererror.IsPermanent(l.ConsumeLogs(context.Background(), logs(1))), "after the close another try may reach a new writer")
	assert.EqualValues(t, 24, verify(t, cfg).Logs[0].Records)
}

// host keeps the status that is reported to it.
type host struct {
	component.Host
	mu     sync.Mutex
	events []*componentstatus.Event
}

func (h *host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *host) last() componentstatus.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return componentstatus.StatusNone
	}
	return h.events[len(h.events)-1].Status()
}

// A store that cannot be written makes senders try again, says so as component
// status, and is taken up again as soon as it can; nothing acknowledged is lost.
func TestFaultIsRetryableAndReported(t *testing.T) {
	cfg, ctx := testConfig(t), context.Background()
	cfg.SegmentMaxBytes = 1 // every commit makes a file
	tel := componenttest.NewTelemetry()
	l, err := NewFactory().CreateLogs(ctx, metadatatest.NewSettings(tel), cfg)
	must(t, err)
	h := &host{Host: componenttest.NewNopHost()}
	must(t, l.Start(ctx, h))
	must(t, l.ConsumeLogs(ctx, logs(2)))

	segments := filepath.Join(seal.LogDir(cfg.Directory, cfg.Origin), "segment")
	must(t, os.Rename(segments, segments+"-away"))
	err = l.ConsumeLogs(ctx, logs(3))
	require.Error(t, err)
	assert.False(t, consumererror.IsPermanent(err), "%v", err)
	require.Eventually(t, func() bool { return h.last() == componentstatus.StatusRecoverableError }, 20*time.Second, time.Millisecond)
	assert.Error(t, l.ConsumeLogs(ctx, logs(3)), "nothing is accepted until it has recovered")

	must(t, os.Rename(segments+"-away", segments))
	require.Eventually(t, func() bool { return l.ConsumeLogs(ctx, logs(5)) == nil }, 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, componentstatus.StatusOK, h.last())
	must(t, l.Shutdown(ctx))

	r := verify(t, cfg)
	assert.EqualValues(t, 7, r.Logs[0].Records)
	assert.Equal(t, seal.ExitIncomplete, r.ExitCode(), "an epoch ended by a fault: %v", r.Logs[0].Findings)
	metadatatest.AssertEqualSealedLogRecords(t, tel, []metricdata.DataPoint[int64]{{Value: 7}}, metricdatatest.IgnoreTimestamp())
	must(t, tel.Shutdown(ctx))
}
