package pkcs11key

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	const module = "?module-path=/lib/hsm.so"
	for in, want := range map[string]URI{
		"pkcs11:object=log" + module: {Object: "log", Module: "/lib/hsm.so"},
		"pkcs11:token=My%20token;serial=12;id=%00%ff;type=private" + module + "&pin-source=file:/run/pin": {Token: "My token", Serial: "12", ID: "\x00\xff", Module: "/lib/hsm.so", PINFile: "/run/pin"},
		"pkcs11:id=%01" + module + "&pin-source=file:///run/pin":                                          {ID: "\x01", Module: "/lib/hsm.so", PINFile: "/run/pin"},
	} {
		if got, err := ParseURI(in); err != nil || got != want {
			t.Errorf("%s: %+v %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"log.key":                                              `begins with "pkcs11:"`,
		"pkcs11:token=a" + module:                              `"object" or "id"`,
		"pkcs11:object=a":                                      "module-path",
		"pkcs11:object=a?module-path=hsm.so":                   "absolute",
		"pkcs11:object=a" + module + "&pin-source=pin":         "absolute",
		"pkcs11:object=a" + module + "&pin-value=1234":         "refused",
		"pkcs11:object=a;pin-value=1234" + module:              "refused",
		"pkcs11:object=a;object=b" + module:                    "twice",
		"pkcs11:object=%zz" + module:                           "no valid value",
		"pkcs11:object=" + module:                              "no valid value",
		"pkcs11:object=a;color=blue" + module:                  `"color" is not known`,
		"pkcs11:object=" + strings.Repeat("a", 5000) + module:  "begins with",
		"pkcs11:object=a?module-path=/a&module-path=/lib/b.so": "twice",
	} {
		if _, err := ParseURI(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestPINFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pin")
	for _, tc := range []struct {
		content string
		mode    os.FileMode
		pin     string
		want    string
	}{
		{"5678\n", 0o600, "5678", ""}, {"56 78", 0o440, "56 78", ""}, {"5678", 0o644, "", "chmod 600"}, {strings.Repeat("1", 257), 0o600, "", "256"},
	} {
		if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tc.mode); err != nil {
			t.Fatal(err)
		}
		pin, err := URI{PINFile: file}.pin()
		if tc.want == "" && (err != nil || pin != tc.pin) || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q %o: %q %v", tc.content, tc.mode, pin, err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("pkcs11:token=a;object=b;id=%01?module-path=/lib/hsm.so&pin-source=file:/run/pin")
	f.Add("pkcs11:?")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := ParseURI(s); err == nil && (u.Module == "" || u.Object+u.ID == "") {
			t.Fatalf("%q: %+v", s, u)
		}
	})
}
