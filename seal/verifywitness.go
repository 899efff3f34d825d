package seal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// askTimeout bounds how long a witness that is asked may take.
const askTimeout = 10 * time.Second

// testimony is what one witness says of a log.
type testimony struct {
	witness *Witness
	seen
	asked     bool // just now; else it is a cosignature in the store
	confirmed bool // the log had this root at this size
	denied    bool // it had another, or ended no commit there

	next    uint64 // when the first entry that it does not cover was sealed
	hasNext bool
}

func (t *testimony) says() string {
	how := "has seen"
	if t.note == nil {
		how = "says, unsigned, that it has seen"
	}
	s := fmt.Sprintf("witness %s %s %d entries", t.witness.Name(), how, t.size)
	if t.cosig != nil {
		s += " at " + t.cosig.Time.Format(time.RFC3339)
	}
	return s
}

// logKey finds the keys that may sign a log's checkpoints.
func (t *Trust) logKey(origin string) logKeys {
	return func(size uint64) note.Verifier {
		if k := t.key(origin, size); k != nil {
			return k.verifier
		}
		return nil
	}
}

func (t *Trust) witnesses() *WitnessPolicy {
	if t == nil {
		return nil
	}
	return t.Witnesses
}

// cosigned takes up the cosignatures on the published checkpoint.
func (v *verification) cosigned(published []byte, c Checkpoint) {
	cosigs, err := v.opts.Trust.witnesses().cosignatures(published)
	if err != nil {
		v.foundAt(v.publishedAs, 0, 0, Tampering, Witnessed, nextIsolate, fmt.Sprintf("the published checkpoint: %v", err))
		return
	}
	for i := range cosigs {
		v.testimonies = append(v.testimonies, &testimony{witness: cosigs[i].Witness,
			seen: seen{size: c.Size, root: c.Root, note: published, cosig: &cosigs[i]}})
	}
}

// askWitnesses asks every witness that has a URL what it has seen, before the
// log is read: what it saw was durable then.
func (v *verification) askWitnesses(ctx context.Context, published []byte) {
	p := v.opts.Trust.witnesses()
	if v.opts.WitnessClient == nil || p.empty() {
		return
	}
	answers, errs := askAll(ctx, v.opts.WitnessClient, p, v.report.Origin, v.opts.Trust.logKey(v.report.Origin), published)
	for i := range p.Witnesses {
		w := &p.Witnesses[i]
		s, err := answers[i], errs[i]
		switch {
		case w.URL == "":
		case err != nil:
			v.unasked = append(v.unasked, fmt.Sprintf("%s: %v", w.Name(), err))
		case s.note != nil && v.opts.Trust.knows(v.report.Origin) && !s.signed:
			v.unasked = append(v.unasked, w.Name()+": it showed a checkpoint that the trusted log key did not sign")
		default:
			v.testimonies = append(v.testimonies, &testimony{witness: w, seen: *s, asked: true})
		}
	}
}

func askAll(ctx context.Context, c WitnessClient, p *WitnessPolicy, origin string, keys logKeys, own []byte) ([]*seen, []error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answers, errs := make([]*seen, len(p.Witnesses)), make([]error, len(p.Witnesses))
	var wg sync.WaitGroup
	for i := range p.Witnesses {
		if p.Witnesses[i].URL == "" {
			continue
		}
		wg.Go(func() { answers[i], errs[i] = lookUp(ctx, c, &p.Witnesses[i], origin, keys, own) })
	}
	wg.Wait()
	return answers, errs
}

// missingLog asks the witnesses about a log that is not in the store.
func (o *VerifyOptions) missingLog(ctx context.Context, origin string) *Finding {
	p := o.Trust.witnesses()
	if o.WitnessClient == nil || p.empty() {
		return nil
	}
	answers, _ := askAll(ctx, o.WitnessClient, p, origin, o.Trust.logKey(origin), nil)
	for i, s := range answers {
		if s != nil && s.size > 0 && (s.note == nil || s.signed || !o.Trust.knows(origin)) {
			t := testimony{witness: &p.Witnesses[i], seen: *s}
			return &Finding{Class: Tampering, Axis: Completeness,
				What: fmt.Sprintf("the log of %s is gone: %s", origin, t.says()), Next: "restore it from a copy"}
		}
	}
	return nil
}

// witnessEntry notes when the first entry after a testimony was sealed.
func (v *verification) witnessEntry(h *Header) {
	for _, t := range v.testimonies {
		if t.size == h.Entry {
			t.next, t.hasNext = h.Sealed, true
		}
	}
}

