package query

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxPatternBytes bounds a pattern: the longest SPIFFE ID, and some.
const maxPatternBytes = 4096

// Glob is a pattern in which * stands for any run of characters, none and "/"
// included. Every other character stands for itself, and there is no escape:
// neither a SPIFFE ID nor a path needs one.
//
// Matching takes time proportional to the text for each * at most.
type Glob struct {
	parts []string // what stands between the stars; one part: no star
}

// ParseGlob parses a pattern.
func ParseGlob(s string) (Glob, error) {
	switch {
	case s == "":
		return Glob{}, fmt.Errorf("a pattern must not be empty; * matches everything")
	case len(s) > maxPatternBytes:
		return Glob{}, fmt.Errorf("a pattern may have %d bytes, this one has %d", maxPatternBytes, len(s))
	}
	for strings.Contains(s, "**") {
		s = strings.ReplaceAll(s, "**", "*")
	}
	return Glob{strings.Split(s, "*")}, nil
}

const spiffeScheme = "spiffe://"

// ParseIDGlob parses a pattern for SPIFFE IDs. The scheme may be left out.
func ParseIDGlob(s string) (Glob, error) {
	if s != "" && !strings.ContainsAny(s, "/*") {
		return Glob{}, fmt.Errorf("%q matches no SPIFFE ID: write the whole ID, '*/%s' for the workload or '%s/*' for the trust domain", s, s, s)
	}
	if s != "" && !strings.HasPrefix(s, spiffeScheme) && s[0] != '*' {
		s = spiffeScheme + s
	}
	if s != "" && !strings.Contains(s, "*") {
		if _, err := spiffeid.FromString(s); err != nil {
			return Glob{}, fmt.Errorf("%q is no SPIFFE ID: %w", s, err)
		}
	}
	return ParseGlob(s)
}

// Exact is the one text that the pattern matches, if there is no star in it.
func (g Glob) Exact() (text string, ok bool) {
	if len(g.parts) != 1 {
		return "", false
	}
	return g.parts[0], true
}

// String is the pattern.
func (g Glob) String() string { return strings.Join(g.parts, "*") }

// Match reports whether the pattern matches the whole of s.
func (g Glob) Match(s string) bool {
	if text, ok := g.Exact(); ok {
		return s == text
	}
	if len(g.parts) == 0 {
		return false
	}
	// The first and the last part are anchored; each of those between is
	// taken where it comes first, which leaves the most for the rest.
	s, ok := strings.CutPrefix(s, g.parts[0])
	if !ok {
		return false
	}
	last := len(g.parts) - 1
	if s, ok = strings.CutSuffix(s, g.parts[last]); !ok {
		return false
	}
	for _, part := range g.parts[1:last] {
		if _, s, ok = strings.Cut(s, part); !ok {
			return false
		}
	}
	return true
}

func matchAny(globs []Glob, s string) bool {
	for _, g := range globs {
		if g.Match(s) {
			return true
		}
	}
	return false
}
