package otlp

import (
	"reflect"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/collector/pdata/plog"
	"pgregory.net/rapid"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

var (
	texts   = rapid.OneOf(rapid.Just(""), rapid.String())
	spiffes = rapid.Custom(func(t *rapid.T) spiffeid.ID {
		return spiffeid.RequireFromString("spiffe://" + rapid.StringMatching(`[a-z0-9._-]{1,20}`).Draw(t, "td") +
			rapid.StringMatching(`(/[a-zA-Z0-9_-]{1,10}){0,4}`).Draw(t, "path"))
	})
	identities = rapid.Custom(func(t *rapid.T) evidence.Identity {
		id := evidence.Identity{
			Proof: evidence.Proof(rapid.IntRange(0, int(evidence.ProofSVID)).Draw(t, "proof")), From: texts.Draw(t, "from"),
		}
		if rapid.Bool().Draw(t, "valid") {
			id.ID = spiffes.Draw(t, "id")
		} else {
			id.Invalid = rapid.StringN(1, 20, -1).Draw(t, "invalid")
		}
		return id
	})
	parties = rapid.Custom(func(t *rapid.T) evidence.Party {
		p := evidence.Party{
			Workload: evidence.Workload{
				Name: texts.Draw(t, "name"), Namespace: texts.Draw(t, "namespace"), Kind: texts.Draw(t, "kind"),
				Version: texts.Draw(t, "version"), Revision: texts.Draw(t, "revision"), PodName: texts.Draw(t, "pod"),
				PodUID: texts.Draw(t, "uid"), Node: texts.Draw(t, "node"), ImageDigest: texts.Draw(t, "image"),
			},
			Address: texts.Draw(t, "address"), Port: rapid.Uint16().Draw(t, "port"),
		}
		for _, id := range rapid.SliceOfN(identities, 0, 5).Draw(t, "identities") {
			p.AddIdentity(id)
		}
		return p
	})
	pieces = rapid.Custom(func(t *rapid.T) evidence.Evidence {
		e := evidence.Evidence{
			ID: evidence.ID(bytesOf(t, 32)),
			Source: rapid.SampledFrom([]evidence.Source{evidence.SourceEnvoyALS, evidence.SourceEnvoyOTLP,
				evidence.SourceOPA, evidence.SourceSpan, evidence.SourceProxySpan, evidence.SourceK8sAudit}).Draw(t, "source"),
			Event:    evidence.Event(rapid.IntRange(0, int(evidence.EventIdentityIssue)).Draw(t, "event")),
			Role:     evidence.Role(rapid.IntRange(0, int(evidence.RoleObserver)).Draw(t, "role")),
			Final:    rapid.Bool().Draw(t, "final"),
			Position: texts.Draw(t, "position"),
			Reporter: evidence.Reporter{
				CertSHA256: texts.Draw(t, "cert"), Authenticated: rapid.Bool().Draw(t, "authenticated"),
				Address: texts.Draw(t, "address"), Node: texts.Draw(t, "node"),
			},
			Start: rapid.Int64().Draw(t, "start"), End: rapid.Int64().Draw(t, "end"),
			TraceID: evidence.TraceID(bytesOf(t, 16)), SpanID: evidence.SpanID(bytesOf(t, 8)), ParentSpanID: evidence.SpanID(bytesOf(t, 8)),
			SpanKind: evidence.SpanKind(rapid.IntRange(0, int(evidence.SpanConsumer)).Draw(t, "kind")),
			StreamID: texts.Draw(t, "stream"), RequestID: texts.Draw(t, "request"), DecisionID: texts.Draw(t, "decision"),
			From: parties.Draw(t, "source party"), To: parties.Draw(t, "destination party"),
			PeerAddress: texts.Draw(t, "peer"), PeerPort: rapid.Uint16().Draw(t, "peer port"),
			Method: texts.Draw(t, "method"), Path: texts.Draw(t, "path"), Route: texts.Draw(t, "route"), Host: texts.Draw(t, "host"),
			RPCSystem: texts.Draw(t, "rpc"), RPCService: texts.Draw(t, "service"), RPCMethod: texts.Draw(t, "rpc method"),
			Topic: texts.Draw(t, "topic"), MessagingSystem: texts.Draw(t, "messaging"),
			Protocol: rapid.OneOf(texts, rapid.SampledFrom([]string{"HTTP/1.1", "HTTP/2", "HTTP/", "http", "tcp", "HTTP/http"})).Draw(t, "protocol"),
			Status:   int(rapid.Int32().Draw(t, "status")), GRPCStatus: rapid.OneOf(texts, rapid.StringMatching(`0?[0-9]{1,3}`)).Draw(t, "grpc"),
			StatusDetail: texts.Draw(t, "detail"), ResponseFlags: texts.Draw(t, "flags"),
			ResendCount: int(rapid.Int32().Draw(t, "resend")), Failed: rapid.Bool().Draw(t, "failed"),
			User: texts.Draw(t, "user"), Cluster: texts.Draw(t, "cluster"),
			TLS: evidence.TLS{
				Known: rapid.Bool().Draw(t, "known"), Version: texts.Draw(t, "tls"), Cipher: texts.Draw(t, "cipher"),
				ClientSHA256: texts.Draw(t, "sha"), ClientSerial: texts.Draw(t, "serial"), ClientIssuer: texts.Draw(t, "issuer"), ClientNotAfter: rapid.Int64().Draw(t, "not after"),
				Mutual: rapid.Bool().Draw(t, "mutual"), FailureReason: texts.Draw(t, "failure"),
			},
		}
		e.TLS.Established = e.TLS.Known && rapid.Bool().Draw(t, "established")
		if rapid.Bool().Draw(t, "actor") {
			e.Actor = &evidence.Actor{
				Type: "user", Impersonator: texts.Draw(t, "impersonator"),
				Roles: rapid.SliceOfN(rapid.StringN(1, 10, -1), 0, 3).Draw(t, "roles"),
				Token: evidence.Token{Issuer: texts.Draw(t, "iss"), Audience: texts.Draw(t, "aud"), AuthorizedParty: texts.Draw(t, "azp"),
					JKT: texts.Draw(t, "jkt"), X5T: texts.Draw(t, "x5t"), Proof: texts.Draw(t, "proof"), IDHash: texts.Draw(t, "jti"), Bound: texts.Draw(t, "bound")},
			}
			for range rapid.IntRange(0, 3).Draw(t, "chain") {
				e.Actor.Delegation = append(e.Actor.Delegation, evidence.Delegate{Issuer: texts.Draw(t, "link iss"), Subject: texts.Draw(t, "link sub")})
			}
			if len(e.Actor.Roles) == 0 {
				e.Actor.Roles = nil
			}
		}
		if rapid.Bool().Draw(t, "act") {
			e.Act = &evidence.Act{
				Action: "patch", Outcome: texts.Draw(t, "outcome"), TargetID: texts.Draw(t, "target"), TargetType: texts.Draw(t, "target type"),
				Change: evidence.Change{Group: texts.Draw(t, "group"), Resource: texts.Draw(t, "resource"), Namespace: texts.Draw(t, "ns"),
					Name: texts.Draw(t, "object"), Verb: texts.Draw(t, "verb"), DiffSHA256: texts.Draw(t, "diff"), Revision: texts.Draw(t, "revision")},
			}
		}
		if rapid.Bool().Draw(t, "reporter id") {
			e.Reporter.SPIFFEID = spiffes.Draw(t, "reporter")
		}
		if rapid.Bool().Draw(t, "verdict") {
			e.Verdict = &evidence.Verdict{
				Engine: texts.Draw(t, "engine"), Decision: evidence.Decision(texts.Draw(t, "decision")),
				Enforced: rapid.Bool().Draw(t, "enforced"), DefaultDeny: rapid.Bool().Draw(t, "default deny"),
				Reason: texts.Draw(t, "reason"), PolicyID: texts.Draw(t, "policy"), PolicyNamespace: texts.Draw(t, "policy namespace"),
				PolicyRevision: texts.Draw(t, "revision"), DecisionID: texts.Draw(t, "decision id"),
			}
		}
		return e
	})
)

func bytesOf(t *rapid.T, n int) []byte {
	return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "bytes")
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := pieces.Draw(t, "evidence")
		lr := plog.NewLogRecord()
		Encode(&want, lr)
		got, ok := Decode(lr)
		if !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("\n got %+v, %v\nwant %+v", got, ok, want)
		}
		if lr.EventName() != semconv.EventEvidence {
			t.Fatalf("event name %q", lr.EventName())
		}
	})
}

