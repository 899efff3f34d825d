package redact

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/xfcc"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// Bounds of what is kept, in bytes and elements.
const (
	maxValue    = 2048 // a SPIFFE ID's and a path's bound
	maxName     = 512
	maxElements = 64
	maxDepth    = 8
)

// Config extends the allow-list.
type Config struct {
	// Allow are further attributes to keep: exact names, or prefixes that end
	// in *. What looks like a token is cut out of their values too.
	Allow []string
	// KeepBody keeps the bodies of logs from sources that are not known,
	// but for what looks like a token. Else a body's SHA-256 takes its place.
	KeepBody bool
}

// Redactor applies the allow-list. It is safe for concurrent use.
type Redactor struct {
	exact    map[string]bool
	prefixes []string
	keepBody bool
}

// New makes a Redactor.
func New(cfg Config) *Redactor {
	r := &Redactor{exact: make(map[string]bool), keepBody: cfg.KeepBody}
	for _, a := range cfg.Allow {
		if prefix, ok := strings.CutSuffix(a, "*"); ok {
			r.prefixes = append(r.prefixes, prefix)
		} else {
			r.exact[a] = true
		}
	}
	return r
}

func (r *Redactor) rule(name string) rule {
	if rule := allowed[name]; rule != drop {
		return rule
	}
	if strings.HasPrefix(name, semconv.CallPrefix) {
		return drop // ours alone to write, on what leaves
	}
	if r.exact[name] {
		return user
	}
	for _, p := range r.prefixes {
		if strings.HasPrefix(name, p) {
			return user
		}
	}
	return drop
}

// Attributes redacts the attributes of a record, scope or resource, and returns how
// many values it dropped or changed.
func (r *Redactor) Attributes(m pcommon.Map) int {
	n := 0
	m.RemoveIf(func(name string, v pcommon.Value) bool {
		keep, changed := r.value(r.rule(name), v)
		if !keep || changed {
			n++
		}
		return !keep
	})
	return n
}

// value redacts one value in place.
func (r *Redactor) value(how rule, v pcommon.Value) (keep, changed bool) {
	if how == drop {
		return false, true
	}
	switch v.Type() {
	case pcommon.ValueTypeStr:
		s := v.Str()
		if out := text(how, s); out != s {
			v.SetStr(out)
			return true, true
		}
		return true, false
	case pcommon.ValueTypeBool, pcommon.ValueTypeInt, pcommon.ValueTypeDouble, pcommon.ValueTypeEmpty:
		return true, false
	case pcommon.ValueTypeSlice:
		return true, r.slice(how, v.Slice())
	case pcommon.ValueTypeMap:
		if how == user {
			return true, scrubAll(v, 0)
		}
	}
	return false, true // bytes, and shapes that the name does not have
}

func (r *Redactor) slice(how rule, s pcommon.Slice) (changed bool) {
	if how == user {
		for _, v := range s.All() {
			changed = scrubAll(v, 1) || changed
		}
		return changed
	}
	i := 0
	s.RemoveIf(func(v pcommon.Value) bool {
		i++
		keep := i <= maxElements
		switch v.Type() {
		case pcommon.ValueTypeMap:
			keep = keep && how == ownMaps
			if keep {
				changed = r.ownMap(v.Map()) || changed
			}
		case pcommon.ValueTypeSlice, pcommon.ValueTypeBytes:
			keep = false
		default:
			_, c := r.value(how, v)
			changed = changed || c
		}
		changed = changed || !keep
		return !keep
	})
	return changed
}

func (r *Redactor) ownMap(m pcommon.Map) (changed bool) {
	m.RemoveIf(func(name string, v pcommon.Value) bool {
		switch v.Type() {
		case pcommon.ValueTypeMap, pcommon.ValueTypeSlice, pcommon.ValueTypeBytes:
			changed = true
			return true
		}
		if !mapKeys[name] {
			changed = true
			return true
		}
		_, c := r.value(plain, v)
		changed = changed || c
		return false
	})
	return changed
}

// scrubAll cuts tokens out of a value of any shape.
func scrubAll(v pcommon.Value, depth int) (changed bool) {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		s := v.Str()
		if out := scrub(s); out != s {
			v.SetStr(out)
			return true
		}
	case pcommon.ValueTypeBytes:
		changed = v.Bytes().Len() > 0
		v.SetEmptyBytes()
	case pcommon.ValueTypeSlice:
		if depth == maxDepth {
			changed = v.Slice().Len() > 0
			v.SetEmptySlice()
			break
		}
		for _, e := range v.Slice().All() {
			changed = scrubAll(e, depth+1) || changed
		}
	case pcommon.ValueTypeMap:
		if depth == maxDepth {
			changed = v.Map().Len() > 0
			v.SetEmptyMap()
			break
		}
		for name, e := range v.Map().All() {
			if secretName(name) {
				changed = changed || e.Type() != pcommon.ValueTypeEmpty
				pcommon.NewValueEmpty().CopyTo(e)
				continue
			}
			changed = scrubAll(e, depth+1) || changed
		}
	}
	return changed
}

