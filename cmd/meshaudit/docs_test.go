package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/seal"
)

// volatile are the parts of an output that differ from run to run.
var volatile = []struct {
	pattern *regexp.Regexp
	as      string
}{
	{regexp.MustCompile(`verified in \S+,`), "verified in 1ms,"},
	{regexp.MustCompile(`\b\d+(\.\d)? (B|KiB)\b`), "N KiB"},
	{regexp.MustCompile(`(byte|offset) \d+`), "$1 N"},
	{regexp.MustCompile(`\+[0-9a-f]{8}\+\S+`), "+HASH+KEY"},
	{regexp.MustCompile(` [A-Za-z0-9+/]{40,}=*\n`), " BASE64\n"},
	{regexp.MustCompile(`x25519 \S+`), "x25519 KEY"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "AUDITOR"},
	{regexp.MustCompile(`  +`), "  "},
}

func steady(s string) string {
	for _, v := range volatile {
		s = v.pattern.ReplaceAllString(s, v.as)
	}
	return s
}

// The examples in docs/cli.md print what stands beneath them.
func TestDocs(t *testing.T) {
	doc := filepath.Join("..", "..", "docs", "cli.md")
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := docBin(t)
	docStore(t, filepath.Join(dir, "run"))

	const begin, end = "```console\n", "```\n"
	var out strings.Builder
	rest, examples := string(b), 0
	for {
		before, after, found := strings.Cut(rest, begin)
		out.WriteString(before)
		if !found {
			break
		}
		block, tail, closed := strings.Cut(after, end)
		command, want, _ := strings.Cut(block, "\n")
		command, isCommand := strings.CutPrefix(command, "$ ")
		if !closed || !isCommand {
			t.Fatalf("a console block must be one command after \"$ \" and its output: %q", block)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH")}
		got, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, got)
		}
		if steady(string(got)) != steady(want) && !*update {
			t.Errorf("%s\nprints\n%s\nin docs/cli.md stands\n%s(go test ./cmd/meshaudit -update writes it anew)", command, got, want)
		}
		if steady(string(got)) == steady(want) {
			got = []byte(want)
		}
		out.WriteString(begin + "$ " + command + "\n" + string(got) + end)
		rest, examples = tail, examples+1
	}
	if examples == 0 {
		t.Fatal("no example found")
	}
	if *update {
		if err := os.WriteFile(doc, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// docBin is a directory with the meshaudit command: this test's binary under
// that name.
func docBin(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(exe, filepath.Join(bin, "meshaudit")); err != nil {
		t.Fatal(err)
	}
	return bin
}

// docStore makes what `make run` leaves: a store, its keys and a copy that was
// tampered with.
func docStore(t *testing.T, run string) {
	t.Helper()
	keys := filepath.Join(run, "keys")
	if _, err := seal.CreateWriterKeys(keys, "example.org/meshaudit/edge-0"); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.CreateAuditorKey(keys, "mlkem768x25519"); err != nil {
		t.Fatal(err)
	}
	if err := makeStore(filepath.Join(run, "store"), keys, filepath.Join("testdata", "shop.jsonl"), false); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(run, "tampered"), os.DirFS(filepath.Join(run, "store"))); err != nil {
		t.Fatal(err)
	}
	if err := flipBit(filepath.Join(run, "tampered"), 3, "body"); err != nil {
		t.Fatal(err)
	}
}
