package envoy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// Formats that need no configuration: Istio's default ones, from the oldest
// proxies that are still met to today's, and Envoy's.
const (
	istioFormat = httpStart + `%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" ` + istioRest + routeName
	httpStart   = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% `
	mixerStatus = `"%DYNAMIC_METADATA(istio.mixer:status)%" `
	istioRest   = `%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
		`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% ` +
		`%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME%`
	routeName   = ` %ROUTE_NAME%`
	envoyFormat = httpStart + `%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
		`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"`
)

// builtin are tried in this order.
var builtin = []string{
	istioFormat,
	httpStart + mixerStatus + `"%UPSTREAM_TRANSPORT_FAILURE_REASON%" ` + istioRest + routeName, // 1.4 to 1.7
	envoyFormat,
	httpStart + mixerStatus + `"%UPSTREAM_TRANSPORT_FAILURE_REASON%" ` + istioRest,
	httpStart + mixerStatus + istioRest + routeName,
	httpStart + mixerStatus + istioRest, // 1.1
	httpStart + istioRest + routeName,
	httpStart + istioRest,   // 1.0
	"ACCESS " + envoyFormat, // Emissary's
}

// Lines reads access log lines, text or JSON. It is safe for concurrent use.
type Lines struct {
	text []*Format
	json *object // nil: the names are labels
	pool sync.Pool
}

// An object is a JSON format: what a member's value is.
type object struct {
	values  map[string]*Format
	objects map[string]*object
}

// NewLines makes a reader of lines by a text format, a JSON format, or both.
// Of each that is empty the built-in ones are read: Istio's and Envoy's default
// text formats; as JSON, members that are named like labels, as Istio's default
// format names them.
func NewLines(text string, json map[string]any) (*Lines, error) {
	l := &Lines{pool: sync.Pool{New: func() any { return new(labels) }}}
	formats := builtin
	if text != "" {
		formats = []string{text}
	}
	for _, s := range formats {
		f, err := CompileFormat(s)
		if err != nil {
			return nil, err
		}
		l.text = append(l.text, f)
	}
	if len(json) > 0 {
		o, err := compileObject(json, "", 1)
		if err != nil {
			return nil, err
		}
		l.json = o
	}
	return l, nil
}

const maxFormatDepth = 8

func compileObject(m map[string]any, path string, depth int) (*object, error) {
	if depth > maxFormatDepth {
		return nil, fmt.Errorf("json_format: %s is nested deeper than %d", path, maxFormatDepth)
	}
	o := &object{values: make(map[string]*Format), objects: make(map[string]*object)}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m)) {
		switch v := m[name].(type) {
		case string:
			if !strings.Contains(strings.ReplaceAll(v, "%%", ""), "%") {
				continue // a constant
			}
			f, err := CompileFormat(v)
			if err != nil {
				errs = append(errs, fmt.Errorf("json_format: %s%s: %w", path, name, err))
				continue
			}
			o.values[name] = f
		case map[string]any:
			inner, err := compileObject(v, path+name+".", depth+1)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			o.objects[name] = inner
		}
	}
	return o, errors.Join(errs...)
}

// Decode reads one line.
func (d *Lines) Decode(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
	line = bytes.TrimSpace(line)
	l := d.pool.Get().(*labels)
	defer func() { *l = labels{}; d.pool.Put(l) }()
	if len(line) > 0 && line[0] == '{' {
		c := jsonscan.NewCopied(line)
		twice := d.readJSON(&c, l)
		if err := c.End(); err != nil {
			return dst, fmt.Errorf("envoy line: %w: byte %d: %w", evidence.ErrMalformed, c.Offset(), err)
		}
		if twice != "" {
			return dst, fmt.Errorf("envoy line: %w: %s is there twice", evidence.ErrMalformed, evidence.Text(twice, 64))
		}
	} else if !d.readText(string(line), l) {
		return dst, fmt.Errorf("envoy line: %w: not of the format", evidence.ErrNotEvidence)
	}
	return d.finish(dst, from, l)
}

// Labels reads a record whose labels came as attributes or a map body, by the
// JSON format.
func (d *Lines) Labels(dst []evidence.Evidence, from *evidence.Origin, maps ...pcommon.Map) ([]evidence.Evidence, error) {
	l := d.pool.Get().(*labels)
	defer func() { *l = labels{}; d.pool.Put(l) }()
	for _, m := range maps {
		if d.json == nil {
			collect(l, m)
		} else {
			d.json.collect(l, m)
		}
	}
	return d.finish(dst, from, l)
}

