package clerk

import (
	"errors"
	"sync"
)

// ErrStopped is what a face answers that is not open.
var ErrStopped = errors.New("meshaudit: evidence came before Start or after Shutdown")

// Shared is the clerk that the faces of one component id have in common: made
// when the first opens, closed with the last. It hangs on the Config that they
// are all created with; so there is no registry of a process's instances, and
// creating a face without ever stopping it, as validation does, leaves nothing
// behind.
type Shared struct {
	mu    sync.Mutex
	clerk *Clerk
	refs  int
}

// Face is one pipeline's end of the clerk.
type Face struct {
	mu    sync.Mutex
	of    *Shared
	clerk *Clerk // nil unless open
}

// Open gives the clerk, which make makes if it is not there yet.
func (f *Face) Open(s *Shared, make func() (*Clerk, error)) (*Clerk, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clerk == nil {
		c, err := make()
		if err != nil {
			return nil, err
		}
		s.clerk = c
	}
	s.refs++
	f.of, f.clerk = s, s.clerk
	return f.clerk, nil
}

// Clerk is there while the face is open.
func (f *Face) Clerk() (*Clerk, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clerk == nil {
		return nil, ErrStopped
	}
	return f.clerk, nil
}

// Close may be called twice, and of a face that was never open.
func (f *Face) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clerk == nil {
		return
	}
	f.clerk = nil
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	if f.of.refs--; f.of.refs == 0 {
		f.of.clerk.Close()
		f.of.clerk = nil
	}
}
