package evidence

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestParseIdentity(t *testing.T) {
	long := strings.Repeat("é", 2000)
	for _, tt := range []struct{ raw, id, invalid string }{
		{"spiffe://example.org/ns/shop/sa/orders", "spiffe://example.org/ns/shop/sa/orders", ""},
		{"  spiffe://example.org ", "spiffe://example.org", ""},
		{"cluster.local/ns/shop/sa/orders", "spiffe://cluster.local/ns/shop/sa/orders", ""},
		{"cluster.local/ns/shop/sa/", "", "cluster.local/ns/shop/sa/"},
		{"cluster.local/orders", "", "cluster.local/orders"},
		{"CLUSTER.local/ns/a/sa/b", "", "CLUSTER.local/ns/a/sa/b"},
		{"spiffe://Example.org/x", "", "spiffe://Example.org/x"},
		{"spiffe://example.org/x?token=secret", "", "spiffe://example.org/x"},
		{"spiffe://example.org/a//b", "", "spiffe://example.org/a//b"},
		{"orders.shop.serviceaccount.identity.linkerd.cluster.local", "", "orders.shop.serviceaccount.identity.linkerd.cluster.local"},
		{"\xff\xfe", "", "?"},
		{"spiffe://example.org/" + strings.Repeat("x", 2048), "", "spiffe://example.org/" + strings.Repeat("x", 256-21)},
		{long, "", strings.Repeat("é", 128)},
		{"", "", ""},
	} {
		got := ParseIdentity(tt.raw, ProofMTLSSAN, "test")
		if got.ID.String() != tt.id || got.Invalid != tt.invalid {
			t.Errorf("ParseIdentity(%.60q) = id %q, invalid %q; want %q, %q", tt.raw, got.ID, got.Invalid, tt.id, tt.invalid)
		}
		if want := tt.id != "" || tt.invalid != ""; want != (got.Proof == ProofMTLSSAN && got.From == "test") {
			t.Errorf("ParseIdentity(%.60q): proof %v from %q", tt.raw, got.Proof, got.From)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{
		"spiffe://cluster.local/ns/default/sa/bookinfo-reviews", "cluster.local/ns/a/sa/b", "spiffe://", "", "/ns//sa/",
		"spiffe://test-domain/path", "-", "a/ns/b/sa/c/d", "\xff", "spiffe://example.org/\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got := ParseIdentity(raw, ProofClaimed, "fuzz")
		if got.IsZero() {
			if strings.TrimSpace(raw) != "" {
				t.Fatalf("%q states nothing", raw)
			}
			return
		}
		if got.ID.IsZero() == (got.Invalid == "") {
			t.Fatalf("%q: not exactly one of ID %q and Invalid %q", raw, got.ID, got.Invalid)
		}
		if len(got.Invalid) > MaxInvalidIdentity || !utf8.ValidString(got.Invalid) {
			t.Fatalf("%q: Invalid %q is not bounded UTF-8", raw, got.Invalid)
		}
		if !got.ID.IsZero() {
			if again := ParseIdentity(got.ID.String(), ProofClaimed, "fuzz"); again != got {
				t.Fatalf("%q: parsed again %v, want %v", raw, again, got)
			}
			KubernetesName(got.ID)
		}
	})
}

func TestKubernetesName(t *testing.T) {
	for raw, want := range map[string][2]string{
		"spiffe://example.org/ns/shop/sa/orders":   {"shop", "orders"},
		"spiffe://example.org/ns/shop/sa/orders/x": {},
		"spiffe://example.org/ns/a/b/sa/c":         {},
		"spiffe://example.org/shop/orders":         {},
		"spiffe://example.org":                     {},
	} {
		ns, sa, ok := KubernetesName(spiffeid.RequireFromString(raw))
		if ns != want[0] || sa != want[1] || ok != (want[0] != "") {
			t.Errorf("KubernetesName(%s) = %q, %q, %v", raw, ns, sa, ok)
		}
	}
}

func TestAddIdentityKeepsStrongestFirst(t *testing.T) {
	var p Party
	add := func(id string, proof Proof) { p.AddIdentity(ParseIdentity(id, proof, "test")) }
	add("", ProofSVID)
	add("spiffe://example.org/header", ProofClaimed)
	add("spiffe://example.org/san", ProofMTLSSAN)
	add("spiffe://example.org/san2", ProofMTLSSAN)
	add("spiffe://example.org/san", ProofMTLSSAN)
	var got []string
	for _, id := range p.Identities {
		got = append(got, id.ID.Path())
	}
	if s := strings.Join(got, " "); s != "/san /san2 /header" {
		t.Errorf("order %q", s)
	}
	for range 2 * MaxIdentities {
		add("spiffe://example.org/"+strings.Repeat("x", len(p.Identities)), ProofIP)
	}
	add("spiffe://example.org/svid", ProofSVID)
	if len(p.Identities) != MaxIdentities || p.Identities[0].Proof != ProofSVID {
		t.Errorf("%d identities, first %v", len(p.Identities), p.Identities[0])
	}
}

func TestNamesAreInverse(t *testing.T) {
	for p := ProofNone; p <= ProofSVID; p++ {
		if got, ok := ParseProof(p.String()); !ok || got != p {
			t.Errorf("proof %d is %q, parsed %d, %v", p, p, got, ok)
		}
	}
	for r := RoleNone; r <= RoleDecision; r++ {
		if got, ok := ParseRole(r.String()); !ok || got != r {
			t.Errorf("role %d is %q, parsed %d, %v", r, r, got, ok)
		}
	}
	for k := SpanUnset; k <= SpanConsumer; k++ {
		if got, ok := ParseSpanKind(k.String()); !ok || got != k {
			t.Errorf("span kind %d is %q, parsed %d, %v", k, k, got, ok)
		}
	}
	if _, ok := ParseProof("trust me"); ok {
		t.Error("an unknown proof parsed")
	}
}

func TestText(t *testing.T) {
	for _, tt := range []struct {
		in   string
		max  int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aé", 2, "a"}, {"aé", 3, "aé"}, {"😀😀", 7, "😀"},
		{"a\xffb", 9, "a?b"}, {"", 0, ""}, {"x", 0, ""}, {"\xff\xff\xff\xff\xff", 4, "?"},
	} {
		got := Text(tt.in, tt.max)
		if tt.in == "\xff\xff\xff\xff\xff" {
			if len(got) > tt.max || !utf8.ValidString(got) {
				t.Errorf("Text(%q, %d) = %q", tt.in, tt.max, got)
			}
			continue
		}
		if got != tt.want {
			t.Errorf("Text(%q, %d) = %q, want %q", tt.in, tt.max, got, tt.want)
		}
	}
}

func TestPathOnly(t *testing.T) {
	for in, want := range map[string]string{
		"/a/b?token=x":                "/a/b",
		"/a#frag":                     "/a",
		"http://user:pw@host/p?q=1":   "/p",
		"https://host":                "/",
		"/redirect/http://other/path": "/redirect/http://other/path",
		"*":                           "*",
		"/a\xffb\xe3?token=x":         "/a\uFFFDb\uFFFD",
		"":                            "",
	} {
		if got := PathOnly(in); got != want {
			t.Errorf("PathOnly(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"reviews:9080": "reviews:9080", "http://user:pw@host:80/p?q": "host:80", "user:pw@host": "host", "": "",
	} {
		if got := Authority(in); got != want {
			t.Errorf("Authority(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTraceContext(t *testing.T) {
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for in, ok := range map[string]bool{
		"00-" + trace + "-" + span + "-01":                               true,
		"cc-" + trace + "-" + span + "-01-more":                          true,
		"00-" + trace + "-" + span + "-01-more":                          false,
		"ff-" + trace + "-" + span + "-01":                               false,
		"00-00000000000000000000000000000000-" + span + "-01":            false,
		"00-" + trace + "-0000000000000000-01":                           false,
		"00-" + trace + "-" + span:                                       false,
		"00-" + strings.Replace(trace, "4", "g", 1) + "-" + span + "-01": false,
	} {
		id, _, got := ParseTraceparent(in)
		if got != ok || (ok && id[0] != 0x4b) {
			t.Errorf("ParseTraceparent(%q) = %x, %v", in, id, got)
		}
	}
	id, sp, ok := ParseB3("537f473f27475073-" + span + "-1-0000000000000001")
	if !ok || id[7] != 0 || id[8] != 0x53 || sp[1] != 0xf0 {
		t.Errorf("ParseB3 with a 64-bit trace id = %x, %x, %v", id, sp, ok)
	}
	for _, in := range []string{"0", "1", "d", "", trace, "x-" + span} {
		if _, _, ok := ParseB3(in); ok {
			t.Errorf("ParseB3(%q) gave a trace", in)
		}
	}
}
