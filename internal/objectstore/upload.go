package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshaudit/meshaudit/seal"
)

// Start begins to send what closed says is complete: all segments before that
// entry. If the bucket turns out to hold another writer's log, fork is told, and
// nothing more is sent.
func (j *Journal) Start(closed func() uint64, fork func(error)) {
	j.closed = closed
	ctx, cancel := context.WithCancel(j.cfg.Bucket.ctx)
	j.cancel = cancel
	j.measure()
	go func() {
		defer close(j.done)
		wait := j.cfg.every
		for {
			finishing := false
			select {
			case <-time.After(wait):
			case <-j.finishing:
				finishing = true
			case <-ctx.Done():
				return
			}
			err := j.pass(ctx)
			j.measure()
			var forked *seal.ForkError
			switch {
			case ctx.Err() != nil:
				return
			case errors.As(err, &forked):
				fork(err)
				return
			case err != nil:
				j.cfg.Fault(fmt.Errorf("not yet in the bucket: %w", err))
				wait = min(2*wait, 10*j.cfg.every)
			default:
				j.cfg.Fault(nil)
				wait = j.cfg.every
			}
			if finishing {
				return // what is left is sent after the next start
			}
		}
	}()
}

// Close sends what is complete, once, and stops. After that, or when ctx is
// done, the bucket is closed.
func (j *Journal) Close(ctx context.Context) error {
	defer j.cfg.Bucket.Close()
	if j.cancel == nil {
		return nil
	}
	defer j.cancel()
	j.finish.Do(func() { close(j.finishing) })
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// segments are the first entries of the local segments, ascending.
func (j *Journal) segments() (firsts []uint64, bytes map[uint64]fs.FileInfo, err error) {
	names, err := j.FS.ReadDir(filepath.Join(j.log, "segment"))
	if err != nil {
		return nil, nil, err
	}
	bytes = map[uint64]fs.FileInfo{}
	for _, n := range names {
		first, ok := number(n.Name())
		if !ok || n.Name() != seal.SegmentName(first) {
			continue
		}
		fi, err := n.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned just now
		}
		if err != nil {
			return nil, nil, err
		}
		firsts = append(firsts, first)
		bytes[first] = fi
	}
	return firsts, bytes, nil
}

// measure counts what is not yet sent.
func (j *Journal) measure() {
	firsts, infos, err := j.segments()
	if err != nil {
		return // the writer has the same trouble, and says so
	}
	var n int64
	for _, first := range firsts {
		if !j.known || first >= j.sent() {
			n += infos[first].Size()
		}
	}
	j.pending.Store(n)
}

// sent is the entry before which all segments are in the bucket.
func (j *Journal) sent() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next
}

func (j *Journal) setSent(next uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next = next
}

