package svid

import "sync"

type key [32]byte

// A cache remembers answers in two generations: when the younger is full it
// becomes the older, which is forgotten. It is emptied when the bundles change.
type cache struct {
	mu         sync.Mutex
	of         uint64 // the bundles' generation
	young, old map[key]*answer
}

func (c *cache) get(k key, of uint64) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of != c.of {
		return nil
	}
	if a := c.young[k]; a != nil {
		return a
	}
	a := c.old[k]
	if a != nil {
		c.add(k, a)
	}
	return a
}

func (c *cache) put(k key, of uint64, a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case of < c.of:
		return // by bundles that are not in force any more
	case of > c.of:
		c.of, c.young, c.old = of, nil, nil
	}
	c.add(k, a)
}

func (c *cache) add(k key, a *answer) {
	if len(c.young) >= maxCached {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[key]*answer)
	}
	c.young[k] = a
}
