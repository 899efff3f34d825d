package clerk

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/redact"
)

// What comes over OTLP is redacted before it is read: a label that the decoder reads
// and the allow-list does not know says nothing.
func TestEachLabelIsKept(t *testing.T) {
	gone := map[string]bool{
		"peer_cert": true, "downstream_peer_cert": true, // verified before
		"ext_authz": true, // its decision's id is taken out before
		"user":      true, // what a format's operators are called; a label is user.id
	}
	f, err := parser.ParseFile(token.NewFileSet(), "../evidence/envoy/labels.go", nil, 0)
	require.NoError(t, err)
	var names []string
	for _, d := range f.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && (f.Name.Name == "field" || f.Name.Name == "header" || f.Name.Name == "rbacLabel") {
			ast.Inspect(f, func(n ast.Node) bool {
				if c, ok := n.(*ast.CaseClause); ok {
					for _, e := range c.List {
						name, err := strconv.Unquote(e.(*ast.BasicLit).Value)
						require.NoError(t, err)
						names = append(names, name)
					}
				}
				return true
			})
		}
	}
	require.Greater(t, len(names), 70)
	for _, name := range names {
		m := pcommon.NewMap()
		m.PutStr(name, "x")
		redact.New(redact.Config{}).Attributes(m)
		require.Equal(t, gone[name], m.Len() == 0, name)
	}
}
