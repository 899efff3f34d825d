package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/meshaudit/meshaudit/seal"
)

// openStore opens the store that a person names: the one place where a name
// becomes a store. A directory that does not exist is an empty store.
func openStore(_ context.Context, name string) (seal.Store, error) {
	if fi, err := os.Stat(name); err == nil && !fi.IsDir() {
		return seal.Store{}, fmt.Errorf("%s is a file: a store is a directory", name)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return seal.Store{}, err
	}
	return seal.Dir(name), nil
}

// inStore names a file of a store, as openStore's caller would.
func inStore(store, file string) string {
	return filepath.Join(store, filepath.FromSlash(file))
}