// witnessCheckpoint compares the testimonies for the size at hand.
func (v *verification) witnessCheckpoint(size uint64, root Hash) {
	for _, t := range v.testimonies {
		if t.size == size {
			v.compareTestimony(t, root)
		}
	}
}

func (v *verification) compareTestimony(t *testimony, root Hash) {
	t.confirmed = t.note != nil && t.root == root
	if t.note != nil && t.root != root && !t.denied {
		t.denied = true
		v.foundAt(v.where.segment, v.where.offset, t.size, Tampering, Integrity, nextIsolate, t.says()+" with another root: two histories")
	}
}

// concludeWitnesses judges what the witnesses say of the whole log.
func (v *verification) concludeWitnesses() {
	p := v.opts.Trust.witnesses()
	if p.empty() {
		return
	}
	gone := v.tree.size - v.entries // before the first segment
	for _, t := range v.testimonies {
		switch {
		case t.confirmed || t.denied || t.size == 0 && t.note == nil:
		case t.size > v.covered:
			if t.asked { // else the published checkpoint says it
				v.foundAt("", 0, v.covered, Tampering, Completeness, nextIsolate, fmt.Sprintf("%s, the log has %d: it was cut or rolled back", t.says(), v.covered))
			}
		case t.note == nil:
		case t.size <= gone:
			// Of what was pruned the tiles are left; the log's end vouches for them.
			if root, err := rootAt(tileReader{&Log{Origin: v.report.Origin, dir: v.dir, fs: v.fs}}, Checkpoint{v.report.Origin, v.tree.size, v.tree.root()}, t.size); err == nil {
				v.compareTestimony(t, root)
			}
		default:
			t.denied = true
			v.foundAt("", 0, t.size, Tampering, Integrity, nextIsolate, t.says()+", and no commit of the log ends there: it was rewritten")
		}
	}
	v.judgeQuorum(p)
}

// judgeQuorum finds how far enough witnesses vouch for the log.
func (v *verification) judgeQuorum(p *WitnessPolicy) {
	best := make([]*testimony, len(p.Witnesses))
	answered := 0
	for _, t := range v.testimonies {
		i := slices.IndexFunc(p.Witnesses, func(w Witness) bool { return w.VerifierKey == t.witness.VerifierKey })
		if t.asked {
			answered++
		}
		if t.confirmed && (best[i] == nil || best[i].size < t.size) {
			best[i] = t
		}
	}
	best = slices.DeleteFunc(best, func(t *testimony) bool { return t == nil })
	slices.SortStableFunc(best, func(a, b *testimony) int { return cmp.Compare(b.size, a.size) })
	w := &WitnessedTo{Of: len(p.Witnesses), Quorum: p.Quorum, Asked: v.opts.WitnessClient != nil}
	v.report.Witnessed = w
	next := "find out why they did not cosign; to ask them what they have seen: meshaudit verify --witness"
	if w.Asked {
		class := Note
		if answered < p.Quorum {
			class = Incomplete
		}
		next = "find out why they did not cosign; the writer's metrics and status name them"
		for _, what := range v.unasked {
			v.found(class, Witnessed, "verify again when it can be reached", "a witness could not be asked: %s", what)
		}
	}
	for _, t := range best {
		w.By = append(w.By, t.witness.Name())
	}
	if len(best) < p.Quorum {
		v.found(Incomplete, Witnessed, next, "%d of %d witnesses vouch for this log, the trust file wants %d", len(best), w.Of, w.Quorum)
		return
	}
	last := best[p.Quorum-1]
	w.Size = last.size
	for _, t := range best[:p.Quorum] {
		if w.Time.IsZero() || t.cosig.Time.Before(w.Time) {
			w.Time = t.cosig.Time
		}
	}
	if sealed := time.Unix(0, int64(last.next)); last.hasNext && v.opts.AsOf.Sub(sealed) > publishGrace {
		v.found(Incomplete, Witnessed, next, "the entries from %d on, the first sealed at %s, are not witnessed", last.size, at(last.next))
	}
}

// freshAt is the latest time of which it is known what the log was then: of its
// last entry, or of a cosignature on what it published. What asking brought
// about does not count.
func (v *verification) freshAt() time.Time {
	t := time.Unix(0, int64(v.last.Sealed))
	for _, w := range v.testimonies {
		if w.confirmed && !w.asked && w.cosig.Time.After(t) {
			t = w.cosig.Time
		}
	}
	return t
}