// TestEveryFieldIsWritten fails when a field is added to Evidence that neither
// the property above generates nor this package leaves out on purpose.
func TestEveryFieldIsWritten(t *testing.T) {
	unset := map[string]bool{}
	typ := reflect.TypeFor[evidence.Evidence]()
	for i := range typ.NumField() {
		unset[typ.Field(i).Name] = true
	}
	delete(unset, "Digest") // of the record itself
	delete(unset, "Shown")  // credentials, which nothing writes
	for seed := range 50 {
		v := reflect.ValueOf(pieces.Example(seed))
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				delete(unset, typ.Field(i).Name)
			}
		}
	}
	if len(unset) > 0 {
		t.Errorf("never generated, so never tested: %v", unset)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, change := range map[string]func(plog.LogRecord){
		"no source":      func(lr plog.LogRecord) { lr.Attributes().Remove(semconv.EvidenceSource) },
		"unknown source": func(lr plog.LogRecord) { lr.Attributes().PutStr(semconv.EvidenceSource, "opaque") },
		"source no text": func(lr plog.LogRecord) { lr.Attributes().PutInt(semconv.EvidenceSource, 1) },
		"raw":            func(lr plog.LogRecord) { lr.Attributes().PutBool(semconv.EvidenceRaw, true) },
		"gap": func(lr plog.LogRecord) {
			EncodeGap(&evidence.Gap{Source: evidence.SourceEnvoyALS, Count: 1, Reason: "shutdown"}, lr)
		},
	} {
		lr := plog.NewLogRecord()
		Encode(&evidence.Evidence{Source: evidence.SourceEnvoyALS}, lr)
		if _, ok := Decode(lr); !ok {
			t.Fatal("the record is no evidence to begin with")
		}
		change(lr)
		if e, ok := Decode(lr); ok {
			t.Errorf("%s: decoded %+v", name, e)
		}
	}
}

