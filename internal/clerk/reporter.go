package clerk

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// What evidence may say of who reported it, and of what that proved.

// report makes a record's word about its reporter true: what our own receiver
// saw, or nothing. Proofs that come over the wire are capped: nobody else
// verified a certificate for us, unless it is what we wrote ourselves, offered
// again. It returns how many values it changed.
func (in *intake) report(m pcommon.Map, again bool) int {
	switch {
	case in.reporter == nil && again:
		return stripReporter(m)
	case in.reporter == nil:
		return stripReporter(m) + capProofs(m)
	}
	r := in.reporter
	m.PutBool(semconv.EvidenceReporterAuthenticated, r.Authenticated)
	put(m, semconv.EvidenceReporterSPIFFEID, r.SPIFFEID.String())
	put(m, semconv.EvidenceReporterCertSHA256, r.CertSHA256)
	put(m, semconv.EvidenceReporterAddress, r.Address)
	return 0
}

func put(m pcommon.Map, name, v string) {
	if v == "" {
		m.Remove(name)
		return
	}
	m.PutStr(name, v)
}

var reporterNames = evidence.Reporter{}.GetAttributeNames()

func stripReporter(m pcommon.Map) int {
	n := 0
	for _, name := range reporterNames {
		if m.Remove(name) {
			n++
		}
	}
	return n
}

func capProofs(m pcommon.Map) int {
	n := 0
	for _, name := range [...]string{semconv.SourceIdentityProof, semconv.DestinationIdentityProof} {
		if v, ok := m.Get(name); ok {
			n += capProof(v)
		}
	}
	claims, ok := m.Get(semconv.EvidenceClaims)
	if !ok || claims.Type() != pcommon.ValueTypeSlice {
		return n
	}
	for _, claim := range claims.Slice().All() {
		if claim.Type() == pcommon.ValueTypeMap {
			if v, ok := claim.Map().Get(semconv.ClaimProof); ok {
				n += capProof(v)
			}
		}
	}
	return n
}

func capProof(v pcommon.Value) int {
	if p, ok := evidence.ParseProof(v.Str()); ok && p > evidence.ProofMTLSSAN {
		v.SetStr(evidence.ProofMTLSSAN.String())
		return 1
	}
	return 0
}
