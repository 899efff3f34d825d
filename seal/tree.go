package seal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
)

// tileWidth is the number of hashes in a full C2SP tile.
const tileWidth = 256

// tree is the writer's Merkle tree (RFC 6962, leaves are entry headers), kept
// as its right edge: for each tile level the hashes of the tile that is being
// filled, and the perfect subtrees over them.
type tree struct {
	size   uint64
	levels []treeLevel
	full   []tile // completed since they were last taken
}

type treeLevel struct {
	hashes []Hash // of the unfinished tile, fewer than tileWidth
	peaks  []peak // perfect subtrees over hashes, largest first
}

type peak struct {
	hash Hash
	size int
}

// tile is one C2SP hash tile.
type tile struct {
	level  int
	index  uint64
	hashes []Hash // tileWidth, or fewer in a partial one
}

// leafHash is the RFC 6962 leaf hash of an entry's header text.
func leafHash(header []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(header)
	return Hash(h.Sum(nil))
}

func (t *tree) push(leaf Hash) {
	t.size++
	t.pushLevel(0, leaf)
}

func (t *tree) pushLevel(level int, h Hash) {
	if level == len(t.levels) {
		t.levels = append(t.levels, treeLevel{})
	}
	l := &t.levels[level]
	l.push(h)
	if len(l.hashes) == tileWidth {
		root := l.peaks[0].hash // the one perfect subtree over all of them
		shift := uint(8 * (level + 1))
		t.full = append(t.full, tile{level, t.size>>shift - 1, l.hashes})
		l.hashes, l.peaks = nil, l.peaks[:0]
		t.pushLevel(level+1, root) // l is invalid from here
	}
}

func (l *treeLevel) push(h Hash) {
	l.hashes = append(l.hashes, h)
	p := peak{h, 1}
	for n := len(l.peaks); n > 0 && l.peaks[n-1].size == p.size; n-- {
		p = peak{nodeHash(&l.peaks[n-1].hash, &p.hash), 2 * p.size}
		l.peaks = l.peaks[:n-1]
	}
	l.peaks = append(l.peaks, p)
}

// root is the RFC 6962 tree head.
func (t *tree) root() Hash {
	acc, any := Hash{}, false
	for i := range t.levels {
		for _, p := range slices.Backward(t.levels[i].peaks) {
			if any {
				acc = nodeHash(&p.hash, &acc)
			} else {
				acc, any = p.hash, true
			}
		}
	}
	if !any {
		return sha256.Sum256(nil)
	}
	return acc
}

// partial are the unfinished tiles, copied.
func (t *tree) partial() []tile {
	var ts []tile
	for level := range t.levels {
		if h := t.levels[level].hashes; len(h) > 0 {
			ts = append(ts, tile{level, t.size >> (8 * uint(level+1)), slices.Clone(h)})
		}
	}
	return ts
}

// path is the tile's name by C2SP tlog-tiles, below the log's directory.
func (t tile) path() string {
	n := t.index
	s := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	s = "tile/" + strconv.Itoa(t.level) + "/" + s
	if len(t.hashes) < tileWidth {
		s += ".p/" + strconv.Itoa(len(t.hashes))
	}
	return s
}

// TilePath is the name of a full tile below a log's directory.
func TilePath(level int, index uint64) string {
	return tile{level, index, make([]Hash, tileWidth)}.path()
}

func (t tile) bytes() []byte {
	b := make([]byte, 0, len(t.hashes)*sha256.Size)
	for i := range t.hashes {
		b = append(b, t.hashes[i][:]...)
	}
	return b
}

// treeFromTiles restores the right edge of a tree of the given size from its
// tiles; read gives a tile's bytes, from one that is at least as wide. The
// hashes are not authenticated: whoever restores a tree compares its root with
// a checkpoint's.
func treeFromTiles(size uint64, read func(tile) ([]byte, error)) (*tree, error) {
	t := &tree{size: size}
	for level := 0; size>>(8*uint(level)) > 0; level++ {
		count := size >> (8 * uint(level))
		width := int(count % tileWidth)
		t.levels = append(t.levels, treeLevel{})
		if width == 0 {
			continue
		}
		b, err := read(tile{level, count / tileWidth, make([]Hash, width)})
		if err != nil {
			return nil, err
		}
		for i := range width {
			t.levels[level].push(Hash(b[i*sha256.Size:]))
		}
	}
	return t, nil
}

// storedTree restores a tree from the tiles in a log's directory.
func storedTree(fsys FS, dir string, size uint64) (*tree, error) {
	return treeFromTiles(size, func(t tile) ([]byte, error) { return readTile(fsys, dir, t) })
}

// readTile reads a tile from a log's directory: from its own file, from a
// wider partial one's, from the full tile's, or from the tiles below.
func readTile(fsys FS, dir string, t tile) ([]byte, error) {
	want := len(t.hashes) * sha256.Size
	full := filepath.Join(dir, filepath.FromSlash(tile{t.level, t.index, make([]Hash, tileWidth)}.path()))
	candidates := []string{filepath.Join(dir, filepath.FromSlash(t.path()))}
	names, _ := fsys.ReadDir(full + ".p") // absent: no partial ones
	for _, n := range names {
		candidates = append(candidates, filepath.Join(full+".p", n.Name()))
	}
	candidates = append(candidates, full)
	for _, name := range candidates {
		b, err := readFile(fsys, name, tileWidth*sha256.Size)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(b) >= want {
			return b[:want], nil
		}
	}
	if t.level == 0 {
		return nil, fmt.Errorf("tile %s: %w", t.path(), fs.ErrNotExist)
	}
	// The hashes in it are the roots of the full tiles below.
	derived := make([]byte, 0, want)
	for i := range t.hashes {
		below, err := readTile(fsys, dir, tile{t.level - 1, t.index*tileWidth + uint64(i), make([]Hash, tileWidth)})
		if err != nil {
			return nil, err
		}
		var l treeLevel
		for ; len(below) > 0; below = below[sha256.Size:] {
			l.push(Hash(below))
		}
		derived = append(derived, l.peaks[0].hash[:]...)
	}
	return derived, nil
}