// secretName tells the fields whose values are secrets whatever they look
// like.
func secretName(name string) bool {
	name = strings.ToLower(name)
	for _, s := range [...]string{"authorization", "cookie", "password", "passwd", "secret", "token", "api_key", "apikey", "api-key", "credential", "private_key"} {
		if strings.Contains(name, s) {
			return true
		}
	}
	return false
}

// Resource redacts a resource.
func (r *Redactor) Resource(res pcommon.Resource) int { return r.Attributes(res.Attributes()) }

// Scope redacts a scope.
func (r *Redactor) Scope(s pcommon.InstrumentationScope) int {
	n := r.Attributes(s.Attributes())
	n += name(s.Name(), s.SetName)
	n += name(s.Version(), s.SetVersion)
	return n
}

// name keeps a name: bounded, without query strings and tokens.
func name(s string, set func(string)) int {
	out := text(target, s)
	if out = clip(out, maxName); out == s {
		return 0
	}
	set(out)
	return 1
}

// Span redacts a span, its events and links.
func (r *Redactor) Span(s ptrace.Span) int {
	n := r.Attributes(s.Attributes())
	n += name(s.Name(), s.SetName)
	if s.Status().Message() != "" {
		s.Status().SetMessage("")
		n++
	}
	if s.TraceState().AsRaw() != "" {
		s.TraceState().FromRaw("")
		n++
	}
	for _, e := range s.Events().All() {
		e.Attributes().RemoveIf(func(name string, v pcommon.Value) bool {
			keep, changed := false, true
			if name == "exception.type" {
				keep, changed = r.value(plain, v)
			}
			if !keep || changed {
				n++
			}
			return !keep
		})
		if !eventNames[e.Name()] && e.Name() != "" {
			e.SetName("") // applications log by events: a name is free text
			n++
		}
	}
	for _, l := range s.Links().All() {
		n += l.Attributes().Len()
		l.Attributes().RemoveIf(func(string, pcommon.Value) bool { return true })
		if l.TraceState().AsRaw() != "" {
			l.TraceState().FromRaw("")
			n++
		}
	}
	return n
}

// Body says what becomes of a log record's body.
type Body uint8

const (
	// HashBody: of a source that is not known. The body's SHA-256 takes its place.
	HashBody Body = iota
	// LabelBody: an access log's labels as a map, or its request line.
	LabelBody
	// TrustBody: one of our own receivers wrote it, redacted.
	TrustBody
)

// LogRecord redacts a log record but for its body.
func (r *Redactor) LogRecord(lr plog.LogRecord) int {
	n := r.Attributes(lr.Attributes())
	n += name(lr.SeverityText(), lr.SetSeverityText)
	n += name(lr.EventName(), lr.SetEventName)
	return n
}

// LogBody redacts a log record's body.
func (r *Redactor) LogBody(lr plog.LogRecord, body Body) int {
	v := lr.Body()
	if v.Type() == pcommon.ValueTypeEmpty {
		return 0
	}
	switch {
	case body == TrustBody:
		return 0
	case body == LabelBody && v.Type() == pcommon.ValueTypeMap:
		return r.Attributes(v.Map())
	case body == LabelBody && v.Type() == pcommon.ValueTypeStr:
		if line, ok := requestLine(v.Str()); ok {
			if line == v.Str() {
				return 0
			}
			v.SetStr(line)
			return 1
		}
	}
	if r.keepBody {
		if scrubAll(v, 0) {
			return 1
		}
		return 0
	}
	sum := sha256.Sum256(AppendValue(nil, v))
	lr.Attributes().PutStr(semconv.EvidenceBodySHA256, hex.EncodeToString(sum[:]))
	pcommon.NewValueEmpty().CopyTo(v)
	return 1
}

// requestLine reads METHOD SP PATH SP CODE and cuts the path's query off.
func requestLine(s string) (string, bool) {
	f := strings.Split(clip(s, 2*maxValue), " ")
	if len(f) != 3 || len(f[2]) != 3 || strings.Trim(f[2], "0123456789") != "" || !strings.HasPrefix(f[1], "/") ||
		f[0] == "" || strings.Trim(f[0], "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
		return "", false
	}
	f[1] = text(target, f[1])
	return strings.Join(f, " "), true
}

// text keeps a string by its rule. What one cut leaves may be cut again (user
// information within user information), so it goes on until nothing changes;
// every pass but the last takes something away.
func text(how rule, s string) string {
	s = strings.ToValidUTF8(s, "_") // before anything is looked for in it
	for {
		out := once(how, s)
		if out == s {
			return s
		}
		s = out
	}
}

func once(how rule, s string) string {
	switch how {
	case url, target:
		if i := strings.IndexAny(s, "?#"); i >= 0 {
			s = s[:i]
		}
		if i := strings.LastIndexByte(s, '@'); how == target && i >= 0 && !strings.Contains(s[:i], "/") {
			s = s[i+1:] // an authority with user information
		}
	case user:
		return scrub(s)
	case clientCert:
		if s != "" {
			if s = xfcc.WithoutCertificates(s); s == "" {
				return cut
			}
		}
	}
	return clip(scrub(s), maxValue)
}

func clip(s string, maxBytes int) string { return evidence.Text(s, maxBytes) }
