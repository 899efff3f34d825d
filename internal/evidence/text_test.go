package evidence

import (
	"fmt"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSerial(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "0": "", "00:00": "", "00": "", "04:1F:a0": "41fa0", "041FA0": "41fa0", "41fa0": "41fa0", "1234567890": "1234567890",
		strings.Repeat("ff", 24): strings.Repeat("ff", 24), strings.Repeat("0", 20) + strings.Repeat("a", 48): strings.Repeat("a", 48),
		strings.Repeat("ff:", 23) + "ff": strings.Repeat("ff", 24),
	} {
		if got, ok := Serial(s); got != want || !ok {
			t.Errorf("Serial(%q) = %q, %v, want %q", s, got, ok, want)
		}
	}
	for _, s := range []string{
		"-", "-01", "0x01", "serial", "4:1f", "041:fa", ":", "04:", "04::1f", "04 1f", " 41", "1e+25", "１２", "\xff", "04:1f:zz",
		strings.Repeat("ff", 24) + "f", strings.Repeat("0", 72), strings.Repeat("ff:", 24) + "ff", strings.Repeat("1", 1<<16),
	} {
		if got, ok := Serial(s); got != "" || ok {
			t.Errorf("Serial(%.80q) = %q, %v", s, got, ok)
		}
	}
}

// However a serial number is written in hex, it is one; two that differ are two.
func TestSerialForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		octets := rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "octets")
		want := new(big.Int).SetBytes(octets).Text(16)
		if want == "0" {
			want = ""
		}
		for _, s := range []string{fmt.Sprintf("%x", octets), fmt.Sprintf("%X", octets), strings.ReplaceAll(fmt.Sprintf("% x", octets), " ", ":"), want} {
			if got, ok := Serial(s); got != want || !ok {
				t.Fatalf("Serial(%q) = %q, %v, want %q", s, got, ok, want)
			}
		}
	})
}
