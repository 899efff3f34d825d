package query

import (
	"testing"
	"time"
)

var testNow = time.Date(2025, 11, 23, 12, 0, 0, 0, time.UTC)

func TestParseTime(t *testing.T) {
	for in, want := range map[string]time.Time{
		"2025-11-23T10:00:00Z":             time.Date(2025, 11, 23, 10, 0, 0, 0, time.UTC),
		"2025-11-23T10:00:00.123456789Z":   time.Date(2025, 11, 23, 10, 0, 0, 123456789, time.UTC),
		"2025-11-23T10:00:00+02:00":        time.Date(2025, 11, 23, 8, 0, 0, 0, time.UTC),
		"2025-11-23":                       time.Date(2025, 11, 23, 0, 0, 0, 0, time.UTC),
		"2025-11-23 10:00":                 time.Date(2025, 11, 23, 10, 0, 0, 0, time.UTC),
		"2025-11-23T10:00":                 time.Date(2025, 11, 23, 10, 0, 0, 0, time.UTC),
		"2025-11-23 10:00:01.5":            time.Date(2025, 11, 23, 10, 0, 1, 500e6, time.UTC),
		"15m":                              testNow.Add(-15 * time.Minute),
		"24h":                              testNow.Add(-24 * time.Hour),
		"1h30m":                            testNow.Add(-90 * time.Minute),
		"7d":                               testNow.AddDate(0, 0, -7),
		"2w":                               testNow.AddDate(0, 0, -14),
		"1w1d12h":                          testNow.AddDate(0, 0, -8).Add(-12 * time.Hour),
		"0s":                               testNow,
		"2025-11-23T10:00:00.999999-00:00": time.Date(2025, 11, 23, 10, 0, 0, 999999e3, time.UTC),
	} {
		if got, err := ParseTime(in, testNow); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "-15m", "+15m", "15", "1y", "d", "1d2w", "-1d", "now", "2025-13-01", "2025-11-23T25:00:00Z",
		"1969-12-31", "2263-01-01", "99999w", "1d-1h", "9999999h", " 15m"} {
		if got, err := ParseTime(bad, testNow); err == nil {
			t.Errorf("%q is taken for %v", bad, got)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2025-11-23", "2025-11-23T10:00:00Z", "15m", "7d", "1w2d3h", "65535w", "-1h", "9223372036854775807ns"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTime(s, testNow)
		if err != nil {
			return
		}
		if got.Before(earliest) || got.After(latest) {
			t.Fatalf("%q: %v is out of range", s, got)
		}
		again, err := ParseTime(got.Format(time.RFC3339Nano), testNow)
		if err != nil || !again.Equal(got) {
			t.Fatalf("%q gives %v, and that gives %v, %v", s, got, again, err)
		}
	})
}
