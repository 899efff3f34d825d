package redact

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/internal/semconv"
)

func TestText(t *testing.T) {
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"
	for _, tt := range []struct {
		how      rule
		in, want string
	}{
		{url, "https://user:pass@shop.example:8443/cart?token=x#y", "https://shop.example:8443/cart"},
		{url, "http://192.168.49.2:31653/productpage", "http://192.168.49.2:31653/productpage"},
		{target, "/cart?session=x", "/cart"},
		{target, "/reset/" + jwt + "/now", "/reset/[redacted]/now"},
		{target, "user:pass@shop.example", "shop.example"},
		{target, "/users/a@b.example", "/users/a@b.example"},
		{plain, "Bearer " + jwt, "Bearer [redacted]"},
		{plain, "authorization: bEaReR  s3cret, more", "authorization: bEaReR  [redacted], more"},
		{plain, "Basic dXNlcjpwYXNz", "Basic [redacted]"},
		{plain, "Bearer%20s3cret", "Bearer%20[redacted]"},
		{plain, "see amqp://u:p@h:5672/v and redis://:pw@r", "see amqp://h:5672/v and redis://r"},
		{plain, "eyJust text", "eyJust text"},
		{plain, "grant_type=x&client_secret=a/b+c==&user=u", "grant_type=x&client_secret=[redacted]&user=u"},
		{plain, "aws_secret_access_key=wJalr/x+y", "aws_secret_access_key=[redacted]"},
		{plain, "a=1, access_token%3Ds3cret%26b, git-token=", "a=1, access_token%3D[redacted], git-token="},
		{plain, "access_token=Bearer s3cret", "access_token=[redacted] [redacted]"},
		{plain, "authz=git-1,tokens=git-2", "authz=git-1,tokens=git-2"},
		{target, "/p;jsessionid=s3cret/q", "/p;jsessionid=[redacted]"},
		{target, "/p%3Ftoken%3ds3cret", "/p%3Ftoken%3d[redacted]"},
		{plain, "a -----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY----- b", "a [redacted] b"},
		{plain, "-----BEGIN%20PRIVATE%20KEY-----%0As3cret", "[redacted]"},
		{plain, "-----BEGIN CERTIFICATE-----\nMIIB", "-----BEGIN CERTIFICATE-----\nMIIB"},
		{plain, "spiffe://example.org/ns/a/sa/b", "spiffe://example.org/ns/a/sa/b"},
		{identity, `spiffe://x/cert/BEGIN`, `spiffe://x/cert/BEGIN`},
		{clientCert, `By=spiffe://x/a;Hash=00;URI=spiffe://x/b`, `By=spiffe://x/a;Hash=00;URI=spiffe://x/b`},
		{clientCert, `Hash=00;Cert="-----BEGIN%20CERT";URI=spiffe://x/b,cHain ="x,y"`, `Hash=00;Cert=;URI=spiffe://x/b,cHain =`},
		{clientCert, `Other="-----BEGIN CERT"`, `Other=`},
		{clientCert, `Cert="-----BEGIN`, cut},
		{plain, `data.x with input as {"user":"a","password":"hunter2"}`, `data.x with input as {"user":"a","password":"[redacted]"}`},
		{plain, `{"a":{"clientSecret" : 17, "b":2},"api_key":"x\"y","c":"d"}`, `{"a":{"clientSecret" : [redacted], "b":2},"api_key":"[redacted]","c":"d"}`},
		{plain, `"{\"pwd\":\"x y\",\"z\":1}"`, `"{\"pwd\":\"[redacted]\",\"z\":1}"`},
		{plain, `{"token":"unfinished`, `{"token":"[redacted]`},
		{plain, `{"password":"","tokens":"x","token":"[redacted]"}`, `{"password":"","tokens":"x","token":"[redacted]"}`},
		{plain, strings.Repeat("x", 5000), strings.Repeat("x", maxValue)},
		{plain, "", ""},
	} {
		got := text(tt.how, tt.in)
		assert.Equal(t, tt.want, got)
		assert.Equal(t, got, text(tt.how, got), "a second pass changes nothing")
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"Bearer a.b", "http://a:b@c/d?e", "eyJx.y eyJ", "Basic\tQQ==", "a%20b bearer+c", "://@://@", "@://@", "\xe8", "a_token=Basic b", "pwd%3Dx&jwt=", "secret=-----BEGIN PRIVATE KEY-----\nx", "cookie=a; session=b", `{"password":"x","token" : 1}`, `\"pwd\":\"x\"`} {
		f.Add(s, uint8(plain))
		f.Add(s, uint8(url))
		f.Add(s, uint8(target))
	}
	f.Fuzz(func(t *testing.T, s string, how uint8) {
		r := rule(how%uint8(ownMaps)) + 1
		once := text(r, s)
		if twice := text(r, once); twice != once {
			t.Fatalf("%q, then %q", once, twice)
		}
	})
}

const secret = "hunter2hunter2"

