package clerk

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/findings"
	"github.com/meshaudit/meshaudit/internal/inventory"
	"github.com/meshaudit/meshaudit/internal/redact"
	"github.com/meshaudit/meshaudit/internal/svid"
)

// What a record can be expected to hold.
const (
	expectCallee  = "callee"
	expectCaller  = "caller"
	expectVerdict = "verdict"
)

// Config is what the components that have a clerk let one set.
type Config struct {
	// Window is how long an action waits for the evidence that is expected,
	// from its first piece on. Default 10s; longer costs memory and delay.
	Window time.Duration `mapstructure:"window"`
	// LateWindow is how long after that evidence still amends the record.
	// Default 10m, because OPA uploads its decisions every 5 to 10 minutes;
	// costs about 500 bytes for each piece of evidence in that time.
	LateWindow time.Duration `mapstructure:"late_window"`
	// Settle is how long a piece waits for others before a record that holds
	// what is expected leaves. Default 1s, Envoy's flush interval, so that
	// both sidecars' reports are in the record; with 0 a record leaves at once
	// and the other report gives an amendment.
	Settle time.Duration `mapstructure:"settle"`
	// ClockSkew is how far a node's clock may be off, so that two may be twice
	// that apart. Default 2s; more makes joins without spans ambiguous more often.
	ClockSkew time.Duration `mapstructure:"clock_skew"`
	// MaxPending bounds the pieces that wait for their record. Default 100000.
	// Beyond it the oldest actions leave early, as partial.
	MaxPending int `mapstructure:"max_pending"`
	// MaxPendingBytes bounds the memory of all that is kept, records that
	// could not be handed on included. Default 256 MiB.
	MaxPendingBytes int `mapstructure:"max_pending_bytes"`
	// Shards is how many parts evidence is correlated in, each with its part of the bounds: by
	// trace id, else request id, else who calls whom where. What shares none of these is then not joined.
	// Default 1, which joins all that can be.
	Shards int `mapstructure:"shards"`
	// Expect is what makes a record complete: callee, caller, verdict.
	// Default [callee]. A decision that the callee's report names by id is
	// always expected.
	Expect []string `mapstructure:"expect"`
	// Cluster is mesh.cluster on records whose evidence names none. Default "".
	Cluster string `mapstructure:"cluster"`
	// Sources tell what the records of others' receivers are. Default none
	// beside the built-in ones.
	Sources []SourceConfig `mapstructure:"sources"`
	// Redaction extends the allow-list.
	Redaction RedactionConfig `mapstructure:"redaction"`
	// Identity says whose word about identities is believed.
	Identity IdentityConfig `mapstructure:"identity"`
	// Findings says what is looked for in the records and stated as
	// mesh.finding.
	Findings FindingsConfig `mapstructure:"findings"`
	// Ledger compares what proxies say they logged with what came.
	Ledger LedgerConfig `mapstructure:"ledger"`
	// RecoverFrom is the sealed log to re-read at start. Default: none.
	RecoverFrom RecoverConfig `mapstructure:"recover_from"`
}

// RedactionConfig extends what is kept of evidence.
type RedactionConfig struct {
	// Allow are further attributes to keep: exact names, or prefixes ending in
	// *. Default none.
	Allow []string `mapstructure:"allow"`
	// KeepBody keeps the bodies of logs from sources that are not known.
	// Default false: a body's SHA-256 takes its place.
	KeepBody bool `mapstructure:"keep_body"`
}

