// Package spire reads the audit log of a SPIRE server, and what a SPIRE agent
// logs of the identities that it gives to workloads, in logrus's JSON and text
// formats.
//
// The server writes one line for each call of its API, and one for each item
// where a call has several: who asked (an agent or an administrator by its
// SVID, a local process by its user, group and path), what for, and how it
// ended. No line holds a certificate's serial number: an issued identity is known
// by its SPIFFE ID and by when it ends (evidence.Act.NotAfter).
//
// Messages of errors, signing requests and join tokens are dropped.
package spire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

// Engine is the verdict's engine.
const Engine = "spire"

// Group is the group of the objects that SPIRE's configuration consists of.
const Group = "spire"

const fromCaller = "spire.caller_id" // the server verified its certificate

// maxFields bounds the fields of one line.
const maxFields = 128

// Why a line is refused.
var (
	ErrNoAudit = errors.New("no audit line of SPIRE")
	ErrBroken  = errors.New("broken line")
)

// Line is Decode as an evidence.Decoder. The workload is the server's or the
// agent's own pod, the reporter.
func Line(dst []evidence.Evidence, from *evidence.Origin, line []byte) ([]evidence.Evidence, error) {
	n := len(dst)
	dst = append(dst, evidence.Evidence{}) // filled in place: it is large
	e := &dst[n]
	err := decode(line, e)
	switch {
	case errors.Is(err, ErrNoAudit):
		return dst[:n], fmt.Errorf("%w: %w", evidence.ErrNotEvidence, err)
	case err != nil:
		return dst[:n], fmt.Errorf("%w: %w", evidence.ErrMalformed, err)
	}
	if e.Start == 0 {
		e.Start = from.Time
	}
	e.Cluster, e.Reporter.Node = from.Cluster, from.Workload.PodName
	return dst, nil
}

// Decode reads one line. It refuses what is neither JSON nor logrus text, and
// lines that are no audit line (ErrNoAudit), which are most of an agent's log.
func Decode(line []byte) (e evidence.Evidence, err error) {
	err = decode(line, &e)
	return e, err
}

// decode fills in e, which is zero and stays so after an error.
func decode(line []byte, e *evidence.Evidence) error {
	l := pool.Get().(*logLine)
	defer pool.Put(l)
	l.fields, l.twice, l.sorted = l.fields[:0], "", true
	var err error
	if line = bytes.TrimSpace(line); len(line) > 0 && line[0] == '{' {
		err = l.json(line)
	} else {
		err = l.text(line)
	}
	switch {
	case err != nil:
		return fmt.Errorf("spire line: %w", err)
	case l.twice != "":
		return fmt.Errorf("spire line: %w: two fields %q", ErrBroken, l.twice)
	}
	switch {
	case l.is("type", "audit") && l.is("msg", "API accessed"):
		l.server(e)
	case !l.agent(e):
		return fmt.Errorf("spire line: %w", ErrNoAudit)
	}
	return nil
}

// A logLine is its fields in their order.
type logLine struct {
	fields []field
	twice  string
	sorted bool // the fields are, by name
	ids    evidence.KnownIDs
}

var pool = sync.Pool{New: func() any { return &logLine{fields: make([]field, 0, 32)} }}

// A field's value is as it came, unbounded.
type field struct{ name, value string }

func (l *logLine) add(name, value string) error {
	if len(l.fields) == maxFields {
		return fmt.Errorf("%w: more than %d fields", ErrBroken, maxFields)
	}
	// Logrus sorts the names; while they are, none is there twice.
	l.sorted = l.sorted && (len(l.fields) == 0 || l.fields[len(l.fields)-1].name < name)
	if !l.sorted && l.find(name) != nil {
		l.twice = evidence.Text(name, evidence.MaxName)
	}
	l.fields = append(l.fields, field{name, value})
	return nil
}

func (l *logLine) find(name string) *field {
	for i := range l.fields {
		if l.fields[i].name == name {
			return &l.fields[i]
		}
	}
	return nil
}

