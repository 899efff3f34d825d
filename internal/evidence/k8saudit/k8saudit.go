// Package k8saudit reads the Kubernetes API server's audit events, audit.k8s.io
// v1 and its betas.
//
// An event is one stage of one request. What is a change of the mesh's policy,
// an operator's action on a workload, an identity that was issued, or a refusal
// makes a record (evidence.RoleObserver); everything else, the reads of
// controllers above all, is evidence without one (evidence.RoleNone). README.md
// says which is which.
//
// Objects are never kept, of a change only their digest. Nor are query strings,
// status messages, the user agent, and user.extra beyond the pod, the node and
// the credential's id: clients and admission plugins write there what they want.
package k8saudit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// The engines of verdicts.
const (
	EngineRBAC      = "k8s_rbac"
	EngineAuthz     = "k8s_authorizer" // another authorizer than RBAC
	EngineAuthn     = "k8s_authn"
	EngineAdmission = "k8s_admission"
	EngineOpenShift = "openshift_oauth" // OpenShift's login server
)

const fromUser = "k8s_audit.user" // the identity is derived from the user's name

// Why an event is refused.
var (
	ErrNoEvent   = errors.New("no audit event")
	ErrDuplicate = errors.New("duplicate key")
)

// Kept says which keys' values may stay of an event that cannot be decoded.
func Kept(key string) bool {
	switch key {
	case "auditID", "level", "stage", "verb", "kind", "apiVersion", "apiGroup", "resource", "subresource",
		"requestReceivedTimestamp", "stageTimestamp":
		return true
	}
	return false
}

// Line is Decode as an evidence.Decoder, for the lines of the log backend's
// file. It takes events out of envelopes: an EventList, and Azure's diagnostic
// logs, one or several, each of which has its event as properties.log, an
// object or its text. What is no event beside others that are is passed over.
func (d *Decoder) Line(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
	return d.line(dst, from, line, 2)
}

// line looks into so many envelopes within each other.
func (d *Decoder) line(dst []evidence.Evidence, from *evidence.Origin, line []byte, envelopes int) ([]evidence.Evidence, error) {
	e, err := d.Decode(line)
	switch {
	case err == nil:
		if d.cluster == "" {
			e.Cluster = from.Cluster
		}
		return append(dst, e), nil
	case !errors.Is(err, ErrNoEvent):
		return dst, fmt.Errorf("%w: %w", evidence.ErrMalformed, err)
	}
	n := len(dst)
	if envelopes > 0 {
		for _, event := range enclosed(line) {
			var why error
			if dst, why = d.line(dst, from, event, envelopes-1); why != nil && !errors.Is(why, ErrNoEvent) {
				return dst[:n], why
			}
			if len(dst)-n > maxEnclosed {
				return dst[:n], fmt.Errorf("%w: more than %d events", evidence.ErrMalformed, maxEnclosed)
			}
		}
	}
	if len(dst) == n {
		return dst, fmt.Errorf("%w: %w", evidence.ErrNotEvidence, err)
	}
	return dst, nil
}

// maxEnclosed is more than real events fill a line with.
const maxEnclosed = 4096

// enclosed are what stands within an envelope where events do.
func enclosed(line []byte) (events [][]byte) {
	c := jsonscan.New(line)
	if !c.Object() {
		return nil
	}
	for c.Next() {
		switch string(c.Key) {
		case "items", "records":
			if c.Array() {
				for c.Element() {
					events = append(events, c.Raw())
				}
			}
		case "properties":
			if c.Object() {
				for c.Next() {
					switch {
					case string(c.Key) != "log":
						c.Skip()
					case c.Peek() == '{':
						events = append(events, c.Raw())
					default: // of other categories no JSON
						if text := c.String(); strings.HasPrefix(text, "{") {
							events = append(events, []byte(text))
						}
					}
				}
			}
		default:
			c.Skip()
		}
	}
	return events
}

