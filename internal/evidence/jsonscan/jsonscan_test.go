package jsonscan

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// walk reads everything, in the way that each value's first byte asks for.
func walk(c *Cursor) any {
	switch ch := c.Peek(); ch {
	case '{':
		m := map[string]any{}
		if c.Object() {
			for c.Next() {
				key := c.Name()
				if key != string(c.Key) {
					panic("Name " + key + " of " + string(c.Key))
				}
				m[key] = walk(c)
			}
		}
		return m
	case '[':
		l := []any{}
		if c.Array() {
			for c.Element() {
				l = append(l, walk(c))
			}
		}
		return l
	case '"':
		return c.String()
	case 't', 'f':
		v, _ := c.Bool()
		return v
	case 'n':
		c.Skip()
		return nil
	default:
		return json.Number(c.Scalar())
	}
}

func read(b []byte) (any, error) {
	c, copied := New(b), NewCopied(b)
	v, same := walk(&c), walk(&copied)
	err := c.End()
	if again := copied.End(); !errors.Is(again, err) || err == nil && !reflect.DeepEqual(v, same) {
		return nil, fmt.Errorf("read %v, %w; of a copy %v, %w", v, err, same, again)
	}
	return v, err
}

// What is kept of a long value does not keep the whole.
func TestNewCopied(t *testing.T) {
	for _, size := range []int{100, maxCopied + 1} {
		b := []byte(`{"name":"` + strings.Repeat("x", size) + `"}`)
		c := NewCopied(b)
		if is, want := c.copied != "", len(b) <= maxCopied; is != want {
			t.Errorf("%d bytes: copied %v, want %v", len(b), is, want)
		}
	}
}

func TestErrorsNameTheirPlace(t *testing.T) {
	for in, want := range map[string]struct {
		err error
		at  int
	}{
		`{"a":1,}`:                             {ErrSyntax, 7},
		`{"a":01}`:                             {ErrSyntax, 6},
		`[1 2]`:                                {ErrSyntax, 3},
		`"x" y`:                                {ErrSyntax, 4},
		strings.Repeat("[", MaxDepth+1) + "]":  {ErrDepth, MaxDepth + 1},
		strings.Repeat(`{"a":`, 10_000) + "1}": {ErrDepth, MaxDepth*5 + 1},
	} {
		c := New([]byte(in))
		c.Skip()
		if err := c.End(); !errors.Is(err, want.err) || c.Offset() != want.at {
			t.Errorf("%.40s: %v at %d, want %v at %d", in, err, c.Offset(), want.err, want.at)
		}
	}
}

func TestRaw(t *testing.T) {
	c := New([]byte(` {"a" : [1, {"b":9007199254740993}] , "c":"\u00e9"}`))
	var got []string
	if c.Object() {
		for c.Next() {
			key := string(c.Key)
			got = append(got, key+"="+string(c.Raw()))
		}
	}
	if s := strings.Join(got, ";"); s != `a=[1, {"b":9007199254740993}];c="\u00e9"` || c.End() != nil {
		t.Errorf("%s, %v", s, c.Err())
	}
}

// FuzzCursor accepts what encoding/json does, and reads the same.
func FuzzCursor(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-0.5e+3,"x\ud83d\ude00\n",null,true,{}],"a":2}`, "\"\xff\"", `"\ud800"`, `[`, `01`, ` 1 `,
		strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := read(b)
		if errors.Is(err, ErrDepth) {
			return
		}
		if valid := json.Valid(b); valid != (err == nil) {
			t.Fatalf("encoding/json says valid = %v: %v", valid, err)
		}
		if err != nil {
			return
		}
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if string(g) != string(w) {
			t.Fatalf("read %s, want %s", g, w)
		}
	})
}

func BenchmarkSkip(b *testing.B) {
	in := []byte(`{"client.addr":"10.42.0.70:32996","host":"webapp:7000","labels":["k8s:app=prometheus","k8s:io.kubernetes.pod.namespace=istio-system"],"status":200,"user_agent":"Go-http-client/1.1"}`)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		c := New(in)
		c.Skip()
		if c.End() != nil {
			b.Fatal(c.Err())
		}
	}
}
