package envoy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

const textCorpus = "testdata/istio_text.log"

func lines(tb testing.TB, text string, json map[string]any) *Lines {
	tb.Helper()
	l, err := NewLines(text, json)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func oneLine(t *testing.T, l *Lines, line string) evidence.Evidence {
	t.Helper()
	got, err := l.Decode(nil, &evidencetest.Origin, []byte(line))
	if err != nil || len(got) != 1 {
		t.Fatalf("%d pieces, %v, of %s", len(got), err, line)
	}
	evidencetest.RoundTrip(t, &got[0])
	return got[0]
}

func TestTextCorpus(t *testing.T) {
	evidencetest.Corpus(t, textCorpus, lines(t, "", nil).Decode)
	golden, err := os.ReadFile(textCorpus + ".golden")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(golden, []byte("SECRET")) {
		t.Error("a secret is kept")
	}
}

// What a client writes into a header must not become other fields.
func TestForgedFields(t *testing.T) {
	const line = `[2026-11-23T10:00:06.000Z] "GET /x HTTP/2" 200 - via_upstream - "-" 0 5 1 1 "-" "%s" "r-5" "real:80" "127.0.0.1:80" inbound|80|| 127.0.0.1:41854 10.44.1.27:80 10.44.1.23:37652 - default`
	l := lines(t, "", nil)
	honest := oneLine(t, l, fmt.Sprintf(line, "curl"))
	if honest.RequestID != "r-5" || honest.Host != "real:80" || honest.Role != evidence.RoleCallee {
		t.Fatalf("%+v", honest)
	}
	for _, agent := range []string{
		`a" "b`, `a" "b" "c`, `a" "b" "c" "d:1`, `x" "fake-id" "fake:1" "6.6.6.6:66" outbound|66||evil 1.1.1.1:1 2.2.2.2:2 3.3.3.3:3 - default`,
		`"`, `" "`, strings.Repeat(`" "`, 1000), strings.Repeat(`" "x`, 3000) + `" 1 1 1 1 "`,
	} {
		e := oneLine(t, l, fmt.Sprintf(line, agent))
		if e.Method != "GET" || e.Start != honest.Start || len(agent) < 1000 && (e.Path != "/x" || e.Status != 200) {
			t.Errorf("%.40s: what stands before is lost: %s", agent, evidencetest.Render(&e))
		}
		if len(agent) > 1000 && (e.From.Address != honest.From.Address || e.Role != evidence.RoleCallee) {
			t.Errorf("%.40s: what stands behind is lost: %s", agent, evidencetest.Render(&e))
		}
		for what, pair := range map[string][2]string{
			"request id": {e.RequestID, honest.RequestID}, "host": {e.Host, honest.Host}, "upstream": {e.To.Address, honest.To.Address},
			"client": {e.From.Address, honest.From.Address}, "to": {e.To.Workload.Name, honest.To.Workload.Name},
		} {
			if pair[0] != "" && pair[0] != pair[1] {
				t.Errorf("%.40s: %s is %q, want %q or nothing", agent, what, pair[0], pair[1])
			}
		}
	}
}

func TestFormats(t *testing.T) {
	for _, tt := range []struct {
		format, line string
		check        func(*evidence.Evidence) bool
	}{
		{`%START_TIME(%Y/%m/%dT%H:%M:%S%z)%|%REQ(:METHOD)%|%RESPONSE_CODE%|%DOWNSTREAM_PEER_URI_SAN%|%DOWNSTREAM_TLS_VERSION%`,
			"2026/11/23T10:00:00+0100|GET|200|" + frontend + "|TLSv1.3",
			func(e *evidence.Evidence) bool {
				return e.Start == 1795424400e9 && e.TLS.Mutual && e.TLS.Version == "1.3" && e.From.Identities[0].Proof == evidence.ProofMTLSSAN
			}},
		{`%START_TIME% %RESPONSE_CODE% %DOWNSTREAM_PEER_SERIAL% "%DOWNSTREAM_PEER_ISSUER%"`, `2026-11-23T10:00:00.000Z 200 0b8b5ecc "CN=ca,O=My Corp"`,
			func(e *evidence.Evidence) bool {
				return e.TLS == evidence.TLS{Known: true, Established: true, Mutual: true, ClientSerial: "b8b5ecc", ClientIssuer: "CN=ca,O=My Corp"}
			}},
		{`%START_TIME% %RESPONSE_CODE% %DOWNSTREAM_PEER_SERIAL%`, `2026-11-23T10:00:00.000Z 200 -`,
			func(e *evidence.Evidence) bool { return e.TLS == evidence.TLS{Known: true} }},
		{`%START_TIME(%s.%3f)% %RESPONSE_CODE% %TRACE_ID%`, "1795428000.250 200 " + traceID,
			func(e *evidence.Evidence) bool { return e.Start == 1795428000250e6 && e.TraceID[0] == 0x4b }},
		{`%START_TIME(%s%3f)% %RESPONSE_CODE%`, "1795428000250 200", func(e *evidence.Evidence) bool { return e.Start == 1795428000250e6 }},
		{`%START_TIME% %RESPONSE_CODE% %GRPC_STATUS% "%REQ(:PATH)%" %STREAM_ID%`, `2026-11-23T10:00:00.000Z 200 PermissionDenied "/shop.Orders/Get" 7d0f`,
			func(e *evidence.Evidence) bool {
				return e.GRPCStatus == "7" && e.RPCMethod == "Get" && e.StreamID == "7d0f"
			}},
		{`%START_TIME% 100%% %REQ(:METHOD):3% %DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)% %DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%`,
			"2026-11-23T10:00:00.000Z 100% DEL denied ns[a]-policy[b]-rule[0]",
			func(e *evidence.Evidence) bool { return !e.Verdict.Enforced && e.Verdict.PolicyID == "b" }},
		{`%START_TIME% %RESPONSE_CODE% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn:p:sub)% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn:p:client_id)%`,
			"2026-11-23T10:00:00.000Z 200 alice web",
			func(e *evidence.Evidence) bool { return e.User == "alice" && e.Actor.Token.AuthorizedParty == "web" }},
		{`%START_TIME% %RESPONSE_CODE% %DYNAMIC_METADATA(istio_authn:request.auth.principal)% %DYNAMIC_METADATA(istio_authn:request.auth.presenter)%`,
			"2026-11-23T10:00:00.000Z 200 https://i/r/alice web",
			func(e *evidence.Evidence) bool {
				return e.User == "alice" && e.Actor.Token.Issuer == "https://i/r" && e.Actor.Token.AuthorizedParty == "web"
			}},
		{`%START_TIME% %RESPONSE_CODE% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn:p:act:sub)% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn:p:azp)%`,
			"2026-11-23T10:00:00.000Z 200 delegate -",
			func(e *evidence.Evidence) bool { return e.User == "" && e.Actor == nil }},
		{`%START_TIME% %RESPONSE_CODE% %ACCESS_LOG_TYPE%`, "2026-11-23T10:00:00.000Z 200 DownstreamStart", func(e *evidence.Evidence) bool { return !e.Final }},
		{`%START_TIME% %RESPONSE_CODE% "%REQ(AUTHORIZATION)%" "%REQ(COOKIE?X-REQUEST-ID)%" %FILTER_STATE(a:PLAIN)% %CEL(request.headers['a(b)'])%`,
			`2026-11-23T10:00:00.000Z 200 "Bearer SECRET" "SECRET" x SECRET y`,
			func(e *evidence.Evidence) bool {
				return e.RequestID == "" && !strings.Contains(evidencetest.Render(e), "SECRET")
			}},
		{`%START_TIME% %CONNECTION_TERMINATION_DETAILS% %DOWNSTREAM_REMOTE_ADDRESS%`, "2026-11-23T10:00:00.000Z rbac_access_denied_matched_policy[none] 10.0.0.1:5",
			func(e *evidence.Evidence) bool { return e.Event == evidence.EventConnection && e.Verdict.DefaultDeny }},
		{`%START_TIME% %REQ(:METHOD)% %UPSTREAM_CLUSTER% "%UPSTREAM_TRANSPORT_FAILURE_REASON%"`, `2026-11-23T10:00:00.000Z GET outbound|80||a.b.svc.cluster.local "delayed connect error: 111"`,
			func(e *evidence.Evidence) bool { return e.Event == evidence.EventRequest && e.TLS.FailureReason == "" }},
	} {
		if e := oneLine(t, lines(t, tt.format, nil), tt.line); !tt.check(&e) {
			t.Errorf("%s: %s", tt.format, evidencetest.Render(&e))
		}
	}
}

// What needs no configuration, of Istio's older proxies, Envoy Gateway and
// Contour, and what a line says where no upstream was reached.
func TestBuiltinFormats(t *testing.T) {
	const (
		start    = `[2026-11-23T10:00:00.000Z] "GET /a?b HTTP/1.1" 418 - `
		rest     = `0 135 5 2 "10.9.9.9" "curl/8" "r-1" "orders:80" "10.0.0.2:80" outbound|80|v2|orders.shop.svc.cluster.local - 172.21.0.9:80 10.0.0.1:4000 -`
		captured = ` 10.7.7.7:443 10.0.0.1:4000 - -`
	)
	called := func(e *evidence.Evidence) bool {
		return e.Role == evidence.RoleCaller && e.Path == "/a" && e.Status == 418 && e.RequestID == "r-1" && e.Host == "orders:80" &&
			e.To.Workload.Name == "orders" && e.To.Address == "10.0.0.2" && e.PeerAddress == "10.0.0.1" && e.End-e.Start == 5e6
	}
	l := lines(t, "", nil)
	for name, tt := range map[string]struct {
		line  string
		check func(*evidence.Evidence) bool
	}{
		"Istio 1.0":                 {start + rest, called},
		"Istio 1.0 with a route":    {start + rest + " default", called},
		"Istio 1.1":                 {start + `"-" ` + rest, called},
		"Istio 1.3":                 {start + `"-" ` + rest + " default", called},
		"Istio 1.4 without a route": {start + `"-" "-" ` + rest, called},
		"Istio 1.4":                 {start + `"-" "-" ` + rest + " default", called},
		"Istio today":               {start + `via_upstream - "-" ` + rest + " default", called},
		"Envoy with a scheme upstream": {start + `0 135 5 2 "-" "-" "r-1" "orders:80" "tcp://10.0.0.2:80"`, func(e *evidence.Evidence) bool {
			return e.Status == 418 && e.RequestID == "r-1"
		}},
		"nowhere": {`[2026-11-23T10:00:00.000Z] "- - -" 0 UH - - "-" 0 0 0 - "-" "-" "-" "-" "-" BlackHoleCluster -` + captured, func(e *evidence.Evidence) bool {
			return e.Role == evidence.RoleCaller && e.From.Address == "10.0.0.1" && e.To.Address == "10.7.7.7" && e.To.Port == 443 && e.PeerAddress == ""
		}},
		"a tunnel that could not be opened": {
			`[2026-11-23T10:00:00.000Z] "- - -" 0 UF,URX - - "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end" 0 0 3 - "-" "-" "-" "-" "10.0.0.2:15008" connect_originate - 10.0.0.2:80 envoy://internal_client_address/ - -`,
			func(e *evidence.Evidence) bool {
				return e.Role == evidence.RoleCaller && e.Event == evidence.EventHandshake && e.TLS.FailureReason != "" &&
					e.To.Address == "10.0.0.2" && e.To.Port == 80
			},
		},
		"denied at a gateway": {
			`[2026-11-23T10:00:00.000Z] "GET /a HTTP/1.1" 403 - rbac_access_denied_matched_policy[ns[gw]-policy[office]-rule[0]] - "-" 0 19 0 - "10.9.9.9" "-" "r-1" "a" "-" outbound|80||orders.shop.svc.cluster.local - 10.0.0.3:8080 10.9.9.9:5000 - -`,
			func(e *evidence.Evidence) bool {
				return e.Role == evidence.RoleCallee && e.From.Address == "10.9.9.9" && e.To.Address == "10.0.0.3" && e.Verdict.PolicyID == "office"
			},
		},
		"through a gateway": {
			`[2026-11-23T10:00:00.000Z] "GET /a HTTP/1.1" 200 - via_upstream - "-" 0 19 1 1 "10.9.9.9" "-" "r-1" "a" "10.0.0.2:80" outbound|80||orders.shop.svc.cluster.local 10.0.0.3:4000 10.0.0.3:8080 10.9.9.9:0 - -`,
			func(e *evidence.Evidence) bool {
				return e.Role == evidence.RoleCaller && e.From.Address == "10.0.0.3" && e.To.Address == "10.0.0.2" && e.PeerAddress == "10.9.9.9"
			},
		},
		"through a sidecar": {
			`[2026-11-23T10:00:00.000Z] "GET /a HTTP/1.1" 200 - via_upstream - "-" 0 19 1 1 "-" "-" "r-1" "a" "10.0.0.2:80" outbound|80||orders.shop.svc.cluster.local 10.0.0.3:4000 10.96.0.9:80 10.0.0.3:4001 - default`,
			func(e *evidence.Evidence) bool { return e.Role == evidence.RoleCaller && e.PeerAddress == "" },
		},
		"Emissary": {"ACCESS " + start + `0 135 5 2 "10.9.9.9" "curl/8" "r-1" "orders:80" "10.0.0.2:80"`, func(e *evidence.Evidence) bool {
			return e.Path == "/a" && e.Status == 418 && e.Host == "orders:80"
		}},
		"Envoy Gateway": {
			`{":authority":"a.example","duration":3,"method":"GET","response_code":200,"response_flags":"-","start_time":"2026-11-23T10:00:00Z","x-envoy-origin-path":"/a?b","x-request-id":"r-1","upstream_host":null,"downstream_remote_address":"10.0.0.1:1"}`,
			func(e *evidence.Evidence) bool {
				return e.Path == "/a" && e.Host == "a.example" && e.RequestID == "r-1" && e.Status == 200
			},
		},
		"a connection that is open": {
			`[2026-11-23T10:00:00.000Z] "- - -" 0 - - - "-" 3 0 - - "-" "-" "-" "-" "10.0.0.2:80" outbound|80||orders.shop.svc.cluster.local 10.0.0.1:4000 10.96.0.9:80 10.0.0.1:4001 - -`,
			func(e *evidence.Evidence) bool { return e.Event == evidence.EventConnection && !e.Final },
		},
		"a connection that is open, as JSON": {
			`{"start_time":"2026-11-23T10:00:00Z","duration":null,"upstream_cluster":"inbound|80||","response_flags":"-"}`,
			func(e *evidence.Evidence) bool { return e.Event == evidence.EventConnection && !e.Final },
		},
		"a connection that is over": {
			`[2026-11-23T10:00:00.000Z] "- - -" 0 - - - "-" 3 0 0 - "-" "-" "-" "-" "10.0.0.2:80" outbound|80||orders.shop.svc.cluster.local 10.0.0.1:4000 10.96.0.9:80 10.0.0.1:4001 - -`,
			func(e *evidence.Evidence) bool { return e.Event == evidence.EventConnection && e.Final },
		},
		"a connection of whose length nothing is said": {
			`{"start_time":"2026-11-23T10:00:00Z","upstream_cluster":"inbound|80||","response_flags":"-"}`,
			func(e *evidence.Evidence) bool { return e.Event == evidence.EventConnection && e.Final },
		},
		"a gRPC status by its name": {
			`{"start_time":"2026-11-23T10:00:00Z","method":"POST","path":"/shop.Orders/Get","response_code":"200","grpc_status":"PermissionDenied","upstream_cluster":"inbound|80||"}`,
			func(e *evidence.Evidence) bool { return e.GRPCStatus == "7" && e.RPCMethod == "Get" },
		},
		"Contour": {
			`{"@timestamp":"2026-11-23T10:00:00.5Z","authority":"a.example","method":"GET","path":"/a?b","protocol":"HTTP/1.1","response_code":200,"request_id":"r-1"}`,
			func(e *evidence.Evidence) bool { return e.Path == "/a" && e.Host == "a.example" && e.Start%1e9 == 5e8 },
		},
	} {
		if e := oneLine(t, l, tt.line); !tt.check(&e) {
			t.Errorf("%s: %s", name, evidencetest.Render(&e))
		}
	}
}

func TestJSONFormat(t *testing.T) {
	l := lines(t, "", map[string]any{
		"at": "%START_TIME%", "line": "%REQ(:METHOD)% %REQ(:PATH)%", "code": "%RESPONSE_CODE%", "constant": "x",
		"tls": map[string]any{"peer": "%DOWNSTREAM_PEER_URI_SAN%", "ua": "%REQ(USER-AGENT)%"}, "authz": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
	})
	line := `{"at":"2026-11-23T10:00:00.000Z","line":"GET /a?b=c","code":200,"tls":{"peer":"` + frontend + `","ua":"SECRET"},"authz":{"decision_id":"d-1"},"more":[1]}`
	e := oneLine(t, l, line)
	if e.Method != "GET" || e.Path != "/a" || e.Status != 200 || len(e.From.Identities) != 1 || e.DecisionID != "d-1" {
		t.Errorf("%s", evidencetest.Render(&e))
	}
	_, lr := logOf(t, nil, map[string]any{"at": "2026-11-23T10:00:00.000Z", "line": "GET /a?b=c", "code": 200, "tls": map[string]any{"peer": frontend}})
	got, err := l.Labels(nil, &evidencetest.Origin, lr.Attributes())
	if err != nil || got[0].Path != "/a" || got[0].Status != 200 || len(got[0].From.Identities) != 1 {
		t.Errorf("as attributes: %v %+v", err, got)
	}
	for bad, want := range map[string]error{
		`{"code":200,"code":403}`: evidence.ErrMalformed,
		`{"code":200`:             evidence.ErrMalformed,
		`{"hello":"world"}`:       evidence.ErrNotEvidence,
		`{"at":"now","code":200}`: evidence.ErrNotEvidence,
	} {
		if _, err := l.Decode(nil, &evidencetest.Origin, []byte(bad)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", bad, err, want)
		}
	}
}

func TestFormatFaults(t *testing.T) {
	for format, want := range map[string]string{
		"":                                   "no operator",
		"hello":                              "no operator",
		"%START_TIME":                        "does not end",
		"100% %START_TIME%":                  "a percent sign is %%",
		"%REQ(:METHOD%":                      "does not close",
		"%REQ()%":                            "names no header",
		"%REQ(A):x%":                         "a length must follow",
		"%START_TIME(%Q)%":                   `"%Q"`,
		"%START_TIME%%RESPONSE_CODE%":        "nothing stands between",
		"%REQQ(:METHOD)%":                    "%REQ is meant?",
		"%RESPONSE_COD%":                     "%RESPONSE_CODE is meant?",
		"%RESPONSE_CDOE%":                    "%RESPONSE_CODE is meant?",
		"%UPSTREAM_HOSTT% %DURETION%":        "%UPSTREAM_HOST is meant?",
		strings.Repeat("%DURATION% ", 200):   "more than 128",
		strings.Repeat("x", maxFormat) + "%": "at most",
	} {
		if _, err := CompileFormat(format); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", format, err, want)
		}
	}
	_, err := NewLines("", map[string]any{"a": "%X", "b": map[string]any{"c": "%Y"}})
	if err == nil || !strings.Contains(err.Error(), "json_format: a:") || !strings.Contains(err.Error(), "json_format: b.c:") {
		t.Errorf("not every fault: %v", err)
	}
}

