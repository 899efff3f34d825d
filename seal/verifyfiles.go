package seal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// readPublished reads the newest published checkpoint, and asks the witnesses.
func (v *verification) readPublished(ctx context.Context) error {
	b, name, err := newestCheckpoint(v.fs, v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		v.askWitnesses(ctx, nil)
		return nil
	}
	if err != nil {
		return err
	}
	bad := func(what string) {
		v.foundAt(name, 0, 0, Tampering, Integrity, nextIsolate, what)
	}
	c, err := openCheckpoint(b, nil)
	if err != nil {
		bad(fmt.Sprintf("the published checkpoint is malformed: %v", err))
		return nil
	}
	if c.Origin != v.report.Origin {
		bad("the published checkpoint is of another log: " + c.Origin)
		return nil
	}
	if name != checkpointFile && name != checkpointName(c.Size) {
		bad(fmt.Sprintf("the published checkpoint is for %d entries, which its name does not say", c.Size))
		return nil
	}
	v.published, v.publishedAs, v.signers.publishedNote = &c, name, b
	v.cosigned(b, c)
	v.askWitnesses(ctx, b)
	return nil
}

// strays reports what nobody who only adds objects leaves in a store: older
// versions and delete markers. A lock keeps versions, but does not prevent that
// others are put on top.
func (r *Report) strays(fsys FS, root string) error {
	o, ok := fsys.(ObjectFS)
	if !ok {
		return nil
	}
	err := o.Strays(root, func(name, what string) {
		if rel, err := filepath.Rel(root, name); err == nil {
			name = filepath.ToSlash(rel)
		}
		if strings.HasPrefix(name, ProbeDir+"/") || len(r.Findings) >= 2*maxFindings {
			return
		}
		r.Findings = append(r.Findings, Finding{Class: Tampering, Axis: Integrity, Segment: name, What: what, Next: "read the first version of it: that is what the writer sealed; find out who wrote to the bucket"})
	})
	if err != nil {
		return fmt.Errorf("list all versions: %w", err)
	}
	return nil
}

// compareTiles compares the tiles that the tree has completed with the stored
// ones.
func (v *verification) compareTiles() {
	for _, t := range v.tree.full {
		for len(v.tiles) <= t.level {
			v.tiles = append(v.tiles, 0)
		}
		v.tiles[t.level]++
		b, err := readFile(v.fs, filepath.Join(v.dir, filepath.FromSlash(t.path())), tileWidth*sha256.Size)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if v.published != nil && v.published.Size >= v.tree.size {
				v.foundAt(t.path(), 0, v.walk.entry, Incomplete, Completeness, "start the writer once: it writes the tiles anew", "this tile is missing; it is derived from the segments, which are here")
			}
		case err != nil || !bytes.Equal(b, t.bytes()):
			v.foundAt(t.path(), 0, v.walk.entry, Tampering, Integrity, nextIsolate, "this tile is not the one that the entries give")
		}
	}
	v.tree.full = nil
}