// pass sends everything that is complete, then removes what need not be kept.
func (j *Journal) pass(ctx context.Context) error {
	if !j.probed {
		if err := j.cfg.Bucket.Probe(); err != nil {
			return err
		}
		j.probed = true
	}
	closed := j.closed()
	firsts, infos, err := j.segments()
	if err != nil {
		return err
	}
	if err := j.findNext(firsts, closed); err != nil {
		return err
	}
	covered := j.sent()
	for i, first := range firsts {
		end := closed
		if i+1 < len(firsts) {
			end = firsts[i+1]
		}
		if first >= closed {
			break
		}
		if first >= j.sent() {
			if first > j.sent() {
				return fmt.Errorf("the local journal lacks the segment that begins with entry %d: restore it, or start a log with a new origin", j.sent())
			}
			if err := j.sendSegment(first, end); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		covered = end
	}
	if err := j.sendTiles(covered); err != nil {
		return err
	}
	if err := j.sendCheckpoint(covered); err != nil {
		return err
	}
	if err := j.sendTimestamps(covered); err != nil {
		return err
	}
	if err := j.removeDoomed(covered); err != nil {
		return err
	}
	return j.forget(firsts, infos)
}

// sendTimestamps moves the timestamps of what is in the bucket there.
func (j *Journal) sendTimestamps(covered uint64) error {
	names, err := j.FS.ReadDir(filepath.Join(j.log, "timestamp"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		digits, token := strings.CutSuffix(n.Name(), ".tsr")
		if size, err := strconv.ParseUint(digits, 10, 64); !token || err != nil || size > covered {
			continue
		}
		rel := path.Join("timestamp", n.Name())
		if _, err := j.send(rel); err != nil {
			return err
		}
		if err := j.FS.Remove(filepath.Join(j.log, filepath.FromSlash(rel))); err != nil {
			return err
		}
	}
	return nil
}

// findNext finds out where a last run ended. The last segment that it sent is
// here, and is sent again: the answer tells whether the log in the bucket is
// this one. It is another's if it goes further, or was cut into other segments.
func (j *Journal) findNext(firsts []uint64, closed uint64) error {
	if j.known || len(firsts) == 0 {
		return nil
	}
	names, err := j.cfg.Bucket.Tail(path.Join(j.dir, "segment"))
	if err != nil {
		return err
	}
	next := firsts[0] // if nothing is there; and on a new disk
	if len(names) > 0 {
		last := names[len(names)-1].Name()
		n, ok := number(last)
		i, found := slices.BinarySearch(firsts, n)
		if !ok || n >= closed || !found && i > 0 {
			return &seal.ForkError{Name: path.Join(j.cfg.Bucket.name, j.dir, "segment", last)}
		}
		next = firsts[i]
	}
	j.setSent(next)
	j.known = true
	return nil
}

// sendSegment sends a segment, after what recoveries cut off in front of it,
// which its open names.
func (j *Journal) sendSegment(first, end uint64) error {
	torn, err := j.FS.ReadDir(filepath.Join(j.log, "torn"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, t := range torn {
		if strings.HasPrefix(t.Name(), fmt.Sprintf("%020d-", first)) && !strings.HasSuffix(t.Name(), ".tmp") {
			if _, err := j.send(path.Join("torn", t.Name())); err != nil {
				return err
			}
		}
	}
	size, err := j.send(path.Join("segment", seal.SegmentName(first)))
	var fork *seal.ForkError
	if errors.As(err, &fork) {
		erasing, e := j.erasing(seal.SegmentName(first))
		if e != nil {
			return e
		}
		if erasing {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	j.setSent(end)
	j.pending.Add(-size)
	j.cfg.Uploaded(size)
	return nil
}

// send sends one local file and has its arrival confirmed.
func (j *Journal) send(rel string) (int64, error) {
	j.work.Lock()
	defer j.work.Unlock()
	f, err := j.FS.OpenFile(filepath.Join(j.log, filepath.FromSlash(rel)), os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	d, err := digestReader(f)
	if err != nil {
		return 0, err
	}
	b, name := j.cfg.Bucket, path.Join(j.dir, rel)
	if err := b.create(name, f, d, b.createOptions(time.Now())); err != nil {
		return 0, err
	}
	return d.size, b.confirm(name, d)
}

// erasing reports whether the bucket's segment is the local one but for zeros in
// entries that a sealed erase ordered to be overwritten: an Overwrite that
// reached the bucket and not yet the local disk, which the writer repeats.
func (j *Journal) erasing(segment string) (bool, error) {
	j.work.Lock()
	defer j.work.Unlock()
	local, err := os.ReadFile(filepath.Join(j.log, "segment", segment))
	if err != nil {
		return false, err
	}
	f, err := j.cfg.Bucket.open(path.Join(j.dir, "segment", segment))
	if err != nil {
		return false, err
	}
	defer f.Close()
	there, err := io.ReadAll(io.LimitReader(f, int64(len(local))+1))
	if err != nil || len(there) != len(local) {
		return false, err
	}
	log, err := seal.Store{FS: j.FS, Root: filepath.Dir(j.log)}.OpenLog(strings.ReplaceAll(filepath.Base(j.log), "%2F", "/"))
	if err != nil {
		return false, err
	}
	headers := func(*seal.Header) bool { return true }
	type place struct{ from, to int64 }
	places, ordered := map[uint64]place{}, map[uint64]bool{}
	err = log.Entries(context.Background(), headers, func(e *seal.Entry) error {
		if e.Segment == segment {
			places[e.Header.Entry] = place{e.Offset, e.Offset + e.Size}
		}
		if e.Kind == seal.KindErase {
			ordered[e.Erase.Target] = true
			ordered[e.Header.Entry] = true // a later one may supersede it
		}
		return nil
	})
	for entry := range ordered {
		for i := places[entry].from; i < places[entry].to; i++ {
			if there[i] == 0 {
				there[i] = local[i]
			}
		}
	}
	return err == nil && bytes.Equal(there, local), err
}

// sendTiles sends the full tiles of what was sent.
func (j *Journal) sendTiles(covered uint64) error {
	for level := 0; covered>>(8*uint(level+1)) > 0; level++ {
		count := covered >> (8 * uint(level+1))
		if level == len(j.tiles) {
			// Of the tiles of earlier runs, which were sent in order, find
			// the last.
			n := count
			for ; n > 0; n-- {
				_, err := j.cfg.Bucket.Stat(path.Join(j.dir, seal.TilePath(level, n-1)))
				if err == nil {
					break
				}
				if !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			j.tiles = append(j.tiles, n)
		}
		for ; j.tiles[level] < count; j.tiles[level]++ {
			_, err := j.send(seal.TilePath(level, j.tiles[level]))
			if errors.Is(err, fs.ErrNotExist) {
				break // it is yet to be published
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sendCheckpoint sends the newest cosigned checkpoint that the bucket covers. The
// published one is ahead of it, so those that were are remembered until then.
func (j *Journal) sendCheckpoint(covered uint64) error {
	b, err := os.ReadFile(filepath.Join(j.log, "checkpoint"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if size, ok := checkpointSize(b); ok && (len(j.cosigned) == 0 || size > j.cosigned[len(j.cosigned)-1].size) {
		j.cosigned = append(j.cosigned, cosigned{size, b})
	}
	i := len(j.cosigned) - 1
	for i >= 0 && j.cosigned[i].size > covered {
		i--
	}
	if i >= 0 && j.cosigned[i].size > j.lastCosigned {
		c := j.cosigned[i]
		name := path.Join(j.dir, "checkpoint", fmt.Sprintf("%020d", c.size))
		if _, err := j.cfg.Bucket.Stat(name); errors.Is(err, fs.ErrNotExist) { // else an earlier run sent it
			err = j.cfg.Bucket.create(name, bytes.NewReader(c.note), digestOf(c.note), j.cfg.Bucket.createOptions(time.Now()))
			if err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		j.lastCosigned = c.size
	}
	j.cosigned = j.cosigned[i+1:]
	if len(j.cosigned) > maxCosigned { // the bucket is away
		j.cosigned = slices.Delete(j.cosigned, 1, len(j.cosigned)/2)
	}
	return nil
}

// maxCosigned is how many cosigned checkpoints are remembered: one a second for
// some segments.
const maxCosigned = 256

// checkpointSize is the size that a signed checkpoint states, and whether others
// than the log signed it.
func checkpointSize(note []byte) (size uint64, cosigned bool) {
	lines := strings.Split(string(note), "\n")
	if len(lines) < 2 {
		return 0, false
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	return size, err == nil && strings.Count(string(note), "\n— ") > 1
}

// removeDoomed removes from the bucket what was pruned here, once the order to
// do so is there: it was sealed before what is being written now.
func (j *Journal) removeDoomed(covered uint64) error {
	now := j.closed()
	j.mu.Lock()
	for name, after := range j.doomed {
		if after == 0 {
			j.doomed[name] = now
		}
	}
	j.mu.Unlock()
	for {
		oldest := ""
		j.mu.Lock()
		for name, after := range j.doomed {
			if after < covered && (oldest == "" || name < oldest) {
				oldest = name
			}
		}
		j.mu.Unlock()
		if oldest == "" {
			return nil
		}
		if err := j.cfg.Bucket.Remove(oldest); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		j.mu.Lock()
		delete(j.doomed, oldest)
		j.mu.Unlock()
	}
}

// forget removes local copies of what is in the bucket, but the last one.
func (j *Journal) forget(firsts []uint64, infos map[uint64]fs.FileInfo) error {
	dir := filepath.Join(j.log, "segment")
	for i, first := range firsts {
		if i+1 == len(firsts) || firsts[i+1] >= j.sent() || time.Since(infos[first].ModTime()) < j.cfg.KeepLocal {
			return nil // and those after it stay too
		}
		if err := j.FS.Remove(filepath.Join(dir, seal.SegmentName(first))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
