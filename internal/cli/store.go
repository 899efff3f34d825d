package cli

import (
	"context"
	"path"
	"path/filepath"
	"strings"

	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/seal"
)

// openStore opens the store that a person names: the one place where a name
// becomes a store.
func openStore(ctx context.Context, name string) (seal.Store, error) {
	return objectstore.Open(ctx, name)
}

// inStore names a file of a store, as openStore's caller would.
func inStore(store, file string) string {
	if objectstore.IsName(store) {
		bucket, _, _ := strings.Cut(strings.TrimPrefix(store, "s3://"), "?")
		return "s3://" + path.Join(bucket, file)
	}
	return filepath.Join(store, filepath.FromSlash(file))
}
