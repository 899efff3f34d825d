package xfcc

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   []Element
	}{
		{
			`By=spiffe://td/ns/b/sa/b;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;Subject="";URI=spiffe://td/ns/a/sa/a`,
			[]Element{{By: []string{"spiffe://td/ns/b/sa/b"}, Hash: "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688", URI: []string{"spiffe://td/ns/a/sa/a"}}},
		},
		{
			`By=http://frontend.lyft.com;Hash=46;Subject="/C=US/ST=CA, \"x\";/CN=Test;Client";URI=u1;URI=u2;DNS=a;dns=b,Hash=47;Cert="-----BEGIN%20CERT";URI="spiffe://td/c"`,
			[]Element{
				{By: []string{"http://frontend.lyft.com"}, Hash: "46", Subject: `/C=US/ST=CA, "x";/CN=Test;Client`, URI: []string{"u1", "u2"}, DNS: []string{"a", "b"}},
				{Hash: "47", URI: []string{"spiffe://td/c"}, Cert: "-----BEGIN%20CERT"},
			},
		},
		{`URI=`, []Element{{}}},
		{`Unknown=1, URI=a`, []Element{{}, {URI: []string{"a"}}}},
		{`URI=a=b`, []Element{{URI: []string{"a=b"}}}},
	} {
		got, err := Parse(tt.header)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Parse(%s)\n got %+v, %v\nwant %+v", tt.header, got, err, tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for header, want := range map[string]string{
		"":                                     "without",
		"URI":                                  "without",
		"=x":                                   "without a key",
		"URI=a;":                               "without",
		"URI=a,":                               "without",
		`Subject="x`:                           "does not end",
		`Subject="x\`:                          "does not end",
		`Subject="x"y`:                         "followed by",
		strings.Repeat("URI=a;", 40) + "URI=a": "more than 32",
		strings.Repeat("URI=a,", 40) + "URI=a": "more than 32",
		"URI=" + strings.Repeat("a", 64<<10):   "at most",
	} {
		got, err := Parse(header)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.40q) = %+v, %v; want an error that says %q", header, got, err, want)
		}
	}
}

// FuzzParse: what parses, written again with every value quoted, parses to the
// same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`By=a;Hash=b;Subject="c\"d";URI=e`, `URI=a,URI=b`, `URI="a,b;c"`, ``, `"`, `=;,`, `Cert="%20";Chain="x"`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		elements, err := Parse(header)
		if bare := WithoutCertificates(header); err == nil {
			without, err := Parse(bare)
			if err != nil || len(without) != len(elements) {
				t.Fatalf("%q became %q: %v", header, bare, err)
			}
			for _, e := range without {
				if e.Cert+e.Chain != "" || strings.Contains(e.Hash+e.Subject+strings.Join(e.URI, ""), pem) {
					t.Fatalf("%q: %q keeps a certificate", header, bare)
				}
			}
		}
		if err != nil {
			if elements != nil {
				t.Fatalf("%q: elements with error %v", header, err)
			}
			return
		}
		again, err := Parse(write(elements))
		if err == nil && !reflect.DeepEqual(elements, again) {
			t.Fatalf("%q\n   is %+v\nagain %+v", header, elements, again)
		}
		if err != nil && len(header) < 1<<10 {
			t.Fatalf("%q was parsed, but not %q: %v", header, write(elements), err)
		}
	})
}

func write(elements []Element) string {
	var parts []string
	for _, e := range elements {
		pairs := []string{quote("hash", e.Hash), quote("subject", e.Subject), quote("cert", e.Cert), quote("chain", e.Chain)}
		for name, values := range map[string][]string{"by": e.By, "uri": e.URI, "dns": e.DNS} {
			for _, v := range values {
				pairs = append(pairs, quote(name, v))
			}
		}
		parts = append(parts, strings.Join(pairs, ";"))
	}
	return strings.Join(parts, ",")
}

func quote(key, value string) string {
	return key + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}