func (d *Lines) finish(dst []evidence.Evidence, from *evidence.Origin, l *labels) ([]evidence.Evidence, error) {
	if !l.stated() {
		return dst, fmt.Errorf("envoy line: %w: no time, no request and no connection", evidence.ErrNotEvidence)
	}
	node := Node{Workload: from.Workload, Cluster: from.Cluster}
	if node.Workload.PodName == "" && l.podName != "" {
		node.Workload.PodName = evidence.Text(l.podName, evidence.MaxName)
		node.Workload.Namespace = evidence.Text(l.podNamespace, evidence.MaxName)
	}
	n := len(dst)
	dst = append(dst, evidence.Evidence{}) // filled in place: it is large
	e := &dst[n]
	l.evidence(&node, e)
	e.Source = evidence.SourceEnvoyText
	sane(e)
	if e.Reporter.Node == "" {
		e.Reporter.Node = from.Workload.PodName
	}
	if e.Start == 0 && from.Time != 0 { // the line is written at the end
		length := e.End
		if e.Start = from.Time - length; length != 0 {
			e.End = from.Time
		}
	}
	applyTrace(e, l.headers.Trace())
	return dst, nil
}

// builtinLines read what needs no configuration.
var builtinLines = sync.OnceValue(func() *Lines {
	l, err := NewLines("", nil)
	if err != nil {
		panic(err) // they are ours
	}
	return l
})

// sane drops what a text line's fields cannot be.
func sane(e *evidence.Evidence) {
	if e.Path != "" && e.Path[0] != '/' && e.Path != "*" {
		e.Path = "" // no request target: an authority, or another field's text
	}
	if e.Protocol != "tcp" && !strings.HasPrefix(e.Protocol, "HTTP/") {
		e.Protocol = ""
	}
}

// stated tells whether the labels are a report at all.
func (l *labels) stated() bool {
	if l.startTime != "" {
		t, err := time.Parse(time.RFC3339Nano, l.startTime)
		if err != nil {
			return false
		}
		if l.start == 0 { // so it is read once
			l.start = unixNano(t.Unix(), int32(t.Nanosecond()))
		}
	}
	return l.method != "" || l.status != "" || l.flags != "" || l.cluster != "" || l.downstreamRemote != "" || l.termination != ""
}

func (d *Lines) readText(line string, l *labels) bool {
	for _, f := range d.text {
		if f.read(line, l) {
			return l.startTime != "" || l.start != 0 || !slices.ContainsFunc(f.operators, func(o operator) bool { return o.label == labelStart })
		}
	}
	return false
}

func (d *Lines) readJSON(c *jsonscan.Cursor, l *labels) (twice string) {
	if d.json != nil {
		return d.json.read(c, l)
	}
	var seen [48]string // Istio's default format has 24
	names := seen[:0]
	if !c.Object() {
		return ""
	}
	for c.Next() {
		if !l.known(string(c.Key)) {
			c.Skip()
			continue
		}
		name := c.Name()
		if slices.Contains(names, name) {
			twice = name
		}
		names = append(names, name)
		l.set(name, value(c))
	}
	return twice
}

func (o *object) read(c *jsonscan.Cursor, l *labels) (twice string) {
	if !c.Object() {
		return ""
	}
	seen := make(map[string]bool, len(o.values))
	for c.Next() {
		if f := o.values[string(c.Key)]; f != nil {
			name := string(c.Key)
			if seen[name] {
				twice = name
			}
			seen[name] = true
			f.value(l, value(c))
		} else if inner := o.objects[string(c.Key)]; inner != nil {
			if t := inner.read(c, l); t != "" {
				twice = t
			}
		} else {
			c.Skip()
		}
	}
	return twice
}

// value is a member's value as a text: "" for null, an object as it is written.
func value(c *jsonscan.Cursor) string {
	switch c.Peek() {
	case '{', '[':
		return string(c.Raw())
	}
	return c.Scalar()
}

// value gives a JSON member's value to l.
func (f *Format) value(l *labels, value string) {
	if len(f.operators) == 1 && f.literals[0] == "" && f.literals[1] == "" {
		f.operators[0].set(l, value)
		return
	}
	f.read(value, l)
}

func (o *object) collect(l *labels, m pcommon.Map) {
	for name, v := range m.All() {
		if f := o.values[name]; f != nil {
			f.value(l, v.AsString())
		} else if inner := o.objects[name]; inner != nil && v.Type() == pcommon.ValueTypeMap {
			inner.collect(l, v.Map())
		}
	}
}
