package objectstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for name, want := range map[string]Config{
		"s3://audit":     {Bucket: "audit"},
		"s3://audit/":    {Bucket: "audit"},
		"s3://audit/a/b": {Bucket: "audit", Prefix: "a/b"},
		"s3://audit/a?region=eu-central-1&endpoint=http://127.0.0.1:9000&path_style=true": {
			Bucket: "audit", Prefix: "a", Region: "eu-central-1", Endpoint: "http://127.0.0.1:9000", PathStyle: true},
	} {
		if got, err := ParseName(name); err != nil || got.Name() != want.Name() || got.Bucket != want.Bucket || got.Prefix != want.Prefix ||
			got.Endpoint != want.Endpoint || got.Region != want.Region || got.PathStyle != want.PathStyle {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"store":                             "not in a bucket",
		"s3://":                             "names no bucket",
		"s3:///a":                           "names no bucket",
		"s3://audit?colour=red":             "colour is not known",
		"s3://audit?region=a&region=b":      "region is given 2 times",
		"s3://audit?path_style=maybe":       "path_style must be true or false",
		"s3://audit?endpoint=localhost":     "must be https://HOST",
		"s3://audit?endpoint=http://h/path": "must be https://HOST",
		"s3://audit?%zz":                    "invalid URL escape",
	} {
		if _, err := ParseName(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// What Name makes of what ParseName took names the same.
func FuzzParseName(f *testing.F) {
	for _, s := range []string{"s3://b/p?region=r", "s3://b/p/q/?endpoint=https://h:1&path_style=1", "s3://b//p", "s3://b%2F?region=%41"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		cfg, err := ParseName(name)
		if err != nil || strings.ContainsAny(cfg.Bucket+cfg.Prefix, "?") {
			return
		}
		again, err := ParseName(cfg.Name())
		if err != nil {
			t.Fatalf("%q: %v", cfg.Name(), err)
		}
		if again.Name() != cfg.Name() {
			t.Fatalf("%q became %q", cfg.Name(), again.Name())
		}
	})
}

func TestOpenDirectory(t *testing.T) {
	dir := t.TempDir()
	store, err := Open(t.Context(), dir)
	if err != nil || store.Root != dir {
		t.Errorf("%v, %v", store, err)
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "not-there")); err != nil {
		t.Errorf("a directory that is not there is an empty store: %v", err)
	}
	file := filepath.Join(dir, journalFile)
	if err := os.WriteFile(file, []byte("s3://audit/mesh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file); err == nil || !strings.Contains(err.Error(), "is a file") {
		t.Errorf("a file: %v", err)
	}
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "name that one, s3://audit/mesh") {
		t.Errorf("a journal: %v", err)
	}
}
