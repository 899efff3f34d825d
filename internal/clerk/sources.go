package clerk

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/hubble"
	"github.com/meshaudit/meshaudit/internal/evidence/k8saudit"
	"github.com/meshaudit/meshaudit/internal/evidence/linkerd"
	"github.com/meshaudit/meshaudit/internal/evidence/mapped"
	"github.com/meshaudit/meshaudit/internal/evidence/opa"
	"github.com/meshaudit/meshaudit/internal/evidence/spire"
	"github.com/meshaudit/meshaudit/internal/evidence/ztunnel"
	"github.com/meshaudit/meshaudit/internal/query"
)

// decoderOpaque passes records as they are.
const decoderOpaque = "opaque"

// SourceConfig tells what one kind of record is, of those that others'
// receivers bring. The first one in the list that matches decides; after the
// list come the built-in matches.
type SourceConfig struct {
	// Match says which records. At least one of its conditions is required.
	Match MatchConfig `mapstructure:"match"`
	// Decoder reads them: envoy_text, ztunnel, linkerd, hubble …, mapped; opaque: none does.
	// Required.
	Decoder string `mapstructure:"decoder"`
	// Format is Envoy's text_format string, of the decoder envoy_text. Default
	// Istio's and Envoy's default formats.
	Format string `mapstructure:"format"`
	// JSONFormat is Envoy's json_format, of the decoder envoy_text: names to
	// format strings, nested. Default: names as Istio's default format has them.
	JSONFormat map[string]any `mapstructure:"json_format"`
	// Mapping are the cases of the decoder mapped, which needs it.
	Mapping []mapped.Case `mapstructure:"mapping"`
	// Kubernetes are settings of the decoder k8s_audit: those of the receiver.
	Kubernetes k8saudit.Options `mapstructure:",squash"`
}

// MatchConfig are conditions that must all hold. Values are exact, or
// patterns in which * stands for any run of characters.
type MatchConfig struct {
	// Resource are attributes of the resource, by name. Default none.
	Resource map[string]string `mapstructure:"resource"`
	// Attributes are attributes of the record, by name. Default none.
	Attributes map[string]string `mapstructure:"attributes"`
	// Scope is the instrumentation scope's name. Default any.
	Scope string `mapstructure:"scope"`
	// EventName is the record's. Default any.
	EventName string `mapstructure:"event_name"`
	// Path is the file that the record was read from: log.file.path of the
	// record, or else of its resource. Default any.
	Path string `mapstructure:"path"`
}

// A record is one log record and what it stands under.
type record struct {
	rl plog.ResourceLogs
	sl plog.ScopeLogs
	lr plog.LogRecord
}

// decodeFunc reads a record as evidence.Decoder reads a line.
type decodeFunc func(dst []evidence.Evidence, from *evidence.Origin, r record) ([]evidence.Evidence, error)

// A decoder is one that a source may name.
type decoder struct {
	source evidence.Source
	make   func(*SourceConfig) (decodeFunc, error)
}

// decoders, by the name that the configuration gives them: the source's.
var decoders = func() map[string]decoder {
	m := make(map[string]decoder)
	line := func(s evidence.Source, d evidence.Decoder) {
		m[string(s)] = decoder{s, func(*SourceConfig) (decodeFunc, error) { return ofBody(d), nil }}
	}
	line(evidence.SourceZtunnel, ztunnel.Decode)
	line(evidence.SourceLinkerd, linkerd.Decode)
	line(evidence.SourceHubble, hubble.Decode)
	m[string(evidence.SourceK8sAudit)] = decoder{evidence.SourceK8sAudit, func(c *SourceConfig) (decodeFunc, error) {
		return ofBody(k8saudit.New(c.Kubernetes).Line), c.Kubernetes.Check()
	}}
	line(evidence.SourceSPIRE, spire.Line)
	line(evidence.SourceOPA, opa.Line)
	m[string(evidence.SourceEnvoyText)] = decoder{evidence.SourceEnvoyText, envoyDecoder}
	m[string(evidence.SourceMapped)] = decoder{evidence.SourceMapped, func(c *SourceConfig) (decodeFunc, error) { return mappedDecoder(c.Mapping) }}
	for _, name := range mapped.PresetNames {
		m[name] = decoder{evidence.SourceMapped, func(*SourceConfig) (decodeFunc, error) {
			cases, err := mapped.Preset(name)
			if err != nil {
				return nil, err
			}
			return mappedDecoder(cases)
		}}
	}
	m[decoderOpaque] = decoder{evidence.SourceOpaque, func(*SourceConfig) (decodeFunc, error) { return nil, nil }}
	return m
}()

