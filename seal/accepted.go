package seal

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// A crash stays in a log for ever, and with it the answer "incomplete". A
// reviewer who has looked into it signs that; verify then says who accepted it.
// What is accepted is bound to the entry by its leaf hash: in a rewritten log
// nothing is excused, and tampering never is.

const acceptedMagic = "meshaudit-accepted/v1"

// MaxAcceptedBytes bounds a list of accepted findings: some thousands.
const MaxAcceptedBytes = 1 << 20

// Code names a kind of incompleteness that can be accepted. They are stable.
type Code string

const (
	CodeCrash       Code = "crash"        // the epoch before this open ended by a crash
	CodeFault       Code = "fault"        // or by a failed write
	CodeClock       Code = "clock"        // the clock stepped back in front of this open
	CodeFreshChain  Code = "fresh-chain"  // the HMAC proof begins anew at this open
	CodeNotEscrowed Code = "not-escrowed" // to the given auditor, by this open
	CodeTornDamaged Code = "torn-damaged" // what this open cut off is more than a torn tail
	CodeTornMissing Code = "torn-missing" // what this open cut off was not kept
	CodeEraseUndone Code = "erase-undone" // this erase is ordered, not done
)

var codes = []Code{CodeCrash, CodeFault, CodeClock, CodeFreshChain, CodeNotEscrowed, CodeTornDamaged, CodeTornMissing, CodeEraseUndone}

// Subject is what can be accepted: a finding of one kind at one entry.
type Subject struct {
	Origin string
	Entry  uint64
	Axis   Axis
	Code   Code
	Leaf   Hash // of the entry, in the log's tree
}

// Acceptance is a subject that somebody reviewed.
type Acceptance struct {
	Subject
	Reason string
	By     string // the reviewer's name, from the key that signed
}

// SignAccepted makes a signed list.
func SignAccepted(all []Acceptance, reviewer note.Signer) ([]byte, error) {
	var b strings.Builder
	b.WriteString(acceptedMagic + "\n")
	for _, a := range all {
		if !validText(a.Reason) {
			return nil, fmt.Errorf("the reason must be 1 to %d bytes of printable UTF-8", maxTextBytes)
		}
		fmt.Fprintf(&b, "%s %d %s %s %s %s\n", a.Origin, a.Entry, a.Axis, a.Code, base64.StdEncoding.EncodeToString(a.Leaf[:]), a.Reason)
	}
	if b.Len() > MaxAcceptedBytes-4096 {
		return nil, fmt.Errorf("a list of accepted findings has at most %d bytes: begin another, and keep a checkpoint for verify --since", MaxAcceptedBytes)
	}
	return note.Sign(&note.Note{Text: b.String()}, reviewer)
}

// OpenAccepted checks a signed list against the reviewers of a trust file.
func OpenAccepted(b []byte, trust *Trust) ([]Acceptance, error) {
	if len(b) > MaxAcceptedBytes {
		return nil, fmt.Errorf("a list of accepted findings has at most %d bytes", MaxAcceptedBytes)
	}
	if trust == nil || len(trust.Reviewers) == 0 {
		return nil, errors.New("the trust file names no reviewer whose word counts")
	}
	n, err := note.Open(b, note.VerifierList(trust.Reviewers...))
	if err != nil {
		return nil, fmt.Errorf("not signed by a trusted reviewer: %w", err)
	}
	all, err := parseAccepted(n.Text)
	for i := range all {
		all[i].By = n.Sigs[0].Name
	}
	return all, err
}

