package seal

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// testKeys are the keys of one writer and one auditor.
type testKeys struct {
	log     LogKey
	chain   ChainKey
	auditor AuditorKey
	trust   *Trust
}

const testOrigin = "example.org/meshaudit/edge-0"

func newTestKeys(t testing.TB) *testKeys {
	t.Helper()
	skey, vkey, err := GenerateLogKey(testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	k := &testKeys{chain: NewChainKey()}
	if k.log, err = ParseLogKey(skey); err != nil {
		t.Fatal(err)
	}
	if k.auditor, err = NewAuditorKey("x25519"); err != nil {
		t.Fatal(err)
	}
	if k.trust, err = ParseTrust([]byte(TrustLines(vkey, testOrigin, k.chain.Commitment()))); err != nil {
		t.Fatal(err)
	}
	return k
}

// config is a writer on a directory of the machine's file system.
func (k *testKeys) config(t testing.TB, root string) Config {
	t.Helper()
	chain := filepath.Join(root, "..", filepath.Base(root)+".chain")
	if _, err := os.Stat(chain); err != nil {
		b, _ := k.chain.MarshalText()
		if err := WriteSecret(chain, b); err != nil {
			t.Fatal(err)
		}
	}
	return Config{Root: root, Origin: testOrigin, LogKey: k.log, Chain: ChainFile{OS, chain}, Auditors: []Recipient{k.auditor.Recipient()}}
}

func pbField(b []byte, tag uint64, val []byte) []byte {
	b = binary.AppendUvarint(b, tag<<3|wireBytes)
	b = binary.AppendUvarint(b, uint64(len(val)))
	return append(b, val...)
}

// testRequest is an OTLP logs request with n records, written field by field.
func testRequest(n int, name string) []byte {
	var scope []byte
	for i := range n {
		var rec []byte
		rec = append(rec, 1<<3|wire64)
		rec = binary.LittleEndian.AppendUint64(rec, uint64(1763856000000000000+i))
		for _, kv := range [][2]string{{"audit.record.id", fmt.Sprintf("%s-%d", name, i)}, {"url.path", "/orders/42"}, {"mesh.source.spiffe.id", "spiffe://example.org/ns/shop/sa/frontend"}} {
			rec = pbField(rec, 6, pbField(pbField(nil, 1, []byte(kv[0])), 2, pbField(nil, 1, []byte(kv[1]))))
		}
		var trace [16]byte
		rand.Read(trace[:])
		rec = pbField(rec, 9, trace[:])
		scope = pbField(scope, 2, rec)
	}
	res := pbField(nil, 1, pbField(nil, 1, []byte("\x0a\x01a\x12\x03\x0a\x01b")))
	return pbField(nil, 1, pbField(res, 2, pbField(scope, 1, pbField(nil, 1, []byte("scope")))))
}

func openWriter(t testing.TB, cfg Config) *Writer {
	t.Helper()
	w, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func closeWriter(t testing.TB, w *Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// recordIDs are the audit.record.id values in a log, in order.
func recordIDs(t testing.TB, root string) []string {
	t.Helper()
	l, err := OpenLog(root, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	return recordIDsOf(t, l)
}

func recordIDsOf(t testing.TB, l *Log) []string {
	t.Helper()
	var ids []string
	err := l.Entries(context.Background(), nil, func(e *Entry) error {
		if e.Kind != KindBatch {
			return nil
		}
		_, msg, err := e.Body()
		if err != nil {
			return err
		}
		return EachRecord(msg, func(r Record) error {
			if id := idOf(r); id != "" {
				ids = append(ids, id)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// idOf is a test record's audit.record.id.
func idOf(r Record) (id string) {
	_ = eachMessage(r.Bytes, func(tag uint64, kv []byte) error {
		if tag != 6 {
			return nil
		}
		var key string
		return eachMessage(kv, func(tag uint64, v []byte) error {
			if tag == 1 {
				key = string(v)
			} else if key == "audit.record.id" {
				id = string(v[2:])
			}
			return nil
		})
	})
	return id
}

func TestAppendedIsThere(t *testing.T) {
	k := newTestKeys(t)
	root := filepath.Join(t.TempDir(), "store")
	want := map[string]bool{}
	for epoch := range 3 {
		w := openWriter(t, k.config(t, root))
		var wg sync.WaitGroup
		for i := range 20 {
			n := 1
			if i%5 == 0 {
				n = 500 // large enough to be encoded by its caller
			}
			name := fmt.Sprintf("e%d-%d", epoch, i)
			for j := range n {
				want[fmt.Sprintf("%s-%d", name, j)] = true
			}
			wg.Go(func() {
				if err := w.Append(context.Background(), SignalLogs, testRequest(n, name)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		closeWriter(t, w)
	}
	got := recordIDs(t, root)
	if len(got) != len(want) {
		t.Fatalf("%d records in the log, %d were acknowledged", len(got), len(want))
	}
	for _, id := range got {
		if !want[id] {
			t.Fatalf("record %q twice or never sent", id)
		}
		delete(want, id)
	}
}
