package redact

import "strings"

// cut takes the place of what was cut out of a value.
const cut = "[redacted]"

// schemes are the authentication schemes whose credentials follow them.
var schemes = []string{"bearer", "basic", "dpop", "negotiate", "token", "apikey"}

// scrub cuts out what looks like a credential: user information and query
// strings in URLs, JWTs (eyJ…, which is {" in base64, followed by a dot), AWS
// access keys, private keys, the values of parameters that are named like
// credentials, what follows a cookie header's name, and what follows the name of
// an authentication scheme, the values of JSON members that are named like
// credentials. It returns s itself if there is none.
func scrub(s string) string {
	if !suspicious(s) {
		return s
	}
	return scrubMembers(scrubParameters(scrubSchemes(scrubPrivateKeys(scrubCookies(scrubAWSKeys(scrubJWTs(scrubUserInfo(scrubQueries(s)))))))))
}

// secretNames are how the names of parameters end that hold a credential.
var secretNames = []string{
	"token", "secret", "password", "passwd", "pwd", "sessionid", "session", "apikey", "api_key", "api-key", "access_key", "secret_key",
	"private_key", "credential", "credentials", "signature", "jwt", "assertion", "cookie",
}

// scrubParameters cuts the value of NAME=VALUE if the name ends as that of a
// credential does, wherever it stands: in a form, behind a path, in a text. The
// equals sign may be %3D.
func scrubParameters(s string) string {
	const encoded = "%3D"
	for i := 0; i < len(s); i++ {
		size := 1
		switch {
		case s[i] == '%' && len(s)-i >= len(encoded) && strings.EqualFold(s[i:i+len(encoded)], encoded):
			size = len(encoded)
		case s[i] != '=':
			continue
		}
		if !endsInAny(s[:i], secretNames) {
			continue
		}
		from := i + size
		end := strings.IndexAny(s[from:], " \t\r\n\"'<>&;,")
		if end < 0 {
			end = len(s) - from
		}
		if end > 0 {
			s = s[:from] + cut + s[from+end:]
			i = from + len(cut) - 1
		}
	}
	return s
}

