package findings

import (
	"crypto/sha256"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
)

// found are the findings in what the correlator makes of evidence, which comes one
// batch after the other.
func found(t *testing.T, batches ...[]evidence.Evidence) (out []Finding) {
	c := correlate.New(correlate.Config{
		Window: 10 * time.Second, LateWindow: 10 * time.Minute, Settle: time.Second,
		ClockSkew: 2 * time.Second, MaxPending: 1000, MaxPendingBytes: 64 << 20, ExpectCallee: true,
	})
	d, now := detector(), t0
	for _, batch := range batches {
		c.Add(now, batch)
		now = now.Add(20 * time.Second)
		c.Advance(now)
		_, err := c.Deliver(100, func(records []*correlate.Record) error {
			for _, r := range records {
				out = append(out, observe(d, r, now)...)
			}
			return nil
		})
		require.NoError(t, err)
	}
	d.Advance(now.Add(time.Minute), func(f Finding) bool { out = append(out, f); return true })
	return out
}

// piece is evidence of one call of one attempt, under its trace.
func piece(name string, role evidence.Role, source evidence.Source, change func(*evidence.Evidence)) evidence.Evidence {
	e := evidence.Evidence{
		ID: sha256.Sum256([]byte(name)), Role: role, Source: source, Final: true, Position: name,
		Start: t0.UnixNano(), End: t0.Add(10 * time.Millisecond).UnixNano(),
		TraceID: evidence.TraceID{1}, Method: "GET", Path: "/orders",
	}
	if change != nil {
		change(&e)
	}
	return e
}

func callee(name string, change func(*evidence.Evidence)) evidence.Evidence {
	return piece(name, evidence.RoleCallee, evidence.SourceEnvoyALS, func(e *evidence.Evidence) {
		e.Status, e.SpanID, e.ParentSpanID = 200, evidence.SpanID{2}, evidence.SpanID{1}
		change(e)
	})
}

// app is a span of the workload behind the proxy.
func app(name string, change func(*evidence.Evidence)) evidence.Evidence {
	return piece(name, evidence.RoleCallee, evidence.SourceSpan, func(e *evidence.Evidence) {
		e.Status, e.SpanID, e.ParentSpanID, e.SpanKind = 200, evidence.SpanID{3}, evidence.SpanID{2}, evidence.SpanServer
		change(e)
	})
}

func decided(name string, v evidence.Verdict, change func(*evidence.Evidence)) evidence.Evidence {
	return piece(name, evidence.RoleDecision, evidence.SourceOPA, func(e *evidence.Evidence) {
		e.ParentSpanID, e.Verdict = evidence.SpanID{1}, &v
		e.Start += time.Millisecond.Nanoseconds()
		e.End = e.Start
		change(e)
	})
}

func same(*evidence.Evidence) {}

var (
	denies     = evidence.Verdict{Engine: "opa", Decision: evidence.Deny, Enforced: true, PolicyID: "orders"}
	refuses    = evidence.Verdict{Engine: "envoy_rbac", Decision: evidence.Deny, Enforced: true, DefaultDeny: true}
	refusing   = func(e *evidence.Evidence) { v := refuses; e.Verdict = &v }
	redirected = func(e *evidence.Evidence) { refusing(e); e.Status = 302 }
)