// Decode reads one event. It refuses what is no valid JSON, not an audit event
// (ErrNoEvent), and an event that states one of its members twice.
func (d *Decoder) Decode(event []byte) (evidence.Evidence, error) {
	a := audit{c: jsonscan.New(event)}
	if a.c.Peek() != '{' {
		if a.c.Skip(); a.c.End() != nil {
			return evidence.Evidence{}, fmt.Errorf("audit event: byte %d: %w", a.c.Offset(), a.c.Err())
		}
		return evidence.Evidence{}, fmt.Errorf("audit event: %w: not an object", ErrNoEvent)
	}
	a.event()
	switch err := a.c.End(); {
	case err != nil:
		return evidence.Evidence{}, fmt.Errorf("audit event: byte %d: %w", a.c.Offset(), err)
	case a.twice != "":
		return evidence.Evidence{}, fmt.Errorf("audit event: %w %q", ErrDuplicate, a.twice)
	case a.kind != "" && a.kind != "Event", a.version != "" && !strings.HasPrefix(a.version, "audit.k8s.io/"):
		return evidence.Evidence{}, fmt.Errorf("audit event: %w: it is a %s %s", ErrNoEvent, a.version, a.kind)
	case a.id == "":
		return evidence.Evidence{}, fmt.Errorf("audit event: %w: no auditID", ErrNoEvent)
	}
	e := evidence.Evidence{Cluster: d.cluster}
	d.evidence(&a, &e)
	return e, nil
}

// A login is what OpenShift's login server says of one. Its users are anonymous yet.
type login struct {
	name     string
	decision evidence.Decision // "": it is none
}

// An audit is what one event says. Byte slices alias it.
type audit struct {
	c                    jsonscan.Cursor
	seen                 [len(members)]bool
	twice, kind, version string

	id, level, stage, verb      string
	uri                         []byte
	user, as                    account // as: whom user impersonates
	address, peer               string
	group, resource, sub        string
	namespace, name             string
	code                        int
	reason                      string
	failure                     bool // the API server wrote the status itself
	decision, why, podSecurity  string
	login                       login
	refusal                     refusal
	issued                      string
	truncated                   bool // its objects were cut out
	received, staged, timestamp []byte
	request, response           []byte
}

type account struct {
	name, pod, podUID, node, credential string
	groups                              []string
}

// members may stand in an event once.
var members = [...]string{
	"auditID", "level", "stage", "verb", "requestURI", "user", "impersonatedUser", "sourceIPs", "objectRef", "responseStatus",
	"annotations", "requestObject", "responseObject", "requestReceivedTimestamp", "stageTimestamp",
}

func (a *audit) once(key []byte) {
	for i := range members {
		if string(key) == members[i] {
			if a.seen[i] {
				a.twice = members[i]
			}
			a.seen[i] = true
			return
		}
	}
}

func (a *audit) event() {
	c := &a.c
	if !c.Object() {
		return
	}
	for c.Next() {
		a.once(c.Key)
		switch string(c.Key) {
		case "kind":
			a.kind = a.text()
		case "apiVersion":
			a.version = a.text()
		case "auditID":
			a.id = a.text()
		case "level":
			a.level = a.word()
		case "stage":
			a.stage = a.word()
		case "verb":
			a.verb = a.word()
		case "requestURI":
			a.uri = c.Bytes()
		case "user":
			a.account(&a.user)
		case "impersonatedUser":
			a.account(&a.as)
		case "sourceIPs":
			a.sources()
		case "objectRef":
			a.object()
		case "responseStatus":
			a.status()
		case "annotations":
			a.annotations()
		case "requestObject":
			a.request = c.Raw()
		case "responseObject":
			a.response = c.Raw()
		case "requestReceivedTimestamp":
			a.received = c.Bytes()
		case "stageTimestamp":
			a.staged = c.Bytes()
		case "timestamp": // of v1beta1
			a.timestamp = c.Bytes()
		default:
			c.Skip()
		}
	}
}

// text reads a bounded string.
func (a *audit) text() string { return evidence.Text(a.c.String(), evidence.MaxName) }

// words are the verbs, stages, groups and resources of most events; they need no
// copy.
var words = func() map[string]string {
	m := make(map[string]string)
	for _, w := range [...]string{
		"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "post", "put", "head",
		stageReceived, stageStarted, stageComplete, stagePanic, "Metadata", "Request", "RequestResponse",
		"", "coordination.k8s.io", "rbac.authorization.k8s.io", "authorization.k8s.io", "authentication.k8s.io", "apps", "batch",
		"discovery.k8s.io", "events.k8s.io", "networking.k8s.io", "apiextensions.k8s.io", "admissionregistration.k8s.io",
		"leases", "pods", "nodes", "endpoints", "endpointslices", "events", "configmaps", "secrets", "services", "namespaces",
		"serviceaccounts", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "cronjobs", "status", "scale", "token",
		"subjectaccessreviews", "tokenreviews", "customresourcedefinitions", "kube-system", "default",
	} {
		m[w] = w
	}
	return m
}()

