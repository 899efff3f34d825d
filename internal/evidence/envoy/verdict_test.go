package envoy

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	als "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
)

// told is what metadata of filters makes of an entry with these details.
func told(t *testing.T, details string, metadata map[string]map[string]any) *evidence.Verdict {
	t.Helper()
	e := changed(t, func(e *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
		e.Response.ResponseCodeDetails = details
		c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
		for filter, fields := range metadata {
			c.Metadata.FilterMetadata[filter] = structOf(t, fields)
		}
	})
	return e.Verdict
}

func same(t *testing.T, name string, got, want *evidence.Verdict) {
	t.Helper()
	if (got == nil) != (want == nil) || got != nil && *got != *want {
		t.Errorf("%s:\n%+v, want\n%+v", name, got, want)
	}
}

// TestMetadataVerdicts: what RBAC filters and the external authorizer tell in
// dynamic metadata, alone, together, and beside the details.
func TestMetadataVerdicts(t *testing.T) {
	const (
		http, network, authz = "envoy.filters.http.rbac", "envoy.filters.network.rbac", "envoy.filters.http.ext_authz"
		p, q                 = "ns[shop]-policy[p]-rule[1]", "ns[shop]-policy[q]-rule[0]"
	)
	type metadata = map[string]map[string]any
	allow := func(policy string) map[string]any {
		return map[string]any{"enforced_engine_result": "allowed", "enforced_effective_policy_id": policy}
	}
	rbacDeny := evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true}
	for name, tt := range map[string]struct {
		details  string
		metadata metadata
		want     *evidence.Verdict
	}{
		"enforced, allowed": {"via_upstream", metadata{http: allow("p1")},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: true, PolicyID: "p1"}},
		"enforced, allowed because no policy denied": {"via_upstream", metadata{http: {"enforced_engine_result": "allowed"}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: true}},
		"enforced, denied by default": {"", metadata{network: {"x_enforced_engine_result": "denied"}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true, DefaultDeny: true}},
		"denied, and an external decision": {"", metadata{http: {"enforced_engine_result": "denied", "enforced_effective_policy_id": p}, authz: {"decision_id": "d"}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true, PolicyNamespace: "shop", PolicyID: "p", Reason: "rule[1]"}},
		"denied by one filter, allowed by the other": {"via_upstream", metadata{http: allow("p1"), network: {"enforced_engine_result": "denied"}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, Enforced: true, DefaultDeny: true}},
		"allowed, and then denied outside": {"ext_authz_denied", metadata{http: allow("p1"), authz: {"decision_id": "d"}},
			&evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Deny, Enforced: true, DecisionID: "d"}},
		"allowed by both": {"via_upstream", metadata{http: allow("p1"), authz: {"decision_id": "d"}},
			&evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Allow, Enforced: true, DecisionID: "d"}},
		"an external decision, and nothing of what became of it": {"", metadata{authz: {"decision_id": "d"}}, nil},
		"allowed by RBAC, and nothing of the external decision": {"", metadata{http: allow("p1"), authz: {"decision_id": "d"}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: true, PolicyID: "p1"}},
		"not a result": {"via_upstream", metadata{http: {"enforced_engine_result": "maybe", "shadow_engine_result": 1.0}}, nil},

		"a dry run of any prefix": {"via_upstream", metadata{http: {"mine_shadow_engine_result": "denied", "mine_shadow_effective_policy_id": p}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, PolicyNamespace: "shop", PolicyID: "p", Reason: "rule[1]"}},
		"a dry run that no policy allows": {"via_upstream", metadata{http: {"istio_dry_run_allow_shadow_engine_result": "denied"}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, DefaultDeny: true}},
		"dry runs of both filters": {"via_upstream", metadata{http: {"shadow_engine_result": "allowed"}, network: {"shadow_engine_result": "denied", "shadow_effective_policy_id": p}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, PolicyNamespace: "shop", PolicyID: "p", Reason: "rule[1]"}},
		"dry runs that both allow": {"via_upstream", metadata{http: {
			"istio_dry_run_deny_shadow_engine_result": "allowed", "istio_dry_run_allow_shadow_engine_result": "allowed", "istio_dry_run_allow_shadow_effective_policy_id": q}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, PolicyNamespace: "shop", PolicyID: "q", Reason: "rule[0]"}},
		"whether to ask an external authorizer is no dry run": {"via_upstream", metadata{http: {
			"istio_ext_authz_shadow_engine_result": "denied", "istio_ext_authz_shadow_effective_policy_id": "istio-ext-authz-opa-" + p}}, nil},

		"an external decision and a dry run": {"via_upstream", metadata{http: {"shadow_engine_result": "denied", "shadow_effective_policy_id": p}, authz: {"decision_id": "d"}},
			&evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Allow, Enforced: true, DecisionID: "d", Reason: "dry run: denied by " + p}},
		"enforced and a dry run": {"via_upstream", metadata{http: {
			"enforced_engine_result": "allowed", "enforced_effective_policy_id": q, "istio_dry_run_deny_shadow_engine_result": "denied", "istio_dry_run_deny_shadow_effective_policy_id": p}},
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: true, PolicyNamespace: "shop", PolicyID: "q", Reason: "rule[0]; dry run: denied by " + p}},
		"denied in the details and a dry run that allows": {"rbac_access_denied", metadata{http: {"shadow_engine_result": "allowed"}},
			func() *evidence.Verdict { v := rbacDeny; v.Reason = "dry run: allowed"; return &v }()},
	} {
		same(t, name, told(t, tt.details, tt.metadata), tt.want)
	}
}