// scrubMembers cuts the value of a JSON member in a text if its name ends as
// that of a credential does. The quotes may be escaped, as in JSON within JSON.
func scrubMembers(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] != ':' {
			continue
		}
		name := strings.TrimRight(s[:i], " \t")
		bare, ok := strings.CutSuffix(name, `"`)
		if !ok {
			continue
		}
		bare = strings.TrimRight(bare, `\`)
		if !endsInAny(bare, secretNames) {
			continue
		}
		quote := name[len(bare):]
		from := len(s) - len(strings.TrimLeft(s[i+1:], " \t"))
		end := len(s)
		if quoted := strings.HasPrefix(s[from:], quote); quoted {
			from += len(quote)
			for at := from; ; at += len(quote) {
				n := strings.Index(s[at:], quote)
				if n < 0 {
					break
				}
				if at += n; s[at-1] != '\\' { // else it is one within the value
					end = at
					break
				}
			}
		} else if n := strings.IndexAny(s[from:], " \t\r\n,}"); n >= 0 {
			end = from + n
		}
		if end > from && s[from:end] != cut {
			s = s[:from] + cut + s[end:]
		}
		i = from - 1
	}
	return s
}

// scrubPrivateKeys cuts private keys in PEM, also if they are URL-encoded or cut
// off.
func scrubPrivateKeys(s string) string {
	const begin, end, dashes = "-----BEGIN", "-----END", "-----"
	for from := 0; ; {
		i := strings.Index(s[from:], begin)
		if i < 0 {
			return s
		}
		from += i
		if !strings.Contains(s[from:min(len(s), from+64)], "PRIVATE") {
			from += len(begin)
			continue
		}
		rest := ""
		if i := strings.Index(s[from:], end); i >= 0 {
			rest = s[from+i+len(end):]
			_, rest, _ = strings.Cut(rest, dashes)
		}
		s = s[:from] + cut + rest
		from += len(cut)
	}
}

// scrubCookies cuts what follows the name of a cookie header, up to the line's end.
func scrubCookies(s string) string {
	const name = "ookie:"
	for from := 0; ; {
		i := strings.Index(s[from:], name)
		if i < 0 {
			return s
		}
		from += i + len(name)
		end := strings.IndexAny(s[from:], "\r\n")
		if end < 0 {
			end = len(s) - from
		}
		if strings.TrimSpace(s[from:from+end]) != cut {
			s = s[:from] + " " + cut + s[from+end:]
		}
	}
}

// scrubAWSKeys cuts access key ids: AKIA or ASIA and sixteen capitals and
// digits.
func scrubAWSKeys(s string) string {
	const size = 16
	for from := 0; ; {
		i := strings.Index(s[from:], "KIA")
		if j := strings.Index(s[from:], "SIA"); i < 0 || (j >= 0 && j < i) {
			i = j
		}
		if i < 0 {
			return s
		}
		start := from + i - 1
		from += i + len("KIA")
		end := from
		for end < len(s) && (s[end] >= 'A' && s[end] <= 'Z' || s[end] >= '0' && s[end] <= '9') {
			end++
		}
		if start >= 0 && s[start] == 'A' && end-from >= size {
			s = s[:start] + cut + s[end:]
			from = start + len(cut)
		}
	}
}

// scrubQueries cuts what follows a question mark, up to where a URL ends in a
// text, if that names a parameter.
func scrubQueries(s string) string {
	for from := 0; ; {
		i := strings.IndexByte(s[from:], '?')
		if i < 0 {
			return s
		}
		from += i + 1
		end := strings.IndexAny(s[from:], " \t\n\"'<>")
		if end < 0 {
			end = len(s) - from
		}
		if strings.IndexByte(s[from:from+end], '=') >= 0 {
			s = s[:from] + cut + s[from+end:]
			from += len(cut)
		}
	}
}

// suspicious is a cheap test that nothing to cut passes.
func suspicious(s string) bool {
	return strings.Contains(s, "eyJ") || strings.Contains(s, "AKIA") || strings.Contains(s, "ASIA") || strings.ContainsAny(s, " \t+@?=%\"")
}

func scrubUserInfo(s string) string {
	for from := 0; ; {
		i := strings.Index(s[from:], "://")
		if i < 0 {
			return s
		}
		from += i + len("://")
		end := strings.IndexAny(s[from:], "/?# \t\"'<>")
		if end < 0 {
			end = len(s) - from
		}
		if at := strings.LastIndexByte(s[from:from+end], '@'); at >= 0 {
			s = s[:from] + s[from+at+1:]
		}
	}
}

func isToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~+/=", c) >= 0
}

func isBase64URL(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_=.", c) >= 0
}

func scrubJWTs(s string) string {
	for from := 0; ; {
		i := strings.Index(s[from:], "eyJ")
		if i < 0 {
			return s
		}
		from += i
		end := from
		for end < len(s) && isBase64URL(s[end]) {
			end++
		}
		if strings.IndexByte(s[from:end], '.') < 0 {
			from = end
			continue
		}
		s = s[:from] + cut + s[end:]
		from += len(cut)
	}
}

func scrubSchemes(s string) string {
	for i := 0; i < len(s); i++ {
		after := separator(s[i:])
		if after == 0 || !endsInAny(s[:i], schemes) {
			continue
		}
		from := i + after
		for n := separator(s[from:]); n > 0; n = separator(s[from:]) {
			from += n
		}
		end := from
		for end < len(s) && isToken(s[end]) {
			end++
		}
		if end == from {
			continue
		}
		s = s[:from] + cut + s[end:]
		i = from + len(cut) - 1
	}
	return s
}

// separator returns the length of what may stand between a scheme and its
// credentials at the beginning of s, 0 if nothing does.
func separator(s string) int {
	switch {
	case s == "":
		return 0
	case s[0] == ' ' || s[0] == '\t' || s[0] == '+':
		return 1
	case strings.HasPrefix(s, "%20"):
		return len("%20")
	}
	return 0
}

func endsInAny(s string, endings []string) bool {
	for _, e := range endings {
		if n := len(s) - len(e); n >= 0 && strings.EqualFold(s[n:], e) {
			return true
		}
	}
	return false
}
