package seal

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A name in a log that is of another type than it should be is tampering, and
// what stands there does not keep the rest from being verified.
func TestMisplacedTypes(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir string){
		"a directory as checkpoint": func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, checkpointFile)))
			require.NoError(t, os.Mkdir(filepath.Join(dir, checkpointFile), 0o755))
		},
		"a file as torn": func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, tornDir)))
			require.NoError(t, os.WriteFile(filepath.Join(dir, tornDir), nil, 0o644))
		},
		"a file as tile": func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, tileDir)))
			require.NoError(t, os.WriteFile(filepath.Join(dir, tileDir), nil, 0o644))
		},
		"a file as timestamp": func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, timestampDir), nil, 0o644))
		},
		"a directory in torn": func(t *testing.T, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, tornDir, "x"), 0o755))
		},
		"a directory as lock": func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, lockName)))
			require.NoError(t, os.Mkdir(filepath.Join(dir, lockName), 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			require.NoError(t, os.CopyFS(root, os.DirFS("testdata/vectors/good-two-epochs/store")))
			trust, err := ReadTrust("testdata/vectors/good-two-epochs/trust")
			require.NoError(t, err)
			origins, err := Origins(root)
			require.NoError(t, err)
			dir := LogDir(root, origins[0])
			change(t, dir)
			segment := filepath.Join(dir, segmentDir, segmentName(0))
			b, err := os.ReadFile(segment)
			require.NoError(t, err)
			b[len(b)/2] ^= 1
			require.NoError(t, os.WriteFile(segment, b, 0o644))
			r, err := Verify(t.Context(), root, VerifyOptions{Trust: trust, AsOf: time.Unix(1763856100, 0)})
			require.NoError(t, err)
			require.Equal(t, ExitTampering, r.ExitCode())
			places := map[string]bool{}
			for _, f := range r.Logs[0].Findings {
				if f.Class == Tampering {
					places[f.Segment] = true
				}
			}
			require.Contains(t, places, segmentDir+"/"+segmentName(0), "what is wrong with the segment is found too")
			require.GreaterOrEqual(t, len(places), 2)
		})
	}
}
