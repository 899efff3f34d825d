package correlate

import "runtime"

// maxAhead bounds the pieces that one step of a pass looks at.
const maxAhead = 1 << 12

// outlook is what the index says of pieces whose time has come, worked out ahead
// by several workers. Without it, or beyond it, that is worked out when it is
// asked for: it is the same, as long as the index is.
type outlook struct {
	first   uint64
	leads   [][]*piece // of the pieces from first on
	led     []*piece   // leads, each once
	actions []*joined  // that they lead
	buffers [maxWorkers][]*piece
	few     []*piece // of a piece that was not looked at
}

// look works out what there is to know of a stretch of the queue.
func (c *Correlator) look(from, to uint64) {
	if c.workers.of(int(to-from)) == 1 {
		c.touch(from, to)
		return
	}
	a := &c.ahead
	a.first, a.leads = from, append(a.leads[:0], make([][]*piece, to-from)...)
	c.workers.do(len(a.leads), func(worker, i, end int) {
		buffer := a.buffers[worker]
		c.touch(from+uint64(i), from+uint64(end))
		for ; i < end; i++ {
			p := c.queue.at(from + uint64(i))
			if p.claimed && p.place.callee() {
				continue
			}
			if cap(buffer)-len(buffer) < 8 {
				buffer = make([]*piece, 0, 1024)
			}
			a.leads[i] = c.leads(buffer[len(buffer):], p)
			buffer = buffer[:min(cap(buffer), len(buffer)+len(a.leads[i]))]
		}
		a.buffers[worker] = buffer
	})
	for i, leads := range a.leads {
		p := c.queue.at(from + uint64(i))
		for _, lead := range leads {
			if lead.looked == 0 && !c.cited(lead, p) {
				a.led = append(a.led, lead)
				lead.looked = uint32(len(a.led))
			}
		}
	}
	a.actions = append(a.actions[:0], make([]*joined, len(a.led))...)
	c.workers.do(len(a.led), func(_, i, end int) {
		for ; i < end; i++ {
			a.actions[i] = c.gather(a.led[i])
		}
	})
}

// touch reads ahead where the keys of a stretch of the queue stand in the index.
func (c *Correlator) touch(from, to uint64) {
	var read uint32
	for n := from; n < to; n++ {
		for _, key := range c.queue.at(n).keys {
			if key != 0 {
				read += c.index.touch(key)
			}
		}
	}
	runtime.KeepAlive(read)
}

// clear forgets what was looked at.
func (a *outlook) clear() {
	for _, lead := range a.led {
		lead.looked = 0
	}
	a.led, a.leads, a.actions = a.led[:0], a.leads[:0], a.actions[:0]
	for i := range a.buffers {
		a.buffers[i] = a.buffers[i][:0]
	}
}

// leadsOf gives the leads of the actions that p is part of.
func (c *Correlator) leadsOf(p *piece) []*piece {
	a := &c.ahead
	if i := p.number - a.first; i < uint64(len(a.leads)) && a.leads[i] != nil {
		return a.leads[i]
	}
	a.few = c.leads(a.few[:0], p)
	return a.few
}

// actionLedBy gives what belongs to the action of lead.
func (c *Correlator) actionLedBy(lead *piece) *joined {
	if lead.looked != 0 {
		return c.ahead.actions[lead.looked-1]
	}
	return c.gather(lead)
}
