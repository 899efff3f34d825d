package findings

import (
	"crypto/sha256"
	"encoding/binary"
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
	return New(Config{TrustDomains: []string{"example.org"}, MustDecide: []query.Glob{admin}, DecisionWait: time.Second, Repeat: time.Hour, MaxOpen: 100, MaxWaits: 1000, MaxCredentials: 1000})
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
	r.Attestations = []correlate.Attestation{{Role: evidence.RoleCallee}}
	if change != nil {
		change(r)
	}
	r.Upshot.Judged(r.Verdict, true)
	r.Upshot.Answer = correlate.AnswerOf(r.Status, r.GRPCStatus, false)
	if r.Upshot.Callee = len(r.Attestations) > 0; r.Upshot.Callee {
		r.Upshot.By = correlate.Proxy
	} else if r.Upshot.Answer != correlate.Unanswered {
		r.Upshot.By = correlate.Caller
	}
	r.Upshot.Ambiguous = r.State == correlate.Ambiguous
	r.Fold(r.Before)
	return r
}

func observe(d *Detector, r *correlate.Record, now time.Time) (out []Finding) {
	d.Observe(r, now, func(Kind) bool { return true }, func(f Finding) bool { out = append(out, f); return true })
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
		"nobody decided in time":             {func(r *correlate.Record) { r.Verdict, r.Path, r.State = nil, "/admin/users", correlate.Partial }, ServedWithoutDecision},
		"what the callee says is not known":  {func(r *correlate.Record) { r.Verdict, r.Path, r.Attestations = nil, "/admin/users", nil }, ""},
		"nobody decided, and it was refused": {func(r *correlate.Record) { r.Verdict, r.Path, r.Status = nil, "/admin/users", 404 }, ""},
		"two say who the source is": {func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{Field: semconv.SourceSPIFFEID, Kept: "a", Other: "b", From: "header.x-spiffe-id"}}
		}, IdentityConflict},
		"a peer outside the mesh": {func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{Field: semconv.SourceSPIFFEID, Other: "billing.corp", OtherProof: evidence.ProofMTLSSAN, From: "tls.peer.dns_san"}}
		}, ""},
		"a peer inside it by another certificate": {func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{Field: semconv.SourceSPIFFEID, Kept: "spiffe://example.org/a", Other: "billing.corp", OtherProof: evidence.ProofMTLSSAN}}
		}, IdentityConflict},
		"a SPIFFE ID that is none": {func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{Field: semconv.SourceSPIFFEID, Other: "spiffe://Bad Domain/x", OtherProof: evidence.ProofMTLSSAN}}
		}, IdentityConflict},
		"two say what the status is": {func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{Field: semconv.HTTPResponseStatusCode, Kept: "200", Other: "201"}}
		}, ""},
		"plaintext":              {func(r *correlate.Record) { r.TLS = evidence.TLS{Known: true} }, Plaintext},
		"plaintext within a pod": {func(r *correlate.Record) { r.TLS, r.Source.Address = evidence.TLS{Known: true}, "127.0.0.1" }, ""},
		"a failed handshake":     {func(r *correlate.Record) { r.TLS = evidence.TLS{Known: true, FailureReason: "expired"} }, ""},
		"nobody knows about TLS": {func(r *correlate.Record) { r.TLS = evidence.TLS{} }, ""},
		"an expired certificate": {func(r *correlate.Record) {
			r.EventName, r.TLS.ClientNotAfter = semconv.EventConnection, t0.Unix()-31
		}, ExpiredCertificate},
		"clocks that differ": {func(r *correlate.Record) {
			r.EventName, r.TLS.ClientNotAfter = semconv.EventConnection, t0.Unix()-29
		}, ""},
		"an expired certificate, in a tunnel": {func(r *correlate.Record) {
			r.EventName, r.TLS.ClientNotAfter, r.Destination.Port = semconv.EventConnection, t0.Unix()-31, portHBONE
		}, ""},
		"a foreign trust domain": {func(r *correlate.Record) { r.Source.ID = spiffeid.RequireFromString("spiffe://evil.example/a") }, UnknownTrustDomain},
		"an unknown source":      {func(r *correlate.Record) { r.Source.ID = spiffeid.ID{} }, ""},
		"a change of a policy": {func(r *correlate.Record) {
			r.EventName, r.User, r.Verdict = semconv.EventConfigChange, "alice", nil
			r.Act = &evidence.Act{Action: "patch", Change: evidence.Change{Namespace: "shop", Name: "orders"}}
		}, PolicyChanged},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(tc.change)
			d := detector()
			found := observe(d, r, t0)
			d.Advance(t0.Add(time.Second), func(f Finding) bool { found = append(found, f); return true })
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
	advance := func(now time.Time) { d.Advance(now, func(f Finding) bool { ended = append(ended, f); return true }) }
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
	require.Equal(t, 100, d.byLast.Len())
}