// builtinPaths are where the reference configurations of docs/sources read,
// in their order.
var builtinPaths = []struct {
	path   string
	source evidence.Source
}{
	{"/var/log/pods/*_ztunnel-*/istio-proxy/*.log*", evidence.SourceZtunnel},
	{"/var/log/pods/*/istio-proxy/*.log*", evidence.SourceEnvoyText},
	{"/var/log/pods/*/linkerd-proxy/*.log*", evidence.SourceLinkerd},
	{"/var/run/cilium/hubble/*.log*", evidence.SourceHubble},
	{"/var/log/kubernetes/audit*.log*", evidence.SourceK8sAudit},
	{"/var/log/kubernetes/audit/*.log*", evidence.SourceK8sAudit},
	{"/var/log/spire/*.log*", evidence.SourceSPIRE},
}

func mappedDecoder(cases []mapped.Case) (decodeFunc, error) {
	m, err := mapped.New(cases)
	if err != nil {
		return nil, err
	}
	return func(dst []evidence.Evidence, from *evidence.Origin, r record) ([]evidence.Evidence, error) {
		return m.Decode(dst, from, r.rl, r.sl, r.lr)
	}, nil
}

// envoyDecoder reads a line by its format, or the labels that a receiver has
// made of one.
func envoyDecoder(c *SourceConfig) (decodeFunc, error) {
	lines, err := envoy.NewLines(c.Format, c.JSONFormat)
	if err != nil {
		return nil, fmt.Errorf("`format`: %w", err)
	}
	ofLine := ofBody(lines.Decode)
	return func(dst []evidence.Evidence, from *evidence.Origin, r record) ([]evidence.Evidence, error) {
		switch body := r.lr.Body(); body.Type() {
		case pcommon.ValueTypeMap:
			return lines.Labels(dst, from, r.lr.Attributes(), body.Map())
		case pcommon.ValueTypeEmpty:
			return lines.Labels(dst, from, r.lr.Attributes())
		}
		return ofLine(dst, from, r)
	}, nil
}

// ofBody gives a decoder the body: a text as it is, what a receiver has parsed
// as JSON.
func ofBody(d evidence.Decoder) decodeFunc {
	return func(dst []evidence.Evidence, from *evidence.Origin, r record) ([]evidence.Evidence, error) {
		line, err := bodyOf(r.lr)
		if err != nil {
			return dst, err
		}
		return d(dst, from, line)
	}
}

// bodyOf is a record's body as a line.
func bodyOf(lr plog.LogRecord) ([]byte, error) {
	var line []byte
	switch body := lr.Body(); body.Type() {
	case pcommon.ValueTypeEmpty:
		return nil, fmt.Errorf("%w: no body", evidence.ErrNotEvidence)
	case pcommon.ValueTypeBytes:
		line = body.Bytes().AsRaw()
	default:
		line = []byte(body.AsString())
	}
	if len(line) > evidence.MaxLine {
		return nil, fmt.Errorf("%w: it has %d", evidence.ErrTooLong, len(line))
	}
	return ofContainer(line), nil
}

// ofContainer takes off what a container runtime writes before a whole line,
// TIME STREAM F, where no receiver did. Of a line that it wrote in parts there
// is nothing to be read.
func ofContainer(line []byte) []byte {
	const longest = len("2006-01-02T15:04:05.999999999+00:00 stdout F ")
	for _, stream := range [...]string{" stdout F ", " stderr F "} {
		if at, _, ok := bytes.Cut(line[:min(len(line), longest)], []byte(stream)); ok {
			if _, err := time.Parse(time.RFC3339Nano, string(at)); err == nil {
				return line[len(at)+len(stream):]
			}
		}
	}
	return line
}

// A rule is one source, compiled.
type rule struct {
	resource, attributes []condition
	scope, event, path   *query.Glob
	source               evidence.Source
	decode               decodeFunc // nil: opaque
}

type condition struct {
	name string
	glob query.Glob
}

func (c *condition) holds(m pcommon.Map) bool {
	v, ok := m.Get(c.name)
	if !ok {
		return false
	}
	if v.Type() == pcommon.ValueTypeStr {
		return c.glob.Match(v.Str())
	}
	return c.glob.Match(v.AsString())
}

func (r *rule) matches(rec record) bool {
	for i := range r.resource {
		if !r.resource[i].holds(rec.rl.Resource().Attributes()) {
			return false
		}
	}
	for i := range r.attributes {
		if !r.attributes[i].holds(rec.lr.Attributes()) {
			return false
		}
	}
	return (r.scope == nil || r.scope.Match(rec.sl.Scope().Name())) &&
		(r.event == nil || r.event.Match(rec.lr.EventName())) &&
		(r.path == nil || r.path.Match(pathOf(rec)))
}

const (
	logFilePath   = "log.file.path"
	logFileOffset = "log.file.record_offset"
	logFileNumber = "log.file.record_number"
	logRecordUID  = "log.record.uid"
)

func pathOf(rec record) string {
	v, ok := rec.lr.Attributes().Get(logFilePath)
	if !ok {
		if v, ok = rec.rl.Resource().Attributes().Get(logFilePath); !ok {
			return ""
		}
	}
	return v.Str()
}

