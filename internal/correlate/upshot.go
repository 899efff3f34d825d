package correlate

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// Upshot is what a record and its amendments together say became of an action.
// It does not depend on the order in which they say it.
type Upshot struct {
	Answer    Answer
	By        Voice // whose word the answer is
	Verdict   Word
	Callee    bool // the callee reports it
	Denied    bool // a verdict that is enforced says deny
	Ambiguous bool // a join is in doubt: it may be of two actions
}

// Answer is what the caller of an action got.
type Answer uint8

const (
	Unanswered Answer = iota // or nobody says
	Answered                 // nobody says how: HTTP 200, as every answer of gRPC has it
	Served
	Refused
)

// Voice is who says what the answer was: the nearer to the workload, the greater.
type Voice uint8

const (
	Nobody    Voice = iota
	Unknowing       // a proxy that does not know the gRPC status
	Caller          // may tell of another attempt
	Waypoint
	ProxySpan
	Proxy
	Workload // what it answered was not refused before it
)

// Word is what is said of a decision. The policy engine's own word is greater
// than that of a proxy, which may only infer it.
type Word uint8

const (
	NoVerdict       Word = iota
	ProxyUndecided       // a proxy tells of an error, a dry run, or that nothing was evaluated
	ProxyDecided         // of an allow or a deny that is enforced
	EngineUndecided      // as of a proxy
	EngineDecided
)

// Decided: an allow or a deny was enforced.
func (u Upshot) Decided() bool { return u.Verdict == ProxyDecided || u.Verdict == EngineDecided }

// and adds what another says.
func (u Upshot) and(says Upshot) Upshot {
	switch {
	case says.By > u.By:
		u.Answer, u.By = says.Answer, says.By
	case says.By == u.By:
		u.Answer = max(u.Answer, says.Answer)
	}
	u.Verdict = max(u.Verdict, says.Verdict)
	u.Callee = u.Callee || says.Callee
	u.Denied = u.Denied || says.Denied
	u.Ambiguous = u.Ambiguous || says.Ambiguous
	return u
}

// upshot adds up what statements say.
func upshot(all []statement) (u Upshot) {
	for _, s := range all {
		u = u.and(s.says())
	}
	return u
}

func (s statement) says() Upshot {
	var u Upshot
	u.Judged(s.Verdict, s.place == decision)
	if s.place == decision {
		return u // what it was told to answer is not the answer
	}
	u.Callee = s.place.callee()
	u.Answer = AnswerOf(s.Status, s.GRPCStatus, IsGRPC(s.RPCSystem, s.Method, s.Path))
	if u.Denied {
		// Who states the denial is who refused, and refuses as it likes: with HTTP
		// 200 to gRPC, with a redirect to where one logs in.
		u.Answer = Refused
	}
	switch {
	case u.Answer == Unanswered:
	case u.Answer == Answered:
		u.By = Unknowing
	case s.place.caller():
		u.By = Caller
	case s.atWaypoint():
		u.By = Waypoint
	case s.place == calleeProxy:
		u.By = ProxySpan
	case s.place == calleeApp:
		u.By = Workload
	default:
		u.By = Proxy
	}
	return u
}

// Judged adds a verdict, the policy engine's own or what a proxy says of it.
func (u *Upshot) Judged(v *evidence.Verdict, own bool) {
	if v == nil {
		return
	}
	u.Verdict = ProxyUndecided
	if v.Enforced && (v.Decision == evidence.Allow || v.Decision == evidence.Deny) {
		u.Verdict = ProxyDecided
	}
	if own {
		u.Verdict += EngineDecided - ProxyDecided
	}
	u.Denied = v.Enforced && v.Decision == evidence.Deny
}

// AnswerOf reads an HTTP status, 0 for none, and a gRPC status, "" for none.
func AnswerOf(status int, grpcStatus string, grpc bool) Answer {
	switch {
	case grpcStatus == "0":
		return Served
	case grpcStatus != "", status >= 400:
		return Refused
	case status < 100:
		return Unanswered
	case grpc:
		return Answered
	}
	return Served
}

// IsGRPC tells a gRPC call, where nobody says so by the form of its path:
// /PACKAGE.SERVICE/METHOD.
func IsGRPC(system, method, path string) bool {
	if system != "" || method != "POST" {
		return system == "grpc"
	}
	service, name, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || !strings.Contains(service, ".") || !identifier(name) {
		return false
	}
	for part := range strings.SplitSeq(service, ".") {
		if !identifier(part) {
			return false
		}
	}
	return true
}

func identifier(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '_', 'a' <= c|0x20 && c|0x20 <= 'z', i > 0 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	return s != ""
}
