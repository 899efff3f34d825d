package seal

import (
	"context"
	"sync"
)

// budget bounds the bytes of requests that wait in the writer, first come
// first served.
type budget struct {
	mu        sync.Mutex
	free, max int64
	waiters   []*waiter
}

type waiter struct {
	n     int64
	ready chan struct{}
}

// acquire waits for n bytes; a request larger than the whole budget waits for
// all of it.
func (b *budget) acquire(ctx context.Context, n int64) error {
	n = min(n, b.max)
	b.mu.Lock()
	if len(b.waiters) == 0 && b.free >= n {
		b.free -= n
		b.mu.Unlock()
		return nil
	}
	w := &waiter{n, make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	for i := range b.waiters {
		if b.waiters[i] == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.grant()
			b.mu.Unlock()
			return ctx.Err()
		}
	}
	b.mu.Unlock()
	b.release(n) // granted in the meantime
	return ctx.Err()
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	b.free += min(n, b.max)
	b.grant()
	b.mu.Unlock()
}

func (b *budget) grant() {
	for len(b.waiters) > 0 && b.waiters[0].n <= b.free {
		b.free -= b.waiters[0].n
		close(b.waiters[0].ready)
		b.waiters = b.waiters[1:]
	}
}
