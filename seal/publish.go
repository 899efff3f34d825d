package seal

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// publishEvery is how far the checkpoint file and the tiles may lag behind
// what is acknowledged. They are derived: a start rebuilds what is missing.
const publishEvery = time.Second

// publisher writes the checkpoint file and the tiles of what is durable, and
// has it witnessed, beside the commits.
type publisher struct {
	fs        FS
	dir       string
	fault     func(error)
	witnesses *witnesses // nil: none
	witnessed func(Witnessing)
	stamper   *stamper // nil: none

	mu      sync.Mutex
	next    *snapshot     // offered and not yet taken
	offered chan struct{} // told when there is one
	short   chan struct{} // told when too few witnesses cosigned
	ctx     context.Context
	cancel  context.CancelFunc // stops the goroutine
	done    chan struct{}

	scheduled bool     // by the committer: something is not yet offered
	stored    uint64   // size of the last cosigned checkpoint, where each is kept
	old       []string // partial tiles that the next publication replaces
}

type snapshot struct {
	full, partial []tile
	checkpoint    []byte
	last          bool // the writer is closed
}

func (p *publisher) start(fsys FS, dir string, fault func(error)) {
	p.fs, p.dir, p.fault = fsys, dir, fault
	p.offered, p.short, p.done = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(p.done)
		failed := false
		for {
			select {
			case <-p.offered:
			case <-p.ctx.Done():
				return
			}
			if s := p.take(); s != nil {
				if err := p.publish(p.ctx, s); err != nil || failed {
					p.fault(err)
					failed = err != nil
				}
			}
		}
	}()
}

// stop waits for what is being published, but not for witnesses.
func (p *publisher) stop() {
	p.cancel()
	<-p.done
	if p.witnesses != nil {
		p.witnesses.late.Wait()
	}
	p.stamper.stop()
}

// offer hands the state to the goroutine. What is not yet taken is superseded,
// but for its full tiles.
func (p *publisher) offer(s *logState) {
	p.scheduled = false
	if s == nil {
		return
	}
	p.mu.Lock()
	n := &snapshot{s.tree.full, s.tree.partial(), s.checkpoint, false}
	if p.next != nil {
		n.full = append(p.next.full, n.full...)
	}
	p.next = n
	p.mu.Unlock()
	s.tree.full = nil
	tell(p.offered)
}

func (p *publisher) take() *snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.next
	p.next = nil
	return s
}

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// now publishes and waits, as the last act.
func (p *publisher) now(s *logState) error {
	p.stop()
	p.offer(s)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	last := p.take()
	last.last = true
	return p.publish(ctx, last)
}

// publish writes tiles first, so that a reader of the checkpoint finds all
// that it needs. Of what cannot be replaced it writes what is complete: full
// tiles, and at the end the others, which spare a start to compute them.
func (p *publisher) publish(ctx context.Context, s *snapshot) error {
	var partial []string
	for _, t := range slices.Concat(s.full, s.partial) {
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
	checkpoint, witnessing := s.checkpoint, Witnessing{}
	if p.witnesses != nil {
		checkpoint, witnessing = p.witnesses.cosign(ctx, s)
	}
	if err := p.storeCheckpoint(checkpoint, &witnessing); err != nil {
		return err
	}
	p.stamper.offer(s.checkpoint)
	for _, name := range p.old {
		if !slices.Contains(partial, name) {
			_ = p.fs.Remove(name) // a left over partial tile is right, only superseded
			_ = p.fs.Remove(filepath.Dir(name))
		}
	}
	p.old = partial
	if p.witnesses != nil {
		p.witnessed(witnessing)
		if !witnessing.Enough() {
			tell(p.short)
		}
	}
	return nil
}

// storeCheckpoint is the one place where a published checkpoint, with the
// cosignatures that it has, becomes readable. Where nothing is replaced, those
// that a quorum cosigned are kept, one of a size.
func (p *publisher) storeCheckpoint(checkpoint []byte, w *Witnessing) error {
	if direct(p.fs) {
		if w.Cosigned == 0 || !w.Enough() || w.Size == p.stored {
			return nil
		}
		p.stored = w.Size
		return createObject(p.fs, filepath.Join(p.dir, filepath.FromSlash(checkpointName(w.Size))), checkpoint)
	}
	return replaceFile(p.fs, filepath.Join(p.dir, checkpointFile), checkpoint, 0o644)
}
