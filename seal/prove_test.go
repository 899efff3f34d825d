package seal

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// Every record of a log has a proof, which is small, and no byte of which can
// be changed.
func TestProofs(t *testing.T) {
	k := newTestKeys(t)
	root := filepath.Join(t.TempDir(), "store")
	for epoch := range 2 {
		w := openWriter(t, k.config(t, root))
		for _, n := range []int{1, 2, 7, 300} {
			if err := w.Append(context.Background(), SignalLogs, testRequest(n, fmt.Sprint("e", epoch))); err != nil {
				t.Fatal(err)
			}
		}
		closeWriter(t, w)
	}
	l, err := OpenLog(root, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	proven := 0
	var proof []byte
	err = l.Entries(context.Background(), nil, func(e *Entry) error {
		if e.Kind != KindBatch {
			if _, err := l.Prove(context.Background(), e.Header.Entry, 0); err == nil {
				t.Errorf("a %s entry has a proof of a record", e.Kind)
			}
			return nil
		}
		_, msg, err := e.Body()
		if err != nil {
			return err
		}
		i := 0
		return EachRecord(msg, func(r Record) error {
			defer func() { i++ }()
			if i > 20 && i%37 != 0 {
				return nil
			}
			b, err := l.Prove(context.Background(), e.Header.Entry, i)
			if err != nil {
				return err
			}
			p, err := CheckProof(b, k.trust)
			if err != nil {
				return err
			}
			if !bytes.Equal(p.Record.Bytes, r.Bytes) || p.Number != e.FirstRecord+uint64(i) || p.Header.Entry != e.Header.Entry {
				t.Errorf("proof of record %d of entry %d is of %d of %d", i, e.Header.Entry, p.Number-p.Header.FirstRecord, p.Header.Entry)
			}
			if over := len(b) - (len(r.Bytes)+len(r.Resource)+len(r.Scope))*4/3; over > 4096 {
				t.Errorf("a proof takes %d bytes beside the record", over)
			}
			if n, err := checkRequest(p.Signal, p.Request()); n != 1 || err != nil {
				t.Error(n, err)
			}
			proof = b
			proven++
			return nil
		})
	})
	if err != nil || proven < 50 {
		t.Fatal(proven, err)
	}
	// The signature covers the checkpoint, and the checkpoint all the rest.
	for i := range proof {
		for _, bit := range []byte{1, 0x20} {
			bad := bytes.Clone(proof)
			bad[i] ^= bit
			if p, err := CheckProof(bad, k.trust); err == nil {
				t.Fatalf("byte %d of a proof changed unseen (%q): %v", i, proof[max(0, i-20):i+1], p)
			}
		}
	}
	for cut := range proof {
		if _, err := CheckProof(proof[:cut], k.trust); err == nil {
			t.Fatalf("a proof cut at %d is accepted", cut)
		}
	}
	if _, err := CheckProof(proof, newTestKeys(t).trust); err == nil {
		t.Fatal("another writer's key is accepted")
	}
	empty, _ := ParseTrust(nil)
	if _, err := CheckProof(proof, empty); err == nil || !strings.Contains(err.Error(), "no key for") {
		t.Fatal(err)
	}
}

func FuzzCheckProof(f *testing.F) {
	k := newTestKeys(f)
	f.Add([]byte(proofMagic + "\nextra " + base64.StdEncoding.EncodeToString(make([]byte, 36)) + "\nindex 0\n\na\n1\nx\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := CheckProof(b, k.trust); err == nil {
			t.Fatal("a proof without the key")
		} else if errors.Is(err, ErrStop) {
			t.Fatal(err)
		}
	})
}

func BenchmarkCheckProof(b *testing.B) {
	k := newTestKeys(b)
	root := filepath.Join(b.TempDir(), "store")
	w := openWriter(b, k.config(b, root))
	if err := w.Append(context.Background(), SignalLogs, testRequest(1000, "x")); err != nil {
		b.Fatal(err)
	}
	closeWriter(b, w)
	l, _ := OpenLog(root, testOrigin)
	proof, err := l.Prove(context.Background(), 1, 500)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(proof)), "bytes")
	for b.Loop() {
		if _, err := CheckProof(proof, k.trust); err != nil {
			b.Fatal(err)
		}
	}
}