// TestLineVerdicts: the same of lines, which tell only what their format names.
func TestLineVerdicts(t *testing.T) {
	const (
		at     = `"start_time":"2026-01-01T00:00:00Z","method":"GET","path":"/"`
		deny   = `%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result)% %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_effective_policy_id)%`
		allow  = `%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_allow_shadow_engine_result)%`
		format = `%START_TIME% %RESPONSE_CODE% `
		line   = "2026-01-01T00:00:00.000Z 403 "
	)
	passed := &evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Allow, Enforced: true, DecisionID: "d-17"}
	byPolicy := &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, PolicyID: "p"}
	for name, tt := range map[string]struct {
		format, line, id string
		want             *evidence.Verdict
	}{
		"a decision and a status":                  {"", `{` + at + `,"response_code":403,"upstream_cluster":"x","decision_id":"d-17"}`, "d-17", nil},
		"a decision, and the application's":        {"", `{` + at + `,"response_code":403,"response_code_details":"via_upstream","upstream_cluster":"x","decision_id":"d-17"}`, "d-17", passed},
		"a decision, and no flag":                  {"", `{` + at + `,"response_code":403,"response_flags":"-","upstream_cluster":"x","decision_id":"d-17"}`, "d-17", passed},
		"a decision, and flags that are not there": {"", `{` + at + `,"response_code":403,"response_flags":null,"upstream_cluster":"x","decision_id":"d-17"}`, "d-17", nil},
		"a decision, and how the client left":      {"", `{` + at + `,"response_code":0,"response_code_details":"downstream_remote_disconnect","upstream_cluster":"x","decision_id":"d-17"}`, "d-17", nil},
		"a decision, and the flag of its denial": {"", `{` + at + `,"response_code":403,"response_flags":"UAEX","decision_id":"d-17"}`, "d-17",
			&evidence.Verdict{Engine: engineExtAuthz, Decision: evidence.Deny, Enforced: true, DecisionID: "d-17"}},
		"a format without flags and details": {format + `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%`, line + "d-17", "d-17", nil},

		"two dry runs":         {format + deny + " " + allow, line + "denied p allowed", "", byPolicy},
		"two, the other way":   {format + allow + " " + deny, line + "allowed denied p", "", byPolicy},
		"a dry run, no policy": {format + deny, line + "denied -", "", &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny, DefaultDeny: true}},
		"a dry run whose policy the format does not name": {format + allow, line + "denied", "", &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny}},
		"of two filters": {format + `%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_engine_result)% %DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%`,
			line + "denied allowed", "", &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny}},
		"whether to ask": {format + `%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_ext_authz_shadow_engine_result)%`, line + "denied", "", nil},
		"enforced": {format + `%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)% %DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%`,
			line + "allowed p", "", &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: true, PolicyID: "p"}},
		"by their labels": {"", `{` + at + `,"response_code":200,"response_flags":"-","rbac_shadow_policy":"-","rbac_shadow_result":"denied","enforced_engine_result":"allowed"}`, "",
			&evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Allow, Enforced: true, Reason: "dry run: denied"}},
	} {
		e := oneLine(t, lines(t, tt.format, nil), tt.line)
		same(t, name, e.Verdict, tt.want)
		if e.DecisionID != tt.id {
			t.Errorf("%s: decision %q", name, e.DecisionID)
		}
	}

	l := lines(t, "", map[string]any{
		"at": "%START_TIME%", "code": "%RESPONSE_CODE%",
		"dry": map[string]any{"deny": "%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result)%", "allow": allow},
	})
	e := oneLine(t, l, `{"at":"2026-01-01T00:00:00Z","code":200,"dry":{"deny":"denied","allow":"allowed"}}`)
	same(t, "a JSON format", e.Verdict, &evidence.Verdict{Engine: EngineRBAC, Decision: evidence.Deny})
}