// by is a call with a credential, from a node, pod and address.
func by(node, pod, address string, change ...func(*correlate.Record)) *correlate.Record {
	return record(func(r *correlate.Record) {
		r.TLS.ClientSHA256, r.Peer = "cert", address
		r.Source.Workload.Node, r.Source.Workload.PodName = node, pod
		for _, c := range change {
			c(r)
		}
	})
}

func TestSharedCredential(t *testing.T) {
	// in is as the callee's cluster sees it; of is the caller's, by its own report.
	in := func(cluster string) func(*correlate.Record) { return func(r *correlate.Record) { r.Cluster = cluster } }
	of := func(cluster string) func(*correlate.Record) {
		return func(r *correlate.Record) { r.Source.Cluster = cluster }
	}
	other := func(r *correlate.Record) { r.TLS.ClientSHA256 = "another cert" }
	doubtful := func(r *correlate.Record) { r.State = correlate.Ambiguous }
	waypoint := func(r *correlate.Record) { r.Attestations[0].Reporter.Node = "waypoint~10.0.0.7~w.shop~d" }
	// A certificate is named by its fingerprint, or by its serial number in either way.
	serial := func(t *evidence.TLS) { t.ClientSerial, t.ClientSHA256 = fmt.Sprintf("%x", t.ClientSHA256), "" }
	ways := map[string]func(*evidence.TLS){
		"fingerprint": func(*evidence.TLS) {}, "serial number and SPIFFE ID": serial,
		"serial number and issuer": func(t *evidence.TLS) { serial(t); t.ClientIssuer = "CN=ca" },
	}
	type step struct {
		r     *correlate.Record
		after time.Duration
	}
	for name, tc := range map[string]struct {
		steps []step
		found bool
	}{
		"one workload":              {[]step{{by("n1", "p1", ""), 0}, {by("n1", "p1", ""), 1}, {by("n1", "p1", ""), 2}}, false},
		"two nodes in turns":        {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 1}, {by("n1", "p1", ""), 2}}, true},
		"a restart: it moves once":  {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 1}, {by("n2", "p2", ""), 2}}, false},
		"a restart, reported late":  {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 10}, {by("n1", "p1", ""), 5}, {by("n2", "p2", ""), 11}}, false},
		"in turns, reported late":   {[]step{{by("n1", "p1", ""), 0}, {by("n1", "p1", ""), 9}, {by("n2", "p2", ""), 5}}, true},
		"it moves on and on":        {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 1}, {by("n3", "p3", ""), 2}, {by("n4", "p4", ""), 3}}, false},
		"five nodes one by one":     {[]step{{by("n1", "", ""), 0}, {by("n2", "", ""), 1}, {by("n3", "", ""), 2}, {by("n4", "", ""), 3}, {by("n5", "", ""), 4}, {by("n1", "", ""), 5}}, true},
		"after a move":              {[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 1}, {by("n3", "p3", ""), 900}, {by("n2", "p2", ""), 901}, {by("n3", "p3", ""), 902}}, true},
		"two pods of one node":      {[]step{{by("n1", "p1", ""), 0}, {by("n1", "p2", ""), 1}, {by("n1", "p1", ""), 2}}, false},
		"two pods, nodes not known": {[]step{{by("", "p1", ""), 0}, {by("", "p2", ""), 1}, {by("", "p1", ""), 2}}, true},
		"two addresses, nothing else": {
			[]step{{by("", "", "10.0.0.1"), 0}, {by("", "", "10.0.0.9"), 1}, {by("", "", "10.0.0.1"), 2}}, true},
		"many behind one address (NAT)": {
			[]step{{by("", "", "10.0.0.1"), 0}, {by("", "", "10.0.0.1"), 1}, {by("", "", "10.0.0.1"), 2}}, false},
		"back after an hour": {
			[]step{{by("n1", "p1", ""), 0}, {by("n2", "p2", ""), 3600}, {by("n1", "p1", ""), 7200}}, false},
		"one pod, a report of it lost": {
			[]step{{by("n1", "p1", "10.0.0.1"), 0}, {by("", "", "10.0.0.1"), 1}, {by("n1", "p1", "10.0.0.1"), 2}, {by("", "p1", ""), 3}, {by("n1", "p1", "10.0.0.1"), 4}}, false},
		"one pod, and its first report lost": {
			[]step{{by("", "", "10.0.0.1"), 0}, {by("n1", "p1", "10.0.0.1"), 1}, {by("", "", "10.0.0.1"), 2}, {by("n1", "p1", "10.0.0.1"), 3}}, false},
		"two pods of one node, reports lost": {
			[]step{{by("n1", "p1", "10.0.0.1"), 0}, {by("n1", "p2", "10.0.0.2"), 1}, {by("", "", "10.0.0.1"), 2}, {by("", "p2", ""), 3}, {by("n1", "p1", "10.0.0.1"), 4}}, false},
		"a thief whom no proxy of the mesh reports": {
			[]step{{by("n1", "p1", "10.0.0.1"), 0}, {by("", "", "203.0.113.9"), 1}, {by("n1", "p1", "10.0.0.1"), 2}}, true},
		"pods through HBONE, by a waypoint": {
			[]step{{by("", "p1", "10.0.0.1", waypoint), 0}, {by("", "p2", "10.0.0.2", waypoint), 1}, {by("", "p1", "10.0.0.1", waypoint), 2}}, false},
		"nodes through HBONE, by a waypoint": {
			[]step{{by("n1", "p1", "10.0.0.1", waypoint), 0}, {by("n2", "p2", "10.0.0.2", waypoint), 1}, {by("n1", "p1", "10.0.0.1", waypoint), 2}}, true},
		"two clusters with one pod CIDR": {[]step{
			{by("east-n1", "pa", "10.0.0.1"), 0}, {by("west-n1", "pb", "10.0.0.1", other), 1}, {by("", "", "10.0.0.1"), 2}, {by("east-n1", "pa", ""), 3}}, false},
		"two clusters with one pod CIDR, that are known": {[]step{
			{by("east-n1", "pa", "10.0.0.1", in("east")), 0}, {by("west-n1", "pb", "10.0.0.1", other, in("west")), 1},
			{by("", "", "10.0.0.1", in("east")), 2}, {by("east-n1", "pa", "", in("east")), 3}}, false},
		"a thief in the other cluster, at the same address": {[]step{
			{by("east-n1", "pa", "10.0.0.1", in("east")), 0}, {by("west-n1", "pb", "10.0.0.1", other, in("west")), 1},
			{by("", "", "10.0.0.1", in("west")), 2}, {by("", "", "10.0.0.1", in("east")), 3}}, true},
		"one pod as two clusters see it": {[]step{
			{by("", "", "10.0.0.1", in("east")), 0}, {by("", "", "192.168.0.1", in("west")), 1}, {by("", "", "10.0.0.1", in("east")), 2}}, false},
		"a pod's name in two clusters": {[]step{
			{by("n1", "db-0", ""), 0}, {by("n2", "db-0", "", other), 1}, {by("", "db-0", ""), 2}, {by("n1", "db-0", ""), 3}}, false},
		"a pod's name in two clusters, that are known": {[]step{
			{by("", "db-0", "", of("east")), 0}, {by("", "db-0", "", of("west")), 1}, {by("", "db-0", "", of("east")), 2}}, true},
		"a pod whose cluster not all know": {[]step{
			{by("", "db-0", "", of("east")), 0}, {by("", "db-0", ""), 1}, {by("", "db-0", "", of("east")), 2}}, false},
		"a pod of either cluster": {[]step{
			{by("", "db-0", "", of("east")), 0}, {by("", "db-0", "", of("west")), 1}, {by("", "db-0", ""), 2}}, false},
		"a pod that moved, reported late": {[]step{
			{by("n1", "db-0", ""), 0}, {by("n2", "db-0", ""), 10}, {by("", "db-0", ""), 5}, {by("n1", "db-0", ""), 6}, {by("n2", "db-0", ""), 11}}, false},
		"one client with two families of addresses": {[]step{
			{by("", "", "10.0.0.1"), 0}, {by("", "", "fd00::1"), 1}, {by("", "", "::ffff:10.0.0.1"), 2}, {by("", "", "fd00::1"), 3}}, false},
		"a pod with two families of addresses": {[]step{
			{by("n1", "p1", "10.0.0.1"), 0}, {by("", "", "fd00::1"), 1}, {by("n1", "p1", "10.0.0.1"), 2}}, false},
		"two addresses of the second family": {[]step{
			{by("", "", "fd00::1"), 0}, {by("", "", "fd00::9"), 1}, {by("", "", "fd00::1"), 2}}, true},
		"a node, and an address that may be its own": {[]step{
			{by("n1", "p1", ""), 0}, {by("", "", "10.0.0.1"), 1}, {by("n1", "p1", ""), 2}}, false},
		"a node, and a pod that may be on it": {[]step{
			{by("n1", "", ""), 0}, {by("", "p1", ""), 1}, {by("n1", "", ""), 2}}, false},
		"an address that is given to the next pod": {[]step{
			{by("n1", "p1", "10.0.0.1"), 0}, {by("n2", "p2", "10.0.0.1", other), 1}, {by("", "", "10.0.0.1", other), 2}, {by("", "", "10.0.0.1"), 3}, {by("n1", "p1", ""), 4}}, false},
		"no address": {[]step{
			{by("n1", "p1", "10.0.0.1"), 0}, {by("", "", "127.0.0.1"), 1}, {by("n1", "p1", "10.0.0.1"), 2}}, false},
		"of records that are in doubt": {[]step{
			{by("n1", "p1", ""), 0}, {by("n2", "p2", "", doubtful), 1}, {by("n1", "p1", ""), 2}}, false},
		"nobody says where": {
			[]step{{by("", "", ""), 0}, {by("n1", "p1", ""), 1}, {by("", "", ""), 2}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			for way, name := range ways {
				d := detector()
				var found []Finding
				for _, s := range tc.steps {
					at, r := t0.Add(s.after*time.Second), *s.r
					r.Start, r.TLS.ClientNotAfter = at.UnixNano(), 0
					name(&r.TLS)
					found = append(found, observe(d, &r, at)...)
				}
				if !tc.found {
					require.Empty(t, found, way)
					continue
				}
				require.Len(t, found, 1, way)
				require.Equal(t, SharedCredential, found[0].Kind)
			}
		})
	}
}

