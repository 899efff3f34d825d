package query

import (
	"strings"
	"testing"
	"time"
)

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		yes, no []string
	}{
		{"/orders", []string{"/orders"}, []string{"", "/orders/", "/order", "x/orders"}},
		{"*", []string{"", "/", "anything"}, nil},
		{"/orders/*", []string{"/orders/", "/orders/1", "/orders/1/items"}, []string{"/orders", "/x/orders/1"}},
		{"*/items", []string{"/items", "/orders/1/items"}, []string{"/items/1"}},
		{"/a*a", []string{"/aa", "/a/a"}, []string{"/a"}},
		{"/a*b*a", []string{"/aba", "/axxbyyba"}, []string{"/aa", "/ab", "/aa/b"}},
		{"**", []string{"", "x"}, nil},
		{"/a[1]?", []string{"/a[1]?"}, []string{"/a1", "/a1x"}},
		{"*é*", []string{"café", "é"}, []string{"cafe"}},
	} {
		g, err := ParseGlob(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tc.yes {
			if !g.Match(s) {
				t.Errorf("%q does not match %q", tc.pattern, s)
			}
		}
		for _, s := range tc.no {
			if g.Match(s) {
				t.Errorf("%q matches %q", tc.pattern, s)
			}
		}
	}
	for _, bad := range []string{"", strings.Repeat("a", maxPatternBytes+1)} {
		if _, err := ParseGlob(bad); err == nil {
			t.Errorf("a pattern of %d bytes is accepted", len(bad))
		}
	}
	if (Glob{}).Match("") {
		t.Error("the zero Glob matches")
	}
}

func TestIDGlob(t *testing.T) {
	const id = "spiffe://example.org/ns/shop/sa/orders"
	for _, pattern := range []string{id, "example.org/ns/shop/sa/orders", "*/sa/orders", "example.org/*", "spiffe://*", "*shop*", "*"} {
		if g, err := ParseIDGlob(pattern); err != nil || !g.Match(id) {
			t.Errorf("%q does not match: %v", pattern, err)
		}
	}
	for _, pattern := range []string{"*/sa/order", "example.org", "spiffe://example.org", "other.org/*"} {
		if g, err := ParseIDGlob(pattern); err == nil && g.Match(id) {
			t.Errorf("%q matches", pattern)
		}
	}
	if _, err := ParseIDGlob("orders"); err == nil || !strings.Contains(err.Error(), "'*/orders'") {
		t.Errorf("a bare name is not explained: %v", err)
	}
	for _, s := range []string{"spiffe//example.org/x", "https://example.org/x", "spiffe://Example.org/x", "example.org/x/"} {
		if _, err := ParseIDGlob(s); err == nil || !strings.Contains(err.Error(), "is no SPIFFE ID") {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// Matching takes no more than a search for each part.
func TestGlobIsNotQuadraticInBacktracking(t *testing.T) {
	g, err := ParseGlob(strings.Repeat("a*", maxPatternBytes/2))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("a", 1<<20) + "b"
	done := make(chan bool, 1)
	go func() { done <- g.Match(text) }()
	select {
	case matched := <-done:
		if !matched {
			t.Error("a pattern that ends with * must match")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("matching does not end")
	}
}

// naiveMatch is what a pattern means.
func naiveMatch(pattern, s string) bool {
	can := make([]bool, len(s)+1) // can[i]: the pattern so far matches s[:i]
	can[0] = true
	for _, p := range []byte(pattern) {
		if p == '*' {
			for i := range s {
				can[i+1] = can[i+1] || can[i]
			}
			for i := 1; i <= len(s); i++ {
				can[i] = can[i] || can[i-1]
			}
			continue
		}
		for i := len(s); i > 0; i-- {
			can[i] = can[i-1] && s[i-1] == p
		}
		can[0] = false
	}
	return can[len(s)]
}

func FuzzGlob(f *testing.F) {
	f.Add("/a*b*a", "/axbxa")
	f.Add("*", "")
	f.Add("a*a", "a")
	f.Add("*ab*ab", "abab")
	f.Add("\xff*", "\xff\xfe")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(s) > 4096 {
			return
		}
		g, err := ParseGlob(pattern)
		if err != nil {
			if pattern != "" && len(pattern) <= maxPatternBytes {
				t.Fatal(err)
			}
			return
		}
		if got, want := g.Match(s), naiveMatch(pattern, s); got != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, s, got, want)
		}
		if text, ok := g.Exact(); ok && (text != pattern || !g.Match(text)) {
			t.Fatalf("%q is not its own exact text %q", pattern, text)
		}
	})
}
