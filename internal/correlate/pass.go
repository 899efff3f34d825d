package correlate

import (
	"runtime"
	"time"
)

// pass looks at all evidence in the inbox, then lets leave what is due now. Its
// steps follow each other; within a step several workers share the pieces:
//
//	push      the pieces join the queue                        by piece
//	insert    and the index                                    by shard of the index
//	look      what has settled or is due: whose actions are    by piece
//	          they, and what belongs to each?
//	settled,  which of these leave, with which pieces?         one after the other
//	due
//	write     their records                                    by action
//	forget    pieces leave the index and the queue             by shard of the index
//
// look only reads, and what it finds depends on the set of pieces alone. So what
// comes out is what one worker would make of one piece after the other.
func (c *Correlator) pass(now int64) {
	c.parcels = c.inbox.take(c.parcels[:0])
	c.take(c.parcels)
	for i, p := range c.parcels {
		parcels.Put(p)
		c.parcels[i] = nil
	}
	c.now = max(c.now, now)
	c.advance()
}

// take adds evidence to what is known, but for what is known already.
func (c *Correlator) take(all []*parcel) {
	for _, d := range all {
		c.now = max(c.now, d.now)
		d.now = c.now
		c.stats.Unrelated += uint64(d.unrelated)
	}
	from := c.queue.end
	c.push(all)
	if c.insert(from) {
		// A resend. All are taken back, and the new ones come again.
		c.remove(from, c.queue.end)
		for _, d := range all {
			for i := range d.pieces {
				if p := &d.pieces[i]; c.queue.at(p.number).duplicate {
					p.duplicate = true
					c.stats.Duplicates++
				}
			}
		}
		c.queue.truncate(from)
		c.push(all)
		c.insert(from)
	}
	came := int(c.queue.end - from)
	c.stats.Evidence += uint64(came)
	c.stats.Pending += came
	c.stats.Kept += came
	for n := from; n < c.queue.end; n++ {
		p := c.queue.at(n)
		c.bytes += p.bytes()
		if p.user != 0 {
			c.names(p)
		}
		c.rejoin(p)
	}
}

func (c *Correlator) push(all []*parcel) {
	from := c.queue.end
	for _, d := range all {
		for i := range d.pieces {
			if p := &d.pieces[i]; !p.duplicate {
				p.number = c.queue.room(p.size)
			}
		}
	}
	many := c.workers.of(int(c.queue.end-from) / 8) // a copy is little work
	c.workers.each(many, func(worker int) {
		for _, d := range all {
			n := len(d.pieces)
			for i := n * worker / many; i < n*(worker+1)/many; i++ {
				if p := &d.pieces[i]; !p.duplicate {
					p.arrived = d.now
					c.queue.put(p.number, p, d.content[p.content:][:p.size])
				}
			}
		}
	})
}

// insert adds the pieces of the queue's end, from a number on, to the index. It
// says whether some are known already; these are marked.
func (c *Correlator) insert(from uint64) (duplicates bool) {
	var out [maxWorkers][]link // what found a full chain
	var again [maxWorkers]bool
	c.keys(from, c.queue.end, func(worker int, l link) {
		switch c.index.insert(l.kind, l.piece) {
		case known:
			l.piece.duplicate, again[worker] = true, true
		case full:
			out[worker] = append(out[worker], l)
		}
	})
	for worker := range out {
		duplicates = duplicates || again[worker]
		for _, l := range out[worker] {
			l.piece.crowded = true
			if l.kind != byID {
				l.piece.keys[l.kind] = 0
			}
		}
	}
	return duplicates
}

// remove takes pieces out of the index.
func (c *Correlator) remove(from, to uint64) {
	c.keys(from, to, func(_ int, l link) { c.index.remove(l.kind, l.piece) })
}

// link is a piece's place in a chain.
type link struct {
	kind  lookup
	piece *piece
}

// touched is for how many pieces at once the index is read ahead: what is not in
// the caches is then waited for together.
const touched = 16

// keys calls f for every key of a stretch of the queue. Each worker has shards of
// the index, and so chains, of its own, and sees their keys in order.
func (c *Correlator) keys(from, to uint64, f func(worker int, l link)) {
	many := c.workers.of(int(to - from))
	c.workers.each(many, func(worker int) {
		var buf [touched * lookups]link
		var read uint32
		for n := from; n < to; {
			links := buf[:0]
			add := func(kind lookup, key uint64, p *piece) {
				if key != 0 && shardOf(key)%many == worker {
					read += c.index.touch(key)
					links = append(links, link{kind, p})
				}
			}
			for end := min(to, n+touched); n < end; n++ {
				p := c.queue.at(n)
				for kind, key := range p.keys {
					add(lookup(kind), key, p)
				}
			}
			for _, l := range links {
				f(worker, l)
			}
		}
		runtime.KeepAlive(read)
	})
}

