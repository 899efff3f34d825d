// Package xfcc parses Envoy's x-forwarded-client-cert header.
//
//	header  = element *( "," element )
//	element = pair *( ";" pair )
//	pair    = key "=" value
//	value   = token / DQUOTE *( %x00-21 / %x23-5B / %x5D-10FFFF / "\" any ) DQUOTE
//
// Keys are compared without regard to case; By, URI and DNS may repeat. Keys
// that are not known are skipped. Each element is one
// hop, appended by the proxy that terminated its TLS, so the last is the
// nearest. The header is a claim: whoever could reach the proxy could have sent
// it, unless the proxy is known to remove it.
package xfcc

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds. Envoy's own default for all request headers together is 60 KiB; the
// header of a long chain of hops without certificates stays below 4 KiB; a
// certificate adds 2 KiB.
const (
	maxBytes    = 64 << 10
	maxElements = 32
	maxValues   = 32 // of one key in one element
)

// Header is the header's name in lower case.
const Header = "x-forwarded-client-cert"

// An Element is what one proxy states about its client.
type Element struct {
	By      []string // URI SANs of the proxy's own certificate
	Hash    string   // SHA-256 of the client's certificate, hex
	Subject string
	URI     []string // URI SANs of the client's certificate
	DNS     []string
	Cert    string // the client's certificate in PEM, URL-encoded
	Chain   string // its whole chain, the same way
}

// Parse reads the header's value: the elements in their order, at least one.
// An error says where the value stops being one; nothing is returned then.
func Parse(header string) ([]Element, error) {
	if len(header) > maxBytes {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", Header, len(header), maxBytes)
	}
	p := parser{s: header}
	var elements []Element
	for {
		if len(elements) == maxElements {
			return nil, fmt.Errorf("%s: more than %d elements", Header, maxElements)
		}
		var e Element
		more, err := p.element(&e)
		if err != nil {
			return nil, fmt.Errorf("%s: byte %d: %w", Header, p.i, err)
		}
		elements = append(elements, e)
		if !more {
			return elements, nil
		}
	}
}

var (
	errNoEquals     = errors.New("a key without \"=\"")
	errNoKey        = errors.New("a value without a key")
	errUnterminated = errors.New("a quoted value does not end")
	errAfterQuote   = errors.New("a quoted value is followed by something else than \",\" or \";\"")
	errTooMany      = fmt.Errorf("more than %d values of one key", maxValues)
)

// WithoutCertificates is the header without the values of Cert and Chain, and of
// other keys that hold PEM. It is the header itself if there are none, and "" if
// it cannot be read.
func WithoutCertificates(header string) string {
	if !carries(header, "cert") && !carries(header, "chain") && !strings.Contains(header, pem) {
		return header
	}
	if len(header) > maxBytes {
		return ""
	}
	p := parser{s: header}
	var kept strings.Builder
	for from := 0; ; from = p.i {
		key, err := p.key()
		if err != nil {
			return ""
		}
		at := p.i
		value, err := p.value()
		if err != nil {
			return ""
		}
		if strings.EqualFold(key, "cert") || strings.EqualFold(key, "chain") || strings.Contains(value, pem) {
			kept.WriteString(header[from:at])
		} else {
			kept.WriteString(header[from:p.i])
		}
		if p.i == len(header) {
			return kept.String()
		}
		kept.WriteByte(header[p.i])
		p.i++
	}
}

// pem is of every certificate, whatever key it stands under.
const pem = "BEGIN"

// carries finds a key, which is in lower case, in any case.
func carries(header, key string) bool {
	for i := 0; i+len(key) <= len(header); i++ {
		if header[i]|0x20 == key[0] && strings.EqualFold(header[i:i+len(key)], key) {
			return true
		}
	}
	return false
}

type parser struct {
	s string
	i int
}

// element reads pairs up to "," (more is true) or the end.
func (p *parser) element(e *Element) (more bool, err error) {
	for {
		key, err := p.key()
		if err != nil {
			return false, err
		}
		value, err := p.value()
		if err != nil {
			return false, err
		}
		if err := e.set(key, value); err != nil {
			return false, err
		}
		if p.i == len(p.s) {
			return false, nil
		}
		end := p.s[p.i]
		p.i++
		if end == ',' {
			return true, nil
		}
	}
}

func (p *parser) key() (string, error) {
	n := strings.IndexAny(p.s[p.i:], "=;,\"")
	if n < 0 || p.s[p.i+n] != '=' {
		return "", errNoEquals
	}
	key := strings.TrimSpace(p.s[p.i : p.i+n])
	if key == "" {
		return "", errNoKey
	}
	p.i += n + 1
	return key, nil
}

// value reads a value and stops before ",", ";" or at the end.
func (p *parser) value() (string, error) {
	if p.i == len(p.s) || p.s[p.i] != '"' {
		n := strings.IndexAny(p.s[p.i:], ";,")
		if n < 0 {
			n = len(p.s) - p.i
		}
		value := p.s[p.i : p.i+n]
		p.i += n
		return value, nil
	}
	start := p.i + 1
	escaped := false
	for j := start; j < len(p.s); j++ {
		switch p.s[j] {
		case '\\':
			escaped = true
			j++
		case '"':
			p.i = j + 1
			if p.i < len(p.s) && p.s[p.i] != ',' && p.s[p.i] != ';' {
				return "", errAfterQuote
			}
			if escaped {
				return unescape(p.s[start:j]), nil
			}
			return p.s[start:j], nil
		}
	}
	return "", errUnterminated
}

// unescape drops the backslash before each escaped byte.
func unescape(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (e *Element) set(key, value string) error {
	var list *[]string
	switch strings.ToLower(key) {
	case "hash":
		e.Hash = value
	case "subject":
		e.Subject = value
	case "cert":
		e.Cert = value
	case "chain":
		e.Chain = value
	case "by":
		list = &e.By
	case "uri":
		list = &e.URI
	case "dns":
		list = &e.DNS
	}
	if list == nil || value == "" {
		return nil
	}
	if len(*list) == maxValues {
		return errTooMany
	}
	*list = append(*list, value)
	return nil
}
