package findings

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/correlate"
	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

var t0 = time.Unix(1_700_000_000, 0)

func detector() *Detector {
	admin, err := query.ParseGlob("/admin/*")
	if err != nil {
		panic(err)
	}
	return New(Config{TrustDomains: []string{"example.org"}, MustDecide: []query.Glob{admin}, Repeat: time.Hour, MaxOpen: 100, MaxCredentials: 1000})
}

var made int

// record is an ordinary good record, changed.
func record(change func(*correlate.Record)) *correlate.Record {
	made++
	r := &correlate.Record{
		EventName: semconv.EventRequest, ID: sha256.Sum256(fmt.Append(nil, made)), Start: t0.UnixNano(), Method: "GET", Path: "/orders", Status: 200,
		Source:      correlate.Party{ID: spiffeid.RequireFromString("spiffe://example.org/a"), Proof: evidence.ProofMTLSSAN, Address: "10.0.0.1"},
		Destination: correlate.Party{ID: spiffeid.RequireFromString("spiffe://example.org/b"), Proof: evidence.ProofMTLSSAN, Address: "10.0.0.2"},
		TLS:         evidence.TLS{Known: true, Established: true, Mutual: true, ClientNotAfter: t0.Unix() + 60},
		Verdict:     &evidence.Verdict{Engine: "opa", Decision: evidence.Allow, Enforced: true, PolicyID: "orders"},
	}
	if change != nil {
		change(r)
	}
	return r
}

func observe(d *Detector, r *correlate.Record, now time.Time) (out []Finding) {
	d.Observe(r, now, func(Kind) bool { return true }, func(f Finding) { out = append(out, f) })
	return out
}

func TestKinds(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*correlate.Record)
		want   Kind // "": none
	}{
		"an ordinary request":                {nil, ""},
		"denied and served":                  {func(r *correlate.Record) { r.Verdict.Decision = evidence.Deny }, DeniedButServed},
		"denied and refused":                 {func(r *correlate.Record) { r.Verdict.Decision, r.Status = evidence.Deny, 403 }, ""},
		"denied by a dry run":                {func(r *correlate.Record) { r.Verdict.Decision, r.Verdict.Enforced = evidence.Deny, false }, ""},
		"denied, gRPC served":                {func(r *correlate.Record) { r.Verdict.Decision, r.GRPCStatus = evidence.Deny, "0" }, DeniedButServed},
		"denied, gRPC refused over HTTP 200": {func(r *correlate.Record) { r.Verdict.Decision, r.GRPCStatus = evidence.Deny, "7" }, ""},
		"nobody decided where somebody must": {func(r *correlate.Record) { r.Verdict, r.Path = nil, "/admin/users" }, ServedWithoutDecision},
		"nobody decided elsewhere":           {func(r *correlate.Record) { r.Verdict = nil }, ""},
		"the decision may yet come":          {func(r *correlate.Record) { r.Verdict, r.Path, r.State = nil, "/admin/users", correlate.Partial }, ""},
		"two say who the source is": {func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{Field: semconv.SourceSPIFFEID, Kept: "a", Other: "b", From: "header.x-spiffe-id"}}
		}, IdentityConflict},
		"two say what the status is": {func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{Field: semconv.HTTPResponseStatusCode, Kept: "200", Other: "201"}}
		}, ""},
		"plaintext":              {func(r *correlate.Record) { r.TLS = evidence.TLS{Known: true} }, Plaintext},
		"plaintext within a pod": {func(r *correlate.Record) { r.TLS, r.Source.Address = evidence.TLS{Known: true}, "127.0.0.1" }, ""},
		"a failed handshake":     {func(r *correlate.Record) { r.TLS = evidence.TLS{Known: true, FailureReason: "expired"} }, ""},
		"nobody knows about TLS": {func(r *correlate.Record) { r.TLS = evidence.TLS{} }, ""},
		"an expired certificate": {func(r *correlate.Record) { r.TLS.ClientNotAfter = t0.Unix() - 1 }, ExpiredCertificate},
		"a foreign trust domain": {func(r *correlate.Record) { r.Source.ID = spiffeid.RequireFromString("spiffe://evil.example/a") }, UnknownTrustDomain},
		"an unknown source":      {func(r *correlate.Record) { r.Source.ID = spiffeid.ID{} }, ""},
		"a change of a policy": {func(r *correlate.Record) {
			r.EventName, r.User, r.Verdict = semconv.EventConfigChange, "alice", nil
			r.Act = &evidence.Act{Action: "patch", Change: evidence.Change{Namespace: "shop", Name: "orders"}}
		}, PolicyChanged},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(tc.change)
			found := observe(detector(), r, t0)
			if tc.want == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Equal(t, tc.want, found[0].Kind)
			require.Equal(t, []correlate.RecordID{r.ID}, found[0].Records)
			require.NotEmpty(t, found[0].What)
			require.Contains(t, Kinds, tc.want)
		})
	}
}