// secrets are values that must not survive in any attribute, allowed or not.
var secrets = []string{
	"Bearer " + secret, "basic " + secret, "eyJ" + secret + ".eyJ" + secret + "." + secret,
	"x DPoP " + secret, "https://u:" + secret + "@host/x",
}

var unknownNames = []string{
	"http.request.header.authorization", "http.request.header.cookie", "http.response.header.set-cookie", "url.query",
	"db.query.text", "db.statement", "exception.message", "exception.stacktrace", "user_agent.original", "k8s.pod.annotation.x",
	"k8s.pod.label.x", "process.command_line", "mesh.made.up", "audit.made.up", "mesh.evidence.made.up", "password", "code.stacktrace", "x",
}

// plant draws an attribute with a secret in it.
func plant(t *rapid.T, m pcommon.Map) {
	known := slices.Sorted(maps.Keys(allowed))
	var name, value string
	if rapid.Bool().Draw(t, "known") {
		name = rapid.SampledFrom(known).Draw(t, "name")
		value = rapid.SampledFrom(secrets).Draw(t, "value")
		switch allowed[name] {
		case url:
			value = "http://h/p?q=" + secret
		case target:
			value = rapid.SampledFrom([]string{"/p?q=" + secret, value}).Draw(t, "target")
		}
	} else {
		name, value = rapid.SampledFrom(unknownNames).Draw(t, "unknown"), secret
	}
	switch rapid.IntRange(0, 5).Draw(t, "shape") {
	case 0:
		m.PutEmptySlice(name).AppendEmpty().SetStr(value)
	case 1:
		m.PutEmptyMap(name).PutStr("field", secret)
	case 2:
		m.PutEmptyBytes(name).FromRaw([]byte(secret))
	case 3:
		own := m.PutEmptySlice(name).AppendEmpty().SetEmptyMap()
		own.PutStr("made up", secret)
		own.PutStr("from", "Bearer "+secret)
		own.PutEmptyMap("id").PutStr("x", secret)
	case 4:
		m.PutEmptySlice(name).AppendEmpty().SetEmptySlice().AppendEmpty().SetStr(secret)
	default:
		m.PutStr(name, value)
	}
}

func plantAll(t *rapid.T, m pcommon.Map) {
	for range rapid.IntRange(0, 6).Draw(t, "attributes") {
		plant(t, m)
	}
}

func TestNoSecretSurvivesInASpan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		ss := rs.ScopeSpans().AppendEmpty()
		s := ss.Spans().AppendEmpty()
		plantAll(t, rs.Resource().Attributes())
		plantAll(t, ss.Scope().Attributes())
		plantAll(t, s.Attributes())
		ss.Scope().SetName(rapid.SampledFrom(secrets).Draw(t, "scope"))
		ss.Scope().SetVersion("1?" + secret)
		s.SetName("GET /p?" + secret)
		s.Status().SetMessage("failed with " + secret)
		s.TraceState().FromRaw("v=" + secret)
		e := s.Events().AppendEmpty()
		e.SetName(secret)
		e.Attributes().PutStr("exception.message", secret)
		e.Attributes().PutStr("exception.type", rapid.SampledFrom(secrets).Draw(t, "type"))
		l := s.Links().AppendEmpty()
		l.SetSpanID([8]byte{1})
		l.TraceState().FromRaw("v=" + secret)
		plantAll(t, l.Attributes())

		r := New(Config{})
		pass := func() int {
			return r.Resource(rs.Resource()) + r.Scope(ss.Scope()) + r.Span(s)
		}
		assert.NotZero(t, pass())
		out, err := (&ptrace.JSONMarshaler{}).MarshalTraces(td)
		require.NoError(t, err)
		b, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(td)
		require.NoError(t, err)
		assert.NotContains(t, string(b), secret, string(out))
		assert.False(t, l.SpanID().IsEmpty())
		assert.Zero(t, pass(), "a second pass changes nothing: %s", out)
	})
}

func TestNoSecretSurvivesInALog(t *testing.T) {
	bodies := map[string]func(pcommon.Value){
		"text":         func(v pcommon.Value) { v.SetStr(secret) },
		"bytes":        func(v pcommon.Value) { v.SetEmptyBytes().FromRaw([]byte(secret)) },
		"map":          func(v pcommon.Value) { v.SetEmptyMap().PutStr("message", secret) },
		"labels":       func(v pcommon.Value) { v.SetEmptyMap().PutStr("path", "/x?"+secret) },
		"list":         func(v pcommon.Value) { v.SetEmptySlice().AppendEmpty().SetStr(secret) },
		"request line": func(v pcommon.Value) { v.SetStr("GET /x?" + secret + " 200") },
		"nearly one":   func(v pcommon.Value) { v.SetStr("GET /x " + secret) },
	}
	rapid.Check(t, func(t *rapid.T) {
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		sl := rl.ScopeLogs().AppendEmpty()
		lr := sl.LogRecords().AppendEmpty()
		plantAll(t, rl.Resource().Attributes())
		plantAll(t, lr.Attributes())
		lr.SetSeverityText("Bearer " + secret)
		lr.SetEventName("x?" + secret)
		bodies[rapid.SampledFrom(slices.Sorted(maps.Keys(bodies))).Draw(t, "body")](lr.Body())
		mode := rapid.SampledFrom([]Body{HashBody, LabelBody}).Draw(t, "mode")

		r := New(Config{})
		pass := func() int { return r.Resource(rl.Resource()) + r.LogRecord(lr) + r.LogBody(lr, mode) }
		assert.NotZero(t, pass())
		out, err := (&plog.ProtoMarshaler{}).MarshalLogs(ld)
		require.NoError(t, err)
		assert.NotContains(t, string(out), secret)
		assert.Zero(t, pass())
	})
}