// advance moves the three cursors, then enforces the bounds.
func (c *Correlator) advance() {
	c.along(&c.unsettled, c.until(c.unsettled, c.cfg.Settle), c.settled)
	c.along(&c.undue, c.until(c.undue, c.cfg.Window), func() { c.due(ReasonDeadline) })
	c.forget(min(c.undue, c.until(c.queue.first, c.cfg.Window+c.cfg.LateWindow)))
	for c.stats.Pending > c.cfg.MaxPending {
		to := min(c.queue.end, c.undue+uint64(c.stats.Pending-c.cfg.MaxPending))
		c.look(c.undue, to)
		for c.undue < to && c.stats.Pending > c.cfg.MaxPending {
			c.due(ReasonOverload)
		}
		c.write()
	}
	for excess := c.excess(); excess > 0; excess = c.excess() {
		switch {
		case c.queue.first < c.undue:
			n := c.queue.first
			for ; n < c.undue && excess > 0; n++ {
				excess -= c.queue.at(n).bytes()
			}
			c.stats.Forgotten += n - c.queue.first
			c.forget(n)
		case c.undue < c.queue.end:
			c.along(&c.undue, c.undue+1, func() { c.due(ReasonOverload) })
		case c.ready.drop():
			c.stats.Dropped++
		default:
			return
		}
	}
}

func (c *Correlator) excess() int {
	_, ready := c.ready.size()
	return c.bytes + ready - c.cfg.MaxPendingBytes
}

// until gives the first piece, of those from n on, that came less than d ago.
func (c *Correlator) until(n uint64, d time.Duration) uint64 {
	for n < c.queue.end && c.queue.at(n).arrived+int64(d) <= c.now {
		n++
	}
	return n
}

// along moves a cursor on by step after step, and writes the records that leave
// meanwhile.
func (c *Correlator) along(cursor *uint64, to uint64, step func()) {
	for *cursor < to {
		end := min(to, *cursor+maxAhead)
		c.look(*cursor, end)
		for *cursor < end {
			step()
		}
		c.write()
	}
}

// settled looks at the next piece that had time to meet the others: its actions
// leave if they hold what is expected, and those that have left are amended.
func (c *Correlator) settled() {
	p := c.queue.at(c.unsettled)
	c.unsettled++
	if p.user != 0 || c.workflows.contested > 0 {
		defer c.inherit(p)
	}
	if p.claimed && p.place.callee() {
		return // a caller's piece may belong to a second attempt, which has left
	}
	for _, lead := range c.leadsOf(p) {
		if c.cited(lead, p) {
			continue
		}
		j := c.actionLedBy(lead)
		if j != nil && (c.actionOf(j) != 0 || c.met(j)) {
			c.leave(j, "")
		}
	}
}

// due takes the oldest piece whose deadline has not come and lets its actions
// leave as they are.
func (c *Correlator) due(reason string) {
	p := c.queue.at(c.undue)
	if c.unsettled == c.undue {
		c.unsettled++
		if p.user != 0 || c.workflows.contested > 0 {
			defer c.inherit(p)
		}
	}
	c.undue++
	waited := !p.claimed
	if waited && p.interimOnly && c.finalOf(p) == nil {
		p.final = true  // nothing more came
		c.ahead.clear() // there it is an interim report
	}
	if waited || !p.place.callee() {
		for _, lead := range c.leadsOf(p) {
			if c.cited(lead, p) {
				continue
			}
			if j := c.actionLedBy(lead); j != nil {
				c.leave(j, reason)
			}
		}
	}
	if waited && !p.claimed && (p.final || p.place == decision) {
		j := &joined{confidence: 1, doubt: true} // no action takes what leads to it
		j.set(p, TierNone)
		c.leave(j, reason)
	}
	if waited && reason == ReasonOverload {
		c.stats.LeftEarly++
	}
	if waited && !p.claimed {
		// Its final report may come as late as a stream is long.
		c.stats.Unjoined++
		c.claim(p)
		c.queue.keep(p)
		return
	}
	// Others of its action had their chance: the content is not needed again.
	c.bytes -= int(p.size)
	p.size = 0
}

func (c *Correlator) claim(p *piece) {
	if !p.claimed {
		p.claimed = true
		c.stats.Pending--
	}
}

// cited says whether the record that lead has left with cites p.
func (c *Correlator) cited(lead, p *piece) bool {
	return lead.action != 0 && c.actions.at(lead.action).has(p.keys[byID])
}

// forget drops the pieces before to, which have left.
func (c *Correlator) forget(to uint64) {
	from := c.queue.first
	c.remove(from, to)
	for n := from; n < to; n++ {
		p := c.queue.at(n)
		c.point(p, 0)
		if p.workflow != 0 {
			c.forgetWorkflow(p)
		}
		if p.kept {
			delete(c.queue.kept, n)
		}
		c.bytes -= p.bytes()
		c.stats.Kept--
	}
	c.unsettled, c.undue = max(c.unsettled, to), max(c.undue, to)
	c.queue.drop(to)
	c.bury()
}
