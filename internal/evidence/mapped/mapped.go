// Package mapped reads sources that the configuration describes: each field of
// the evidence is an OTTL expression over the log record.
//
// A mapping is the allow-list: what no field names is dropped. What a field
// names is bounded, query strings are cut from paths, and identities are
// claims unless the configuration says otherwise, and never better proven than
// mtls_san.
package mapped

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl/contexts/ottllog"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl/ottlfuncs"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/expression"
)

// A Case is how records of one kind are read.
type Case struct {
	// When are OTTL conditions that must all hold. Default: every record.
	When []string `mapstructure:"when"`
	// Prepare are OTTL statements that are run on a copy of the record before
	// the fields are read, as set(cache["x"], …). Default none.
	Prepare []string `mapstructure:"prepare"`
	// Fields are OTTL value expressions by the name of the field they give.
	// What gives nil is not stated. Required.
	Fields map[string]string `mapstructure:"fields"`
	// IdentityProof is how well from.identity and to.identity are proven:
	// claimed, ip, jwt_svid, xfcc or mtls_san. Default claimed.
	IdentityProof string `mapstructure:"identity_proof" yaml:"identity_proof"`
}

// A Mapping is a list of cases; the first whose conditions hold reads the
// record. It is safe for concurrent use.
type Mapping struct {
	cases []compiled
	reads members
}

type (
	transform = expression.Record

	compiled struct {
		when    []*ottl.Condition[transform]
		prepare []*ottl.Statement[transform]
		fields  []field
		proof   evidence.Proof
	}

	field struct {
		name string
		set  setter
		expr *ottl.ValueExpression[transform]
	}
)

// New compiles a mapping and reports every fault.
func New(cases []Case) (*Mapping, error) {
	if len(cases) == 0 {
		return nil, errors.New("`mapping` must have a case")
	}
	parser, err := expression.NewParser(functions(), zap.NewNop())
	if err != nil {
		return nil, err
	}
	m := &Mapping{reads: make(members)}
	var errs []error
	for i := range cases {
		c, err := compile(&parser, &cases[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("`mapping::%d`: %w", i, err))
		}
		m.cases = append(m.cases, c)
		for _, text := range slices.Concat(cases[i].When, cases[i].Prepare, slices.Collect(maps.Values(cases[i].Fields))) {
			m.reads.add(text)
		}
	}
	return m, errors.Join(errs...)
}

func functions() map[string]ottl.Factory[transform] {
	return ottlfuncs.StandardFuncs[transform]()
}

// literal is an expression that gives one text always.
var literal = regexp.MustCompile(`^\s*"([^"\\]*)"\s*$`)

func compile(parser *ottl.Parser[transform], c *Case) (out compiled, err error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if out.when, err = parser.ParseConditions(c.When); err != nil {
		fault("`when`: %w", err)
	}
	if out.prepare, err = parser.ParseStatements(c.Prepare); err != nil {
		fault("`prepare`: %w", err)
	}
	if len(c.Fields) == 0 {
		fault("`fields` must name a field")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Fields)) {
		set, ok := setters[name]
		if !ok {
			fault("`fields::%s` is no field; there are %s", name, strings.Join(slices.Sorted(maps.Keys(setters)), ", "))
			continue
		}
		expr, err := parser.ParseValueExpression(c.Fields[name])
		if err != nil {
			fault("`fields::%s`: %w", name, err)
			continue
		}
		if m := literal.FindStringSubmatch(c.Fields[name]); m != nil {
			if err := set(&target{Evidence: new(evidence.Evidence)}, m[1]); err != nil {
				fault("`fields::%s`: %w", name, err)
			}
		}
		out.fields = append(out.fields, field{name, set, expr})
	}
	out.proof = evidence.ProofClaimed
	if c.IdentityProof != "" {
		p, ok := evidence.ParseProof(c.IdentityProof)
		if out.proof = p; !ok || p == evidence.ProofNone || p > evidence.ProofMTLSSAN {
			fault("`identity_proof` must be claimed, ip, jwt_svid, xfcc or mtls_san, got %q", c.IdentityProof)
		}
	}
	return out, errors.Join(errs...)
}

// Decode reads one record. A body that is a JSON object in a text is read as a
// map. The record is not changed.
func (m *Mapping) Decode(dst []evidence.Evidence, from *evidence.Origin, rl plog.ResourceLogs, sl plog.ScopeLogs, lr plog.LogRecord) ([]evidence.Evidence, error) {
	tmp := plog.NewLogRecord()
	lr.CopyTo(tmp)
	var long []string
	if body := tmp.Body(); body.Type() == pcommon.ValueTypeStr {
		s := body.Str()
		if len(s) > evidence.MaxLine {
			return dst, fmt.Errorf("%w: it has %d", evidence.ErrTooLong, len(s))
		}
		if s = strings.TrimSpace(s); strings.HasPrefix(s, "{") {
			var err error
			if long, err = m.reads.parse([]byte(s), body); err != nil {
				return dst, err
			}
		}
	}
	ctx := context.Background()
	tc := ottllog.NewTransformContextPtr(rl, sl, tmp)
	defer tc.Close()
	for i := range m.cases {
		c := &m.cases[i]
		holds, err := c.holds(ctx, tc)
		if err != nil {
			return dst, err
		}
		if holds {
			all := append(dst, evidence.Evidence{Source: evidence.SourceMapped, Final: true, Start: from.Time, Cluster: from.Cluster})
			if err := c.read(ctx, tc, long, &all[len(dst)]); err != nil {
				return dst, err
			}
			return all, nil
		}
	}
	return dst, fmt.Errorf("%w: no case of the mapping holds", evidence.ErrNotEvidence)
}

func (c *compiled) holds(ctx context.Context, tc transform) (bool, error) {
	for _, cond := range c.when {
		ok, err := cond.Eval(ctx, tc)
		if err != nil || !ok {
			// A condition that can't be asked of this record does not hold.
			return false, nil
		}
	}
	return true, nil
}

// read sets what the record states.
func (c *compiled) read(ctx context.Context, tc transform, long []string, e *evidence.Evidence) error {
	for _, s := range c.prepare {
		if _, _, err := s.Execute(ctx, tc); err != nil {
			return fmt.Errorf("%w: prepare: %w", evidence.ErrMalformed, err)
		}
	}
	t := target{Evidence: e, proof: c.proof, long: long}
	for i := range c.fields {
		f := &c.fields[i]
		v, err := f.expr.Eval(ctx, tc)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", evidence.ErrMalformed, f.name, err)
		}
		if v == nil {
			continue
		}
		if err := f.set(&t, v); err != nil {
			return fmt.Errorf("%w: %s: %w", evidence.ErrMalformed, f.name, err)
		}
	}
	t.finish()
	return nil
}