func (a *audit) word() string {
	b := a.c.Bytes()
	if w, ok := words[string(b)]; ok {
		return w
	}
	return evidence.Text(string(b), evidence.MaxName)
}

func (a *audit) account(out *account) {
	c := &a.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "username":
			out.name = a.text()
		case "groups":
			if !c.Array() {
				continue
			}
			for c.Element() {
				if g := a.text(); g != "" && len(out.groups) < evidence.MaxRoles {
					out.groups = append(out.groups, g)
				}
			}
		case "extra":
			a.extra(out)
		default:
			c.Skip()
		}
	}
}

// extra reads what a bound service account token, or a client certificate,
// adds to its user.
func (a *audit) extra(out *account) {
	c := &a.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "authentication.kubernetes.io/pod-name":
			out.pod = a.first()
		case "authentication.kubernetes.io/pod-uid":
			out.podUID = a.first()
		case "authentication.kubernetes.io/node-name":
			out.node = a.first()
		case "authentication.kubernetes.io/credential-id":
			out.credential = a.first()
		default:
			c.Skip()
		}
	}
}

// first reads the first string of an array.
func (a *audit) first() string {
	out := ""
	if !a.c.Array() {
		return ""
	}
	for n := 0; a.c.Element(); n++ {
		if n > 0 {
			a.c.Skip()
			continue
		}
		out = a.text()
	}
	return out
}

// sources reads the addresses: all but the last are the client's own word.
func (a *audit) sources() {
	if !a.c.Array() {
		return
	}
	for a.c.Element() {
		ip := a.text()
		if a.address == "" {
			a.address = ip
		}
		a.peer = ip
	}
}

func (a *audit) object() {
	c := &a.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "apiGroup":
			a.group = a.word()
		case "resource":
			a.resource = a.word()
		case "subresource":
			a.sub = a.word()
		case "namespace":
			a.namespace = a.word()
		case "name":
			a.name = a.text()
		default:
			c.Skip()
		}
	}
}

func (a *audit) status() {
	c := &a.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "code":
			a.code, _ = strconv.Atoi(c.Scalar())
		case "message":
			a.refusal = refusalOf(c.String())
		case "status":
			a.failure = string(c.Bytes()) == "Failure"
		case "reason":
			// A word of the API's, such as Forbidden; admission plugins could
			// write anything.
			if w := a.text(); len(w) <= 64 && strings.Trim(w, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == "" {
				a.reason = w
			}
		default:
			c.Skip()
		}
	}
}

// A refusal is what the API server says of the admission control that refused.
type refusal struct {
	policy   string
	decision evidence.Decision // "": it says nothing of one
}

// refusalOf reads a status' message. Of one that quotes what a client wrote, it
// believes what stands behind the quotes.
func refusalOf(message string) refusal {
	if rest, ok := strings.CutPrefix(message, `admission webhook "`); ok {
		if name, rest, ok := strings.Cut(rest, `"`); ok && strings.HasPrefix(rest, " denied the request") {
			return refusal{evidence.Text("webhook/"+name, evidence.MaxName), evidence.Deny}
		}
	}
	if rest, ok := strings.CutPrefix(message, `Internal error occurred: failed calling webhook "`); ok {
		if name, _, ok := strings.Cut(rest, `"`); ok {
			return refusal{evidence.Text("webhook/"+name, evidence.MaxName), evidence.Error}
		}
	}
	if before, rest, ok := strings.Cut(message, `" is forbidden: ValidatingAdmissionPolicy '`); ok && !strings.HasSuffix(before, `\`) {
		if name, rest, ok := strings.Cut(rest, `'`); ok && strings.Contains(rest, " denied request") {
			return refusal{evidence.Text("ValidatingAdmissionPolicy/"+name, evidence.MaxName), evidence.Deny}
		}
	}
	return refusal{}
}

