package inventory

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meshaudit/meshaudit/internal/docblock"
	"github.com/meshaudit/meshaudit/internal/evidence"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var orders = spiffeid.RequireFromString("spiffe://example.org/ns/shop/sa/orders")

const example = `
workloads:
  - {id: spiffe://example.org/ns/shop/sa/orders, version: "3", since: "2026-03-03T00:00:00Z"}
  - {id: "*/sa/orders", version: "2", image_digest: "sha256:02", since: "2026-02-02T00:00:00Z"}
  - {id: spiffe://example.org/ns/shop/sa/orders, version: "1", name: orders}
  - {id: example.org/ns/shop/*, name: somebody, kind: Deployment}
`

func TestOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "workloads.yaml")
	require.NoError(t, os.WriteFile(path, []byte(example), 0o600))
	i, err := Open([]Entry{{ID: "*", Namespace: "unknown"}}, path, nil)
	require.NoError(t, err)
	defer i.Close()
	for when, want := range map[string]string{"2026-01-01": "1", "2026-02-02": "2", "2026-03-02": "2", "2026-03-03": "3", "2027-01-01": "3"} {
		at, err := time.Parse(time.DateOnly, when)
		require.NoError(t, err)
		w, ok := i.Of(orders, at.UnixNano())
		require.True(t, ok)
		require.Equal(t, want, w.Version, when)
	}
	at := time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC).UnixNano()
	w, _ := i.Of(spiffeid.RequireFromString("spiffe://example.org/ns/shop/sa/billing"), at)
	require.Equal(t, evidence.Workload{Name: "somebody", Kind: "Deployment"}, w)
	w, _ = i.Of(spiffeid.RequireFromString("spiffe://other.example/ns/x/sa/orders"), at)
	require.Equal(t, "sha256:02", w.ImageDigest)
	w, _ = i.Of(spiffeid.RequireFromString("spiffe://other.example/x"), at)
	require.Equal(t, "unknown", w.Namespace, "the configuration's come behind the file's")
	_, ok := i.Of(spiffeid.ID{}, at)
	require.False(t, ok)
	var none *Inventory
	_, ok = none.Of(orders, at)
	require.False(t, ok)
	none.Close()
	none, err = Open(nil, "", nil)
	require.NoError(t, err)
	require.Nil(t, none)
}

// A part of an ID may be a field.
func TestPlaceholders(t *testing.T) {
	i, err := Open([]Entry{
		{ID: "example.org/ns/{namespace}/sa/{name}", Kind: "Deployment"},
		{ID: "spiffe://vm.example/*/{name}", Namespace: "vms"},
	}, "", nil)
	require.NoError(t, err)
	for id, want := range map[string]evidence.Workload{
		"spiffe://example.org/ns/shop/sa/orders":   {Namespace: "shop", Name: "orders", Kind: "Deployment"},
		"spiffe://example.org/ns/shop/x/sa/orders": {},
		"spiffe://example-org/ns/shop/sa/orders":   {},
		"spiffe://vm.example/eu/1/db":              {Namespace: "vms", Name: "db"},
	} {
		w, ok := i.Of(spiffeid.RequireFromString(id), 0)
		require.Equal(t, want, w, id)
		require.Equal(t, want != evidence.Workload{}, ok, id)
	}
	i, err = Open([]Entry{{ID: "*/{namespace}/{name}"}}, "", nil)
	require.NoError(t, err)
	w, _ := i.Of(spiffeid.RequireFromString("spiffe://example.org/ns/orders"), 0)
	require.Equal(t, evidence.Workload{Namespace: "ns", Name: "orders"}, w)
	w, ok := i.Of(spiffeid.RequireFromString("spiffe://example.org/orders"), 0)
	require.False(t, ok, "a trust domain is no namespace: %v", w)
	for id, want := range map[string]string{
		"*/{nme}": "knows {namespace} and {name}", "*/{name": "knows {namespace}", "*/{name}/{name}": "{name} is said twice", "*/{namespace}": "{namespace} is said twice",
	} {
		require.ErrorContains(t, Check([]Entry{{ID: id, Namespace: "shop"}}), want)
	}
}

func TestFaults(t *testing.T) {
	err := Check([]Entry{{ID: "orders", Name: "x"}, {ID: "*"}, {ID: "*", Name: "x", Since: "yesterday"}, {ID: "*", Name: strings.Repeat("x", 600)}})
	for _, want := range []string{"entry 0: `id`", "entry 1: it says nothing", "entry 2: `since`", "entry 3: a field"} {
		require.ErrorContains(t, err, want)
	}
	var many strings.Builder
	many.WriteString("workloads:\n")
	for i := range maxEntries + 1 {
		fmt.Fprintf(&many, "- {id: '*', name: x%d}\n", i)
	}
	for text, want := range map[string]string{
		"": "it is empty", "# nothing": "it is empty",
		"workloads: [{id: '*', nmae: x}]": "nmae", "[]": "line 1", "{": "yaml", many.String(): "at most 20000", strings.Repeat(" ", maxFile+1): "bytes",
		"workloads: [{id: '*', name: x, since: x}]": "`since`",
	} {
		path := filepath.Join(t.TempDir(), "workloads.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := Open(nil, path, nil)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
	_, err = Open(nil, filepath.Join(t.TempDir(), "none"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// What the documentation shows can be read.
func TestDocs(t *testing.T) {
	blocks, err := docblock.Of("../..", docblock.Workloads)
	require.NoError(t, err)
	for _, b := range blocks {
		entries, err := Parse([]byte(b.Text))
		require.NoError(t, err, b.String())
		require.NotEmpty(t, entries)
		require.NoError(t, Check(entries))
	}
}

// A pipeline's next version is seen; a broken file leaves the last in force.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "workloads.json")
	write := func(s string) { require.NoError(t, os.WriteFile(path, []byte(s), 0o600)) }
	write(`{"workloads": [{"id": "*/orders", "version": "1"}]}`)
	synctest.Test(t, func(t *testing.T) {
		var told []error
		i, err := Open(nil, path, func(err error) { told = append(told, err) })
		require.NoError(t, err)
		defer i.Close()
		version := func() string {
			time.Sleep(interval + interval/2)
			synctest.Wait()
			w, _ := i.Of(orders, 0)
			return w.Version
		}
		require.Equal(t, "1", version())
		write(`{"workloads": [{"id": "*/orders", "version": "2"}]}`)
		require.Equal(t, "2", version())
		write(`{"workloads": [{"id": "*/orders", "version": "3"`)
		require.Equal(t, "2", version())
		require.Len(t, told, 1)
		require.Error(t, told[0])
		write(`{"workloads": []}`)
		require.Empty(t, version())
		require.Len(t, told, 2)
		require.NoError(t, told[1])
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(`{"workloads": [{"id": "*", "name": "x", "since": "2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte("workloads: &a [*a]"))
	f.Add([]byte(`workloads: [{id: "*/{namespace}/sa/{name}"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := Parse(b)
		if err != nil {
			return
		}
		table, err := compile(entries)
		if err != nil {
			return
		}
		if w, ok := table.find(orders.String(), 0); ok && w == (evidence.Workload{}) {
			t.Fatal("found nothing")
		}
	})
}

func BenchmarkOf(b *testing.B) {
	var entries []Entry
	for i := range 10_000 {
		entries = append(entries, Entry{ID: fmt.Sprintf("spiffe://example.org/ns/shop/sa/w%d", i), Version: "1"})
	}
	i, err := Open(append(entries, Entry{ID: "*/sa/orders", Version: "2"}), "", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := i.Of(orders, 1); !ok {
			b.Fatal("not found")
		}
	}
}
