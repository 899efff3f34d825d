package mapped

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/envoy"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
)

// A target is the evidence that a record becomes, and what is set last.
type target struct {
	*evidence.Evidence
	proof    evidence.Proof
	duration time.Duration
	verdict  evidence.Verdict
	decided  bool
	dryRun   bool
	actor    evidence.Actor
	acts     bool
	act      evidence.Act
	acted    bool
	long     []string // integers that stand as text, for they have more than 64 bits
}

func (t *target) finish() {
	if t.duration > 0 && t.End == 0 && t.Start != 0 {
		t.End = t.Start + int64(t.duration)
	}
	if t.decided {
		v := t.verdict
		v.Enforced = !t.dryRun
		t.Verdict = &v
	}
	if t.acts {
		a := t.actor
		t.Actor = &a
	}
	if t.acted {
		a := t.act
		t.Act = &a
	}
	if t.GRPCStatus != "" {
		envoy.RPC(t.Evidence)
	}
	switch tls := &t.TLS; {
	case tls.FailureReason != "":
		tls.Known, tls.Established = true, false
	case tls.Mutual:
		tls.Known, tls.Established = true, true
	}
	token.ApplyCertificate(t.Evidence)
}

type setter func(t *target, v any) error

// setters are the fields, by the name that the configuration gives them.
var setters = func() map[string]setter {
	m := map[string]setter{
		"event": func(t *target, v any) error {
			e, ok := evidence.ParseEvent(text(v, evidence.MaxName))
			if !ok {
				return fmt.Errorf("%q is no event name, such as mesh.authz", text(v, 64))
			}
			t.Event = e
			return nil
		},
		"role": func(t *target, v any) error {
			r, ok := evidence.ParseRole(text(v, evidence.MaxName))
			if !ok {
				return fmt.Errorf("%q is no role: callee, caller, decision, observer, none", text(v, 64))
			}
			t.Role = r
			return nil
		},
		"start":    func(t *target, v any) (err error) { t.Start, err = nanoseconds(v); return err },
		"end":      func(t *target, v any) (err error) { t.End, err = nanoseconds(v); return err },
		"duration": func(t *target, v any) (err error) { t.duration, err = duration(v); return err },
		"final":    func(t *target, v any) (err error) { t.Final, err = boolean(v); return err },
		"failed":   func(t *target, v any) (err error) { t.Failed, err = boolean(v); return err },
		"status": func(t *target, v any) error {
			n, err := strconv.ParseUint(text(v, 32), 10, 10)
			t.Status = int(n)
			return err
		},
		"trace_id": func(t *target, v any) error {
			t.TraceID, _ = evidence.ParseTraceID(text(v, 64))
			return nil
		},
		"span_id": func(t *target, v any) error {
			t.SpanID, _ = evidence.ParseSpanID(text(v, 64))
			return nil
		},
		"parent_span_id": func(t *target, v any) error {
			t.ParentSpanID, _ = evidence.ParseSpanID(text(v, 64))
			return nil
		},
		"path": func(t *target, v any) error {
			t.Path = evidence.PathOnly(text(v, 4*evidence.MaxPath))
			return nil
		},
		"messaging.destination": func(t *target, v any) error {
			t.Topic = evidence.PathOnly(text(v, 4*evidence.MaxPath))
			return nil
		},
		"host": func(t *target, v any) error {
			t.Host = evidence.Authority(text(v, 4*evidence.MaxName))
			return nil
		},
		"resend_count": func(t *target, v any) error {
			n, err := strconv.ParseUint(text(v, 16), 10, 16)
			t.ResendCount = int(n)
			return err
		},
		"tls.established": func(t *target, v any) (err error) {
			t.TLS.Known = true
			t.TLS.Established, err = boolean(v)
			return err
		},
		"tls.mutual": func(t *target, v any) (err error) { t.TLS.Mutual, err = boolean(v); return err },
		"tls.version": func(t *target, v any) error {
			t.TLS.Version = strings.ReplaceAll(strings.TrimPrefix(text(v, evidence.MaxName), "TLSv"), "_", ".")
			return nil
		},
		"tls.client.sha256": func(t *target, v any) error {
			s := strings.ToLower(strings.ReplaceAll(text(v, 128), ":", ""))
			if b, err := hex.DecodeString(s); s != "" && (err != nil || len(b) != sha256.Size) {
				return errors.New("no SHA-256 in hex")
			}
			t.TLS.ClientSHA256 = s
			return nil
		},
		"tls.client.serial": func(t *target, v any) (err error) {
			if value, ok := v.(pcommon.Value); ok && value.Type() == pcommon.ValueTypeStr {
				v = value.Str()
			}
			s, isText := v.(string) // a number is decimal, and may have lost its last digits
			serial, isHex := evidence.Serial(s)
			if t.TLS.ClientSerial = serial; !isText || !isHex || slices.Contains(t.long, s) {
				err = errors.New("no serial number as a text in hex")
			}
			return err
		},
		"tls.client.not_after": func(t *target, v any) (err error) { t.TLS.ClientNotAfter, err = seconds(v); return err },
		"act.not_after": func(t *target, v any) (err error) {
			t.acted = true
			t.act.NotAfter, err = seconds(v)
			return err
		},
		"actor.delegation": func(t *target, v any) error {
			for d := range delegates(v) {
				if len(t.actor.Delegation) < evidence.MaxDelegates && d != (evidence.Delegate{}) {
					t.acts = true
					t.actor.Delegation = append(t.actor.Delegation, d)
				}
			}
			return nil
		},
		"actor.token.jti": func(t *target, v any) error {
			if id := text(v, evidence.MaxPath); id != "" {
				sum := sha256.Sum256([]byte(id))
				t.acts, t.actor.Token.IDHash = true, hex.EncodeToString(sum[:])
			}
			return nil
		},
		"actor.token.bound": func(t *target, v any) error {
			switch s := text(v, 16); s {
			case token.BoundDPoP, token.BoundMTLS, token.BoundNone:
				t.acts, t.actor.Token.Bound = true, s
				return nil
			case "":
				return nil
			default:
				return fmt.Errorf("%q is no binding: dpop, mtls, none", s)
			}
		},
		"verdict.decision": func(t *target, v any) error {
			d, ok := decisions[strings.ToLower(text(v, 32))]
			if !ok {
				return fmt.Errorf("%q is no decision: allow, deny, error, not_evaluated, true, false", text(v, 32))
			}
			t.decided, t.verdict.Decision = true, d
			return nil
		},
		"verdict.enforced": func(t *target, v any) error {
			b, err := boolean(v)
			t.dryRun = !b
			return err
		},
		"verdict.default_deny": func(t *target, v any) (err error) { t.verdict.DefaultDeny, err = boolean(v); return err },
		"user.roles": func(t *target, v any) error {
			for s := range list(v) {
				if len(t.actor.Roles) < evidence.MaxRoles && s != "" {
					t.acts = true
					t.actor.Roles = append(t.actor.Roles, evidence.Text(s, evidence.MaxName))
				}
			}
			return nil
		},
	}
	name := func(field string, max int, dst func(t *target) *string) {
		m[field] = func(t *target, v any) error {
			*dst(t) = text(v, max)
			return nil
		}
	}
	name("position", evidence.MaxName, func(t *target) *string { return &t.Position })
	name("stream_id", evidence.MaxName, func(t *target) *string { return &t.StreamID })
	name("request_id", evidence.MaxName, func(t *target) *string { return &t.RequestID })
	name("decision_id", evidence.MaxName, func(t *target) *string { return &t.DecisionID })
	name("method", evidence.MaxName, func(t *target) *string { return &t.Method })
	name("route", evidence.MaxName, func(t *target) *string { return &t.Route })
	name("protocol", evidence.MaxName, func(t *target) *string { return &t.Protocol })
	name("grpc_status", 16, func(t *target) *string { return &t.GRPCStatus })
	name("response_flags", evidence.MaxName, func(t *target) *string { return &t.ResponseFlags })
	name("rpc.system", evidence.MaxName, func(t *target) *string { return &t.RPCSystem })
	name("rpc.service", evidence.MaxName, func(t *target) *string { return &t.RPCService })
	name("rpc.method", evidence.MaxName, func(t *target) *string { return &t.RPCMethod })
	name("messaging.system", evidence.MaxName, func(t *target) *string { return &t.MessagingSystem })
	name("tls.cipher", evidence.MaxName, func(t *target) *string { return &t.TLS.Cipher })
	name("tls.client.issuer", evidence.MaxName, func(t *target) *string { return &t.TLS.ClientIssuer })
	name("tls.failure_reason", evidence.MaxDetail, func(t *target) *string { return &t.TLS.FailureReason })
	name("detail", evidence.MaxDetail, func(t *target) *string { return &t.StatusDetail })
	name("user.id", evidence.MaxName, func(t *target) *string { return &t.User })
	name("cluster", evidence.MaxName, func(t *target) *string { return &t.Cluster })
	name("reporter.node", evidence.MaxName, func(t *target) *string { return &t.Reporter.Node })
	name("verdict.engine", evidence.MaxName, func(t *target) *string { return &t.verdict.Engine })
	name("verdict.reason", evidence.MaxDetail, func(t *target) *string { return &t.verdict.Reason })
	name("verdict.policy.id", evidence.MaxName, func(t *target) *string { return &t.verdict.PolicyID })
	name("verdict.policy.namespace", evidence.MaxName, func(t *target) *string { return &t.verdict.PolicyNamespace })
	name("verdict.policy.revision", evidence.MaxName, func(t *target) *string { return &t.verdict.PolicyRevision })
	name("actor.type", evidence.MaxName, func(t *target) *string { t.acts = true; return &t.actor.Type })
	name("actor.impersonator", evidence.MaxName, func(t *target) *string { t.acts = true; return &t.actor.Impersonator })
	name("actor.token.issuer", evidence.MaxName, func(t *target) *string { t.acts = true; return &t.actor.Token.Issuer })
	name("actor.token.audience", evidence.MaxName, func(t *target) *string { t.acts = true; return &t.actor.Token.Audience })
	name("actor.token.azp", evidence.MaxName, func(t *target) *string { t.acts = true; return &t.actor.Token.AuthorizedParty })
	name("actor.token.jkt", evidence.MaxName, func(t *target) *string { t.acts = true; return &t.actor.Token.JKT })
	name("actor.token.x5t", evidence.MaxName, func(t *target) *string { t.acts = true; return &t.actor.Token.X5T })
	for field, dst := range map[string]func(*evidence.Act) *string{
		"action": func(a *evidence.Act) *string { return &a.Action }, "outcome": func(a *evidence.Act) *string { return &a.Outcome },
		"target.id": func(a *evidence.Act) *string { return &a.TargetID }, "target.type": func(a *evidence.Act) *string { return &a.TargetType },
		"change.group": func(a *evidence.Act) *string { return &a.Change.Group }, "change.resource": func(a *evidence.Act) *string { return &a.Change.Resource },
		"change.namespace": func(a *evidence.Act) *string { return &a.Change.Namespace }, "change.name": func(a *evidence.Act) *string { return &a.Change.Name },
		"change.verb": func(a *evidence.Act) *string { return &a.Change.Verb }, "change.revision": func(a *evidence.Act) *string { return &a.Change.Revision },
		"change.diff_sha256": func(a *evidence.Act) *string { return &a.Change.DiffSHA256 },
	} {
		name("act."+field, evidence.MaxName, func(t *target) *string { t.acted = true; return dst(&t.act) })
	}
	for prefix, of := range map[string]func(*target) *evidence.Party{
		"from.": func(t *target) *evidence.Party { return &t.From },
		"to.":   func(t *target) *evidence.Party { return &t.To },
	} {
		m[prefix+"identity"] = func(t *target, v any) error {
			for s := range list(v) {
				of(t).AddIdentity(evidence.ParseIdentity(s, t.proof, "mapping."+prefix+"identity"))
			}
			return nil
		}
		m[prefix+"address"] = func(t *target, v any) error {
			address, port := envoy.SplitAddress(text(v, evidence.MaxName))
			if of(t).Address = address; port != 0 {
				of(t).Port = port
			}
			return nil
		}
		m[prefix+"port"] = func(t *target, v any) error {
			n, err := strconv.ParseUint(text(v, 16), 10, 16)
			of(t).Port = uint16(n)
			return err
		}
		name(prefix+"workload.name", evidence.MaxName, func(t *target) *string { return &of(t).Workload.Name })
		name(prefix+"workload.namespace", evidence.MaxName, func(t *target) *string { return &of(t).Workload.Namespace })
		name(prefix+"workload.kind", evidence.MaxName, func(t *target) *string { return &of(t).Workload.Kind })
		name(prefix+"workload.version", evidence.MaxName, func(t *target) *string { return &of(t).Workload.Version })
		name(prefix+"workload.revision", evidence.MaxName, func(t *target) *string { return &of(t).Workload.Revision })
		name(prefix+"image.digest", evidence.MaxName, func(t *target) *string { return &of(t).Workload.ImageDigest })
		name(prefix+"node", evidence.MaxName, func(t *target) *string { return &of(t).Workload.Node })
		name(prefix+"pod.name", evidence.MaxName, func(t *target) *string { return &of(t).Workload.PodName })
		name(prefix+"pod.uid", evidence.MaxName, func(t *target) *string { return &of(t).Workload.PodUID })
	}
	return m
}()