// sources are the configuration's rules and the built-in ones.
type sources struct {
	rules   []rule
	byName  map[string]*rule // by what mesh.evidence.source says
	builtin []rule           // by path
}

// compileSources reports every fault.
func compileSources(cfg []SourceConfig) (*sources, error) {
	s := &sources{byName: make(map[string]*rule)}
	var errs []error
	for i := range cfg {
		r, err := cfg[i].rule()
		if err != nil {
			errs = append(errs, fmt.Errorf("`sources::%d`: %w", i, err))
			continue
		}
		s.rules = append(s.rules, r)
	}
	for name, d := range decoders {
		// Those that need settings have no built-in form.
		if decode, err := d.make(&SourceConfig{Decoder: name}); err == nil && decode != nil {
			s.byName[name] = &rule{source: d.source, decode: decode}
		}
	}
	for _, b := range builtinPaths {
		g, err := query.ParseGlob(b.path)
		if err != nil {
			return nil, err
		}
		s.builtin = append(s.builtin, rule{path: &g, source: b.source, decode: s.byName[string(b.source)].decode})
	}
	return s, errors.Join(errs...)
}

func (c *SourceConfig) rule() (rule, error) {
	var r rule
	var errs []error
	glob := func(field, pattern string) *query.Glob {
		g, err := query.ParseGlob(pattern)
		if err != nil {
			errs = append(errs, fmt.Errorf("`match::%s`: %w", field, err))
		}
		return &g
	}
	all := func(field string, m map[string]string) (out []condition) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			out = append(out, condition{name, *glob(field+"::"+name, m[name])})
		}
		return out
	}
	r.resource = all("resource", c.Match.Resource)
	r.attributes = all("attributes", c.Match.Attributes)
	for _, f := range []struct {
		name, pattern string
		dst           **query.Glob
	}{{"scope", c.Match.Scope, &r.scope}, {"event_name", c.Match.EventName, &r.event}, {"path", c.Match.Path, &r.path}} {
		if f.pattern != "" {
			*f.dst = glob(f.name, f.pattern)
		}
	}
	if len(r.resource)+len(r.attributes) == 0 && r.scope == nil && r.event == nil && r.path == nil {
		errs = append(errs, errors.New("`match` must have a condition: resource, attributes, scope, event_name or path"))
	}
	if c.Decoder != string(evidence.SourceEnvoyText) && (c.Format != "" || len(c.JSONFormat) > 0) {
		errs = append(errs, errors.New("`format` and `json_format` are of the decoder envoy_text"))
	}
	if c.Decoder != string(evidence.SourceMapped) && len(c.Mapping) > 0 {
		errs = append(errs, errors.New("`mapping` is of the decoder mapped"))
	}
	if c.Decoder != string(evidence.SourceK8sAudit) && !c.Kubernetes.IsZero() {
		errs = append(errs, errors.New("`cluster`, `trust_domain`, `config_maps`, `secrets` and `groups` are of the decoder k8s_audit"))
	}
	d, ok := decoders[c.Decoder]
	if !ok {
		errs = append(errs, fmt.Errorf("`decoder` must be one of %s, got %q", strings.Join(slices.Sorted(maps.Keys(decoders)), ", "), c.Decoder))
		return r, errors.Join(errs...)
	}
	decode, err := d.make(c)
	if err != nil {
		errs = append(errs, err)
	}
	r.source, r.decode = d.source, decode
	return r, errors.Join(errs...)
}

// A stray is why a record that may be meant as a line is none.
type stray int

const (
	noStray   stray = iota
	strayName       // its mesh.evidence.source names no decoder
	strayPath       // it was read from a file that no source matches
)

// of finds the rule for a record, nil if there is none. What is evidence
// already is no line.
func (s *sources) of(rec record) (*rule, stray) {
	if isOwn(rec.lr.EventName()) {
		return nil, noStray
	}
	if refusedBefore(rec.lr) {
		return &rule{source: ownSource(rec.lr.Attributes())}, noStray
	}
	for i := range s.rules {
		if s.rules[i].matches(rec) {
			return &s.rules[i], noStray
		}
	}
	why := noStray
	for _, m := range [...]pcommon.Map{rec.lr.Attributes(), rec.rl.Resource().Attributes()} {
		if v, ok := m.Get(semconvSource); ok {
			if r := s.byName[v.Str()]; r != nil {
				return r, noStray
			}
			if !evidence.Source(v.Str()).Known() { // else an agent named it
				why = strayName
			}
		}
	}
	path := pathOf(rec)
	if path == "" {
		return nil, why
	}
	for i := range s.builtin {
		if s.builtin[i].path.Match(path) {
			return &s.builtin[i], noStray
		}
	}
	if why == noStray {
		why = strayPath
	}
	return nil, why
}
