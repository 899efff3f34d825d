package correlate

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func FuzzUnpack(f *testing.F) {
	for _, e := range []evidence.Evidence{
		calleeALS("log", mtls("a", "b"), claims("nonsense", "header.x-spiffe-id"), verdict(evidence.Deny, "envoy_rbac")),
		opa("decision"), change("change", "audit-1"), {},
	} {
		f.Add(string(pack(nil, &e)))
	}
	f.Fuzz(func(t *testing.T, s string) {
		var e evidence.Evidence
		if unpack(s, &e, new(ids)) != nil {
			return
		}
		var again evidence.Evidence
		if err := unpack(string(pack(nil, &e)), &again, new(ids)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPackKeepsAll(t *testing.T) {
	e := calleeALS("log", mtls("a", "b"), claims("nonsense", "header.x-spiffe-id"), verdict(evidence.Deny, "envoy_rbac"), status(403), resends(2))
	e.Digest = [32]byte{1, 2}
	e.Reporter = evidence.Reporter{SPIFFEID: e.From.Identities[0].ID, Authenticated: true, Address: "10.0.0.1", Node: "n", CertSHA256: "ab"}
	e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true, Version: "1.3", Cipher: "x", ClientSHA256: "cd", ClientNotAfter: -5}
	e.From.Workload = evidence.Workload{Name: "a", Namespace: "b", Kind: "c", Version: "d", Revision: "e", PodName: "f", PodUID: "g", Node: "h", ImageDigest: "i"}
	e.To.Address, e.To.Port, e.User, e.Cluster, e.Host, e.GRPCStatus = "10.0.0.2", 8080, "u", "c", "h", "7"
	for _, s := range stringFields(&e) {
		if s != nil && *s == "" {
			*s = "x"
		}
	}
	e.Event = evidence.EventAuthn
	e.Actor = &evidence.Actor{Roles: []string{"a", "b"}, Delegation: []evidence.Delegate{{Issuer: "i", Subject: "s"}, {Subject: "t"}}}
	for i, s := range actorFields(e.Actor) {
		*s = "actor" + itoa(i+1)
	}
	e.Act = new(evidence.Act)
	for i, s := range actFields(e.Act) {
		*s = "act" + itoa(i+1)
	}
	var got evidence.Evidence
	require.NoError(t, unpack(string(pack(nil, &e)), &got, new(ids)))
	// What stands on the piece itself is not packed.
	got.ID, got.Role, got.Start, got.End = e.ID, e.Role, e.Start, e.End
	require.Equal(t, e, got)
}
