package meshaudit_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/meshaudit/meshaudit/"

// The rules by which the parts of this project may depend on each other, each
// with its reason. They hold for what is shipped, not for tests.
var rules = []struct {
	reason  string
	from    func(pkg string) bool
	allowed func(pkg, imported string) bool
}{
	{
		"an auditor must be able to vendor seal: the standard library, x/mod, x/crypto and zstd",
		func(pkg string) bool { return pkg == "seal" },
		func(_, imp string) bool {
			return isStd(imp) || strings.HasPrefix(imp, "golang.org/x/mod/") || strings.HasPrefix(imp, "golang.org/x/crypto/") ||
				imp == "github.com/klauspost/compress/zstd"
		},
	},
	{
		"what a component does knows no collector, so that it can be read, tested and used without one; pdata is data",
		func(pkg string) bool {
			return strings.HasPrefix(pkg, "internal/") || pkg == "seal"
		},
		func(pkg, imp string) bool {
			return !strings.HasPrefix(imp, "go.opentelemetry.io/collector/") || strings.HasPrefix(imp, "go.opentelemetry.io/collector/pdata/") ||
				pkg == "internal/expression" && imp == "go.opentelemetry.io/collector/component" // OTTL wants its logger in one of its types
		},
	},
	{
		"the correlator works on typed evidence alone: no pdata, no wire format",
		func(pkg string) bool {
			return pkg == "internal/correlate" || pkg == "internal/evidence" || pkg == "internal/semconv"
		},
		func(_, imp string) bool { return !strings.HasPrefix(imp, "go.opentelemetry.io/") },
	},
	{
		"components never import each other: an ocb user takes one alone",
		isComponent,
		func(pkg, imp string) bool {
			other, ours := strings.CutPrefix(imp, module)
			return !ours || !isComponent(other) || componentOf(other) == componentOf(pkg)
		},
	},
	{
		"what is beneath the components and the command does not know them",
		func(pkg string) bool { return strings.HasPrefix(pkg, "internal/") || pkg == "seal" },
		func(_, imp string) bool {
			other, ours := strings.CutPrefix(imp, module)
			return !ours || !isComponent(other) && !strings.HasPrefix(other, "cmd/")
		},
	},
}

func isStd(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}

// isComponent: what several receivers share, receiver/internal, is none.
func isComponent(pkg string) bool {
	kind, rest, _ := strings.Cut(pkg, "/")
	return !strings.HasPrefix(rest, "internal/") && slices.Contains([]string{"receiver", "processor", "exporter", "connector", "extension"}, kind)
}

func componentOf(pkg string) string {
	f := strings.SplitN(pkg, "/", 3)
	return strings.Join(f[:min(2, len(f))], "/")
}

func TestImportRules(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	checked := make([]int, len(rules))
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		pkg, ours := strings.CutPrefix(f[0], module)
		if !ours {
			continue
		}
		for i, r := range rules {
			if !r.from(pkg) {
				continue
			}
			checked[i]++
			for _, imp := range f[1:] {
				if !r.allowed(pkg, imp) {
					t.Errorf("%s imports %s: %s", pkg, imp, r.reason)
				}
			}
		}
	}
	for i, n := range checked {
		if n == 0 {
			t.Errorf("no package is under the rule %q", rules[i].reason)
		}
	}
}