// A fault that every request shows is stated once, then counted.
func TestCounting(t *testing.T) {
	d := detector()
	plain := func(r *correlate.Record) { r.TLS = evidence.TLS{Known: true} }
	first := observe(d, record(plain), t0)
	require.Len(t, first, 1)
	for i := range 100 {
		require.Empty(t, observe(d, record(plain), t0.Add(time.Duration(i)*time.Second)))
	}
	again := observe(d, record(plain), t0.Add(time.Hour))
	require.Len(t, again, 1)
	require.EqualValues(t, 102, again[0].Count)
	require.Equal(t, first[0].ID, again[0].ID)
	require.NotEqual(t, first[0].StatementID(), again[0].StatementID())
	require.Len(t, again[0].Records, maxCited)
	require.Equal(t, t0, again[0].First)

	require.Empty(t, observe(d, record(plain), t0.Add(time.Hour+time.Minute)))
	var ended []Finding
	advance := func(now time.Time) { d.Advance(now, func(f Finding) { ended = append(ended, f) }) }
	advance(t0.Add(90 * time.Minute))
	require.Empty(t, ended)
	advance(t0.Add(2*time.Hour + time.Minute))
	require.Len(t, ended, 1, "what came since is stated when it is over")
	require.EqualValues(t, 103, ended[0].Count)
	advance(t0.Add(4 * time.Hour))
	require.Len(t, ended, 1)
	require.Len(t, observe(d, record(plain), t0.Add(5*time.Hour)), 1, "and found anew")
}

func TestBounded(t *testing.T) {
	d := detector()
	for i := range 500 {
		observe(d, record(func(r *correlate.Record) {
			r.TLS, r.Source.ID = evidence.TLS{Known: true}, spiffeid.RequireFromPath(spiffeid.RequireTrustDomainFromString("example.org"), fmt.Sprintf("/w%d", i))
		}), t0.Add(time.Duration(i)*time.Second))
	}
	require.Len(t, d.open, 100)
}

// by is a call with a credential, from a node and pod.
func by(node, pod, address string) *correlate.Record {
	return record(func(r *correlate.Record) {
		r.TLS.ClientSHA256 = "cert"
		r.Source.Workload.Node, r.Source.Workload.PodName, r.Source.Address = node, pod, address
	})
}

