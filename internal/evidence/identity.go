package evidence

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const spiffeScheme = "spiffe://"

// ParseIdentity reads one statement about who a party is. It takes a SPIFFE ID
// and also what Istio calls a principal, the same without its scheme
// (cluster.local/ns/shop/sa/orders). Anything else, a SPIFFE ID longer than
// the standard allows included, becomes Invalid: valid UTF-8, at most
// MaxInvalidIdentity bytes, without a query or fragment. An empty raw states
// nothing and gives the zero Identity.
func ParseIdentity(raw string, proof Proof, from string) Identity {
	return (*KnownIDs)(nil).ParseIdentity(raw, proof, from)
}

// KnownIDs remembers the SPIFFE IDs that it parsed, at most maxKnownIDs: a mesh
// states the same ones again and again. It is for one goroutine at a time; its
// zero value and nil are ready.
type KnownIDs struct{ ids map[string]spiffeid.ID }

// maxKnownIDs is more than a workload has peers; they take 2 KiB each at most.
const maxKnownIDs = 256

// ParseIdentity is the function of that name.
func (k *KnownIDs) ParseIdentity(raw string, proof Proof, from string) Identity {
	raw = strings.TrimSpace(raw)
	if raw == "" {
		return Identity{}
	}
	if len(raw) <= maxSPIFFEID {
		if id, err := k.parse(raw); err == nil {
			return Identity{ID: id, Proof: proof, From: from}
		}
	}
	if name := beforeQuery(raw); name != "" {
		raw = name
	}
	return Identity{Invalid: Text(raw, MaxInvalidIdentity), Proof: proof, From: from}
}

func (k *KnownIDs) parse(raw string) (spiffeid.ID, error) {
	if k != nil {
		if id, ok := k.ids[raw]; ok {
			return id, nil
		}
		raw = strings.Clone(raw) // it may be part of something large
	}
	id, err := spiffeid.FromString(raw)
	if err != nil && isPrincipal(raw) {
		id, err = spiffeid.FromString(spiffeScheme + raw)
	}
	if err == nil && k != nil {
		if k.ids == nil || len(k.ids) == maxKnownIDs {
			k.ids = make(map[string]spiffeid.ID)
		}
		k.ids[raw] = id
	}
	return id, err
}

// isPrincipal tells whether s has Istio's form TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
func isPrincipal(s string) bool {
	_, path, ok := strings.Cut(s, "/")
	if !ok {
		return false
	}
	_, _, ok = kubernetesPath("/" + path)
	return ok
}

// KubernetesName returns the namespace and service account that the ID names
// by Istio's convention, spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT. It is a
// hint: other issuers need not follow the convention.
func KubernetesName(id spiffeid.ID) (namespace, serviceAccount string, ok bool) {
	return kubernetesPath(id.Path())
}

func kubernetesPath(path string) (namespace, serviceAccount string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/ns/")
	if !ok {
		return "", "", false
	}
	namespace, rest, ok = strings.Cut(rest, "/sa/")
	if !ok || namespace == "" || rest == "" || strings.Contains(namespace, "/") || strings.Contains(rest, "/") {
		return "", "", false
	}
	return namespace, rest, true
}

// IsZero reports whether the statement states nothing.
func (i Identity) IsZero() bool { return i.ID.IsZero() && i.Invalid == "" }

// AddIdentity adds one statement, keeping the strongest first and equal ones
// in the order in which they came. The zero Identity and exact repeats change
// nothing; past MaxIdentities the weakest is dropped.
func (p *Party) AddIdentity(id Identity) {
	if id.IsZero() || slices.Contains(p.Identities, id) {
		return
	}
	at := len(p.Identities)
	for at > 0 && p.Identities[at-1].Proof < id.Proof {
		at--
	}
	if len(p.Identities) == MaxIdentities {
		if at == MaxIdentities {
			return
		}
		p.Identities = p.Identities[:MaxIdentities-1]
	}
	p.Identities = append(p.Identities, id)
	copy(p.Identities[at+1:], p.Identities[at:])
	p.Identities[at] = id
}
