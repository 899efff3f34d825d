package envoy

import (
	"strings"

	als "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Engines that a proxy's report names.
const (
	engineRBAC     = "envoy_rbac"
	engineExtAuthz = "envoy_ext_authz"
	engineJWT      = "envoy_jwt_authn"
)

// What response_code_details and connection_termination_details begin with.
const (
	detailRBAC           = "rbac_access_denied"
	detailRBACPolicy     = "rbac_access_denied_matched_policy["
	detailExtAuthzDenied = "ext_authz_denied"
	detailExtAuthzError  = "ext_authz_error"
	detailJWT            = "jwt_authn_access_denied"

	flagExtAuthz = "UAEX"
)

// verdictOf reads the verdict that an entry's details and flags state; nil if
// they state none.
func verdictOf(details, flags string) *evidence.Verdict {
	switch {
	case strings.HasPrefix(details, detailRBAC):
		return rbacVerdict(details)
	case strings.HasPrefix(details, detailExtAuthzError):
		return &evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Error, Enforced: true, Reason: details}
	case strings.HasPrefix(details, detailJWT):
		reason := strings.TrimSuffix(strings.TrimPrefix(details[len(detailJWT):], "{"), "}")
		return &evidence.Verdict{Engine: engineJWT, Decision: evidence.Deny, Enforced: true, Reason: reason}
	case strings.HasPrefix(details, detailExtAuthzDenied), hasFlag(flags, flagExtAuthz):
		return &evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Deny, Enforced: true}
	}
	return nil
}

// rbacVerdict reads rbac_access_denied_matched_policy[POLICY]. POLICY may hold
// brackets itself; [none] means that no policy allowed the request.
func rbacVerdict(details string) *evidence.Verdict {
	v := &evidence.Verdict{Engine: engineRBAC, Decision: evidence.Deny, Enforced: true}
	rest, ok := strings.CutPrefix(details, detailRBACPolicy)
	if !ok {
		return v
	}
	policy := rest
	if end := strings.LastIndexByte(rest, ']'); end >= 0 {
		policy = rest[:end]
	}
	if policy == "none" || policy == "" {
		v.DefaultDeny = true
		return v
	}
	setPolicy(v, policy)
	return v
}

// setPolicy fills in the policy from an RBAC policy's name: Istio's
// ns[NAMESPACE]-policy[NAME]-rule[N], or the name as it is.
func setPolicy(v *evidence.Verdict, policy string) {
	policy = evidence.Text(policy, evidence.MaxName)
	namespace, rest, ok := bracketed(policy, "ns")
	if ok {
		var name string
		if name, rest, ok = bracketed(strings.TrimPrefix(rest, "-"), "policy"); ok {
			v.PolicyNamespace, v.PolicyID = namespace, name
			v.Reason = strings.TrimPrefix(rest, "-")
			return
		}
	}
	v.PolicyID = policy
}

// bracketed reads PREFIX[INNER] from the beginning of s, with brackets inside
// INNER balanced, and returns INNER and what follows.
func bracketed(s, prefix string) (inner, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, prefix)
	if !ok || !strings.HasPrefix(s, "[") {
		return "", "", false
	}
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '[':
			depth++
		case ']':
			if depth--; depth == 0 {
				return s[1:i], s[i+1:], true
			}
		}
	}
	return "", "", false
}

func hasFlag(flags, flag string) bool {
	for f := range strings.SplitSeq(flags, ",") {
		if f == flag {
			return true
		}
	}
	return false
}

// responseFlags renders the flags by their short names, in the order of the
// protocol's field numbers, comma separated.
func responseFlags(f *als.ResponseFlags) string {
	if f == nil {
		return ""
	}
	names := make([]string, 0, 8)
	add := func(set bool, name string) {
		if set {
			names = append(names, name)
		}
	}
	add(f.GetFailedLocalHealthcheck(), "LH")
	add(f.GetNoHealthyUpstream(), "UH")
	add(f.GetUpstreamRequestTimeout(), "UT")
	add(f.GetLocalReset(), "LR")
	add(f.GetUpstreamRemoteReset(), "UR")
	add(f.GetUpstreamConnectionFailure(), "UF")
	add(f.GetUpstreamConnectionTermination(), "UC")
	add(f.GetUpstreamOverflow(), "UO")
	add(f.GetNoRouteFound(), "NR")
	add(f.GetDelayInjected(), "DI")
	add(f.GetFaultInjected(), "FI")
	add(f.GetRateLimited(), "RL")
	// The message's presence alone says unauthorized; Envoy knows one reason.
	add(f.GetUnauthorizedDetails() != nil, flagExtAuthz)
	add(f.GetRateLimitServiceError(), "RLSE")
	add(f.GetDownstreamConnectionTermination(), "DC")
	add(f.GetUpstreamRetryLimitExceeded(), "URX")
	add(f.GetStreamIdleTimeout(), "SI")
	add(f.GetInvalidEnvoyRequestHeaders(), "IH")
	add(f.GetDownstreamProtocolError(), "DPE")
	add(f.GetUpstreamMaxStreamDurationReached(), "UMSDR")
	add(f.GetResponseFromCacheFilter(), "RFCF")
	add(f.GetNoFilterConfigFound(), "NFCF")
	add(f.GetDurationTimeout(), "DT")
	add(f.GetUpstreamProtocolError(), "UPE")
	add(f.GetNoClusterFound(), "NC")
	add(f.GetOverloadManager(), "OM")
	add(f.GetDnsResolutionFailure(), "DF")
	add(f.GetDownstreamRemoteReset(), "DR")
	return strings.Join(names, ",")
}
