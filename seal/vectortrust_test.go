package seal

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"time"
)

// freshVectors are of a writer that does not keep its chain key.
func freshVectors() []vector {
	fresh := func(first bool) func(*scene) {
		return func(s *scene) {
			s.open(AfterFirst).Open.Fresh = first
			s.commit()
			s.entry(&Header{Kind: KindClose})
			s.commit()
			s.epoch = NewChainKey() // what the open then makes of it is unknown to the epoch before
			s.epoch.Epoch = 0
			s.open(AfterClean).Open.Fresh = true
			s.commit()
		}
	}
	expected := func(pin bool) func(string) string {
		return func(t string) string {
			line := "chain " + testOrigin + " fresh\n"
			if log, _, _ := strings.Cut(t, "chain "); !pin {
				t = log
			}
			return t + line
		}
	}
	return []vector{
		{name: "good-chain-fresh", about: "the chain key is new at every start, as the trust file says: no chain need be pinned", want: proven, write: fresh(true), trust: expected(false)},
		{name: "good-chain-fresh-later", about: "the first chain key is pinned, the next one is new, as the trust file says", want: proven, write: fresh(false), trust: expected(true)},
		{name: "chain-fresh", about: "the chain key is new at the second start, and the trust file does not say so", want: incomplete(Completeness), write: fresh(false)},
		{name: "chain-fresh-not-said", about: "a second chain key that does not follow, and no word of that", want: tampering(Integrity), alone: &noTags, write: func(s *scene) {
			fresh(false)(s)
			s.o(1).Open.Fresh = false
		}, trust: expected(true)},
		{name: "chain-fresh-not-pinned", about: "no chain is pinned, and the first chain key does not claim to be new", want: incomplete(Completeness), write: fresh(false), trust: expected(false)},
	}
}

const vectorID = "spiffe://example.org/ns/mesh/sa/collector"

// svidVectors are trusted by SPIFFE ID.
func svidVectors() []vector {
	const day = 24 * time.Hour
	start := time.Unix(0, vectorStart).UTC()
	authority := func(s *scene) *testCA {
		ca := func(name string) *x509.Certificate {
			return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
				NotBefore: start.Add(-day), NotAfter: start.Add(day)}
		}
		key, middle := mustKey(s.t, "p256"), mustKey(s.t, "p256")
		root := certify(s.t, ca("root"), ca("root"), key.Public(), key)
		return &testCA{root, certify(s.t, ca("middle"), root, middle.Public(), key), middle}
	}
	issue := func(s *scene, ca *testCA, id string, until time.Duration) *testIdentity {
		return ca.issue(s.t, id, "p256", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.Add(-day/2), start.Add(until) })
	}
	// vouched is a log whose open carries what an identity of the trusted
	// authority, or change, makes of it.
	vouched := func(change func(s *scene, trusted *testCA) *testIdentity) func(*scene) {
		return func(s *scene) {
			s.short()
			ca := authority(s)
			id := change(s, ca)
			s.beside = map[string][]byte{"bundle.pem": pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: ca.root.Raw})}
			s.o(0).vouched = id
		}
	}
	good := func(s *scene, ca *testCA) *testIdentity { return issue(s, ca, vectorID, day/2) }
	by := func(pattern string) func(string) string {
		return func(string) string { return "spiffe " + pattern + " bundle.pem\n" }
	}
	pattern := by("spiffe://example.org/ns/*/sa/collector")
	return []vector{
		{name: "good-svid", about: "trusted by SPIFFE ID: the open carries an SVID", want: proven, write: vouched(good), trust: pattern},
		{name: "good-svid-by-log-key", about: "an SVID, and a log key that is trusted: the key counts", want: proven, write: vouched(good)},
		{name: "svid-missing", about: "trusted by SPIFFE ID, and the open carries no SVID", want: incomplete(Integrity), write: vouched(func(*scene, *testCA) *testIdentity { return nil }), trust: pattern},
		{name: "svid-of-another-workload", about: "an SVID of the trusted authority, for an id that no line allows", want: tampering(Integrity), write: vouched(good), trust: by("spiffe://example.org/ns/*/sa/other")},
		{name: "svid-of-a-foreign-authority", about: "an SVID that leads to no trusted authority", want: incomplete(Integrity), write: vouched(func(s *scene, _ *testCA) *testIdentity {
			return issue(s, authority(s), vectorID, day/2)
		}), trust: pattern},
		{name: "svid-expired", about: "an SVID that had expired when its open was sealed", want: incomplete(Integrity), write: vouched(func(s *scene, ca *testCA) *testIdentity {
			return issue(s, ca, vectorID, -time.Hour)
		}), trust: pattern},
		{name: "svid-signature", about: "a signature that is not by the SVID's key", want: tampering(Integrity), write: vouched(func(s *scene, ca *testCA) *testIdentity {
			id := good(s, ca)
			id.key = mustKey(s.t, "p256")
			return id
		}), trust: pattern},
		{name: "svid-signature-by-log-key", about: "a signature that is not by the SVID's key is tampering, though the log key is trusted", want: tampering(Integrity), write: vouched(func(s *scene, ca *testCA) *testIdentity {
			id := good(s, ca)
			id.key = mustKey(s.t, "p256")
			return id
		})},
		{name: "svid-of-a-ca", about: "an SVID that may sign certificates", want: tampering(Integrity), write: vouched(func(s *scene, ca *testCA) *testIdentity {
			return ca.issue(s.t, vectorID, "p256", func(c *x509.Certificate) {
				c.IsCA, c.KeyUsage = true, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign
				c.NotBefore, c.NotAfter = start.Add(-day/2), start.Add(day/2)
			})
		}), trust: pattern},
	}
}