// get returns a field's value, bounded, "" if there is none.
func (l *logLine) get(name string) string {
	f := l.find(name)
	if f == nil {
		return ""
	}
	return evidence.Text(f.value, evidence.MaxName)
}

// is compares with the whole value.
func (l *logLine) is(name, value string) bool {
	f := l.find(name)
	return f != nil && f.value == value
}

func (l *logLine) json(b []byte) error {
	c := jsonscan.NewCopied(b)
	if c.Object() {
		for c.Next() {
			name, value := c.Name(), ""
			switch c.Peek() {
			case 't', 'f': // as it is written
				value = string(c.Raw())
			default:
				value = c.Scalar()
			}
			if err := l.add(name, value); err != nil {
				return err
			}
		}
	}
	if err := c.End(); err != nil {
		return fmt.Errorf("byte %d: %w", c.Offset(), err)
	}
	return nil
}

// text reads logrus's text format: KEY=VALUE …, a value that is not plain
// quoted as Go does.
func (l *logLine) text(b []byte) error {
	for s := string(b); s != ""; s = strings.TrimLeft(s, " ") {
		name, rest, ok := strings.Cut(s, "=")
		if !ok || name == "" || strings.ContainsAny(name, " \"") {
			return fmt.Errorf("%w: neither JSON nor KEY=VALUE at byte %d", ErrNoAudit, len(b)-len(s))
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return fmt.Errorf("%w: an unquoted end at byte %d", ErrBroken, len(b)-len(rest))
			}
			value, _ = strconv.Unquote(quoted) // never fails on such a prefix
			rest = rest[len(quoted):]
		} else {
			value, rest, _ = strings.Cut(rest, " ")
		}
		if err := l.add(name, value); err != nil {
			return err
		}
		s = rest
	}
	return nil
}

// server reads a line of the server's audit log.
func (l *logLine) server(e *evidence.Evidence) {
	service, method := l.service()
	l.common(e)
	l.caller(e)
	a := e.Act
	if a.Action = service; method != "" {
		a.Action += "/" + method
	}
	switch {
	case l.is("status", "success"):
		a.Outcome = "success"
	case l.is("status", "error"):
		a.Outcome = "failure"
	}
	code := l.code()
	if code != codes.OK {
		e.GRPCStatus, e.StatusDetail = strconv.Itoa(int(code)), code.String()
	}
	l.target(e, service)
	what := classify(service, method, l)
	switch {
	case code == codes.PermissionDenied, code == codes.Unauthenticated, what.attests && a.Outcome == "failure":
		what.event, what.record = evidence.EventAuthn, true
		e.Verdict = &evidence.Verdict{Engine: Engine, Decision: decision(code), Enforced: true, Reason: e.StatusDetail}
	case what.event == evidence.EventConfigChange:
		c := &a.Change
		c.Group, c.Resource, c.Verb, c.Name = Group, what.resource, what.verb, a.TargetID
		if c.Revision = l.get("revision_number"); what.resource != "entry" {
			c.Revision = l.get("authority_id")
		}
		c.DiffSHA256 = l.digest()
	case what.event == evidence.EventIdentityIssue && a.Outcome == "success":
		a.NotAfter = expires(l.get("expires_at"))
	}
	if what.record {
		e.Event, e.Role = what.event, evidence.RoleObserver
	}
}

// decision tells a caller that proved nothing from a server that could not
// look; a bad or used join token is an invalid argument.
func decision(code codes.Code) evidence.Decision {
	switch code {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return evidence.Deny
	}
	return evidence.Error
}

// common is what every line says.
func (l *logLine) common(e *evidence.Evidence) {
	e.Source, e.Final = evidence.SourceSPIRE, true
	e.Act = new(evidence.Act)
	if t, err := time.Parse(time.RFC3339Nano, l.get("time")); err == nil && t.Year() >= 1970 && t.Year() < 2262 {
		e.Start = t.UnixNano()
	}
}

// service returns entry.v1.Entry and BatchCreateEntry; SPIRE's own tests write
// a short name and no method.
func (l *logLine) service() (service, method string) {
	if service = l.get("service"); service == "" {
		service = l.get("_service")
	}
	return service, l.get("method")
}

