// Package pkcs11key keeps a log key in a PKCS#11 token: an HSM, a smart card or
// SoftHSM. The key never leaves it; what a thief of the writer's machine can do
// with it ends when they lose the machine.
//
// A key is named by an RFC 7512 URI with the module, the token, the object and
// the file that holds the PIN:
//
//	pkcs11:token=audit;object=log?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/secrets/pin
//
// It is an Ed25519 key pair that signs with CKM_EDDSA. Modules are shared
// libraries, so this needs cgo; a build without it says so.
package pkcs11key

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Scheme begins every PKCS#11 URI.
const Scheme = "pkcs11:"

// URI names a key in a token. Empty attributes match everything.
type URI struct {
	Token, Serial string // of the token
	Object, ID    string // of the key: label and id; one of them is given
	Module        string // file of the shared library
	PINFile       string // "": the token wants no PIN
}

// ParseURI parses an RFC 7512 URI. A PIN in it is refused: a configuration is
// no place for it.
func ParseURI(s string) (URI, error) {
	var u URI
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok || len(s) > 4096 {
		return u, fmt.Errorf("a PKCS#11 URI begins with %q", Scheme)
	}
	path, query, _ := strings.Cut(rest, "?")
	attributes := map[string]*string{"token": &u.Token, "serial": &u.Serial, "object": &u.Object, "id": &u.ID}
	if err := parse(path, ";", attributes); err != nil {
		return u, err
	}
	attributes = map[string]*string{"module-path": &u.Module, "pin-source": &u.PINFile}
	if err := parse(query, "&", attributes); err != nil {
		return u, err
	}
	u.PINFile = strings.TrimPrefix(strings.TrimPrefix(u.PINFile, "file:"), "//")
	switch {
	case u.Object == "" && u.ID == "":
		return u, errors.New(`PKCS#11 URI: name the key by "object" or "id"`)
	case !filepath.IsAbs(u.Module):
		return u, errors.New(`PKCS#11 URI: "module-path" must be the absolute path of the token's library, e.g. ?module-path=/usr/lib/softhsm/libsofthsm2.so`)
	case u.PINFile != "" && !filepath.IsAbs(u.PINFile):
		return u, errors.New(`PKCS#11 URI: "pin-source" must be the absolute path of a file`)
	}
	return u, nil
}

func parse(s, separator string, into map[string]*string) error {
	if s == "" {
		return nil
	}
	for a := range strings.SplitSeq(s, separator) {
		name, value, _ := strings.Cut(a, "=")
		dst, known := into[name]
		switch {
		case name == "pin-value":
			return errors.New(`PKCS#11 URI: "pin-value" is refused: put the PIN in a file and name that with "pin-source"`)
		case !known && name == "type" && value == "private":
			continue
		case !known:
			return fmt.Errorf("PKCS#11 URI: the attribute %q is not known", name)
		case *dst != "":
			return fmt.Errorf("PKCS#11 URI: %q is there twice", name)
		}
		v, err := url.PathUnescape(value)
		if err != nil || v == "" {
			return fmt.Errorf("PKCS#11 URI: %q has no valid value", name)
		}
		*dst = v
	}
	return nil
}

// pin reads the PIN, whose last line end is not part of it.
func (u URI) pin() (string, error) {
	if u.PINFile == "" {
		return "", nil
	}
	f, err := os.Open(u.PINFile)
	if err != nil {
		return "", fmt.Errorf("PIN: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("PIN: %w", err)
	}
	if mode := fi.Mode().Perm(); mode&0o007 != 0 {
		return "", fmt.Errorf("PIN: %s: mode %04o lets everyone on this machine read it; run: chmod 600 %s", u.PINFile, mode, u.PINFile)
	}
	b, err := io.ReadAll(io.LimitReader(f, 257))
	if err != nil || len(b) > 256 {
		return "", errors.Join(err, fmt.Errorf("PIN: %s holds more than 256 bytes", u.PINFile))
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
