package correlate

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func FuzzUnpack(f *testing.F) {
	for _, e := range []evidence.Evidence{
		calleeALS("log", mtls("a", "b"), claims("nonsense", "header.x-spiffe-id"), verdict(evidence.Deny, "envoy_rbac")),
		opa("decision"), change("change", "audit-1"), {},
	} {
		f.Add(string(pack(nil, &e)))
	}
	f.Fuzz(func(t *testing.T, s string) {
		var e evidence.Evidence
		if unpack(s, &e, new(ids)) != nil {
			return
		}
		var again evidence.Evidence
		if err := unpack(string(pack(nil, &e)), &again, new(ids)); err != nil {
			t.Fatal(err)
		}
	})
}

// Every field is packed but those that stand on the piece itself.
func TestPackKeepsAll(t *testing.T) {
	e := evidence.Evidence{
		Verdict: new(evidence.Verdict), Act: new(evidence.Act),
		Actor: &evidence.Actor{Roles: []string{"a", "b"}, Delegation: make([]evidence.Delegate, 2)},
	}
	fill(reflect.ValueOf(&e).Elem(), new(int))
	said := calleeALS("log", mtls("a", "b"), claims("nonsense", "header.x-spiffe-id"))
	e.From.Identities, e.To.Identities, e.Reporter.SPIFFEID = said.From.Identities, said.To.Identities, said.From.Identities[0].ID
	var got evidence.Evidence
	require.NoError(t, unpack(string(pack(nil, &e)), &got, new(ids)))
	got.ID, got.Role, got.Start, got.End = e.ID, e.Role, e.Start, e.End
	got.TraceID, got.SpanID, got.ParentSpanID, got.SpanKind = e.TraceID, e.SpanID, e.ParentSpanID, e.SpanKind
	require.Equal(t, e, got)
}

// fill gives every field below v a value of its own; what is nil stays so.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			fill(v.Elem(), n)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.String:
		v.SetString("x" + itoa(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint16:
		v.SetUint(uint64(*n % 256))
	default:
		panic(v.Type())
	}
}