// Two issuers number their certificates alike; only what the certificate says tells them apart.
func TestCredentialOf(t *testing.T) {
	weak := func(r *correlate.Record) { r.Source.Proof = evidence.ProofXFCC }
	for want, r := range map[string]*correlate.Record{
		"cert":                        by("", "", "", func(r *correlate.Record) { r.TLS.ClientSerial, r.TLS.ClientIssuer = "1", "CN=ca" }),
		"serial number 1 of CN=ca":    by("", "", "", weak, func(r *correlate.Record) { r.TLS = evidence.TLS{ClientSerial: "1", ClientIssuer: "CN=ca"} }),
		"serial number 1 of CN=other": by("", "", "", func(r *correlate.Record) { r.TLS = evidence.TLS{ClientSerial: "1", ClientIssuer: "CN=other"} }),
		"serial number 1 for spiffe://example.org/a": by("", "", "", func(r *correlate.Record) { r.TLS = evidence.TLS{ClientSerial: "1"} }),
	} {
		require.Equal(t, want, credential(r))
	}
	for name, r := range map[string]*correlate.Record{
		"an identity that another proxy forwarded": by("", "", "", weak, func(r *correlate.Record) { r.TLS = evidence.TLS{ClientSerial: "1"} }),
		"no identity":     by("", "", "", func(r *correlate.Record) { r.TLS, r.Source.ID = evidence.TLS{ClientSerial: "1"}, spiffeid.ID{} }),
		"an issuer alone": by("", "", "", func(r *correlate.Record) { r.TLS = evidence.TLS{ClientIssuer: "CN=ca"} }),
	} {
		require.Empty(t, credential(r), name)
	}
}

