package spire

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// A class says what a call is.
type class struct {
	event          evidence.Event
	record         bool
	attests        bool // it proves who a node is, so that its failure is a failed login
	resource, verb string
}

func change(resource, verb string) class {
	return class{event: evidence.EventConfigChange, record: true, resource: resource, verb: verb}
}

var (
	issue  = class{event: evidence.EventIdentityIssue, record: true}
	attest = class{event: evidence.EventIdentityIssue, record: true, attests: true}
	action = class{event: evidence.EventOperatorAction, record: true}
)

// methods are the calls that make a record, by their name; all others only
// read.
var methods = func() map[string]call {
	m := make(map[string]call, len(calls))
	for name, c := range calls {
		kind, method, _ := strings.Cut(name, "/")
		m[method] = call{kind, c}
	}
	return m
}()

type call struct {
	kind string
	class
}

var calls = map[string]class{
	"svid/MintX509SVID": issue, "svid/MintJWTSVID": issue, "svid/MintWITSVID": issue, "svid/BatchNewX509SVID": issue,
	"svid/NewJWTSVID": issue, "svid/BatchNewWITSVID": issue, "svid/NewWITSVID": issue, "svid/NewDownstreamX509CA": issue,

	"agent/AttestAgent": attest, "agent/RenewAgent": attest, "agent/CreateJoinToken": action,
	"agent/DeleteAgent": change("agent", "delete"), "agent/BanAgent": change("agent", "ban"),

	"entry/BatchCreateEntry": change("entry", "create"), "entry/BatchUpdateEntry": change("entry", "update"),
	"entry/BatchDeleteEntry": change("entry", "delete"),

	"bundle/AppendBundle": change("bundle", "update"), "bundle/PublishJWTAuthority": change("bundle", "update"),
	"bundle/PublishWITAuthority":        change("bundle", "update"),
	"bundle/BatchCreateFederatedBundle": change("federated_bundle", "create"),
	"bundle/BatchUpdateFederatedBundle": change("federated_bundle", "update"),
	"bundle/BatchSetFederatedBundle":    change("federated_bundle", "update"),
	"bundle/BatchDeleteFederatedBundle": change("federated_bundle", "delete"),

	"trustdomain/BatchCreateFederationRelationship": change("federation_relationship", "create"),
	"trustdomain/BatchUpdateFederationRelationship": change("federation_relationship", "update"),
	"trustdomain/BatchDeleteFederationRelationship": change("federation_relationship", "delete"),
	"trustdomain/RefreshBundle":                     change("federated_bundle", "update"),

	"logger/SetLogLevel": action, "logger/ResetLogLevel": action,
}

// kind is entry of entry.v1.Entry, and of the short name entry.
func kind(service string) string {
	k, _, _ := strings.Cut(service, ".")
	return strings.ToLower(k) // a copy only of the name that has capitals
}

// classify knows a call by its service and method. Where a line names no
// method, only what its fields leave no doubt of makes a record.
func classify(service, method string, l *logLine) class {
	k := kind(service)
	if c, ok := methods[method]; ok && c.kind == k {
		return c.class
	}
	if k == "localauthority" && method != "" && !strings.HasPrefix(method, "Get") {
		// {Prepare,Activate,Taint,Revoke}{JWT,X509,WIT}[Upstream]Authority
		for _, verb := range [...]string{"Prepare", "Activate", "Taint", "Revoke"} {
			if strings.HasPrefix(method, verb) {
				return change("authority", strings.ToLower(verb))
			}
		}
	}
	if method != "" {
		return class{}
	}
	switch {
	case k == "svid":
		return issue
	case k == "agent" && l.get("agent_id") != "":
		return attest
	case k == "agent" && l.get("ttl") != "":
		return action
	case k == "entry" && l.get("revision_number") != "":
		return change("entry", "")
	case k == "bundle" && l.get("mode") != "":
		return change("federated_bundle", "delete")
	case k == "trustdomain" && l.get("bundle_endpoint_profile") != "":
		return change("federation_relationship", "")
	case k == "logger" && l.get("new_log_level") != "":
		return action
	}
	return class{}
}

// agent reads what an agent logs of identities, which has no type: those given
// to workloads (at level debug) and its own, workloads to which none was given or
// of which it could not find out, and JWT-SVIDs that it refused.
func (l *logLine) agent(e *evidence.Evidence) bool {
	msg, method := l.get("msg"), l.get("method")
	switch {
	case msg == "Fetched X.509 SVID" || msg == "Fetched JWT SVID",
		msg == "Node attestation was successful" || msg == "Successfully reattested node" || msg == "Successfully rotated agent SVID":
		e.Event = evidence.EventIdentityIssue
	case msg == "No identity issued":
		e.Event = evidence.EventAuthn
		e.Verdict = &evidence.Verdict{Engine: Engine, Decision: evidence.Deny, Enforced: true, DefaultDeny: true, Reason: "no identity issued"}
	case msg == "Failed to validate JWT": // that somebody showed to the workload
		e.Event = evidence.EventAuthn
		e.Verdict = &evidence.Verdict{Engine: Engine, Decision: evidence.Deny, Enforced: true, Reason: "JWT-SVID not valid"}
	case msg == "Workload attestation failed" || msg == "Failed to attest the workload":
		e.Event = evidence.EventAuthn
		e.Verdict = &evidence.Verdict{Engine: Engine, Decision: evidence.Error, Enforced: true, Reason: "workload attestation failed"}
	default:
		return false
	}
	l.common(e)
	e.Role = evidence.RoleObserver
	a := e.Act
	if a.Action = msg; method != "" {
		a.Action = joined(l.get("service"), method)
	}
	if a.Outcome = "success"; e.Event == evidence.EventAuthn {
		a.Outcome = "failure"
	}
	if a.TargetID = l.get("spiffe_id"); a.TargetID != "" {
		a.TargetType = "spiffe_id"
	}
	if pid := l.get("pid"); pid != "" {
		e.User, e.Actor = "unix:pid:"+pid, &evidence.Actor{Type: "service"}
	}
	return true
}

func joined(service, method string) string {
	if service == "" {
		return method
	}
	return service + "/" + method
}