// Operators of Envoy that are not read are not taken for misspelt ones.
func TestOtherOperators(t *testing.T) {
	for name := range strings.FieldsSeq(`
		BYTES_RETRANSMITTED CEL CLUSTER_METADATA COMMAND CUSTOM_FLAGS DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT DOWNSTREAM_HEADER_BYTES_SENT
		DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_PEER_CERT_V_START
		DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_IP_SAN
		DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT EMIT_TIME EMIT_TIME_LOCAL
		ENVIRONMENT FILTER_CHAIN_NAME LOCAL_REPLY_BODY PACKETS_RETRANSMITTED QUERY_PARAM QUERY_PARAMS REQ_WITHOUT_QUERY RESP_WITHOUT_QUERY
		TLS_JA5_FINGERPRINT UPSTREAM_CONNECTION_POOL_READY_DURATION UPSTREAM_DETECTED_CLOSE_TYPE UPSTREAM_FILTER_STATE UPSTREAM_HEADER_BYTES_SENT
		UPSTREAM_HOSTS_ATTEMPTED UPSTREAM_HOST_NAME UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_CLOSE_REASON
		UPSTREAM_LOCAL_SUBJECT UPSTREAM_METADATA UPSTREAM_PEER_CERT UPSTREAM_PEER_CERT_V_END UPSTREAM_PEER_ISSUER UPSTREAM_PROTOCOL
		UPSTREAM_TLS_SESSION_ID UPSTREAM_WIRE_BYTES_SENT VIRTUAL_CLUSTER_NAME`) {
		if _, err := CompileFormat("%" + name + "%"); err != nil {
			t.Error(err)
		}
	}
}