// A certificate that expired is found where a connection began with it, which a request
// shows that is the first for long; on a connection that outlives its certificate it
// may go on.
func TestExpired(t *testing.T) {
	d := New(Config{Repeat: time.Minute, MaxOpen: 100, MaxCredentials: 2})
	uses := func(cert string, end, at time.Duration) []Finding {
		now := t0.Add(at)
		found := observe(d, record(func(r *correlate.Record) {
			r.TLS.ClientSHA256, r.TLS.ClientNotAfter, r.Start = cert, t0.Add(end).Unix(), now.UnixNano()
		}), now)
		for _, f := range found {
			require.Equal(t, ExpiredCertificate, f.Kind)
		}
		return found
	}
	require.Empty(t, uses("pooled", time.Hour, 0))
	unclear := uses("before we began", -time.Hour, 0)
	require.Len(t, unclear, 1)
	require.NotEmpty(t, unclear[0].Doubt, "its connection may have begun before us")
	for at := 10 * time.Minute; at < 3*time.Hour; at += 10 * time.Minute {
		require.Empty(t, uses("pooled", time.Hour, at), at)
		require.Empty(t, uses("before we began", -time.Hour, at), at)
	}
	found := uses("unheard of", time.Minute, 3*time.Hour)
	require.Len(t, found, 1)
	require.Empty(t, found[0].Doubt)
	require.Empty(t, uses("unheard of", time.Minute, 3*time.Hour+time.Minute), "it goes on")
	require.Empty(t, uses("pooled", time.Hour, 2*time.Hour+time.Minute), "a late report is not the first")
	again := uses("pooled", time.Hour, 4*time.Hour+time.Minute)
	require.Len(t, again, 1, "no connection is open any more")
	require.Empty(t, again[0].Doubt)

	for i := range 10 { // all else is forgotten
		uses(fmt.Sprint(i), 10*time.Hour, 4*time.Hour+2*time.Minute)
	}
	forgotten := uses("unheard of", time.Minute, 4*time.Hour+3*time.Minute)
	require.Len(t, forgotten, 1)
	require.NotEmpty(t, forgotten[0].Doubt)
}

