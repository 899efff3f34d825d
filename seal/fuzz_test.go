package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// seeds adds the files of the vectors that match.
func seeds(f *testing.F, pattern string) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join(vectorsDir, pattern))
	if err != nil || len(names) == 0 {
		f.Fatalf("no vector has %s: %v", pattern, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

func FuzzParseTrust(f *testing.F) {
	seeds(f, "*/trust")
	f.Fuzz(func(t *testing.T, b []byte) {
		trust, err := ParseTrust(b)
		if err != nil {
			return
		}
		for _, o := range trust.Origins() {
			if err := ValidOrigin(o); err != nil || !trust.knows(o) {
				t.Fatalf("trusts %q: %v", o, err)
			}
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	seeds(f, "*/store/*/checkpoint")
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := openCheckpoint(b, nil)
		if err == nil && !bytes.HasPrefix(b, []byte(c.text())) {
			t.Fatalf("two texts for one checkpoint: %q", b)
		}
	})
}

// Keys that are read are written again the same.
func FuzzKeys(f *testing.F) {
	seeds(f, "*/auditor.key")
	chain, err := NewChainKey().MarshalText()
	if err != nil {
		f.Fatal(err)
	}
	auditor, err := NewAuditorKey("x25519")
	if err != nil {
		f.Fatal(err)
	}
	skey, _, err := GenerateLogKey(testOrigin)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(chain), auditor.Recipient().String(), skey} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c ChainKey
		if c.UnmarshalText(b) == nil {
			if again, err := c.MarshalText(); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("chain key %q, again %q: %v", b, again, err)
			}
		}
		var a AuditorKey
		if a.UnmarshalText(b) == nil {
			var again AuditorKey
			text, err := a.MarshalText()
			if err != nil || again.UnmarshalText(text) != nil || again.Recipient().ID() != a.Recipient().ID() {
				t.Fatalf("auditor's key %q, again %q: %v", b, text, err)
			}
		}
		if r, err := ParseRecipient(string(b)); err == nil {
			if again, err := ParseRecipient(r.String()); err != nil || again.ID() != r.ID() {
				t.Fatalf("auditor's public key %q: %v", b, err)
			}
		}
		if k, err := ParseLogKey(string(b)); err == nil && k.VerifierKey() == "" {
			t.Fatalf("log key %q has no verifier key", b)
		}
	})
}

// What the check of a zstd frame lets through decodes to the size it states, or
// not at all.
func FuzzZstdFrame(f *testing.F) {
	k := newVictim(f)
	for _, name := range k.files(segmentDir) {
		for _, frame := range k.frames(f, name) {
			fm, err := newFrameReader(bytes.NewReader(frame), 0).next()
			if err == nil && fm.Kind == KindBatch {
				f.Add(fm.sections[1], fm.Sections[1].Plain)
			}
		}
	}
	plain := make([]byte, 100)
	f.Add(rawZstd(plain, 0xa0, nil, 4, 100), uint64(100))
	f.Add(rawZstd(plain, 0x80, []byte{13 << 3}, 4, 100), uint64(100))
	f.Fuzz(func(t *testing.T, b []byte, size uint64) {
		size %= maxSectionBytes + 1
		if checkZstdFrame(b, size) != nil {
			return
		}
		d := batchDecoders.Get().(*batchDecoder)
		defer batchDecoders.Put(d)
		_, msg, err := d.open(&Section{Name: SectionBody, Plain: size}, b)
		if err == nil && uint64(len(msg))+seedBytes != size {
			t.Fatalf("%d bytes, %d were stated", len(msg)+seedBytes, size)
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte{}, uint64(7))
	f.Add(new(filterBuilder).append(nil, [nonceBytes]byte{1}, []uint64{7}), uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, key uint64) { Filter(b).MayContain(key) })
}

// A tile has one path.
func FuzzTilePath(f *testing.F) {
	for _, seed := range []string{"tile/0/000", "tile/0/000.p/8", "tile/3/x001/x234/067.p/7", "tile/0/x000/000", "tile/7/999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if tl, ok := parseTilePath(path); ok && (tl.path() != path || len(tl.hashes) == 0 || len(tl.hashes) > tileWidth) {
			t.Fatalf("%q is read as %q", path, tl.path())
		}
	})
}