// IdentityConfig is of identities.
type IdentityConfig struct {
	// XFCCTrusted are patterns of SPIFFE IDs, with * for any text: proxies that
	// remove x-forwarded-client-cert from outside and write it themselves. What
	// they report of it, over an authenticated connection to a receiver of ours,
	// is proven as xfcc, and a verified certificate in it as svid. Default none: a
	// header is a claim.
	XFCCTrusted []string `mapstructure:"xfcc_trusted"`
	// Config verifies the certificates and JWT-SVIDs in what others' receivers
	// bring; our own receivers verify what they decode themselves.
	svid.Config `mapstructure:",squash"`
	// UnauthenticatedCertificates: a peer's certificate counts although nobody
	// knows who reported it, as in lines of files. Default false. True is right
	// where nobody but one's own agents can reach these pipelines.
	UnauthenticatedCertificates bool `mapstructure:"unauthenticated_certificates"`
	// Workloads say which version of which workload stands behind a SPIFFE ID,
	// where no evidence does. Default none.
	Workloads []inventory.Entry `mapstructure:"workloads"`
	// WorkloadsFile holds more of them, which come first; it is read again when
	// it changes. Default none.
	WorkloadsFile string `mapstructure:"workloads_file"`
}

// Validate leaves Config's faults to Config, which is asked itself.
func (*IdentityConfig) Validate() error { return nil }

// FindingsConfig is of the findings.
type FindingsConfig struct {
	// Kinds changes what holds for a kind of finding, by its name. Default:
	// every kind is on, with the severity of docs/findings.md.
	Kinds map[findings.Kind]FindingConfig `mapstructure:"kinds"`
	// TrustDomains are those that are known; others are a finding. Default:
	// none are asked for.
	TrustDomains []string `mapstructure:"trust_domains"`
	// MustDecide are patterns of paths, with * for any text, on which some
	// policy must decide. Default: none.
	MustDecide []string `mapstructure:"must_decide"`
	// DecisionWait is how long after its record a decision on such a path may
	// come. Default 10s; 10m where OPA uploads by its own defaults.
	DecisionWait time.Duration `mapstructure:"decision_wait"`
	// Repeat is how long a finding that goes on waits before it is stated again,
	// with its count. Default 1h.
	Repeat time.Duration `mapstructure:"repeat"`
	// MaxCredentials bounds the certificates that are remembered to find shared
	// ones, about 100 bytes each, and as many again that were used before them.
	// Default 1000000.
	MaxCredentials int `mapstructure:"max_credentials"`
}

// FindingConfig is of one kind of finding.
type FindingConfig struct {
	// Off: it is not looked for.
	Off bool `mapstructure:"off"`
	// Severity is info, low, medium, high or critical.
	Severity findings.Severity `mapstructure:"severity"`
	// Condition is an OTTL condition on the record, in the log context: only
	// where it is true the kind is looked for. Default: everywhere.
	Condition string `mapstructure:"condition"`
}

// LedgerConfig is of the completeness ledger, which reads the counters of
// Envoy's access loggers from a metrics pipeline with this processor.
type LedgerConfig struct {
	// Lag is how long an entry may be under way: the proxy's flush interval,
	// the network, and how old a sample of its counters is. Default 5s; less
	// finds losses under load sooner, and more than there are.
	Lag time.Duration `mapstructure:"lag"`
	// StatPrefix is the stat_prefix of the logger that writes to us, where a
	// proxy has several. Default "": all of them.
	StatPrefix string `mapstructure:"stat_prefix"`
}

// RecoverConfig names a sealed log: the directory and origin of the
// sealed_log exporter that the evidence goes to.
type RecoverConfig struct {
	Directory string `mapstructure:"directory"`
	Origin    string `mapstructure:"origin"`
}

// DefaultConfig has every default.
func DefaultConfig() Config {
	return Config{
		Window:          10 * time.Second,
		LateWindow:      10 * time.Minute,
		Settle:          time.Second,
		ClockSkew:       2 * time.Second,
		MaxPending:      100_000,
		MaxPendingBytes: 256 << 20,
		Shards:          1,
		Expect:          []string{expectCallee},
		Ledger:          LedgerConfig{Lag: 5 * time.Second},
		Findings:        FindingsConfig{DecisionWait: 10 * time.Second, Repeat: time.Hour, MaxCredentials: 1_000_000},
	}
}