// The verdict may come after the record, and the answer after the verdict.
func TestDeniedButServedLate(t *testing.T) {
	denies := func(r *correlate.Record) { r.Status, r.Verdict.Decision = 0, evidence.Deny }
	served := func(r *correlate.Record) { r.Verdict = nil }
	for name, tc := range map[string]struct {
		first, second func(*correlate.Record)
		found         bool
	}{
		"the verdict is late": {served, func(r *correlate.Record) { denies(r); r.Attestations = nil }, true},
		"the answer is late":  {func(r *correlate.Record) { denies(r); r.Attestations = nil }, served, true},
		"an answer to another attempt, by the caller": {
			func(r *correlate.Record) { denies(r); r.Status = 403 }, func(r *correlate.Record) { served(r); r.Attestations = nil }, false},
		"a dry run is late": {served, func(r *correlate.Record) { denies(r); r.Verdict.Enforced = false }, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := detector()
			first := record(tc.first)
			require.Empty(t, observe(d, first, t0))
			amends := func(change func(*correlate.Record)) *correlate.Record {
				return record(func(r *correlate.Record) { change(r); r.Amends, r.Before = first.ID, first.Upshot })
			}
			second := amends(tc.second)
			found := observe(d, second, t0)
			if !tc.found {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Equal(t, DeniedButServed, found[0].Kind)
			require.Equal(t, []correlate.RecordID{first.ID, second.ID}, found[0].Records)
			third := record(func(r *correlate.Record) { r.Amends, r.Before = first.ID, second.Upshot })
			require.Empty(t, observe(d, third, t0.Add(2*time.Hour)), "what is shown already is not counted again")
		})
	}
}

