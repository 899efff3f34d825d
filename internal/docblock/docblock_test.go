package docblock

import (
	"slices"
	"strings"
	"testing"
)

// Every block in this repository is of a kind that some test checks.
func TestEveryBlockHasAKind(t *testing.T) {
	blocks, err := All("../..")
	if err != nil {
		t.Fatal(err)
	}
	of := map[Kind]int{}
	for _, b := range blocks {
		of[b.Kind]++
		t.Logf("%s %q", &b, b.Kind)
	}
	for _, kind := range kinds {
		if of[kind] == 0 {
			t.Errorf("no block of kind %q: take the kind away", kind)
		}
	}
}

func TestParse(t *testing.T) {
	got, err := parse("a.md", "text\n```yaml\na: 1\n\nb: 2\n```\n-\n  ```sh\n  ```yaml\n  ```\n\n  ````yaml opa\n  c:\n    ```\n  ````\n~~~yaml helm\n~~~\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []Block{
		{"a.md", 3, Collector, "a: 1\n\nb: 2\n"},
		{"a.md", 13, OPA, "c:\n  ```\n"},
		{"a.md", 17, HelmValues, ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for text, says := range map[string]string{
		"```yaml helm values\n```": "no YAML that is checked",
		"x\n  ```yml\n  ```":       "a.md:2: ```yml",
		"```YAML\n```":             "no YAML that is checked",
		"- ```yaml\n  ```":         "line of its own",
		"```yaml\na: 1\n":          "has no end",
	} {
		if _, err := parse("a.md", text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want %q", text, err, says)
		}
	}
}