// caller is who called: by the SVID that the server verified, or a local process
// as SPIRE's unix attestor would name it.
func (l *logLine) caller(e *evidence.Evidence) {
	if id := l.get("caller_id"); id != "" {
		e.From.AddIdentity(l.ids.ParseIdentity(id, evidence.ProofMTLSSAN, fromCaller))
	}
	if addr := l.get("caller_addr"); addr != "" {
		if host, port, err := net.SplitHostPort(addr); err == nil {
			e.From.Address = host
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				e.From.Port = uint16(n)
			}
		}
	}
	actor := &evidence.Actor{}
	if uid := l.get("caller_uid"); uid != "" {
		e.User, actor.Type = "unix:uid:"+uid, "user"
	}
	roles := make([]string, 0, 3)
	for _, f := range [...]struct{ name, prefix string }{
		{"authorized_as", "authorized_as:"}, {"caller_gid", "unix:gid:"}, {"caller_path", "unix:path:"},
	} {
		if v := l.get(f.name); v != "" && v != "nobody" {
			roles = append(roles, evidence.Text(f.prefix+v, evidence.MaxName))
		}
	}
	if len(roles) > 0 {
		actor.Roles = roles
	}
	if actor.Type != "" || len(roles) > 0 {
		e.Actor = actor
	}
	if id := l.get("request_id"); id != "" {
		e.Position = id + "/" + l.first("entry_id", "spiffe_id", "agent_id", "trust_domain_id")
	}
}

func (l *logLine) first(names ...string) string {
	for _, n := range names {
		if v := l.get(n); v != "" {
			return v
		}
	}
	return ""
}

// target is what the call was about.
func (l *logLine) target(e *evidence.Evidence, service string) {
	a := e.Act
	switch kind(service) {
	case "entry":
		a.TargetID, a.TargetType = l.first("entry_id", "spiffe_id"), "spire_entry"
	case "svid":
		a.TargetID, a.TargetType = l.get("spiffe_id"), "spiffe_id"
	case "agent":
		a.TargetID, a.TargetType = l.first("agent_id", "spiffe_id"), "spiffe_id"
	case "bundle", "trustdomain":
		a.TargetID, a.TargetType = l.get("trust_domain_id"), "trust_domain"
	case "localauthority":
		a.TargetID, a.TargetType = l.first("authority_id", "local_authority_id", "subject_key_id"), "spire_authority"
	}
	if a.TargetID == "" {
		a.TargetType = ""
	}
}

// code reads the status code: logrus writes its number in JSON, its name in text.
func (l *logLine) code() codes.Code {
	s := l.get("status_code")
	if s == "" {
		return codes.OK
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return codes.Code(n)
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		if c.String() == s {
			return c
		}
	}
	return codes.Unknown
}

// expires reads when an SVID ends: unix seconds, or RFC 3339, as it depends on
// the method.
func expires(s string) int64 {
	if s == "" {
		return 0
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 {
		return n
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil && t.Unix() > 0 {
		return t.Unix()
	}
	return 0
}

// circumstances are the fields that say who called and how it ended, not what
// the call was for.
var circumstances = map[string]bool{
	"time": true, "level": true, "msg": true, "type": true, "subsystem_name": true, "service": true, "_service": true, "method": true,
	"request_id": true, "status": true, "status_code": true, "status_message": true, "authorized_as": true, "authorized_via": true,
	"caller_addr": true, "caller_id": true, "caller_uid": true, "caller_gid": true, "caller_path": true, "created_at": true,
	"revision_number": true,
}

// digest is SHA-256 over the lines NAME=VALUE, sorted, of the fields that say
// what was changed to what.
func (l *logLine) digest() string {
	var lines []string
	for _, f := range l.fields {
		if !circumstances[f.name] {
			lines = append(lines, f.name+"="+f.value+"\n")
		}
	}
	if len(lines) == 0 {
		return ""
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(sum[:])
}
