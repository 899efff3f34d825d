package envoy

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// FuzzStruct reads what protobuf reads as a Struct: the same fields, and the same
// JSON.
func FuzzStruct(f *testing.F) {
	for _, fields := range []map[string]any{
		nil,
		{"": nil, "sub": "alice", "n": 1e300, "small": -5e-324, "t": true, "f": false},
		{"aud": []any{"a", nil, 1.5, []any{}, map[string]any{}}, "act": map[string]any{"sub": "b", "act": map[string]any{"sub": "c"}}},
		{"\"quoted\"\\": "line\u2028\n\x00é\U0001f600<&>", "long": strings.Repeat("x", 300)},
	} {
		f.Add(marshal(structOf(f, fields)))
	}
	f.Add([]byte("\x0a\x05\x0a\x01a\x12\x00\x0a\x00"))         // fields without a value or a name
	f.Add([]byte("\x0a\x09\x0a\x01a\x12\x04\x20\x01\x2b\x2c")) // a group, which is malformed here
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = protoStruct(b).appendJSON(nil, 0) // whatever it is
		var s structpb.Struct
		if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &s) != nil {
			return
		}
		serialized := protoStruct(marshal(&s)) // each field once: protobuf would merge two
		for name, v := range s.GetFields() {
			got := serialized.get(name).field()
			if want, ok := v.GetKind().(*structpb.Value_StringValue); ok != (got.tag == stringValue) || ok && want.StringValue != got.s {
				t.Errorf("%q is %q, want %v", name, got.s, v)
			}
		}
		got, ok := serialized.appendJSON(nil, 0)
		want, err := s.MarshalJSON()
		if !ok {
			if err == nil && strings.Count(string(want), "{")+strings.Count(string(want), "[") < maxDepth {
				t.Errorf("no JSON, want %s", want)
			}
			return
		}
		var gotValue, wantValue any
		if err := json.Unmarshal(got, &gotValue); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		if err != nil {
			return // it refuses a value of no kind too
		}
		if err := json.Unmarshal(want, &wantValue); err != nil || !reflect.DeepEqual(gotValue, wantValue) {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// TestStructRefuses: what has no JSON has none, and claims of it are not read.
func TestStructRefuses(t *testing.T) {
	deep := structpb.NewStringValue("x")
	for range maxDepth {
		deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
	}
	for name, v := range map[string]*structpb.Value{
		"not a number": structpb.NewNumberValue(math.NaN()), "infinite": structpb.NewNumberValue(math.Inf(-1)), "too deep": deep,
	} {
		s := &structpb.Struct{Fields: map[string]*structpb.Value{"sub": v}}
		if got, ok := protoStruct(marshal(s)).appendJSON(nil, 0); ok {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestAnyOf: a type is one whatever host its URL names, and no other.
func TestAnyOf(t *testing.T) {
	s, err := anypb.New(wrapperspb.String("spiffe://example.org/a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := stringOf(string(marshal(s))); got != "spiffe://example.org/a" {
		t.Errorf("%q", got)
	}
	if _, ok := anyOf(string(marshal(s)), "Struct"); ok {
		t.Error("a string is taken for a Struct")
	}
	s.TypeUrl = "type.example.org/google.protobuf.StringValue"
	if got := stringOf(string(marshal(s))); got == "" {
		t.Error("another host's URL is not known")
	}
	if got := stringOf(string(marshal(s))[1:]); got != "" {
		t.Errorf("of a malformed one %q is read", got)
	}
}