// A decision that comes within the wait is none that did not come.
func TestLateDecision(t *testing.T) {
	d := detector()
	undecided := func(path string) *correlate.Record {
		return record(func(r *correlate.Record) { r.Verdict, r.Path = nil, path })
	}
	a, b := undecided("/admin/a"), undecided("/admin/b")
	require.Empty(t, observe(d, a, t0))
	require.Empty(t, observe(d, b, t0))
	require.Empty(t, observe(d, record(func(r *correlate.Record) { r.Amends, r.Before = a.ID, a.Upshot }), t0))
	var found []Finding
	d.Advance(t0.Add(time.Second), func(f Finding) bool { found = append(found, f); return true })
	require.Len(t, found, 1)
	require.Equal(t, []correlate.RecordID{b.ID}, found[0].Records)

	require.Empty(t, observe(d, undecided("/admin/c"), t0.Add(time.Second)))
	d.Advance(t0.Add(time.Minute), func(f Finding) bool { found = append(found, f); return true })
	require.Len(t, found, 1, "paths of one pattern are one finding")
	observe(d, undecided("/admin/d"), t0.Add(time.Minute))
	d.End(t0.Add(time.Minute), func(f Finding) bool { found = append(found, f); return true })
	require.Len(t, found, 2)
	require.EqualValues(t, 2, found[1].Count, "all is stated at the end, but what may be decided yet")
}

// Decisions that come later than many requests are waited for; those for which there
// is no room are told of, and none is said to be undecided before its time.
func TestManyWaits(t *testing.T) {
	admin, err := query.ParseGlob("/admin/*")
	require.NoError(t, err)
	const wait, rate, seconds = 10 * time.Minute, 50, 400
	d := New(Config{MustDecide: []query.Glob{admin}, DecisionWait: wait, Repeat: time.Hour, MaxOpen: 10, MaxWaits: rate*300 + 1000, MaxCredentials: 1})
	var waiting []*correlate.Record
	decide := func(now time.Time) {
		for len(waiting) > 0 && (now.UnixNano()-waiting[0].Start) >= int64(300*time.Second) {
			first := waiting[0]
			waiting = waiting[1:]
			require.Empty(t, observe(d, record(func(r *correlate.Record) { r.Amends, r.Before = first.ID, first.Upshot }), now))
		}
	}
	none := func(f Finding) bool { t.Fatal(f); return true }
	for i := range seconds + 300 {
		now := t0.Add(time.Duration(i) * time.Second)
		for range rate {
			if i < seconds {
				r := record(func(r *correlate.Record) {
					r.Verdict, r.Path, r.Start, r.TLS = nil, "/admin/users", now.UnixNano(), evidence.TLS{}
				})
				require.Empty(t, observe(d, r, now))
				waiting = append(waiting, r)
			}
		}
		decide(now)
		d.Advance(now, none)
	}
	require.Empty(t, waiting)
	require.Zero(t, d.waits.n)
	require.Empty(t, d.waits.bySubject)
	require.Zero(t, d.Missed())

	for i := range d.waits.max + 5 {
		observe(d, record(func(r *correlate.Record) { r.Verdict, r.Path = nil, fmt.Sprint("/admin/", i) }), t0.Add(time.Hour))
	}
	require.EqualValues(t, 5, d.Missed())
	require.Zero(t, d.Missed())
	d.End(t0.Add(time.Hour+wait-time.Second), none)
	var found []Finding
	d.Advance(t0.Add(time.Hour+wait), func(f Finding) bool { found = append(found, f); return true })
	require.Len(t, found, 1)
	require.Equal(t, t0.Add(time.Hour).Unix(), found[0].First.Unix())
	require.Zero(t, d.waits.n)
	for i := range 20 { // other pairs of workloads
		observe(d, record(func(r *correlate.Record) {
			r.Verdict, r.Path, r.Source = nil, "/admin/a", correlate.Party{Address: fmt.Sprint("10.0.0.", i)}
		}), t0.Add(2*time.Hour))
	}
	require.EqualValues(t, 10, d.Missed(), "their subjects are bounded too")
}

// Waits stay within what the documentation says.
func TestWaitMemory(t *testing.T) {
	const n = 200_000
	w := newWaits(n, 10)
	var id correlate.RecordID
	before := heap()
	for i := range n {
		id = sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
		require.True(t, w.add(Finding{Subject: "a", Records: []correlate.RecordID{id}}, t0))
	}
	require.Less(t, (heap()-before)/n, uint64(110), "bytes for each wait")
	require.NotZero(t, w.find(id))
}