// tornFiles compares what recoveries kept aside with what the opens say.
func (v *verification) tornFiles() error {
	names, err := v.fs.ReadDir(filepath.Join(v.dir, tornDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, n := range names {
		if strings.HasSuffix(n.Name(), tmpSuffix) {
			continue
		}
		if !n.Type().IsRegular() {
			v.misplaced(tornDir + "/" + n.Name())
			continue
		}
		b, err := readFile(v.fs, filepath.Join(v.dir, tornDir, n.Name()), 1<<31)
		if err != nil {
			return err
		}
		t := Torn{uint64(len(b)), sha256.Sum256(b)}
		at, ok := v.torn[t]
		if !ok || !strings.HasPrefix(n.Name(), fmt.Sprintf("%020d-", at.entry)) {
			if strings.HasPrefix(n.Name(), fmt.Sprintf("%020d-", v.covered)) || v.stillStands(n.Name(), b) {
				continue // of a recovery whose open is not written yet
			}
			v.foundAt(tornDir+"/"+n.Name(), 0, 0, Tampering, Integrity, "find out who put it there, and move it away", "no open names this file")
			continue
		}
		delete(v.torn, t)
		f := strings.SplitN(n.Name(), "-", 3)
		kept, _ := strconv.ParseInt(f[len(f)-1], 10, 64)
		if !v.tornBytes(b, kept) {
			v.reviewable(tornDir+"/"+n.Name(), 0, at.entry, at.leaf, Integrity, CodeTornDamaged, "read what is in it; it may hold records that were acknowledged", "what was cut off before this open was damaged in a way that a crash does not explain")
		}
	}
	for t, at := range v.torn {
		v.reviewable(tornDir, 0, at.entry, at.leaf, Completeness, CodeTornMissing, "restore it from a copy, if there is one", fmt.Sprintf("the %d bytes that entry %d cut off were not kept", t.Bytes, at.entry))
	}
	return nil
}

// stillStands reports whether the bytes of a file in torn/ are where its name
// says that they were cut off: they were only copied.
func (v *verification) stillStands(name string, b []byte) bool {
	var entry, segment uint64
	var at int64
	if n, err := fmt.Sscanf(name, "%020d-%020d-%d", &entry, &segment, &at); err != nil || n != 3 || name != tornName(entry, cut{first: segment, kept: at}) {
		return false
	}
	f, err := openRead(v.fs, filepath.Join(v.dir, segmentDir, segmentName(segment)))
	if err != nil {
		return false
	}
	defer f.Close()
	there, err := io.ReadAll(io.NewSectionReader(f, at, int64(len(b))))
	return err == nil && len(b) > 0 && bytes.Equal(there, b)
}

// tornBytes reports whether a file from torn/ is a torn tail.
func (v *verification) tornBytes(b []byte, at int64) bool {
	fr := newFrameReader(bytes.NewReader(b), 0)
	for {
		if _, err := fr.next(); err != nil {
			return torn(err, b, at)
		}
	}
}

// storedTiles checks the tiles that compareTiles did not come by: partial
// ones, and any that are ahead of the log.
func (v *verification) storedTiles() error {
	root := filepath.Join(v.dir, tileDir)
	return walkFiles(v.fs, root, func(name string, regular bool) error {
		rel, err := filepath.Rel(v.dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if strings.HasSuffix(rel, tmpSuffix) {
			return nil
		}
		t, ok := parseTilePath(rel)
		if !ok || !regular {
			v.misplaced(rel)
			return nil
		}
		compared := uint64(0)
		if t.level < len(v.tiles) {
			compared = v.tiles[t.level]
		}
		var want []byte
		switch {
		case t.index < compared && len(t.hashes) == tileWidth:
			return nil
		case t.index < compared:
			full := tile{t.level, t.index, make([]Hash, tileWidth)}
			if want, err = readFile(v.fs, filepath.Join(v.dir, filepath.FromSlash(full.path())), tileWidth*sha256.Size); err != nil {
				return nil // its absence is reported already
			}
		case t.index == compared && t.level < len(v.tree.levels):
			want = tile{hashes: v.tree.levels[t.level].hashes}.bytes()
		}
		b, err := readFile(v.fs, name, tileWidth*sha256.Size)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // superseded by a wider one since it was listed
		}
		whole := len(b) == len(t.hashes)*sha256.Size
		if len(b) > len(want) && v.grown() {
			b = b[:len(want)] // the log went on while it was read
		}
		if err != nil || !whole || !bytes.HasPrefix(want, b) {
			v.foundAt(rel, 0, v.walk.entry, Tampering, Integrity, nextIsolate, "this tile is not the one that the entries give")
		}
		return nil
	})
}

// grown reports whether the log was written to since the walk began.
func (v *verification) grown() bool {
	total, err := segmentBytes(v.fs, v.dir)
	return err == nil && total > v.total
}

func parseTilePath(rel string) (t tile, ok bool) {
	f := strings.Split(rel, "/")
	if len(f) < 3 {
		return t, false
	}
	level, err := strconv.Atoi(f[1])
	if err != nil || level < 0 || level > 7 {
		return t, false
	}
	width := tileWidth
	rest := f[2:]
	if n := len(rest); n >= 2 && strings.HasSuffix(rest[n-2], ".p") {
		if width, err = strconv.Atoi(rest[n-1]); err != nil || width < 1 || width >= tileWidth {
			return t, false
		}
		rest = append(slices.Clone(rest[:n-2]), strings.TrimSuffix(rest[n-2], ".p"))
	}
	var index uint64
	for _, d := range rest {
		n, err := strconv.ParseUint(strings.TrimPrefix(d, "x"), 10, 16)
		if err != nil {
			return t, false
		}
		index = index*1000 + n
	}
	t = tile{level, index, make([]Hash, width)}
	return t, t.path() == rel // only the one canonical path
}

// strangeInLog finds names in the log's own directory that do not belong. One
// that is not of the type that it should be is not read any further: what
// stands there must not keep the rest from being verified.
func (v *verification) strangeInLog() (strange []string, err error) {
	names, err := v.fs.ReadDir(v.dir)
	if err != nil {
		return nil, err
	}
	hidden := map[string]bool{}
	for _, n := range names {
		isDir := true
		switch n.Name() {
		case segmentDir, tornDir, tileDir, timestampDir:
		case checkpointFile:
			isDir = direct(v.fs)
		case lockName:
			isDir = false
		default:
			if !strings.HasSuffix(n.Name(), tmpSuffix) {
				strange = append(strange, n.Name())
			}
			continue
		}
		if n.IsDir() != isDir || !isDir && !n.Type().IsRegular() {
			strange = append(strange, n.Name())
			hidden[filepath.Join(v.dir, n.Name())] = true
		}
	}
	if len(hidden) > 0 {
		v.fs = withoutFS{v.fs, hidden}
	}
	return strange, nil
}

func (v *verification) misplaced(name string) {
	v.foundAt(name, 0, 0, Tampering, Integrity, "find out who put it there, and move it away", "this file does not belong into a log")
}

// withoutFS is an FS in which some names are not there.
type withoutFS struct {
	FS
	names map[string]bool
}

func (f withoutFS) hides(name string) bool { return f.names[name] || f.names[filepath.Dir(name)] }

func (f withoutFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if f.hides(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return f.FS.OpenFile(name, flag, perm)
}

func (f withoutFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if f.hides(name) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return f.FS.ReadDir(name)
}

func (f withoutFS) Stat(name string) (fs.FileInfo, error) {
	if f.hides(name) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return f.FS.Stat(name)
}

func walkFiles(fsys FS, dir string, fn func(name string, regular bool) error) error {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		name := filepath.Join(dir, n.Name())
		if n.IsDir() {
			err = walkFiles(fsys, name, fn)
		} else {
			err = fn(name, n.Type().IsRegular())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