// Who states a denial is who refused, whatever the status; what the workload behind
// it served was served.
func TestWhoRefused(t *testing.T) {
	asGRPC := func(change func(*evidence.Evidence)) func(*evidence.Evidence) {
		return func(e *evidence.Evidence) { e.Method, e.Path = "POST", "/shop.Orders/Get"; change(e) }
	}
	for name, tc := range map[string]struct {
		evidence []evidence.Evidence
		found    bool
	}{
		"a proxy answers gRPC with HTTP 200":           {[]evidence.Evidence{callee("a", asGRPC(refusing))}, false},
		"a proxy redirects to where one logs in":       {[]evidence.Evidence{callee("a", redirected)}, false},
		"and the policy engine says so too":            {[]evidence.Evidence{callee("a", redirected), decided("d", denies, same)}, false},
		"and its span knows HTTP's status only":        {[]evidence.Evidence{callee("a", redirected), proxySpan("b")}, false},
		"the caller's proxy refuses":                   {[]evidence.Evidence{callee("a", func(e *evidence.Evidence) { redirected(e); e.Role = evidence.RoleCaller })}, false},
		"a proxy serves what a policy engine denies":   {[]evidence.Evidence{callee("a", same), decided("d", denies, same)}, true},
		"a workload serves what its proxy refuses":     {[]evidence.Evidence{callee("a", redirected), app("b", same)}, true},
		"a workload serves what its proxy says 403 to": {[]evidence.Evidence{callee("a", func(e *evidence.Evidence) { refusing(e); e.Status = 403 }), app("b", same)}, true},
		"a workload refuses as its proxy":              {[]evidence.Evidence{callee("a", redirected), app("b", func(e *evidence.Evidence) { e.Status = 403 })}, false},
		"denied, and gRPC's status is not known":       {[]evidence.Evidence{callee("a", asGRPC(same)), decided("d", denies, asGRPC(same))}, false},
		"denied, and the workload knows gRPC's status": {[]evidence.Evidence{callee("a", asGRPC(same)), decided("d", denies, asGRPC(same)),
			app("b", asGRPC(func(e *evidence.Evidence) { e.Status, e.GRPCStatus = 0, "0" }))}, true},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(found []Finding) {
				if !tc.found {
					require.Empty(t, found)
					return
				}
				require.Len(t, found, 1)
				require.Equal(t, DeniedButServed, found[0].Kind)
				require.Empty(t, found[0].Doubt)
			}
			check(found(t, tc.evidence))
			var late [][]evidence.Evidence
			for _, e := range tc.evidence {
				late = append(late, []evidence.Evidence{e})
			}
			check(found(t, late...))
		})
	}
}

func proxySpan(name string) evidence.Evidence {
	return piece(name, evidence.RoleCallee, evidence.SourceProxySpan, func(e *evidence.Evidence) {
		e.Status, e.SpanID, e.ParentSpanID, e.SpanKind = 200, evidence.SpanID{2}, evidence.SpanID{1}, evidence.SpanServer
	})
}

// Istio's default format has no gRPC status.
func TestDeniedByIstio(t *testing.T) {
	lines, err := envoy.NewLines("", nil)
	require.NoError(t, err)
	for _, line := range []string{
		`[2023-11-14T22:13:20.000Z] "POST /shop.Orders/Get HTTP/2" 200 - rbac_access_denied_matched_policy[none] - "-" 0 19 0 - "-" "grpc-go" "r-1" "orders:80" "-" inbound|80|| - 10.0.0.1:80 10.0.0.2:4000 - default`,
		`[2023-11-14T22:13:20.000Z] "GET /orders HTTP/1.1" 302 UAEX ext_authz_denied - "-" 0 19 0 - "-" "curl" "r-1" "orders:80" "-" inbound|80|| - 10.0.0.1:80 10.0.0.2:4000 - default`,
	} {
		e, err := lines.Decode(nil, &evidence.Origin{}, []byte(line))
		require.NoError(t, err)
		require.Len(t, e, 1)
		require.Equal(t, evidence.Deny, e[0].Verdict.Decision)
		require.Empty(t, e[0].GRPCStatus)
		e[0].ID = sha256.Sum256([]byte(line))
		require.Empty(t, found(t, e))
	}
}