// Who changed a policy is told of each that did, and of what each did.
func TestWhoChangedIt(t *testing.T) {
	d := detector()
	changed := func(action, user, as string, at time.Duration) []Finding {
		return observe(d, record(func(r *correlate.Record) {
			r.EventName, r.Verdict, r.User, r.TraceID = semconv.EventConfigChange, nil, user, evidence.TraceID{byte(made)}
			r.Act = &evidence.Act{Action: action, Change: evidence.Change{Namespace: "shop", Name: "orders"}}
			if as != "" {
				r.User, r.Actor = as, &evidence.Actor{Impersonator: user}
			}
		}), t0.Add(at))
	}
	first := changed("patch", "argocd", "", 0)
	require.Len(t, first, 1)
	mallory := changed("patch", "mallory", "", 5*time.Minute)
	require.Len(t, mallory, 1)
	require.Equal(t, "mallory", mallory[0].User)
	require.Contains(t, mallory[0].What, "by mallory")
	require.Empty(t, changed("patch", "argocd", "", 6*time.Minute), "as before")
	require.Len(t, changed("delete", "argocd", "", 7*time.Minute), 1, "it does something else")
	as := changed("patch", "mallory", "argocd", 8*time.Minute)
	require.Len(t, as, 1)
	require.Contains(t, as[0].What, "mallory as argocd")
	again := changed("patch", "argocd", "", time.Hour)
	require.Len(t, again, 1)
	require.EqualValues(t, 3, again[0].Count)
	require.Equal(t, first[0].What, again[0].What)
	require.Equal(t, first[0].TraceID, again[0].TraceID)

	bundle := observe(d, record(func(r *correlate.Record) {
		r.EventName, r.Verdict = semconv.EventConfigChange, nil
		r.Act = &evidence.Act{Action: "activate", Change: evidence.Change{Group: "opa", Resource: "bundle", Name: "mesh", Revision: "r7"}}
	}), t0)
	require.Len(t, bundle, 1)
	require.Contains(t, bundle[0].What, "bundle.opa mesh: activate revision r7 by ")
}

// A finding for which there is no room is stated later.
func TestNoRoom(t *testing.T) {
	d := detector()
	room := 0
	var found []Finding
	report := func(f Finding) bool {
		if room == 0 {
			return false
		}
		room--
		found = append(found, f)
		return true
	}
	d.Observe(record(func(r *correlate.Record) { r.TLS = evidence.TLS{Known: true} }), t0, func(Kind) bool { return true }, report)
	d.Advance(t0.Add(time.Minute), report)
	require.Empty(t, found)
	room = 1
	d.Advance(t0.Add(2*time.Minute), report)
	require.Len(t, found, 1)
	require.EqualValues(t, 1, found[0].Count)
}