// minPendingBytes, of each shard, holds at least a few of the largest pieces.
const minPendingBytes = 1 << 20

// Faults reports every fault at once, for the component's Validate.
func (c *Config) Faults() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, d := range [...]struct {
		name string
		time.Duration
	}{
		{"window", c.Window}, {"late_window", c.LateWindow}, {"settle", c.Settle}, {"clock_skew", c.ClockSkew}, {"ledger::lag", c.Ledger.Lag},
		{"findings::repeat", c.Findings.Repeat}, {"findings::decision_wait", c.Findings.DecisionWait},
	} {
		if d.Duration > 0 && d.Duration < time.Millisecond { // a bare number is one of nanoseconds
			fault("`%s` needs a unit, as in 10s; got %v", d.name, d.Duration)
		}
	}
	if c.Window <= 0 {
		fault("`window` must be positive, got %v", c.Window)
	}
	if c.LateWindow < 0 {
		fault("`late_window` must not be negative, got %v", c.LateWindow)
	}
	if c.Settle < 0 || c.Settle > max(c.Window, 0) {
		fault("`settle` must be between 0 and `window`, got %v", c.Settle)
	}
	if c.ClockSkew < 0 {
		fault("`clock_skew` must not be negative, got %v", c.ClockSkew)
	}
	if c.MaxPending <= 0 {
		fault("`max_pending` must be positive, got %d", c.MaxPending)
	}
	if c.Shards < 1 || c.Shards > correlate.MaxShards {
		fault("`shards` must be between 1 and %d, got %d", correlate.MaxShards, c.Shards)
	}
	if least := minPendingBytes * max(1, c.Shards); c.MaxPendingBytes < least {
		fault("`max_pending_bytes` must be at least %d, got %d", least, c.MaxPendingBytes)
	}
	if _, err := newProver(c.Identity.XFCCTrusted); err != nil {
		fault("`identity::xfcc_trusted`: %w", err)
	}
	if err := inventory.Check(c.Identity.Workloads); err != nil {
		fault("`identity::workloads`: %w", err)
	}
	c.Findings.validate(fault)
	if c.Ledger.Lag < 0 {
		fault("`ledger::lag` must not be negative, got %v", c.Ledger.Lag)
	}
	if len(c.Expect) == 0 {
		fault("`expect` must name at least one of callee, caller, verdict")
	}
	for _, e := range c.Expect {
		switch e {
		case expectCallee, expectCaller, expectVerdict:
		default:
			fault("`expect` knows callee, caller and verdict, got %q", e)
		}
	}
	if _, err := compileSources(c.Sources); err != nil {
		errs = append(errs, err)
	}
	for _, a := range c.Redaction.Allow {
		switch {
		case a == "" || a == "*":
			fault("`redaction::allow` must not allow everything, got %q", a)
		case strings.Contains(strings.TrimSuffix(a, "*"), "*"):
			fault("`redaction::allow` takes a * only at the end, got %q", a)
		}
	}
	if (c.RecoverFrom.Directory == "") != (c.RecoverFrom.Origin == "") {
		fault("`recover_from` needs both `directory` and `origin`: those of the sealed_log exporter")
	}
	return errors.Join(errs...)
}

func (c *Config) correlator() correlate.Config {
	cfg := correlate.Config{
		Window: c.Window, LateWindow: c.LateWindow, Settle: c.Settle, ClockSkew: c.ClockSkew,
		MaxPending: c.MaxPending, MaxPendingBytes: c.MaxPendingBytes,
	}
	for _, e := range c.Expect {
		switch e {
		case expectCallee:
			cfg.ExpectCallee = true
		case expectCaller:
			cfg.ExpectCaller = true
		case expectVerdict:
			cfg.ExpectVerdict = true
		}
	}
	return cfg
}

func (c *Config) redactor() *redact.Redactor {
	return redact.New(redact.Config{Allow: c.Redaction.Allow, KeepBody: c.Redaction.KeepBody})
}
