// Package docblock finds the YAML in the documentation, so that each block of
// it is checked by what reads such a file in earnest: the tests of the kinds
// are in test/distribution, test/gateways, test/manifests and test/opa.
//
// What a block is stands behind the word yaml where it begins:
//
//	```yaml            this distribution's configuration, or sections of it
//	```yaml contrib    the same with components that are not in it
//	```yaml opa        OPA's configuration
//	```yaml kubeconfig
//	```yaml audit      a Kubernetes audit policy
//	```yaml helm       the values of another project's chart
//	```yaml workloads  a file of workloads, as package inventory reads it
package docblock

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kind is what a block is.
type Kind string

const (
	Collector   Kind = ""
	Contrib     Kind = "contrib"
	OPA         Kind = "opa"
	Kubeconfig  Kind = "kubeconfig"
	AuditPolicy Kind = "audit"
	HelmValues  Kind = "helm"
	Workloads   Kind = "workloads"
)

var kinds = []Kind{Collector, Contrib, OPA, Kubeconfig, AuditPolicy, HelmValues, Workloads}

// A Block is one block of YAML.
type Block struct {
	File string // relative to the root, with slashes
	Line int    // of its first line, from 1
	Kind Kind
	Text string
}

func (b *Block) String() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

// Of returns the blocks of one kind in every Markdown file below root, at least
// one: a test of none would prove nothing.
func Of(root string, kind Kind) ([]Block, error) {
	all, err := All(root)
	if err != nil {
		return nil, err
	}
	of := slices.DeleteFunc(all, func(b Block) bool { return b.Kind != kind })
	if len(of) == 0 {
		return nil, fmt.Errorf("no block of YAML %q below %s", kind, root)
	}
	return of, nil
}

// All returns all blocks below root, but for folders that begin with a dot or
// an underscore. A kind that is not known is an error.
func All(root string) ([]Block, error) {
	var blocks []Block
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && strings.ContainsRune("._", rune(d.Name()[0])) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		of, err := parse(filepath.ToSlash(name), string(text))
		blocks = append(blocks, of...)
		return err
	})
	return blocks, err
}

func parse(file, text string) ([]Block, error) {
	var (
		blocks []Block
		fence  string // that ends the block of code which this line is in
		indent string
		yaml   bool // the block of code is the last of blocks
		line   int
	)
	for l := range strings.Lines(text) {
		line++
		trimmed := strings.TrimSpace(l)
		switch {
		case fence != "" && trimmed == fence:
			fence, yaml = "", false
		case fence != "" && yaml:
			blocks[len(blocks)-1].Text += strings.TrimPrefix(l, indent)
		case fence == "" && (strings.HasPrefix(trimmed, "```") || strings.HasPrefix(trimmed, "~~~")):
			info := strings.TrimLeft(trimmed, trimmed[:1])
			fence, indent = trimmed[:len(trimmed)-len(info)], l[:strings.Index(l, trimmed)]
			words := strings.Fields(info)
			if len(words) == 0 || !strings.EqualFold(words[0], "yaml") && !strings.EqualFold(words[0], "yml") {
				continue
			}
			kind := Kind(strings.Join(words[1:], " "))
			if words[0] != "yaml" || !slices.Contains(kinds, kind) {
				return nil, fmt.Errorf("%s:%d: %s is no YAML that is checked: behind the word yaml goes nothing or one of %q", file, line, trimmed, kinds[1:])
			}
			blocks, yaml = append(blocks, Block{File: file, Line: line + 1, Kind: kind}), true
		case fence == "" && strings.Contains(l, "```"):
			return nil, fmt.Errorf("%s:%d: a block of code begins on a line of its own", file, line)
		}
	}
	if fence != "" {
		return nil, fmt.Errorf("%s: the last block of code has no end", file)
	}
	return blocks, nil
}