func TestKeptIsKept(t *testing.T) {
	s := ptrace.NewSpan()
	s.SetName("reviews:9080/*")
	want := map[string]any{
		"http.method": "GET", "http.status_code": int64(200), "k8s.pod.name": "reviews-v1", "node_id": "sidecar~1~2~3",
		"http.request.header.x-request-id": []any{"abc"}, "guid:x-request-id": "abc", "tls.established": true,
		"http.request.header.x-forwarded-client-cert": []any{"URI=spiffe://a/b"}, "mesh.source.workload.name": "a",
		"mesh.evidence.claims": []any{map[string]any{"id": "spiffe://a/b", "proof": "claimed", "party": "source", "from": "header.x-spiffe-id"}},
	}
	require.NoError(t, s.Attributes().FromRaw(want))
	e := s.Events().AppendEmpty()
	e.SetName("exception")
	e.Attributes().PutStr("exception.type", "java.io.IOException")
	assert.Zero(t, New(Config{}).Span(s))
	assert.Equal(t, want, s.Attributes().AsRaw())
	assert.Equal(t, 1, e.Attributes().Len())
}

func TestAllow(t *testing.T) {
	m := pcommon.NewMap()
	require.NoError(t, m.FromRaw(map[string]any{
		"tenant": "a", "shop.order": "7", "shop.note": "Bearer " + secret, "shop.map": map[string]any{"password": secret, "n": "1"}, "shopping": "x",
	}))
	n := New(Config{Allow: []string{"tenant", "shop.*"}}).Attributes(m)
	assert.Equal(t, 3, n)
	assert.Equal(t, map[string]any{
		"tenant": "a", "shop.order": "7", "shop.note": "Bearer [redacted]", "shop.map": map[string]any{"password": nil, "n": "1"},
	}, m.AsRaw())
}

func TestBody(t *testing.T) {
	lr := plog.NewLogRecord()
	lr.Body().SetStr("some line")
	assert.Equal(t, 1, New(Config{}).LogBody(lr, HashBody))
	sum, ok := lr.Attributes().Get(semconv.EvidenceBodySHA256)
	require.True(t, ok)
	assert.Len(t, sum.Str(), 64)
	assert.Equal(t, pcommon.ValueTypeEmpty, lr.Body().Type())

	lr = plog.NewLogRecord()
	lr.Body().SetStr("some line, Bearer " + secret)
	assert.Equal(t, 1, New(Config{KeepBody: true}).LogBody(lr, HashBody))
	assert.Equal(t, "some line, Bearer [redacted]", lr.Body().Str())

	lr = plog.NewLogRecord()
	lr.Body().SetStr("GET /a?b=c 200")
	assert.Equal(t, 1, New(Config{}).LogBody(lr, LabelBody))
	assert.Equal(t, "GET /a 200", lr.Body().Str())
}

func TestAppendMapIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.MapOf(rapid.String(), rapid.Int64()).Draw(t, "m")
		keys := slices.Sorted(maps.Keys(raw))
		a, b := pcommon.NewMap(), pcommon.NewMap()
		for _, k := range keys {
			a.PutInt(k, raw[k])
		}
		slices.Reverse(keys)
		for _, k := range keys {
			b.PutInt(k, raw[k])
		}
		assert.Equal(t, AppendMap(nil, a, nil), AppendMap(nil, b, nil))
		if len(keys) > 0 {
			b.PutInt(keys[0], raw[keys[0]]+1)
			assert.NotEqual(t, AppendMap(nil, a, nil), AppendMap(nil, b, nil))
		}
	})
}

func BenchmarkSpan(b *testing.B) {
	r := New(Config{})
	template := ptrace.NewSpan()
	for i := range 20 {
		template.Attributes().PutStr(slices.Sorted(maps.Keys(allowed))[i*7], fmt.Sprint("value ", i))
	}
	template.Attributes().PutStr("http.url", "http://reviews:9080/reviews/0?x=y")
	template.Attributes().PutStr("user_agent", "curl")
	s := ptrace.NewSpan()
	b.ReportAllocs()
	for b.Loop() {
		template.CopyTo(s)
		r.Span(s)
	}
}