func TestHostile(t *testing.T) {
	evidencetest.Hostile(t, lines(t, "", nil).Decode, `{"start_time":"2026-11-23T10:00:00Z","method":"GET","path":"/a","response_code":200,"response_flags":"-"}`)
	evidencetest.Hostile(t, lines(t, "", map[string]any{"m": "%REQ(:METHOD)%", "c": "%RESPONSE_CODE%"}).Decode, `{"m":"GET","c":200}`)
}

func FuzzTextLine(f *testing.F) {
	for _, line := range evidencetest.Lines(f, textCorpus) {
		f.Add(line)
	}
	l := lines(f, "", nil)
	f.Fuzz(func(t *testing.T, line []byte) { evidencetest.FuzzLine(t, l.Decode, line) })
}

func FuzzCompileFormat(f *testing.F) {
	for _, s := range []string{istioFormat, envoyFormat, `%START_TIME(%s.%3f)% %REQ(A?B):5%%%`, `[%START_TIME%] "%DOWNSTREAM_PEER_ISSUER%" %DOWNSTREAM_PEER_SERIAL%`} {
		f.Add(s, `[2026-11-23T10:00:08.000Z] "POST /v1/x HTTP/1.1" 200`)
	}
	f.Fuzz(func(t *testing.T, format, line string) {
		l, err := NewLines(format, map[string]any{"a": format})
		if err != nil {
			return
		}
		evidencetest.FuzzLine(t, l.Decode, []byte(line))
	})
}

func benchmarkLines(b *testing.B, keep func([]byte) bool) {
	var in [][]byte
	for _, line := range evidencetest.Lines(b, textCorpus) {
		if keep(line) {
			in = append(in, line)
		}
	}
	evidencetest.BenchmarkLines(b, lines(b, "", nil).Decode, in)
}

func BenchmarkTextLine(b *testing.B) {
	benchmarkLines(b, func(line []byte) bool { return line[0] == '[' && !bytes.Contains(line, []byte("fake")) })
}

func BenchmarkJSONLine(b *testing.B) {
	benchmarkLines(b, func(line []byte) bool { return line[0] == '{' })
}
