package clerk

import (
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/svid"
)

// prover raises what a reporter says of identities to what its own verified
// certificate proves.
type prover struct {
	xfcc  []query.Glob // proxies whose x-forwarded-client-cert is believed
	svids *svid.Prover // nil: certificates and tokens prove nothing
	// Peers' certificates count from whoever it is.
	fromAnybody bool
}

func newProver(patterns []string) (p prover, err error) {
	for _, s := range patterns {
		g, err := query.ParseIDGlob(s)
		if err != nil {
			return p, err
		}
		p.xfcc = append(p.xfcc, g)
	}
	return p, nil
}

// show takes an Envoy log record's certificate before it is redacted.
func (p prover) show(lr plog.LogRecord) (certificate string) {
	if p.svids == nil {
		return ""
	}
	return envoy.PeerCertificate(lr)
}

// prove verifies what e, which another's receiver brought, shows of credentials.
// certificate is what show took.
func (p prover) prove(e *evidence.Evidence, certificate string) (changed bool) {
	if certificate != "" && e.Role != evidence.RoleCaller {
		e.TLS.Mutual = true
		if e.TLS.FailureReason == "" { // else it proves nothing
			e.Shown = &evidence.Credentials{Peer: evidence.Certificate{Leaf: certificate, Hash: e.TLS.ClientSHA256}}
		}
	}
	return p.svids.Prove(e, p.fromAnybody)
}

// raise reports whether it changed e. by is the reporter's verified SPIFFE ID.
//
// A reporter that names itself as the party on its own side is that: its
// certificate was verified on the connection that brought the evidence. One that
// names another may be a proxy that stands for many, which proves nothing. What
// a trusted proxy forwards of its client's certificate is better than a claim,
// for only it could have written the header that it reports: its word that the
// client proved itself by that certificate. The name of one that was verified
// too it cannot have made up.
func (p prover) raise(e *evidence.Evidence, by spiffeid.ID) (changed bool) {
	if by.IsZero() {
		return false
	}
	own := &e.To
	if e.Role == evidence.RoleCaller {
		own = &e.From
	}
	if e.Role == evidence.RoleCallee || e.Role == evidence.RoleCaller {
		states := slices.ContainsFunc(own.Identities, func(i evidence.Identity) bool { return i.ID == by && i.Proof < evidence.ProofSVID })
		if states {
			own.AddIdentity(evidence.Identity{ID: by, Proof: evidence.ProofSVID, From: evidence.FromReporter})
			changed = true
		}
	}
	if e.Role == evidence.RoleCallee && slices.ContainsFunc(p.xfcc, func(g query.Glob) bool { return g.Match(by.String()) }) {
		// Taken out and added again: the strongest stands first.
		for _, i := range slices.Clone(e.From.Identities) {
			raised := i
			switch {
			case i.Proof != evidence.ProofClaimed || i.ID.IsZero():
				continue
			case i.From == evidence.FromXFCC:
				raised.Proof = evidence.ProofXFCC
			case i.From == evidence.FromXFCCCertificate:
				raised.Proof = evidence.ProofSVID
			default:
				continue
			}
			e.From.Identities = slices.DeleteFunc(e.From.Identities, func(j evidence.Identity) bool { return i == j })
			e.From.AddIdentity(raised)
			changed = true
		}
	}
	return changed
}