// TestDecodeTakesAnyType: attributes of every wrong type are ignored.
func TestDecodeTakesAnyType(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := pieces.Draw(t, "evidence")
		lr := plog.NewLogRecord()
		Encode(&e, lr)
		for name, v := range lr.Attributes().All() {
			if name == semconv.EvidenceSource {
				continue
			}
			switch rapid.IntRange(0, 6).Draw(t, "type") {
			case 0:
				v.SetEmptyMap()
			case 1:
				v.SetEmptySlice().AppendEmpty().SetEmptyBytes()
			case 2:
				v.SetDouble(-1)
			case 3:
				v.SetInt(-1)
			case 4:
				v.SetBool(true)
			case 5:
				v.SetStr("\xff")
			}
		}
		if _, ok := Decode(lr); !ok {
			t.Fatal("no evidence")
		}
	})
}

func example() evidence.Evidence {
	return evidence.Evidence{
		Source: evidence.SourceEnvoyALS, Role: evidence.RoleCallee, Final: true, Position: "s/1.0", Start: 1, End: 2,
		TraceID: evidence.TraceID{1}, ParentSpanID: evidence.SpanID{2}, RequestID: "b1", Method: "GET", Path: "/orders/1", Host: "orders",
		Protocol: "HTTP/2", Status: 200, StatusDetail: "via_upstream", DecisionID: "d",
		From: evidence.Party{
			Identities: []evidence.Identity{evidence.ParseIdentity("spiffe://example.org/ns/shop/sa/frontend", evidence.ProofMTLSSAN, "tls.peer.san")},
			Address:    "192.0.2.1", Port: 4711,
		},
		To: evidence.Party{
			Identities: []evidence.Identity{evidence.ParseIdentity("spiffe://example.org/ns/shop/sa/orders", evidence.ProofMTLSSAN, "tls.local.san")},
			Workload:   evidence.Workload{Name: "orders", Namespace: "shop", Version: "v1", PodName: "orders-1"}, Address: "192.0.2.2", Port: 8080,
		},
		TLS:     evidence.TLS{Known: true, Established: true, Mutual: true, Version: "1.3"},
		Verdict: &evidence.Verdict{Engine: "envoy_ext_authz", Decision: evidence.Allow, Enforced: true, DecisionID: "d"},
	}
}

func BenchmarkEncode(b *testing.B) {
	e := example()
	b.ReportAllocs()
	for b.Loop() {
		logs := plog.NewLogRecord()
		Encode(&e, logs)
	}
}

func BenchmarkDecode(b *testing.B) {
	e := example()
	lr := plog.NewLogRecord()
	Encode(&e, lr)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Decode(lr); !ok {
			b.Fatal("no evidence")
		}
	}
}