func (a *audit) annotations() {
	c := &a.c
	if !c.Object() {
		return
	}
	for c.Next() {
		switch string(c.Key) {
		case "authorization.k8s.io/decision":
			a.decision = a.text()
		case "authorization.k8s.io/reason":
			a.why = evidence.Text(c.String(), evidence.MaxDetail)
		case "authentication.openshift.io/username": // of OpenShift's login server
			a.login.name = a.text()
		case "authentication.openshift.io/decision":
			switch d := evidence.Decision(a.text()); d {
			case evidence.Allow, evidence.Deny, evidence.Error:
				a.login.decision = d
			}
		case "pod-security.kubernetes.io/enforce-policy":
			a.podSecurity = a.text()
		case "authentication.kubernetes.io/issued-credential-id", "authentication.k8s.io/issued-credential-id": // as it was once named
			a.issued = a.text()
		case "audit.k8s.io/truncated":
			c.Skip()
			a.truncated = true
		default:
			c.Skip()
		}
	}
}

// The stages of a request.
const (
	stageReceived = "RequestReceived"
	stageStarted  = "ResponseStarted"
	stageComplete = "ResponseComplete"
	stagePanic    = "Panic"
)

func (d *Decoder) evidence(a *audit, e *evidence.Evidence) {
	e.Source, e.Final = evidence.SourceK8sAudit, a.stage != stageReceived
	e.Position, e.StreamID = a.id+"/"+a.stage, a.id
	if e.Start = unixNano(a.received); e.Start == 0 {
		e.Start = unixNano(a.timestamp)
	}
	if end := unixNano(a.staged); end > e.Start && e.Start > 0 {
		e.End = end
	}
	e.Path = a.path()
	if a.code > 0 && a.code < 1000 {
		e.Status = a.code
	}
	e.StatusDetail = a.reason
	e.Failed = a.stage == stagePanic

	acting, impersonator := &a.user, ""
	if a.as.name != "" {
		acting, impersonator = &a.as, a.user.name
	}
	if a.login.decision != "" {
		acting = &account{name: a.login.name}
	}
	e.User = acting.name
	e.Actor = &evidence.Actor{Type: actorType(acting.name), Roles: acting.groups, Impersonator: impersonator}
	d.party(a, e)
	credential(e, a.user.credential)

	e.Act = &evidence.Act{Action: a.action(), Outcome: a.outcome()}
	if e.Act.TargetType = a.resource; a.sub != "" {
		e.Act.TargetType += "/" + a.sub
	}
	e.Act.TargetID = a.name
	if a.namespace != "" && a.name != "" {
		e.Act.TargetID = a.namespace + "/" + a.name
	} else if a.name == "" {
		e.Act.TargetID = a.namespace
	}
	if id := tokenID(a.issued); a.sub == "token" && id != "" {
		e.Act.Change.DiffSHA256 = id
	}
	e.Verdict = a.verdict()
	d.classify(a, e)
}

// party is who sent the request, which with impersonation is not who acts.
func (d *Decoder) party(a *audit, e *evidence.Evidence) {
	e.From.Address, e.PeerAddress = a.address, a.peer
	w := &e.From.Workload
	w.PodName, w.PodUID, w.Node = a.user.pod, a.user.podUID, a.user.node
	namespace, name, ok := serviceAccount(a.user.name)
	if !ok {
		return
	}
	w.Namespace = namespace
	if d.trustDomain != "" {
		e.From.AddIdentity(evidence.ParseIdentity(
			"spiffe://"+d.trustDomain+"/ns/"+namespace+"/sa/"+name, evidence.ProofClaimed, fromUser))
	}
}

func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != ""
}

func actorType(user string) string {
	switch {
	case user == "":
		return ""
	case strings.HasPrefix(user, "system:serviceaccount:"):
		return "service"
	case strings.HasPrefix(user, "system:") && user != anonymous:
		return "system"
	}
	return "user"
}

const anonymous = "system:anonymous"

// credential reads the id of what authenticated the user: a token's jti, or the
// SHA-256 of a client certificate.
func credential(e *evidence.Evidence, id string) {
	e.Actor.Token.IDHash = tokenID(id)
	if sum, ok := strings.CutPrefix(id, "X509SHA256="); ok {
		if b, err := hex.DecodeString(sum); err == nil && len(b) == sha256.Size {
			e.TLS = evidence.TLS{Known: true, Established: true, Mutual: true, ClientSHA256: hex.EncodeToString(b)}
		}
	}
}

