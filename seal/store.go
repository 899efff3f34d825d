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

	// ProbeDir, in the root of a store of objects, holds what writers put
	// there to find out at their start whether its locks hold. No origin has
	// capital letters.
	ProbeDir = "PROBE"
)

// LogDir is the directory of the log of origin below a store's root.
func LogDir(root, origin string) string {
	return filepath.Join(root, strings.ReplaceAll(origin, "/", "%2F"))
}

// Store is a place that holds logs: a directory of a file system, or a prefix
// of a bucket.
type Store struct {
	FS   FS
	Root string
}

// String is where the store is, as a reader of messages knows it.
func (s Store) String() string {
	if n, ok := s.FS.(fmt.Stringer); ok {
		return n.String()
	}
	return s.Root
}

// Dir is the store in a directory of this machine.
func Dir(root string) Store { return Store{OS, root} }

// Origins lists the logs of a store, sorted.
func (s Store) Origins() ([]string, error) { return origins(s.FS, s.Root) }

// Origins lists the logs of the store in a directory, sorted.
func Origins(root string) ([]string, error) { return Dir(root).Origins() }

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
		// A log that cannot be got at is one: who opens it is told why.
		if _, err := fsys.Stat(filepath.Join(root, n.Name(), segmentDir)); !errors.Is(err, fs.ErrNotExist) {
			os = append(os, o)
		}
	}
	slices.Sort(os)
	return os, nil
}

// lastSegments is segments, without what comes before the last few where
// listing all would take long. It reports whether it listed all.
func lastSegments(fsys FS, dir string) (firsts []uint64, strange []string, all bool, err error) {
	o, ok := fsys.(ObjectFS)
	if !ok {
		firsts, strange, err = segments(fsys, dir)
		return firsts, strange, true, err
	}
	names, err := o.Tail(filepath.Join(dir, segmentDir))
	if err != nil {
		return nil, nil, false, err
	}
	firsts, strange = segmentsOf(names)
	return firsts, strange, len(names) == 0, nil
}

// SegmentName is the file name of the segment that begins with an entry.
func SegmentName(first uint64) string { return segmentName(first) }

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
	firsts, strange = segmentsOf(names)
	return firsts, strange, nil
}

func segmentsOf(names []fs.DirEntry) (firsts []uint64, strange []string) {
	for _, n := range names {
		digits, ok := strings.CutSuffix(n.Name(), segmentSuffix)
		var first uint64
		if ok = ok && len(digits) == 20 && n.Type().IsRegular(); ok {
			if digits = strings.TrimLeft(digits, "0"); digits == "" {
				digits = "0"
			}
			var err error
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
	return firsts, strange
}

// segmentBytes is the size of all segments.
func segmentBytes(fsys FS, dir string) (total int64, err error) {
	names, err := fsys.ReadDir(filepath.Join(dir, segmentDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, n := range names {
		fi, err := n.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned since
		}
		if err != nil {
			return 0, err
		}
		if strings.HasSuffix(n.Name(), segmentSuffix) {
			total += fi.Size()
		}
	}
	return total, err
}

// newestCheckpoint is the log's newest published checkpoint and its name
// below dir: the file that is replaced by each, or, where nothing is ever
// replaced, the last of those that witnesses cosigned. fs.ErrNotExist: none.
func newestCheckpoint(fsys FS, dir string) (b []byte, name string, err error) {
	name = checkpointFile
	if direct(fsys) {
		names, err := fsys.(ObjectFS).Tail(filepath.Join(dir, checkpointFile))
		if err != nil {
			return nil, name, err
		}
		if len(names) == 0 {
			return nil, name, fs.ErrNotExist
		}
		name += "/" + names[len(names)-1].Name()
	}
	b, err = readFile(fsys, filepath.Join(dir, filepath.FromSlash(name)), maxHeaderBytes)
	return b, name, err
}

// checkpointName is the name of a cosigned checkpoint in a store where nothing
// is ever replaced.
func checkpointName(size uint64) string { return fmt.Sprintf("%s/%020d", checkpointFile, size) }

func openRead(fsys FS, name string) (File, error) { return fsys.OpenFile(name, os.O_RDONLY, 0) }
