package evidence

import (
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// Bounds on what a piece of evidence holds, in bytes. What is longer is cut: a
// reporter must not be able to fill a correlator's memory with one value.
const (
	maxSPIFFEID        = 2048 // the SPIFFE ID standard's own bound
	MaxInvalidIdentity = 256  // enough to recognise what was stated
	MaxIdentities      = 8    // statements about one party; sources give three or four
	MaxPath            = 2048 // url.path, as long as common servers accept
	MaxName            = 512  // names, hosts, ids: DNS names end at 253
	MaxDetail          = 1024 // reasons and details, free text
)

// Text returns s as valid UTF-8 of at most maxBytes bytes, cut at a rune. A run
// of bytes that are no UTF-8 becomes a question mark.
func Text(s string, maxBytes int) string {
	if len(s) <= maxBytes && utf8.ValidString(s) {
		return s
	}
	if len(s) > maxBytes {
		s = s[:maxBytes]
		// Do not leave the beginning of a rune whose end was cut off.
		for i := 0; i < utf8.UTFMax-1 && len(s) > 0; i++ {
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "?")
}

// Serial returns a certificate's serial number in lower case hex without leading
// zeros, however hex is written: in whole octets (Envoy), in upper case, with colons
// (OpenSSL). It is never taken for decimal. Zero, which RFC 5280 forbids and programs
// write that know none, is "". It is false if s is no hex, or much longer than the
// 20 octets that are allowed.
func Serial(s string) (string, bool) {
	const maxOctets = 24
	if len(s) >= 3*maxOctets {
		return "", false
	}
	if strings.Contains(s, ":") {
		for octet := range strings.SplitSeq(s, ":") {
			if len(octet) != 2 {
				return "", false
			}
		}
		s = strings.ReplaceAll(s, ":", "")
	}
	s = strings.TrimLeft(strings.ToLower(s), "0")
	if len(s) > 2*maxOctets || strings.Trim(s, "0123456789abcdef") != "" {
		return "", false
	}
	return s, true
}

// CutRequestID parts a request id that is a UUID around the digit of its version, and so
// leaves that out: Envoy writes into it why it traces the request, and so may every proxy.
func CutRequestID(id string) (before, after string) {
	const version = 14
	if len(id) == 36 && id[8] == '-' && id[version-1] == '-' && id[18] == '-' && id[23] == '-' {
		return id[:version], id[version+1:]
	}
	return id, ""
}

// PathOnly returns the path of a request target, bounded, without scheme,
// authority, query and fragment: those may carry secrets.
func PathOnly(target string) string {
	target = beforeQuery(target)
	if !strings.HasPrefix(target, "/") {
		if _, rest, ok := strings.Cut(target, "://"); ok {
			slash := strings.IndexByte(rest, '/')
			if slash < 0 {
				return "/"
			}
			target = rest[slash:]
		}
	}
	path := Text(target, MaxPath)
	if strings.IndexByte(path, '?') >= 0 { // no UTF-8: as a question mark it would begin a query
		path = Text(strings.ReplaceAll(path, "?", "\uFFFD"), MaxPath)
	}
	return path
}

// beforeQuery is s up to its query or fragment.
func beforeQuery(s string) string {
	s, _, _ = strings.Cut(s, "?")
	s, _, _ = strings.Cut(s, "#")
	return s
}

// Authority returns the host and port of a URL or of a Host header, bounded,
// without user information.
func Authority(s string) string {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	s, _, _ = strings.Cut(beforeQuery(s), "/")
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		s = s[i+1:]
	}
	return Text(s, MaxName)
}

// ParseTraceID reads 32 hex digits, or the 16 of an old B3 id, which it pads
// on the left. Zero ids and anything else give false.
func ParseTraceID(s string) (TraceID, bool) {
	var id TraceID
	switch len(s) {
	case 2 * len(id):
		if _, err := hex.Decode(id[:], []byte(s)); err != nil {
			return TraceID{}, false
		}
	case len(id):
		if _, err := hex.Decode(id[len(id)/2:], []byte(s)); err != nil {
			return TraceID{}, false
		}
	}
	return id, id != TraceID{}
}

// ParseSpanID reads 16 hex digits. The zero id and anything else give false.
func ParseSpanID(s string) (SpanID, bool) {
	var id SpanID
	if len(s) == 2*len(id) {
		if _, err := hex.Decode(id[:], []byte(s)); err != nil {
			return SpanID{}, false
		}
	}
	return id, id != SpanID{}
}

// ParseTraceparent reads a W3C traceparent header,
// VERSION-TRACEID-SPANID-FLAGS, of any version but the forbidden ff.
func ParseTraceparent(s string) (TraceID, SpanID, bool) {
	const size = len("00-") + 32 + len("-") + 16 + len("-00")
	s = strings.TrimSpace(s)
	if len(s) < size || len(s) > MaxName || s[2] != '-' || s[35] != '-' || s[52] != '-' ||
		s[:2] == "ff" || (len(s) > size && (s[:2] == "00" || s[size] != '-')) {
		return TraceID{}, SpanID{}, false
	}
	trace, ok1 := ParseTraceID(s[3:35])
	span, ok2 := ParseSpanID(s[36:52])
	if !ok1 || !ok2 {
		return TraceID{}, SpanID{}, false
	}
	return trace, span, true
}

// ParseB3 reads a single b3 header, TRACEID-SPANID[-SAMPLED[-PARENT]]. The
// forms that carry only a sampling decision give false.
func ParseB3(s string) (TraceID, SpanID, bool) {
	if len(s) > MaxName {
		return TraceID{}, SpanID{}, false
	}
	t, rest, ok := strings.Cut(strings.TrimSpace(s), "-")
	if !ok {
		return TraceID{}, SpanID{}, false
	}
	sp, _, _ := strings.Cut(rest, "-")
	trace, ok1 := ParseTraceID(t)
	span, ok2 := ParseSpanID(sp)
	if !ok1 || !ok2 {
		return TraceID{}, SpanID{}, false
	}
	return trace, span, true
}
