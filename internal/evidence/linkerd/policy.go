package linkerd

import (
	"fmt"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
)

// policyTarget is the module of the proxy whose messages are decisions.
const policyTarget = "linkerd_app_inbound::policy"

// A policy is one decision in the proxy's log.
type policy struct {
	target, message, timestamp      string
	serverKind, serverName          string
	routeKind, routeName            string
	clientTLS, clientIP, clientAddr string
}

func (p *policy) field(name string) *string {
	switch name {
	case "server.kind":
		return &p.serverKind
	case "server.name":
		return &p.serverName
	case "route.kind":
		return &p.routeKind
	case "route.name":
		return &p.routeName
	case "client.tls", "tls":
		return &p.clientTLS
	case "client.ip":
		return &p.clientIP
	case "client":
		return &p.clientAddr
	}
	return nil
}

// policyText reads a line of the proxy's plain log,
// [TIME] LEVEL … linkerd_app_inbound::policy::…: MESSAGE KEY=VALUE….
func policyText(e *evidence.Evidence, from *evidence.Origin, line string) error {
	_, rest, _ := strings.Cut(line, policyTarget)
	_, rest, ok := strings.Cut(rest, ": ")
	at := strings.Index(rest, " server.group=")
	if !ok || at < 0 {
		return evidence.ErrNotEvidence
	}
	p := policy{message: rest[:at]}
	// Only tls holds spaces: a value goes on to the next name that is known.
	for rest = rest[at+1:]; rest != ""; {
		name, value, ok := strings.Cut(rest, "=")
		if !ok {
			return fmt.Errorf("%w: %q is no KEY=VALUE", evidence.ErrMalformed, evidence.Text(rest, 32))
		}
		end := strings.IndexByte(value, ' ')
		if name == "client.tls" || name == "tls" {
			end = strings.Index(value, " client")
			for end >= 0 && !strings.HasPrefix(value[end:], " client=") && !strings.HasPrefix(value[end:], " client.ip=") {
				next := strings.Index(value[end+1:], " client")
				if next < 0 {
					end = -1
					break
				}
				end += 1 + next
			}
		}
		if rest = ""; end >= 0 {
			value, rest = value[:end], value[end+1:]
		}
		if dst := p.field(name); dst != nil {
			*dst = value
		}
	}
	return p.evidence(e, from)
}

func (p *policy) evidence(e *evidence.Evidence, from *evidence.Origin) error {
	v := &evidence.Verdict{Engine: Engine, Enforced: true, PolicyNamespace: from.Workload.Namespace}
	switch p.message {
	case "Request denied", "Connection denied":
		v.Decision = evidence.Deny
		v.DefaultDeny = true // no authorization matched; Linkerd has no rules that deny
	case "Connection terminated due to policy change":
		v.Decision, v.Reason = evidence.Deny, "policy change"
	case "Request allowed":
		// Logged only where the default policy audit let it pass: nobody was
		// authorized, and nothing enforced that.
		v.Decision, v.Enforced, v.DefaultDeny, v.Reason = evidence.Deny, false, true, "audit mode"
	default:
		return evidence.ErrNotEvidence
	}
	id := p.serverKind + "/" + p.serverName
	if p.routeName != "" {
		id += "/" + p.routeKind + "/" + p.routeName
	}
	v.PolicyID = evidence.Text(id, evidence.MaxName)

	e.Event, e.Role, e.Verdict = evidence.EventAuthz, evidence.RoleDecision, v
	e.Start = from.Time
	if t, err := time.Parse(time.RFC3339Nano, p.timestamp); err == nil && t.Unix() > 0 && t.Year() < 2262 {
		e.Start = t.UnixNano()
	}
	if e.From.Address = evidence.Text(p.clientIP, evidence.MaxName); p.clientAddr != "" {
		e.From.Address, e.From.Port = envoy.SplitAddress(p.clientAddr)
	}
	client(e, clientID(p.clientTLS))
	return nil
}

// clientID finds the name in the debug form of the connection's TLS,
// Some(Established { client_id: Some(ClientId(Dns(Name("x")))), … }).
func clientID(tls string) string {
	_, rest, ok := strings.Cut(tls, "client_id: Some(")
	if !ok {
		return ""
	}
	if _, quoted, ok := strings.Cut(rest, `"`); ok {
		id, _, _ := strings.Cut(quoted, `"`)
		return id
	}
	id := rest[strings.LastIndexByte(rest[:max(0, strings.IndexByte(rest, ')'))], '(')+1:]
	id, _, _ = strings.Cut(id, ")")
	return id
}
