package seal

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const (
	vectorsDir   = "testdata/vectors"
	manifestFile = "SHA256SUMS"
)

// Verify answers for every golden vector what its expect.json states, with the
// auditor's key and without.
func TestVectors(t *testing.T) {
	names, err := filepath.Glob(vectorsDir + "/*/expect.json")
	if err != nil || len(names) < 100 {
		t.Fatalf("%d vectors: %v", len(names), err)
	}
	seen := map[string]int{}
	for _, name := range names {
		dir := filepath.Dir(name)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var e expectation
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatal(err)
			}
			for _, auditor := range []bool{true, false} {
				want := e.Alone
				if auditor {
					want = e.Auditor
				}
				if got := verifyVector(t, dir, e.AsOf, auditor); !reflect.DeepEqual(got, want) {
					g, _ := json.Marshal(got)
					w, _ := json.Marshal(want)
					t.Errorf("auditor %v:\ngot  %s\nwant %s", auditor, g, w)
				}
			}
			axis := "proven"
			if f := e.Auditor.First; f != nil {
				axis = f.Class + " " + f.Axis
			}
			seen[axis]++
		})
	}
	t.Logf("%d vectors: %v", len(names), seen)
}

// Golden vectors are only ever added to.
func TestVectorsAreUnchanged(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectorsDir, manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for l := range strings.Lines(string(b)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(l), "  ")
		if !ok {
			t.Fatalf("%s: malformed line %q", manifestFile, l)
		}
		file := filepath.Join(vectorsDir, filepath.FromSlash(name))
		if got := sumOf(t, file); got != sum {
			t.Errorf("%s was changed: others count on it; make a new vector", name)
		}
		listed = append(listed, file)
	}
	slices.Sort(listed)
	files := slices.DeleteFunc(filesBelow(t, vectorsDir), func(f string) bool { return filepath.Base(f) == manifestFile })
	if !slices.Equal(listed, files) {
		t.Errorf("%d files are listed in %s, %d are there; vectors are made with: go generate ./seal", len(listed), manifestFile, len(files))
	}
}

func filesBelow(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

func sumOf(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
