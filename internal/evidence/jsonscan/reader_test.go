package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func kept(key string) bool { return key == "decision_id" || key == "method" }

// all reads an upload: events and the error that ended it, nil for io.EOF.
func all(r io.Reader, maxBytes int) (events []string, errs []error) {
	reader := NewListReader(r, maxBytes, "items")
	for {
		event, err := reader.Next()
		if err == io.EOF {
			return events, errs
		}
		events = append(events, string(event))
		errs = append(errs, err)
		if len(errs) > 10000 {
			panic("it does not end")
		}
	}
}

func TestReader(t *testing.T) {
	const max = 64
	big := `{"a":"` + strings.Repeat("x", 100) + `"}`
	for _, tt := range []struct {
		upload string
		events []string
		err    error // of the last one
	}{
		{`[]`, nil, nil},
		{" [ \n ] \n", nil, nil},
		{`[{"a":1},{"b":"]}"} , {"c":"\"\\"}]`, []string{`{"a":1}`, `{"b":"]}"}`, `{"c":"\"\\"}`}, nil},
		{`{"a":{"b":[]}}`, []string{`{"a":{"b":[]}}`}, nil},
		{`[1,"two",null]`, []string{`1`, `"two"`, `null`}, nil},
		{`[{"a":1},` + big + `,{"b":2}]`, []string{`{"a":1}`, big[:max], `{"b":2}`}, nil},
		{`[{"a":1},{"b":`, []string{`{"a":1}`, `{"b":`}, ErrStream},
		{`[{"a":1}`, []string{`{"a":1}`, ``}, ErrStream},
		{`[{"a":1},`, []string{`{"a":1}`, ``}, ErrStream},
		{`[{"a":1} {"b":2}]`, []string{`{"a":1}`, `{"b":2}]`}, ErrStream},
		{`[{"a":1}] trailing`, []string{`{"a":1}`, `trailing`}, ErrStream},
		{`{"a":1} {"b":2}`, []string{`{"a":1}`}, ErrStream},
		{`hello`, []string{`hello`}, ErrStream},
		{`[,]`, []string{`,]`}, ErrStream},
		{``, []string{``}, ErrStream},
		{` {"kind":"List" , "items": [{"a":1}, {"b":2} ] ,"more":{"items":[1]}} `, []string{`{"a":1}`, `{"b":2}`}, nil},
		{`{"items":[]}`, nil, nil},
		{`{"items":null,"a":1}`, []string{`{"items":null,"a":1}`}, nil},
		{`{"a":{"items":[1]}, "b":2}`, []string{`{"a":{"items":[1]},"b":2}`}, nil},
		{`{"items":[1],"items":[2]}`, []string{`1`, `,"items":`}, ErrStream},
		{`{"items":[1]"a":2}`, []string{`1`, `"a":2}`}, ErrStream},
		{`{"items":[1],"a":`, []string{`1`, `,"a":`}, ErrStream},
		{`{"items":[1]`, []string{`1`, ``}, ErrStream},
		{`{"items":[1]} x`, []string{`1`, `x`}, ErrStream},
		{`{"a" 1}`, []string{`1}`}, ErrStream},
		{`{,}`, []string{`,}`}, ErrStream},
		{`{"a":,}`, []string{`,}`}, ErrStream},
		{big, []string{big[:max]}, ErrTooLarge},
		{`[{"a":"\`, []string{`{"a":"\`}, ErrStream},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with EOF": iotest.DataErrReader,
		} {
			events, errs := all(wrap(strings.NewReader(tt.upload)), max)
			if !slices.Equal(events, tt.events) {
				t.Errorf("%s, %s: events %q, want %q", tt.upload, name, events, tt.events)
				continue
			}
			var last error
			if len(errs) > 0 {
				last = errs[len(errs)-1]
			}
			if !errors.Is(last, tt.err) || (tt.err == nil) != (last == nil) {
				t.Errorf("%s, %s: error %v, want %v", tt.upload, name, last, tt.err)
			}
			for i, e := range tt.events {
				if len(e) == max && !errors.Is(errs[i], ErrTooLarge) {
					t.Errorf("%s, %s: event %d: %v", tt.upload, name, i, errs[i])
				}
			}
		}
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("connection reset")
	_, errs := all(io.MultiReader(strings.NewReader(`[{"a":1},{"b"`), iotest.ErrReader(broken)), 64)
	if len(errs) != 2 || !errors.Is(errs[1], broken) || errors.Is(errs[1], ErrStream) {
		t.Errorf("%v", errs)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		`{"decision_id":"d-1","input":{"headers":{"authorization":"Bearer SECRET"},"n":12345678901234567890}}`: `{"decision_id":"d-1","input":{"headers":{"authorization":"***"},"n":12345678901234567890}}`,
		`{"decision_id":"Bearer SECRET"}`:          `{"decision_id":"***"}`,
		`{"decision_id":"eyJhbGciOiJ9.SECRET.x"}`:  `{"decision_id":"***"}`,
		`{"a":"x" SECRET, "b": true}`:              `{"a":"***" ***, "b": true}`,
		`{"a":"SECRET`:                             `{"a":***`,
		`SECRET SECRET`:                            `*** ***`,
		`{"SECRET key!":1}`:                        `{"***":1}`,
		`{"path":"/x?SECRET"}`:                     `{"path":"***"}`,
		"\x1f\x8bSECRET":                           `***`,
		`{"a":["SECRET","method"],"method":"GET"}`: `{"a":["***","***"],"method":"GET"}`,
		`{"decision_id":["SECRET"]}`:               `{"decision_id":["***"]}`,
	} {
		got, n := Redact([]byte(in), 1<<16, kept)
		if got != want {
			t.Errorf("Redact(%s) = %s, want %s", in, got, want)
		}
		if n == 0 {
			t.Errorf("Redact(%s) counted nothing", in)
		}
	}
	if got, _ := Redact(bytes.Repeat([]byte(`{"a":1},`), 1<<16), 100, kept); len(got) > 100 {
		t.Errorf("%d bytes", len(got))
	}
}

// FuzzReader: an upload's events do not depend on how it arrives, and those of
// valid JSON are encoding/json's.
func FuzzReader(f *testing.F) {
	for _, s := range []string{`[{"a":1},{"b":"\\\""}]`, `[[],{},"",1,null]`, `[{"a":1},`, `{"a":1}`, `nonsense`, `[1 2]`, `{"items":[{"a":1},2],"b":3}`, `{"b":[1],"items":null}`, "[\"\\"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, upload []byte) {
		const max = 32
		events, _ := all(bytes.NewReader(upload), max)
		again, _ := all(iotest.OneByteReader(bytes.NewReader(upload)), max)
		if !slices.Equal(events, again) {
			t.Fatalf("%q: at once %q, byte by byte %q", upload, events, again)
		}
		checkList(t, upload, events)
		var want []json.RawMessage
		if json.Unmarshal(upload, &want) != nil || want == nil {
			return
		}
		if len(events) != len(want) {
			t.Fatalf("%q: %d events, want %d", upload, len(events), len(want))
		}
		for i, w := range want {
			got := strings.TrimRight(events[i], " \t\r\n")
			if s := string(w); got != s[:min(len(s), max)] && got != strings.TrimRight(s[:min(len(s), max)], " \t\r\n") {
				t.Fatalf("%q: event %d is %q, want %q", upload, i, got, s)
			}
		}
	})
}

func FuzzRedact(f *testing.F) {
	f.Add(`{"authorization":"Bearer `, `"}`)
	f.Add(`"x": `, ``)
	f.Add(`{"decision_id":`, `}`)
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "S3CR3T.p4ssw0rd!"
		got, _ := Redact([]byte(before+secret+after), 1<<20, kept)
		if strings.Contains(got, secret) {
			t.Fatalf("%q", got)
		}
	})
}

// checkList compares with encoding/json what was read of an object.
func checkList(t *testing.T, upload []byte, events []string) {
	t.Helper()
	var list struct{ Items []json.RawMessage }
	if json.Unmarshal(upload, &list) != nil || bytes.Count(bytes.ToLower(upload), []byte(`items`)) != 1 ||
		!bytes.Contains(upload, []byte(`"items"`)) || list.Items == nil || len(upload) > 32 {
		return
	}
	if len(events) != len(list.Items) {
		t.Fatalf("%q: %d events, want %d", upload, len(events), len(list.Items))
	}
}
