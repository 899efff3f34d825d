package envoy

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// rbac is what a proxy's RBAC filters tell in their dynamic metadata.
type rbac struct {
	enforced rbacResult
	shadow   rbacResult // a dry run: what the shadow rules would have done
}

type rbacResult struct {
	stated, denied bool
	policy         string // that decided, "" if none did
	told           bool   // whether one did is stated
}

// Keys of the metadata: what the rules are called, [PREFIX]enforced_ or
// [PREFIX]shadow_, and one of these.
const (
	keyResult = "engine_result"
	keyPolicy = "effective_policy_id" // absent if no policy decided

	rulesEnforced = "enforced_"
	rulesShadow   = "shadow_"
	// By these Istio's proxies find out whether to ask an external authorizer.
	rulesAsk = "istio_ext_authz_shadow_"
)

// rbacKey takes a key apart. It is false for one that tells no verdict.
func rbacKey(key string) (rules string, policy, ok bool) {
	if rules, ok = strings.CutSuffix(key, keyResult); !ok {
		if rules, ok = strings.CutSuffix(key, keyPolicy); !ok {
			return "", false, false
		}
		policy = true
	}
	if !strings.HasSuffix(rules, rulesEnforced) && !strings.HasSuffix(rules, rulesShadow) || strings.HasSuffix(rules, rulesAsk) {
		return "", false, false
	}
	return rules, policy, true
}

// read takes one filter's metadata.
func (r *rbac) read(o protoStruct) {
	o.fields(func(key string, _ protoValue) {
		if rules, policy, ok := rbacKey(key); ok && !policy {
			r.add(rules, o.text(key), o.text(rules+keyPolicy), true)
		}
	})
}

// add takes the result of one set of rules. Of several a denial is the answer,
// and then the one that names its policy, the least: a resend must read the same.
func (r *rbac) add(rules, result, policy string, told bool) {
	if result != "allowed" && result != "denied" {
		return
	}
	next := rbacResult{stated: true, denied: result == "denied", policy: policy, told: told}
	have := &r.shadow
	if strings.HasSuffix(rules, rulesEnforced) {
		have = &r.enforced
	}
	switch {
	case !have.stated, next.denied && !have.denied:
		*have = next
	case next.denied != have.denied, next.policy == "":
	case have.policy == "", next.policy < have.policy:
		*have = next
	}
}

func (r *rbacResult) verdict(enforced bool) *evidence.Verdict {
	v := &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: enforced}
	if r.denied {
		v.Decision = evidence.Deny
		v.DefaultDeny = r.told && r.policy == ""
	}
	if r.policy != "" {
		SetPolicy(v, r.policy)
	}
	return v
}

// reason tells of a dry run beside why something was enforced.
func (r *rbacResult) reason(why string) string {
	sep, result, by := "; ", "allowed", " by "
	if why == "" {
		sep = ""
	}
	if r.denied {
		result = "denied"
	}
	if r.policy == "" {
		by = ""
	}
	return evidence.Text(why+sep+"dry run: "+result+by+r.policy, evidence.MaxDetail)
}

// decide settles the verdict: what details and flags state, which e has already;
// then a denial by RBAC; then that the external authorizer, whose decision's id is
// given, did not deny, if the entry tells what became of that; then what RBAC
// allowed. A dry run is the verdict only where nothing was enforced.
func decide(e *evidence.Evidence, r *rbac, id string, told bool) {
	v := e.Verdict
	if v == nil && r.enforced.denied {
		v = r.enforced.verdict(true)
	}
	if id != "" {
		e.DecisionID = id
		if v == nil && told {
			v = &evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Allow, Enforced: true}
		}
		if v != nil && v.Engine == engineExtAuthz {
			v.DecisionID = id
		}
	}
	if v == nil && r.enforced.stated {
		v = r.enforced.verdict(true)
	}
	switch {
	case !r.shadow.stated:
	case v == nil:
		v = r.shadow.verdict(false)
	default:
		v.Reason = r.shadow.reason(v.Reason)
	}
	e.Verdict = v
}
