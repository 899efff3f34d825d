package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The layout of a store, see docs/sealed-log.md.
const (
	segmentDir     = "segment"
	segmentSuffix  = ".seal"
	tornDir        = "torn"
	tileDir        = "tile"
	checkpointFile = "checkpoint"
	lockName       = "lock"
)

// LogDir is the directory of the log of origin below a store's root.
func LogDir(root, origin string) string {
	return filepath.Join(root, strings.ReplaceAll(origin, "/", "%2F"))
}

// Origins lists the logs of a store, sorted.
func Origins(root string) ([]string, error) { return origins(OS, root) }

func origins(fsys FS, root string) ([]string, error) {
	names, err := fsys.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var os []string
	for _, n := range names {
		o := strings.ReplaceAll(n.Name(), "%2F", "/")
		if !n.IsDir() || ValidOrigin(o) != nil {
			continue
		}
		if _, err := fsys.Stat(filepath.Join(root, n.Name(), segmentDir)); err == nil {
			os = append(os, o)
		}
	}
	slices.Sort(os)
	return os, nil
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// segments lists a log's segments by their first entry, ascending. A file
// that is no segment is returned by name in strange.
func segments(fsys FS, dir string) (firsts []uint64, strange []string, err error) {
	names, err := fsys.ReadDir(filepath.Join(dir, segmentDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		digits, ok := strings.CutSuffix(n.Name(), segmentSuffix)
		var first uint64
		if ok = ok && len(digits) == 20 && n.Type().IsRegular(); ok {
			if digits = strings.TrimLeft(digits, "0"); digits == "" {
				digits = "0"
			}
			first, err = number(digits)
			ok = err == nil
		}
		switch {
		case ok:
			firsts = append(firsts, first)
		case strings.HasSuffix(n.Name(), tmpSuffix): // a recovery in flight
		default:
			strange = append(strange, segmentDir+"/"+n.Name())
		}
	}
	slices.Sort(firsts)
	return firsts, strange, nil
}

func openRead(fsys FS, name string) (File, error) { return fsys.OpenFile(name, os.O_RDONLY, 0) }
