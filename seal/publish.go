package seal

import (
	"path/filepath"
	"slices"
	"time"
)

// publishEvery is how far the checkpoint file and the tiles may lag behind
// what is acknowledged. They are derived: a start rebuilds what is missing.
const publishEvery = time.Second

// publisher writes the checkpoint file and the tiles of what is durable,
// beside the commits.
type publisher struct {
	fs        FS
	dir       string
	fault     func(error)
	work      chan snapshot
	done      chan struct{}
	scheduled bool     // by the committer: something is not yet offered
	old       []string // partial tiles that the next publication replaces
}

type snapshot struct {
	tiles      []tile
	checkpoint []byte
	last       bool // the writer is closed
}

func (p *publisher) start(fsys FS, dir string, fault func(error)) {
	p.fs, p.dir, p.fault = fsys, dir, fault
	p.work, p.done = make(chan snapshot), make(chan struct{})
	go func() {
		defer close(p.done)
		for s := range p.work {
			if err := p.publish(s); err != nil {
				p.fault(err)
			}
		}
	}()
}

func (p *publisher) stop() {
	close(p.work)
	<-p.done
}

// offer hands the state to the goroutine, unless that is busy.
func (p *publisher) offer(s *logState) bool {
	if s == nil {
		return false
	}
	select {
	case p.work <- s.snapshot():
		p.scheduled = false
		s.tree.full = nil
		return true
	default:
		return false
	}
}

// now publishes and waits.
func (p *publisher) now(s *logState) error {
	p.stop()
	last := s.snapshot()
	last.last = true
	err := p.publish(last)
	p.work, p.done = make(chan snapshot), make(chan struct{})
	close(p.done)
	return err
}

func (s *logState) snapshot() snapshot {
	return snapshot{append(s.tree.full[:len(s.tree.full):len(s.tree.full)], s.tree.partial()...), s.checkpoint, false}
}

// publish writes tiles first, so that a reader of the checkpoint finds all
// that it needs. Of what cannot be replaced it writes what is complete: full
// tiles, and at the end the others, which spare a start to compute them.
func (p *publisher) publish(s snapshot) error {
	var partial []string
	for _, t := range s.tiles {
		name := filepath.Join(p.dir, filepath.FromSlash(t.path()))
		if direct(p.fs) {
			if len(t.hashes) < tileWidth && !s.last {
				continue
			}
			if err := createObject(p.fs, name, t.bytes()); err != nil {
				return err
			}
			continue
		}
		if err := mkdirAll(p.fs, filepath.Dir(name)); err != nil {
			return err
		}
		if err := replaceFile(p.fs, name, t.bytes(), 0o644); err != nil {
			return err
		}
		if len(t.hashes) < tileWidth {
			partial = append(partial, name)
		}
	}
	if direct(p.fs) {
		return nil // a cosigned checkpoint would go to checkpointName
	}
	if err := replaceFile(p.fs, filepath.Join(p.dir, checkpointFile), s.checkpoint, 0o644); err != nil {
		return err
	}
	for _, name := range p.old {
		if !slices.Contains(partial, name) {
			_ = p.fs.Remove(name) // a left over partial tile is right, only superseded
			_ = p.fs.Remove(filepath.Dir(name))
		}
	}
	p.old = partial
	return nil
}