var decisions = map[string]evidence.Decision{
	"allow": evidence.Allow, "allowed": evidence.Allow, "true": evidence.Allow, "permit": evidence.Allow, "success": evidence.Allow,
	"deny": evidence.Deny, "denied": evidence.Deny, "false": evidence.Deny, "forbid": evidence.Deny, "failure": evidence.Deny,
	"error": evidence.Error, "not_evaluated": evidence.NotEvaluated,
}

// text is a scalar as a bounded text; maps and lists have none.
func text(v any, max int) string {
	switch v := v.(type) {
	case string:
		return evidence.Text(v, max)
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case int:
		return strconv.Itoa(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case pcommon.Value:
		if t := v.Type(); t != pcommon.ValueTypeMap && t != pcommon.ValueTypeSlice {
			return evidence.Text(v.AsString(), max)
		}
	}
	return ""
}

// list is a list of texts, or one text alone.
func list(v any) func(func(string) bool) {
	return func(yield func(string) bool) {
		switch v := v.(type) {
		case pcommon.Slice:
			for _, e := range v.All() {
				if !yield(text(e, evidence.MaxPath)) {
					return
				}
			}
		case []any:
			for _, e := range v {
				if !yield(text(e, evidence.MaxPath)) {
					return
				}
			}
		case []string:
			for _, e := range v {
				if !yield(evidence.Text(e, evidence.MaxPath)) {
					return
				}
			}
		default:
			yield(text(v, evidence.MaxPath))
		}
	}
}

// delegates is a chain, outermost first: RFC 8693's act claim, each within the
// one before, or a list of such claims or of subjects.
func delegates(v any) func(func(evidence.Delegate) bool) {
	return func(yield func(evidence.Delegate) bool) {
		switch v := v.(type) {
		case pcommon.Map:
			for n := 0; n < evidence.MaxDelegates; n++ {
				act, ok := v.Get("act")
				if !yield(delegate(v)) || !ok || act.Type() != pcommon.ValueTypeMap {
					return
				}
				v = act.Map()
			}
		case pcommon.Slice:
			for _, e := range v.All() {
				d := evidence.Delegate{Subject: text(e, evidence.MaxName)}
				if e.Type() == pcommon.ValueTypeMap {
					d = delegate(e.Map())
				}
				if !yield(d) {
					return
				}
			}
		default:
			for s := range list(v) {
				if !yield(evidence.Delegate{Subject: evidence.Text(s, evidence.MaxName)}) {
					return
				}
			}
		}
	}
}

func delegate(m pcommon.Map) (d evidence.Delegate) {
	if v, ok := m.Get("iss"); ok {
		d.Issuer = text(v, evidence.MaxName)
	}
	if v, ok := m.Get("sub"); ok {
		d.Subject = text(v, evidence.MaxName)
	}
	return d
}

func boolean(v any) (bool, error) {
	if b, ok := v.(bool); ok {
		return b, nil
	}
	switch text(v, 8) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("neither true nor false")
}

// seconds reads a time: OTTL's, RFC 3339, or seconds since 1970.
func seconds(v any) (int64, error) {
	if n, err := strconv.ParseInt(text(v, 64), 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	n, err := nanoseconds(v)
	return n / int64(time.Second), err
}

// nanoseconds reads a time: OTTL's, RFC 3339, or nanoseconds since 1970.
func nanoseconds(v any) (int64, error) {
	t, ok := v.(time.Time)
	if !ok {
		s := text(v, 64)
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
			return n, nil
		}
		var err error
		if t, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return 0, fmt.Errorf("%q is no time: RFC 3339, nanoseconds, or Time(…)", evidence.Text(s, 32))
		}
	}
	if t.Unix() <= 0 || t.Year() >= 2262 {
		return 0, errors.New("a time before 1970 or after 2261")
	}
	return t.UnixNano(), nil
}

// duration reads OTTL's duration, Go's form of one, or nanoseconds.
func duration(v any) (time.Duration, error) {
	switch v := v.(type) {
	case time.Duration:
		return v, nil
	case int64:
		return time.Duration(v), nil
	case float64:
		if math.Abs(v) < math.MaxInt64/2 {
			return time.Duration(v), nil
		}
	case string:
		return time.ParseDuration(v)
	}
	return 0, errors.New("no duration")
}
