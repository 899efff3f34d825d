package envoy

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Engines that a proxy's report names.
const (
	EngineRBAC      = "envoy_rbac"
	engineExtAuthz  = "envoy_ext_authz"
	engineJWT       = "envoy_jwt_authn"
	engineBasicAuth = "envoy_basic_auth"
	engineAPIKey    = "envoy_api_key_auth"
)

// What response_code_details and connection_termination_details are, begin or end
// with.
const (
	detailUpstream      = "via_upstream"
	detailRBAC          = "rbac_access_denied"
	detailRBACPolicy    = "rbac_access_denied_matched_policy["
	detailExtAuthz      = "ext_authz_denied"
	detailExtAuthzError = "ext_authz_error"
	detailJWT           = "jwt_authn_access_denied"
	detailBasicAuth     = "_for_basic_auth"
	detailNotAllowed    = "client_not_allowed" // by its API key it is known

	flagExtAuthz = "UAEX"
)

// statusDetail bounds details. Those of the oauth2 filter are sentences in which a
// path stands, whose query is cut off.
func statusDetail(s string) string {
	s, _, _ = strings.Cut(s, "?")
	return evidence.Text(s, evidence.MaxDetail)
}

// refusedBy is the engine that refused, by the details; "" if none did.
func refusedBy(details string) string {
	switch {
	case details == detailUpstream:
		return ""
	case strings.HasPrefix(details, detailRBAC):
		return EngineRBAC
	case strings.HasPrefix(details, detailExtAuthz), strings.HasPrefix(details, detailExtAuthzError):
		return engineExtAuthz
	case strings.HasPrefix(details, detailJWT):
		return engineJWT
	case strings.HasSuffix(details, detailBasicAuth):
		return engineBasicAuth
	}
	switch details {
	case "missing_api_key", "unkonwn_api_key", "unknown_api_key", "missing_key_sources", "missing_credentials", detailNotAllowed:
		return engineAPIKey
	}
	return ""
}

// verdictOf reads the verdict that an entry's details and flags state; nil if
// they state none.
func verdictOf(details, flags string) *evidence.Verdict {
	engine := refusedBy(details)
	if engine == EngineRBAC {
		return rbacVerdict(details)
	}
	if engine == "" {
		if !hasFlag(flags, flagExtAuthz) {
			return nil
		}
		engine = engineExtAuthz
	}
	v := &evidence.Verdict{Engine: engine, Decision: evidence.Deny, Enforced: true}
	switch engine {
	case engineExtAuthz:
		if strings.HasPrefix(details, detailExtAuthzError) {
			v.Decision, v.Reason = evidence.Error, details
		}
	case engineJWT:
		v.Reason = strings.TrimSuffix(strings.TrimPrefix(details[len(detailJWT):], "{"), "}")
	default:
		v.Reason = details
	}
	return v
}

// authenticates tells a verdict on who somebody is from one on what he may do.
func authenticates(v *evidence.Verdict) bool {
	switch v.Engine {
	case engineJWT, engineBasicAuth:
		return true
	case engineAPIKey:
		return !strings.HasPrefix(v.Reason, detailNotAllowed)
	}
	return false
}

// rbacVerdict reads rbac_access_denied_matched_policy[POLICY]. POLICY may hold
// brackets itself; [none] means that no policy allowed the request.
func rbacVerdict(details string) *evidence.Verdict {
	v := &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true}
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
	SetPolicy(v, policy)
	return v
}

// SetPolicy fills in the policy from an RBAC policy's name: Istio's
// ns[NAMESPACE]-policy[NAME]-rule[N], or the name as it is.
func SetPolicy(v *evidence.Verdict, policy string) {
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

// unauthorizedDetails is the field of ResponseFlags that is a message: its
// presence says unauthorized, for the one reason that Envoy knows.
const unauthorizedDetails = 13

// flagNames are the flags' short names, by their field's number.
var flagNames = [...]string{
	"", "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", flagExtAuthz, "RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DR",
}

// flagText renders flags, a set of field numbers, in their order, comma
// separated.
func flagText(flags uint64) string {
	if flags == 0 {
		return ""
	}
	names := make([]string, 0, 8)
	for n, name := range flagNames {
		if flags&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}
