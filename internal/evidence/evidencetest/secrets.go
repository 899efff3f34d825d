package evidencetest

import (
	"bytes"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
)

// Secret is in every planted value and must be in nothing that leaves.
const Secret = "s3cr3t"

// AWSSecret is Secret as it stands in an AWS access key, whose letters are
// capitals.
const AWSSecret = "S3CR3TS3CR3TEXAMPLE1"

// SecretShapes are the forms in which credentials stand in a field that is
// kept: what they stand in may remain, Secret must not.
var SecretShapes = []string{
	"Bearer " + Secret + "-token",
	"Basic " + Secret + "cGFzcw==",
	"eyJhbGciOiJub25lIn0." + Secret + ".sig",
	"https://user:" + Secret + "@example.org/p",
	"/p?access_token=" + Secret,
	"x?a=b&token=" + Secret + "#" + Secret,
	"Set-Cookie: sid=" + Secret + "; Path=/",
	"AKIA" + AWSSecret,
	"aws_secret_access_key=wJalr" + Secret + "MDENGbPxRfiCYEXAMPLEKEYab",
	"-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE" + Secret + "\n" + Secret + "==\n-----END EC PRIVATE KEY-----",
	"/p%3Ftoken%3D" + Secret,
	"/p;jsessionid=" + Secret + "/q",
	"grant_type=password&client_secret=" + Secret + "&username=u",
	`with input as {"user":"u","password":"` + Secret + `"}`,
}

// PlantJSON gives line once for each of its strings and each shape, with the
// shape in the string's place, and once with the shape as a member that no
// decoder knows in every object.
func PlantJSON(tb testing.TB, line []byte) [][]byte {
	tb.Helper()
	var out [][]byte
	parse := func() any {
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			tb.Fatal(err)
		}
		return v
	}
	write := func(v any) {
		b, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, b)
	}
	for _, shape := range SecretShapes {
		for n := 0; ; n++ {
			i := 0
			v, done := plant(parse(), shape, n, &i)
			if !done {
				break
			}
			write(v)
		}
		write(unknown(parse(), shape))
	}
	return out
}

// plant puts shape in the place of the nth string.
func plant(v any, shape string, n int, i *int) (any, bool) {
	switch v := v.(type) {
	case string:
		*i++
		if *i == n+1 {
			return shape, true
		}
	case map[string]any:
		for k, e := range sorted(v) {
			if e, done := plant(e, shape, n, i); done {
				v[k] = e
				return v, true
			}
		}
	case []any:
		for k, e := range v {
			if e, done := plant(e, shape, n, i); done {
				v[k] = e
				return v, true
			}
		}
	}
	return v, false
}

func unknown(v any, shape string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = unknown(e, shape)
		}
		for _, k := range [...]string{"authorization", "Cookie", "set-cookie", "password", "unknown", "body"} {
			v[k] = shape
		}
	case []any:
		for k, e := range v {
			v[k] = unknown(e, shape)
		}
	}
	return v
}

func sorted(m map[string]any) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// PlantText puts each shape in the place of each word of a line and behind each
// of its equals signs. A shape with spaces stands in quotes only, as what
// writes such lines has it.
func PlantText(line string) (out []string) {
	for _, shape := range SecretShapes {
		for i := range len(line) {
			if line[i] != ' ' && line[i] != '\t' && line[i] != '=' && line[i] != '"' {
				continue
			}
			if quoted := strings.Count(line[:i+1], `"`)%2 == 1; quoted {
				end := i + 1 + strings.IndexByte(line[i+1:]+`"`, '"')
				out = append(out, line[:i+1]+shape+line[end:])
				continue
			}
			end := i + 1 + strings.IndexAny(line[i+1:]+" ", " \t")
			if !strings.Contains(shape, " ") {
				out = append(out, line[:i+1]+shape+line[end:])
			}
			if line[i] == '=' {
				out = append(out, line[:i+1]+`"`+shape+`"`+line[end:])
			}
		}
	}
	return out
}
