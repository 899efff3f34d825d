package clerk

import (
	"strings"
	"testing"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

// A log that is not there is a mistake in `recover_from`, not an empty one.
func TestReplayStoreWithoutLog(t *testing.T) {
	fn := func(seal.Signal, time.Time, []byte) error { return nil }
	err := ReplayStore(t.Context(), t.TempDir(), "example.org/a", time.Second, fn)
	if err == nil || !strings.Contains(err.Error(), "no log of example.org/a is in ") {
		t.Error(err)
	}
	if err := ReplayStore(t.Context(), t.TempDir()+"/none", "example.org/a", time.Second, fn); err == nil {
		t.Error("a directory that is not there is an empty store")
	}
}
