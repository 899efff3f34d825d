//go:build !unix

package seal

import (
	"errors"
	"os"
)

// Without flock a second writer could not be kept out, and two writers on one
// log are a fork.
func lockFile(*os.File) error {
	return errors.New("writing a sealed log needs flock, which this operating system does not have")
}
