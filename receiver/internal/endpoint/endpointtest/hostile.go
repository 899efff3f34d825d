package endpointtest

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/internal/upload"
)

const secret = "SECRET"

// Hostile is what a receiver of uploads is sent to break it. An event is one of
// the receiver's, with the given id and a further member of that text, or none;
// wrap makes an upload of events. The receiver's max_event_bytes must be 1 MiB
// and its max_upload_bytes the default.
//
// Each is answered 2xx; what cannot be decoded is sealed raw with the reason and
// without a secret, its neighbours are decoded, and no more memory is taken
// than for any other upload.
func Hostile(t *testing.T, url string, next *Sink, event func(id, member string) string, wrap func(events ...string) string) {
	good := event("good", "")
	mib := strings.Repeat(secret+" ", 1<<20/7)
	for _, tt := range []struct {
		name, content string
		decoded       int
		err           string // of the one that is sealed raw, "": none is
	}{
		{"nested deeply", wrap(event("a", `"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)), good), 1, "nested too deeply"},
		{"objects nested deeply", wrap(event("a", `"x":`+strings.Repeat(`{"x":`, 10_000)+"1"+strings.Repeat("}", 10_000)), good), 1, "nested too deeply"},
		{"a string of 1 MiB", wrap(event("a", `"x":"`+mib+`"`), good), 1, "larger"},
		{"a line of 1 MiB", mib, 0, "unexpected"},
		{"a million members", wrap(event("a", `"x":{`+strings.Repeat(`"k":0,`, 1<<18)+`"y":0}`), good), 1, "larger"},
		{"invalid UTF-8", wrap(event("a", "\"x\":\"\xff\xfe\xc3"+secret+"\""), good), 2, ""},
		{"an integer beyond 2^53", wrap(event("a", `"x":9007199254740993`), good), 2, ""},
		{"an integer beyond 2^64", wrap(event("a", `"x":`+strings.Repeat("9", 1000)), good), 2, ""},
		{"an exponent", wrap(event("a", `"x":1e999999999`), good), 2, ""},
		{"a key twice that does not matter", wrap(event("a", `"x":1,"x":2`), good), 2, ""},
		{"half a surrogate", wrap(event("a", `"x":"\ud800"`), good), 2, ""},
		{"a NUL", wrap(event("a", "\"x\":\"\x00\""), good), 1, "not valid JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next.reset()
			evidencetest.HeapStaysBelow(t, 64<<20, func() {
				code, _ := Post(t, url, tt.content)
				require.Equal(t, http.StatusOK, code)
			})
			next.holds(t, tt.decoded, tt.err)
			require.Empty(t, next.Gaps)
		})
	}
	t.Run("gzip bomb of 1 GiB", func(t *testing.T) {
		next.reset()
		before, _, _ := strings.Cut(wrap(good, secret), secret)
		evidencetest.HeapStaysBelow(t, 64<<20, func() {
			code, _ := Stream(t, url, bomb(t, before+`{"x":"`, 1<<30), "Content-Encoding", "gzip")
			require.Equal(t, http.StatusOK, code)
		})
		next.holds(t, 1, "max_upload_bytes")
		require.Len(t, next.Gaps, 1)
		require.Equal(t, upload.GapTooLarge, Attr(next.Gaps[0], semconv.GapReason))
		require.Empty(t, Attr(next.Gaps[0], semconv.GapCount), "it is not known how many")
	})
}

// bomb is text and then that many spaces, as gzip of several members, each the
// same bytes.
func bomb(t *testing.T, text string, spaces int) io.Reader {
	t.Helper()
	const member = 16 << 20
	var block bytes.Buffer
	z := gzip.NewWriter(&block)
	_, err := z.Write(bytes.Repeat([]byte(" "), member))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	parts := []io.Reader{strings.NewReader(Zip(t, text))}
	for range spaces / member {
		parts = append(parts, bytes.NewReader(block.Bytes()))
	}
	return io.MultiReader(parts...)
}

func (s *Sink) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Got, s.Raw, s.Gaps, s.Batches, s.Clients = nil, nil, nil, nil, nil
}

// holds checks what was accepted.
func (s *Sink) holds(t *testing.T, decoded int, reason string) {
	t.Helper()
	require.Len(t, s.Got, decoded)
	for i := range s.Got {
		require.NotContains(t, evidencetest.Render(&s.Got[i]), secret)
		evidencetest.RoundTrip(t, &s.Got[i])
	}
	if reason == "" {
		require.Empty(t, s.Raw)
		return
	}
	require.Len(t, s.Raw, 1)
	require.Contains(t, Attr(s.Raw[0], semconv.EvidenceError), reason)
	require.Equal(t, "true", Attr(s.Raw[0], semconv.EvidenceRaw))
	require.NotContains(t, s.Raw[0].Body().AsString(), secret)
	for _, v := range s.Raw[0].Attributes().All() {
		require.NotContains(t, v.AsString(), secret)
	}
}
