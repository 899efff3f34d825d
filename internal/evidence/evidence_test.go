package evidence_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/assert"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func TestRoute(t *testing.T) {
	party := func(id, address string) evidence.Party {
		return evidence.Party{Address: address, Identities: []evidence.Identity{{ID: spiffeid.RequireFromString(id)}}}
	}
	from, to := party("spiffe://example.org/a", ""), party("spiffe://example.org/b", "10.0.0.2")
	id := evidence.ID{7}
	for want, e := range map[string]evidence.Evidence{
		"01000000000000000000000000000000":    {TraceID: evidence.TraceID{1}, RequestID: "r"},
		"6ab0c1ce-9cf5-ae0-8f2b-0123456789ab": {RequestID: "6ab0c1ce-9cf5-9ae0-8f2b-0123456789ab"}, // without why it is traced
		"audit-1":                             {Role: evidence.RoleObserver, StreamID: "audit-1", Host: "shop.test"},
		"r":                                   {From: from, To: to, RequestID: "r"},
		"spiffe://example.org/a>spiffe://example.org/b>10.0.0.2": {From: from, To: to},
		">>10.0.0.2":  {To: evidence.Party{Address: "10.0.0.2"}},
		id.String():   {ID: id},
		">>shop.test": {Host: "shop.test"},
	} {
		assert.Equal(t, want, string(e.AppendRoute(nil)))
	}
}