// witnessVectors have cosignatures on the published checkpoint.
func witnessVectors() []vector {
	// cosigned is a log with three witnesses, whose quorum is two; of says whose
	// cosignatures the checkpoint published at size has.
	cosigned := func(size uint64, of func(s *scene, ws []*WitnessKey, note string) string) func(*scene) {
		return func(s *scene) {
			s.short()
			s.publishAt(size)
			for _, name := range []string{"a", "b", "c"} {
				w, err := GenerateWitnessKey("witness.example.org/" + name)
				if err != nil {
					s.t.Fatal(err)
				}
				s.witnesses = append(s.witnesses, w)
			}
			published := string(s.files[checkpointFile])
			s.files[checkpointFile] = []byte(published + of(s, s.witnesses, published[:strings.Index(published, "\n\n")+1]))
		}
	}
	at := time.Unix(0, vectorStart).Add(4 * time.Second)
	two := func(_ *scene, ws []*WitnessKey, text string) string {
		return ws[0].Cosign(text, at) + ws[2].Cosign(text, at)
	}
	whole := uint64(4)
	return []vector{
		{name: "good-witnessed", about: "two of three witnesses cosigned, as the quorum wants", want: proven, write: cosigned(whole, two)},
		{name: "good-witnessed-a-moment-ago", about: "the entries that the quorum does not cover were sealed less than ten seconds ago", want: proven, write: cosigned(3, two)},
		{name: "good-cosignature-of-a-stranger", about: "a third cosignature, by a witness that the trust file does not have", want: proven, write: cosigned(whole, func(s *scene, ws []*WitnessKey, text string) string {
			w, err := GenerateWitnessKey("witness.example.org/d")
			if err != nil {
				s.t.Fatal(err)
			}
			return two(s, ws, text) + w.Cosign(text, at)
		})},
		{name: "good-witnessed-freshness", about: "three minutes after the last entry: a cosignature of then is as good", want: proven, late: 3 * time.Minute, write: cosigned(whole, func(_ *scene, ws []*WitnessKey, text string) string {
			later := at.Add(3 * time.Minute)
			return ws[0].Cosign(text, later) + ws[1].Cosign(text, later)
		})},
		{name: "witness-none", about: "no witness cosigned", want: incomplete(Witnessed), write: cosigned(whole, func(*scene, []*WitnessKey, string) string { return "" })},
		{name: "witness-no-quorum", about: "one of three witnesses cosigned, the quorum is two", want: incomplete(Witnessed), write: cosigned(whole, func(_ *scene, ws []*WitnessKey, text string) string { return ws[0].Cosign(text, at) })},
		{name: "witness-twice", about: "one witness cosigned twice: it counts once", want: incomplete(Witnessed), write: cosigned(whole, func(_ *scene, ws []*WitnessKey, text string) string {
			return ws[0].Cosign(text, at) + ws[0].Cosign(text, at.Add(time.Second))
		})},
		{name: "witness-namesake", about: "a second cosignature, of a witness's name and by another key", want: incomplete(Witnessed), write: cosigned(whole, func(s *scene, ws []*WitnessKey, text string) string {
			w, err := GenerateWitnessKey(ws[1].Name())
			if err != nil {
				s.t.Fatal(err)
			}
			return ws[0].Cosign(text, at) + w.Cosign(text, at)
		})},
		{name: "witness-of-another-root", about: "a cosignature of another checkpoint of the same size", want: tampering(Witnessed), write: cosigned(whole, func(_ *scene, ws []*WitnessKey, text string) string {
			other := Checkpoint{testOrigin, whole, Hash{1}}
			return ws[0].Cosign(text, at) + ws[1].Cosign(other.text(), at)
		})},
		{name: "witness-of-no-commit", about: "what is published and cosigned is of a size at which the log has no commit", want: tampering(Integrity), write: cosigned(2, two)},
		{name: "witness-lags", about: "the quorum does not cover entries that were sealed over ten seconds ago", want: incomplete(Witnessed), late: 11 * time.Second, write: cosigned(1, two)},
	}
}