// TestFailedLogins: who is refused because of who he is not.
func TestFailedLogins(t *testing.T) {
	for details, want := range map[string]struct {
		engine string
		event  evidence.Event
	}{
		"no_credential_for_basic_auth":            {"envoy_basic_auth", evidence.EventAuthn},
		"invalid_scheme_for_basic_auth":           {"envoy_basic_auth", evidence.EventAuthn},
		"invalid_format_for_basic_auth":           {"envoy_basic_auth", evidence.EventAuthn},
		"invalid_credential_for_basic_auth":       {"envoy_basic_auth", evidence.EventAuthn},
		"missing_api_key":                         {"envoy_api_key_auth", evidence.EventAuthn},
		"unkonwn_api_key":                         {"envoy_api_key_auth", evidence.EventAuthn}, // so it is spelled
		"unknown_api_key":                         {"envoy_api_key_auth", evidence.EventAuthn},
		"missing_key_sources":                     {"envoy_api_key_auth", evidence.EventAuthn},
		"missing_credentials":                     {"envoy_api_key_auth", evidence.EventAuthn},
		"client_not_allowed":                      {"envoy_api_key_auth", evidence.EventRequest}, // it is known who he is
		"jwt_authn_access_denied{Jwt_is_expired}": {"envoy_jwt_authn", evidence.EventAuthn},
		"oauth.missing_credentials":               {"", evidence.EventRequest}, // sent to log in
	} {
		e := changed(t, func(e *als.HTTPAccessLogEntry, c *als.AccessLogCommon) {
			e.Response.ResponseCodeDetails = details
			c.UpstreamCluster, c.TlsProperties = "", nil
			c.DownstreamLocalAddress = socketAddress("10.9.9.9", 80) // as of a captured call, but for the refusal
		})
		if want.engine == "" {
			if e.Verdict != nil || e.Event != want.event {
				t.Errorf("%s: %v, %+v", details, e.Event, e.Verdict)
			}
			continue
		}
		if v := e.Verdict; v == nil || v.Engine != want.engine || v.Decision != evidence.Deny || !v.Enforced || v.Reason == "" || e.Event != want.event || e.Role != evidence.RoleCallee {
			t.Errorf("%s: %v, %v, %+v", details, e.Event, e.Role, v)
		}
	}
	e := changed(t, func(e *als.HTTPAccessLogEntry, _ *als.AccessLogCommon) {
		e.Response.ResponseCodeDetails = "Unauthorized, and redirecting to OAuth server is not allowed: /a?code=SECRET"
	})
	if got := evidencetest.Render(&e); e.StatusDetail != "Unauthorized, and redirecting to OAuth server is not allowed: /a" {
		t.Errorf("%s", got)
	}
}