// tokenID is the hash of a token's id, "" of anything else.
func tokenID(credential string) string {
	jti, ok := strings.CutPrefix(credential, "JTI=")
	if !ok || jti == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(jti))
	return hex.EncodeToString(sum[:])
}

// path is the request's, without what follows a proxy subresource: that path
// is the proxied service's.
func (a *audit) path() string {
	p := evidence.PathOnly(string(a.uri[:min(len(a.uri), 4*evidence.MaxPath)]))
	if a.sub == "proxy" {
		if i := strings.Index(p, "/proxy/"); i >= 0 {
			p = p[:i+len("/proxy")]
		}
	}
	return p
}

func (a *audit) action() string {
	switch {
	case a.resource == "":
		return a.verb
	case a.sub == "":
		return a.verb + " " + a.resource
	}
	return a.verb + " " + a.resource + "/" + a.sub
}

func (a *audit) outcome() string {
	switch {
	case a.stage == stagePanic, a.code >= 400, a.login.decision != "" && a.login.decision != evidence.Allow:
		return "failure"
	case a.code >= 100:
		return "success"
	}
	return ""
}

// unauthenticated tells whether the API server does not know who it is. A 401
// after it has decided what that user may do is of whoever it passed the
// request on to.
func (a *audit) unauthenticated() bool { return a.code == 401 && a.decision == "" }

// verdict is what the API server decided: who it is not, what RBAC or another
// authorizer says, or that admission refused what was authorized. What only reads
// goes through no admission: an API server behind it refused.
func (a *audit) verdict() *evidence.Verdict {
	switch {
	case a.login.decision != "":
		return &evidence.Verdict{Engine: EngineOpenShift, Decision: a.login.decision, Enforced: true}
	case a.unauthenticated():
		return &evidence.Verdict{Engine: EngineAuthn, Decision: evidence.Deny, Enforced: true, Reason: a.reason}
	}
	v := &evidence.Verdict{Engine: EngineRBAC, Enforced: true, Reason: a.why}
	if a.why != "" && !strings.HasPrefix(a.why, "RBAC: ") {
		v.Engine = EngineAuthz
	}
	switch a.decision {
	case "allow":
		v.Decision = evidence.Allow
	case "forbid":
		v.Decision, v.DefaultDeny = evidence.Deny, v.Engine == EngineRBAC // RBAC only allows
		return v
	default:
		return nil
	}
	if a.code >= 400 && a.refusal.decision != "" {
		return &evidence.Verdict{Engine: EngineAdmission, Decision: a.refusal.decision, Enforced: true, Reason: a.reason, PolicyID: a.refusal.policy}
	}
	// A proxied service's answer has a code and nothing else.
	if a.code == 403 && (a.sub != "proxy" || a.failure || a.reason != "") {
		v = &evidence.Verdict{Engine: EngineAdmission, Decision: evidence.Deny, Enforced: true, Reason: a.reason}
		if a.sub == "" && (a.verb == "get" || a.verb == "list" || a.verb == "watch") {
			v.Engine = EngineAuthz
		}
		if a.podSecurity != "" {
			v.PolicyID = "pod-security/" + a.podSecurity
		}
		return v
	}
	v.PolicyID, v.PolicyNamespace = binding(a.why)
	return v
}

// binding reads the policy of
//
//	RBAC: allowed by ClusterRoleBinding "NAME" of ClusterRole "…" to Group "…"
//	RBAC: allowed by RoleBinding "NAME/NAMESPACE" of …
func binding(why string) (id, namespace string) {
	rest, ok := strings.CutPrefix(why, "RBAC: allowed by ")
	if !ok {
		return "", ""
	}
	kind, rest, ok1 := strings.Cut(rest, ` "`)
	name, _, ok2 := strings.Cut(rest, `"`)
	if !ok1 || !ok2 {
		return "", ""
	}
	if kind == "RoleBinding" {
		name, namespace, _ = strings.Cut(name, "/")
	}
	return evidence.Text(kind+"/"+name, evidence.MaxName), evidence.Text(namespace, evidence.MaxName)
}

// unixNano reads RFC 3339; 0 is anything else.
func unixNano(b []byte) int64 {
	if len(b) == 0 || len(b) > 64 {
		return 0
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil || t.Year() < 1970 || t.Year() > 2261 {
		return 0
	}
	return t.UnixNano()
}