func parseAccepted(text string) (all []Acceptance, err error) {
	lines := strings.Split(text, "\n")
	if lines[0] != acceptedMagic || lines[len(lines)-1] != "" {
		return nil, fmt.Errorf("not a list of accepted findings: the first line must be %q", acceptedMagic)
	}
	seen := map[Subject]bool{}
	for i, l := range lines[1 : len(lines)-1] {
		a, err := parseAcceptance(l)
		if err == nil && seen[a.Subject] {
			err = errors.New("it is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("accepted findings, line %d: %w", i+2, err)
		}
		seen[a.Subject] = true
		all = append(all, a)
	}
	return all, nil
}

func parseAcceptance(l string) (a Acceptance, err error) {
	f := strings.SplitN(l, " ", 6)
	if len(f) != 6 {
		return a, fmt.Errorf("expected \"ORIGIN ENTRY AXIS CODE LEAF REASON\", found %q", clip(l))
	}
	a.Origin, a.Code, a.Reason = f[0], Code(f[3]), f[5]
	if err := ValidOrigin(a.Origin); err != nil {
		return a, err
	}
	if a.Entry, err = number(f[1]); err != nil {
		return a, err
	}
	axis := slices.IndexFunc(Axes(), func(x Axis) bool { return x.String() == f[2] })
	if axis < 0 {
		return a, fmt.Errorf("unknown axis %q", clip(f[2]))
	}
	a.Axis = Axis(axis)
	if !slices.Contains(codes, a.Code) {
		return a, fmt.Errorf("unknown code %q", clip(f[3]))
	}
	if a.Leaf, err = hash(f[4]); err != nil {
		return a, err
	}
	if !validText(a.Reason) {
		return a, fmt.Errorf("the reason must be 1 to %d bytes of printable UTF-8", maxTextBytes)
	}
	return a, nil
}

// accepted indexes the list that a verification was given.
func (o *VerifyOptions) accepted() (map[Subject]Acceptance, error) {
	if o.Accepted == nil {
		return nil, nil
	}
	all, err := OpenAccepted(o.Accepted, o.Trust)
	if err != nil {
		return nil, fmt.Errorf("the accepted findings: %w", err)
	}
	m := map[Subject]Acceptance{}
	for _, a := range all {
		m[a.Subject] = a
	}
	return m, nil
}

// reviewable records an incompleteness that can be accepted, and is a note if it
// was.
func (v *verification) reviewable(segment string, offset int64, entry uint64, leaf Hash, axis Axis, code Code, next, what string) {
	f := Finding{Class: Incomplete, Axis: axis, Segment: segment, Offset: offset, What: what, Next: next,
		Subject: &Subject{v.report.Origin, entry, axis, code, leaf}}
	if a, ok := v.accepted[*f.Subject]; ok {
		f.Class, f.Next, f.Accepted = Note, "", &a
	}
	v.add(f, entry)
}

// reviewableHere is reviewable for the frame at hand.
func (v *verification) reviewableHere(f *frame, axis Axis, code Code, next, format string, args ...any) {
	v.reviewable(v.where.segment, v.where.offset, f.Entry, leafHash(f.text), axis, code, next, fmt.Sprintf(format, args...))
}

// Reviewable are the findings of a report that can be accepted and are not, and
// how many others keep it from being proven.
func (r *Report) Reviewable() (subjects []Finding, others int) {
	count := func(fs []Finding) {
		for _, f := range fs {
			switch {
			case f.Class == Note:
			case f.Class == Incomplete && f.Subject != nil:
				subjects = append(subjects, f)
			default:
				others++
			}
		}
	}
	count(r.Findings)
	for _, l := range r.Logs {
		count(l.Findings)
	}
	return subjects, others
}

// Names of the files that CreateReviewerKey makes.
const (
	ReviewerKeyFile = "reviewer.key" // secret: accepts findings
	ReviewerPubFile = "reviewer.pub" // a line for trust files
)

// CreateReviewerKey makes a reviewer's key in dir, which it creates if need be.
// Nothing is overwritten. It returns the line for trust files.
func CreateReviewerKey(dir, name string) (line string, err error) {
	if err := ValidReviewerName(name); err != nil {
		return "", err
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", err
	}
	line = "reviewer " + vkey + "\n"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := WriteSecret(filepath.Join(dir, ReviewerKeyFile), []byte(skey+"\n")); err != nil {
		return "", err
	}
	return line, WritePublic(filepath.Join(dir, ReviewerPubFile), []byte(line))
}

// ValidReviewerName reports why s cannot be a reviewer's name, or nil.
func ValidReviewerName(s string) error {
	if !validText(s) || len(s) > maxOriginBytes || strings.ContainsAny(s, " +\u00a0") || strings.ContainsFunc(s, func(r rune) bool { return r > '~' }) {
		return fmt.Errorf("reviewer %q: a name is 1 to %d printable ASCII characters without spaces and +, such as alice@example.org", clip(s), maxOriginBytes)
	}
	return nil
}

// ReadReviewerKey reads a reviewer's key file. A file that others may read is
// refused.
func ReadReviewerKey(path string) (note.Signer, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	k, err := note.NewSigner(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: no reviewer's key; make one with: meshaudit keygen reviewer", path)
	}
	return k, nil
}
