package seal

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// Every indexed value becomes the key that FilterKey gives a searcher: however
// many values wait for each other, however long they are, and in whichever
// form their attribute is encoded.
func TestKeysAreTheSearchers(t *testing.T) {
	attribute := func(form int, name, value string) []byte {
		key, val := pbField(nil, 1, []byte(name)), pbField(nil, 2, pbField(nil, 1, []byte(value)))
		switch form {
		case 0:
			return append(key, val...)
		case 1: // as pdata writes it
			return append(val, key...)
		case 2: // a field that nobody knows
			return pbField(append(key, val...), 3, []byte("?"))
		default: // the last one of each counts
			return append(pbField(pbField(nil, 1, []byte("user.id")), 2, []byte("x")), append(val, key...)...)
		}
	}
	names := map[string]string{
		"audit.record.id": "record_id", "mesh.amends": "record_id", "mesh.join.request_id": "request_id",
		"mesh.join.decision_id": "decision_id", "mesh.authz.decision.id": "decision_id",
		"mesh.source.spiffe.id": "spiffe_id", "mesh.destination.spiffe.id": "spiffe_id",
		"user.id": "user_id", "mesh.evidence.id": "evidence_id", "url.path": "", "mesh.amend": "",
	}
	lengths := []int{1, 2, 3, 40, 111, 112, 113, 125, 126, 127, 128, 129, 300}
	for records := range 3 * fnvLanes {
		var x index
		var want []uint64
		for i := range records {
			var rec []byte
			n := i
			for name, key := range names {
				value := strings.Repeat("v", lengths[n%len(lengths)]-1) + string(rune('a'+n%26))
				rec = pbField(rec, 6, attribute(n%4, name, value))
				if key != "" {
					want = append(want, FilterKey(key, value))
				}
				n++
			}
			id := [16]byte{15: byte(i + 1)}
			rec = pbField(rec, 9, id[:])
			want = append(want, FilterKey("trace_id", hex.EncodeToString(id[:])))
			if err := x.add(SignalLogs, rec); err != nil {
				t.Fatal(err)
			}
		}
		x.finish()
		slices.Sort(want)
		slices.Sort(x.keys)
		if !slices.Equal(x.keys, want) {
			t.Fatalf("%d records: %d keys, want %d, or others", records, len(x.keys), len(want))
		}
	}
}
