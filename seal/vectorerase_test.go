package seal

import (
	"bytes"
	"slices"
)

// eraseVectors are about erased records: one epoch of a batch of three records
// and of what erases some of them.
func eraseVectors() []vector {
	// erasing is the log; undone says that nothing is overwritten.
	erasing := func(undone bool, steps ...[]Range) func(*scene) {
		return func(s *scene) {
			s.open(AfterFirst)
			s.commit()
			last := s.batch(SignalLogs, testRequest(3, "a"))
			b := last
			s.commit()
			for _, erased := range steps {
				if !undone {
					last.store = overwritten
				}
				last = s.erase(b, erased...)
				s.commit()
			}
			if !undone && last != b {
				b.store = overwritten
			}
			s.entry(&Header{Kind: KindClose})
			s.commit()
		}
	}
	middle := []Range{{1, 1}}
	first := func(s *scene) *piece { return s.b(0) }
	erase := func(s *scene) *piece { return s.kind(KindErase)[0] }
	// wrong is an erase of the middle record with something about it changed.
	wrong := func(name, about string, change func(s *scene, p *piece)) vector {
		return vector{name: "erase-" + name, about: about, want: tampering(Erasures), write: func(s *scene) {
			erasing(false, middle)(s)
			change(s, erase(s))
		}}
	}
	flipped := func(section int) func(*scene, *piece) {
		return func(_ *scene, p *piece) {
			b := slices.Clone(p.sections[section])
			b[len(b)-1] ^= 1
			p.put(section, b)
		}
	}
	return []vector{
		{name: "good-erase", about: "a record was erased, the batch is overwritten", want: proven, write: erasing(false, middle)},
		{name: "good-erase-all", about: "all records of a batch were erased", want: proven, write: erasing(false, []Range{{0, 2}})},
		{name: "good-erase-superseded", about: "two erases of one batch: the second holds what the first erased, and took its place", want: proven, write: erasing(false, middle, []Range{{1, 2}})},
		{name: "erase-ordered", about: "an erase that is ordered, not done: the batch is as it was", want: incomplete(Erasures), write: erasing(true, middle)},
		{name: "erase-half-done", about: "an erase that was cut short: the filter is overwritten, the body is not", want: incomplete(Erasures), write: func(s *scene) {
			erasing(true, middle)(s)
			first(s).store = func(parts [][]byte) []byte { return slices.Concat(make([]byte, len(parts[0])), parts[1]) }
		}},
		{name: "erase-superseded-not-done", about: "the first of two erases is as it was", want: incomplete(Erasures), write: func(s *scene) {
			erasing(false, middle, []Range{{1, 2}})(s)
			erase(s).store = nil
		}},
		{name: "erase-overwritten", about: "an erase is overwritten, and none supersedes it", want: tampering(Erasures), write: func(s *scene) {
			erasing(false, middle)(s)
			erase(s).store = overwritten
		}},
		{name: "erase-gives-back", about: "a second erase leaves out what the first one erased", want: tampering(Erasures), write: func(s *scene) {
			erasing(false, middle, []Range{{1, 2}})(s)
			s.kind(KindErase)[1].Erase.Erased = []Range{{2, 2}}
			s.rebuilt(first(s), s.kind(KindErase)[1])
		}},
		wrong("leaves", "a leaf hash that is not the erased record's", flipped(3)),
		wrong("leaves-short", "a leaf hash less than erased records", func(_ *scene, p *piece) { p.put(3, nil) }),
		wrong("salts", "a salt that is not the target's", flipped(2)),
		wrong("salts-short", "a salt less than records that are left", func(_ *scene, p *piece) { p.put(2, p.sections[2][saltBytes:]) }),
		wrong("filter", "a filter that is not that of the records left", flipped(0)),
		wrong("body", "another record among those that are left", func(s *scene, p *piece) {
			msg, ok := s.unpack(p)
			if i := bytes.Index(msg, []byte("a-0")); !ok || i < 0 {
				s.t.Fatalf("no record to change in %q", msg)
			} else {
				msg[i] ^= 1
			}
			s.repack(p, msg)
		}),
		wrong("body-of-another-signal", "a body that says it holds spans", func(_ *scene, p *piece) { p.Sections[1].Encoding = SignalTraces.encoding() }),
		wrong("of-more-records", "a position that the target does not have", func(_ *scene, p *piece) { p.Erase.Erased = []Range{{3, 3}} }),
		wrong("of-the-future", "an erase of an entry that is yet to come", func(s *scene, p *piece) {
			p.Erase.Target = 9
			first(s).store = nil
		}),
		wrong("of-itself", "an erase of itself", func(s *scene, p *piece) {
			p.Erase.Target = p.Entry
			first(s).store = nil
		}),
		wrong("of-no-batch", "an erase of an open", func(s *scene, p *piece) {
			p.Erase.Target = 0
			first(s).store = nil
		}),
	}
}

func overwritten(sections [][]byte) []byte { return make([]byte, len(bytes.Join(sections, nil))) }

// erase is an erase of a batch.
func (s *scene) erase(b *piece, erased ...Range) *piece {
	p := s.entry(&Header{Kind: KindErase, Erase: &EraseLines{b.Entry, erased, "dpo@example.org", "Art. 17"}})
	s.rebuilt(b, p)
	return p
}

// rebuilt gives an erase the sections that its positions call for.
func (s *scene) rebuilt(b, p *piece) {
	plain := b.plain(s.t)
	seed, msg := [seedBytes]byte(plain[:seedBytes]), plain[seedBytes:]
	whole := &content{sig: SignalLogs, msg: msg}
	stream := newSaltStream(seed, nil)
	for range b.Records {
		whole.salts = append(whole.salts, stream.next()...)
	}
	rest, err := whole.without(p.Erase.Erased, b.Records, new(batchHasher))
	if err == nil {
		enc := batchEncoders.Get().(*batchEncoder)
		defer batchEncoders.Put(enc)
		p.Header.Sections, p.sections, err = enc.encodeErase(rest)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// unpack is the message of an erase.
func (s *scene) unpack(p *piece) ([]byte, bool) {
	d := batchDecoders.Get().(*batchDecoder)
	defer batchDecoders.Put(d)
	msg, err := d.decompress(&p.Sections[1], p.sections[1])
	return bytes.Clone(msg), err == nil
}

func (s *scene) repack(p *piece, msg []byte) {
	p.Sections[1].Plain = uint64(len(msg))
	p.put(1, rawZstd(msg, 0xa0, nil, 4, len(msg)))
}
