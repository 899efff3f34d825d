//go:build !cgo

package pkcs11key

import (
	"errors"

	"github.com/meshaudit/meshaudit/seal"
)

// Key is a log key in a token.
type Key struct{ seal.LogKey }

// Open says that there is no PKCS#11 in this build.
func Open(uri, _ string) (*Key, error) {
	if _, err := ParseURI(uri); err != nil {
		return nil, err
	}
	return nil, errors.New("this build has no PKCS#11, which needs cgo: build it with `make build CGO_ENABLED=1`")
}

// Close does nothing.
func (*Key) Close() error { return nil }