func TestSharedCredential(t *testing.T) {
	type step struct {
		r     *correlate.Record
		after time.Duration
	}
	for name, tc := range map[string]struct {
		steps []step
		found bool
	}{
		"one workload":                        {[]step{{by("n1", "p1", ""), 0}, {by("n1", "p1", ""), 1}, {by("n1", "p1", ""), 2}}, false},
		"two nodes in turns":                  {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 1}, {by("n1", "p1", ""), 2}}, true},
		"a restart: it moves once":            {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 1}, {by("n2", "p2", ""), 2}}, false},
		"two pods of one node share an agent": {[]step{{by("n1", "p1", ""), 0}, {by("n1", "p2", ""), 1}, {by("n1", "p1", ""), 2}}, false},
		"two pods, nodes not known":           {[]step{{by("", "p1", ""), 0}, {by("", "p2", ""), 1}, {by("", "p1", ""), 2}}, true},
		"two addresses, nothing else":         {[]step{{by("", "", "10.0.0.1"), 0}, {by("", "", "10.0.0.9"), 1}, {by("", "", "10.0.0.1"), 2}}, true},
		"many behind one address":             {[]step{{by("", "", "10.0.0.1"), 0}, {by("", "", "10.0.0.1"), 1}, {by("", "", "10.0.0.1"), 2}}, false},
		"back after an hour":                  {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), time.Hour}, {by("n1", "p1", ""), 2 * time.Hour}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := detector()
			var found []Finding
			for _, s := range tc.steps {
				found = append(found, observe(d, s.r, t0.Add(s.after))...)
			}
			if !tc.found {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Equal(t, SharedCredential, found[0].Kind)
		})
	}
}

// A decision is linked to who changed its policy last, by object and by revision.
func TestPolicyHistory(t *testing.T) {
	d := detector()
	changed := func(user string, at time.Duration, c evidence.Change) *correlate.Record {
		return record(func(r *correlate.Record) {
			r.EventName, r.User, r.Verdict, r.Start = semconv.EventConfigChange, user, nil, t0.Add(at).UnixNano()
			r.Act = &evidence.Act{Change: c}
		})
	}
	decided := func(at time.Duration, v evidence.Verdict) *correlate.Record {
		r := record(func(r *correlate.Record) { r.Start, r.Verdict = t0.Add(at).UnixNano(), &v })
		observe(d, r, t0.Add(at))
		return r
	}
	orders := evidence.Change{Group: "security.istio.io", Resource: "authorizationpolicies", Namespace: "shop", Name: "orders"}
	alice, bob := changed("alice", 0, orders), changed("bob", time.Minute, orders)
	observe(d, alice, t0)
	under := decided(time.Second, evidence.Verdict{PolicyNamespace: "shop", PolicyID: "orders"})
	require.Equal(t, &correlate.PolicyChange{Record: alice.ID, By: "alice", Time: t0.UnixNano()}, under.PolicyChange)
	observe(d, bob, t0.Add(time.Minute))
	require.Equal(t, "bob", decided(2*time.Minute, evidence.Verdict{PolicyNamespace: "shop", PolicyID: "orders"}).PolicyChange.By)
	require.Nil(t, decided(2*time.Minute, evidence.Verdict{PolicyNamespace: "shop", PolicyID: "payments"}).PolicyChange)
	require.Nil(t, decided(2*time.Minute, evidence.Verdict{}).PolicyChange)

	observe(d, changed("opa", 3*time.Minute, evidence.Change{Name: "bundle", Revision: "r7"}), t0.Add(3*time.Minute))
	require.Equal(t, "opa", decided(4*time.Minute, evidence.Verdict{PolicyID: "mesh/allow", PolicyRevision: "r7"}).PolicyChange.By)
	require.Nil(t, decided(time.Second, evidence.Verdict{PolicyID: "mesh/allow", PolicyRevision: "r7"}).PolicyChange, "it was decided before the change")
}

// Live credentials stay within what the documentation says.
func TestCredentialMemory(t *testing.T) {
	const n = 200_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	c := newCredentials(n)
	for i := range 2 * n {
		c.use(fmt.Sprint(i), "node", t0)
	}
	each := (heap() - before) / (2 * n)
	require.LessOrEqual(t, len(c.newer)+len(c.older), 2*n)
	require.Less(t, each, uint64(120), "bytes for each credential")
	runtime.KeepAlive(c)
}
