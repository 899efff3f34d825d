package seal

import "bytes"

// acceptedVectors come with a list of accepted findings.
func acceptedVectors() []vector {
	crashed := func(s *scene) {
		s.open(AfterFirst)
		s.commit()
		s.open(AfterCrash)
		s.commit()
		s.open(AfterFault)
		s.commit()
	}
	// list accepts how the epochs before some opens ended.
	list := func(change func(*Acceptance), entries ...uint64) func(s *scene) []byte {
		return func(s *scene) []byte {
			s.reviewer = s.stranger("example.org/reviewer/alice")
			codes := []Code{"", CodeCrash, CodeFault}
			var all []Acceptance
			for _, e := range entries {
				a := Acceptance{Subject: Subject{testOrigin, e, Completeness, codes[e], s.leafOf(e)}, Reason: "the power was cut"}
				if change != nil {
					change(&a)
				}
				all = append(all, a)
			}
			b, err := SignAccepted(all, s.reviewer)
			if err != nil {
				s.t.Fatal(err)
			}
			return b
		}
	}
	return []vector{
		{name: "good-accepted", about: "an epoch ended by a crash, one by a failed write, and a reviewer accepted both", want: proven, write: crashed, accepted: list(nil, 1, 2)},
		{name: "accepted-one-missing", about: "two epochs that did not end well, and a reviewer accepted the second alone", want: incomplete(Completeness), write: crashed, accepted: list(nil, 2)},
		{name: "accepted-of-another-leaf", about: "what was accepted is the same of another entry: the leaf hash differs", want: incomplete(Completeness), write: crashed,
			accepted: list(func(a *Acceptance) { a.Leaf[0] ^= 1 }, 1, 2)},
		{name: "accepted-of-another-code", about: "a crash was accepted where a write failed", want: incomplete(Completeness), write: crashed,
			accepted: list(func(a *Acceptance) { a.Code = CodeCrash }, 1, 2)},
		{name: "accepted-by-a-stranger", about: "the list is signed by a key that is no trusted reviewer's: the verifier fails", want: verdict{exit: ExitFailed}, write: crashed, accepted: func(s *scene) []byte {
			b := list(nil, 1, 2)(s)
			s.reviewer = s.stranger("example.org/reviewer/alice")
			return b
		}},
		{name: "accepted-changed", about: "the list was changed after it was signed: the verifier fails", want: verdict{exit: ExitFailed}, write: crashed, accepted: func(s *scene) []byte {
			return bytes.Replace(list(nil, 1, 2)(s), []byte("power"), []byte("Power"), 1)
		}},
	}
}

// leafOf is the leaf hash of an entry.
func (s *scene) leafOf(entry uint64) Hash {
	for i := range s.segments() {
		for _, frame := range s.cut(i) {
			f, err := newFrameReader(bytes.NewReader(frame), 0).next()
			if err != nil {
				s.t.Fatal(err)
			}
			if f.Kind != KindCheckpoint && f.Entry == entry {
				return leafHash(f.text)
			}
		}
	}
	s.t.Fatalf("no entry %d", entry)
	return Hash{}
}