// What decides is an allow or a deny that is enforced.
func TestWhatDecides(t *testing.T) {
	admin := func(e *evidence.Evidence) { e.Path = "/admin/users" }
	verdict := func(decision evidence.Decision, enforced bool) evidence.Verdict {
		return evidence.Verdict{Engine: "opa", Decision: decision, Enforced: enforced}
	}
	for name, tc := range map[string]struct {
		verdict evidence.Verdict
		found   bool
	}{
		"allow":                   {verdict(evidence.Allow, true), false},
		"an error, and fail open": {verdict(evidence.Error, true), true},
		"nothing was evaluated":   {verdict(evidence.NotEvaluated, true), true},
		"a dry run allows":        {verdict(evidence.Allow, false), true},
		"a dry run denies":        {verdict(evidence.Deny, false), true},
	} {
		t.Run(name, func(t *testing.T) {
			a, d := callee("a", admin), decided("d", tc.verdict, admin)
			for _, batches := range [][][]evidence.Evidence{{{a, d}}, {{d}, {a}}} {
				got := found(t, batches...)
				if !tc.found {
					require.Empty(t, got)
					continue
				}
				require.Len(t, got, 1)
				require.Equal(t, ServedWithoutDecision, got[0].Kind)
			}
			// What the proxy takes for an allow the engine knows better.
			inferred := callee("a", func(e *evidence.Evidence) {
				admin(e)
				v := verdict(evidence.Allow, true)
				e.Verdict = &v
			})
			require.Len(t, found(t, []evidence.Evidence{inferred, d}), len(found(t, []evidence.Evidence{a, d})))
		})
	}
}

// A denial of one attempt and the answer to another may be in one record; which is
// said.
func TestInDoubt(t *testing.T) {
	d := detector()
	both := func(state correlate.State) *correlate.Record {
		return record(func(r *correlate.Record) { r.Verdict.Decision, r.State = evidence.Deny, state })
	}
	doubtful := observe(d, both(correlate.Ambiguous), t0)
	require.Len(t, doubtful, 1)
	require.NotEmpty(t, doubtful[0].Doubt)
	require.Contains(t, doubtful[0].What, "in doubt")
	certain := observe(d, both(correlate.Complete), t0)
	require.Len(t, certain, 1, "one in doubt hides none that is not")
	require.Empty(t, certain[0].Doubt)
	require.NotEqual(t, doubtful[0].ID, certain[0].ID)
	require.NotContains(t, certain[0].What, "in doubt")

	// The record is in doubt, and what amends it is not.
	first := record(func(r *correlate.Record) {
		r.Verdict.Decision, r.Status, r.Attestations, r.State = evidence.Deny, 0, nil, correlate.Ambiguous
	})
	require.Empty(t, observe(d, first, t0))
	second := observe(d, record(func(r *correlate.Record) { r.Verdict, r.Amends, r.Before = nil, first.ID, first.Upshot }), t0)
	require.Len(t, second, 1)
	require.NotEmpty(t, second[0].Doubt)

	// It becomes doubtful while its decision is waited for.
	waits := record(func(r *correlate.Record) { r.Verdict, r.Path = nil, "/admin/x" })
	require.Empty(t, observe(d, waits, t0))
	require.Empty(t, observe(d, record(func(r *correlate.Record) {
		r.Verdict, r.Status, r.Attestations, r.State, r.Amends, r.Before = nil, 0, nil, correlate.Ambiguous, waits.ID, waits.Upshot
	}), t0))
	var found []Finding
	d.Advance(t0.Add(time.Second), func(f Finding) bool { found = append(found, f); return true })
	require.Len(t, found, 1)
	require.Equal(t, ServedWithoutDecision, found[0].Kind)
	require.NotEmpty(t, found[0].Doubt)
}

// A certificate is of who connected, not of the client that x-forwarded-for names:
// behind a gateway each user has another address, and anybody can make one up.
func TestPlaceOfWhoConnected(t *testing.T) {
	for name, tc := range map[string]struct {
		client, peer string // N: another one each other time
		found        bool
	}{
		"a gateway's users":    {"203.0.113.N", "10.0.0.1", false},
		"a thief who forwards": {"203.0.113.1", "10.0.0.N", true},
		"no header":            {"10.0.0.N", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			var all [][]evidence.Evidence
			for i := range 4 {
				n := strconv.Itoa(1 + i%2)
				all = append(all, []evidence.Evidence{callee(strconv.Itoa(i), func(e *evidence.Evidence) {
					e.TraceID[1], e.Start = byte(i), t0.Add(time.Duration(i)*time.Second).UnixNano()
					e.From.Address, e.PeerAddress = strings.ReplaceAll(tc.client, "N", n), strings.ReplaceAll(tc.peer, "N", n)
					e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true, ClientSHA256: "ab"}
				})})
			}
			got := found(t, all...)
			if !tc.found {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			require.Equal(t, SharedCredential, got[0].Kind)
		})
	}
}