// What a stranger makes up anew each time is one finding.
func TestMadeUp(t *testing.T) {
	d := detector()
	var found []Finding
	for i := range 100 {
		found = append(found, observe(d, record(func(r *correlate.Record) {
			r.Conflicts = []correlate.Conflict{{
				Field: semconv.SourceSPIFFEID, Kept: "a", KeptProof: evidence.ProofMTLSSAN,
				Other: fmt.Sprint(i), OtherProof: evidence.ProofClaimed, From: "header.x-spiffe-id",
			}}
		}), t0)...)
		found = append(found, observe(d, record(func(r *correlate.Record) {
			r.Source = correlate.Party{ID: spiffeid.RequireFromString(fmt.Sprintf("spiffe://evil%d.example/a", i)), Proof: evidence.ProofClaimed, From: "header.x-spiffe-id"}
		}), t0)...)
	}
	require.Len(t, found, 2)
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

	require.Equal(t, "alice", decided(3*time.Second, evidence.Verdict{PolicyNamespace: "shop", PolicyID: "orders"}).PolicyChange.By, "reported late, it was made under what was in force then")

	// What was refused changed nothing; what has the same name is something else.
	refused := changed("mallory", 70*time.Second, orders)
	refused.Act.Outcome = "failure"
	require.Empty(t, observe(d, refused, t0.Add(70*time.Second)))
	route := orders
	route.Group, route.Resource = "networking.istio.io", "virtualservices"
	observe(d, changed("carol", 80*time.Second, route), t0.Add(80*time.Second))
	require.Equal(t, "bob", decided(2*time.Minute, evidence.Verdict{Engine: "envoy_rbac", PolicyNamespace: "shop", PolicyID: "orders"}).PolicyChange.By)

	// Another cluster's counts where the decision's own has none of that name.
	carts := evidence.Change{Group: "security.istio.io", Resource: "authorizationpolicies", Namespace: "shop", Name: "carts"}
	for at, cluster := range []string{"east", "west"} {
		change := changed(cluster, time.Duration(at)*time.Second, carts)
		change.Cluster = cluster
		observe(d, change, t0)
	}
	for cluster, by := range map[string]string{"east": "east", "west": "west", "north": "west", "": "west"} {
		r := record(func(r *correlate.Record) {
			r.Start, r.Cluster, r.Verdict = t0.Add(time.Minute).UnixNano(), cluster, &evidence.Verdict{PolicyNamespace: "shop", PolicyID: "carts"}
		})
		observe(d, r, t0.Add(time.Minute))
		require.Equal(t, by, r.PolicyChange.By, cluster)
	}

	observe(d, changed("opa", 3*time.Minute, evidence.Change{Name: "bundle", Revision: "r7"}), t0.Add(3*time.Minute))
	require.Equal(t, "opa", decided(4*time.Minute, evidence.Verdict{PolicyID: "mesh/allow", PolicyRevision: "r7"}).PolicyChange.By)
	require.Nil(t, decided(time.Second, evidence.Verdict{PolicyID: "mesh/allow", PolicyRevision: "r7"}).PolicyChange, "it was decided before the change")
	require.Equal(t, "opa", decided(4*time.Minute, evidence.Verdict{PolicyRevision: "bundle=r7,data=r1"}).PolicyChange.By)
	require.Nil(t, decided(4*time.Minute, evidence.Verdict{PolicyRevision: "bundle=r6,data=r7"}).PolicyChange)
	for i := range 3 * maxChanges { // every OPA activates it
		observe(d, changed(fmt.Sprint("opa", i), 5*time.Minute, evidence.Change{Name: "bundle", Revision: "r7"}), t0.Add(5*time.Minute))
	}
	require.Equal(t, "opa", decided(4*time.Minute, evidence.Verdict{PolicyRevision: "r7"}).PolicyChange.By)
	require.Len(t, d.policies.of("revision\x00r7"), maxChanges)

	observe(d, changed("root", 0, evidence.Change{Group: "rbac.authorization.k8s.io", Resource: "rolebindings", Namespace: "shop", Name: "ops"}), t0)
	require.Equal(t, "root", decided(time.Minute, evidence.Verdict{Engine: "k8s_rbac", PolicyNamespace: "shop", PolicyID: "RoleBinding/ops"}).PolicyChange.By)
	require.Nil(t, decided(time.Minute, evidence.Verdict{Engine: "k8s_rbac", PolicyID: "ClusterRoleBinding/ops"}).PolicyChange)
}

// What is remembered of policies is bounded, and what is in use is kept.
func TestPoliciesBounded(t *testing.T) {
	p := newPolicies()
	for i := range 3 * maxPolicies {
		p.observe(record(func(r *correlate.Record) {
			r.EventName, r.Verdict = semconv.EventConfigChange, nil
			r.Act = &evidence.Act{Change: evidence.Change{Namespace: "shop", Name: fmt.Sprint(i % (3 * maxPolicies / 2))}}
		}))
	}
	require.LessOrEqual(t, len(p.newer)+len(p.older), 2*maxPolicies)
	require.NotEmpty(t, p.newer)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Live credentials stay within what the documentation says.
func TestCredentialMemory(t *testing.T) {
	const n = 500_000 // and as many of before
	r := by("node", "pod", "")
	before := heap()
	c := newCredentials(n)
	for i := range 2 * n {
		c.use(fmt.Sprint(i), r, t0, true)
	}
	each := (heap() - before) / (2 * n)
	require.LessOrEqual(t, len(c.newer)+len(c.older), 2*n)
	require.Less(t, each, uint64(120), "bytes for each credential")
	runtime.KeepAlive(c)
}
