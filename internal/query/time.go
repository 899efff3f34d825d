package query

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// timeLayouts are the absolute forms, without a zone in UTC.
var timeLayouts = [...]string{
	time.RFC3339Nano,
	"2006-01-02",
	"2006-01-02T15:04",
	"2006-01-02T15:04:05",
	"2006-01-02 15:04",
	"2006-01-02 15:04:05",
}

// earliest and latest are the times that unix nanoseconds can state.
var (
	earliest = time.Unix(0, 0).UTC()
	latest   = time.Unix(0, 1<<63-1).UTC()
)

// ParseTime reads a point in time: RFC 3339 (2025-11-23T10:00:00Z), a date with
// or without a time of day, in UTC, or how long before now it was: 90s, 15m,
// 24h, 7d, 2w, or a sum such as 1d12h.
func ParseTime(s string, now time.Time) (time.Time, error) {
	t, ok := parseAbsolute(s)
	if !ok {
		ago, ok := parseAgo(s)
		if !ok {
			return time.Time{}, fmt.Errorf("%q is no time: write 2025-11-23, 2025-11-23T10:00:00Z, or how long ago, as in 15m, 24h or 7d", s)
		}
		t = now.Add(-ago).UTC()
	}
	if t.Before(earliest) || t.After(latest) {
		return time.Time{}, fmt.Errorf("%q is not between 1970 and 2262", s)
	}
	return t, nil
}

func parseAbsolute(s string) (time.Time, bool) {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// parseAgo reads a duration that is not negative, in which d and w may stand
// before the units of time.ParseDuration.
func parseAgo(s string) (time.Duration, bool) {
	var sum time.Duration
	rest := s
	for _, unit := range [...]struct {
		name string
		is   time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		digits, after, found := strings.Cut(rest, unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || time.Duration(n) > (1<<63-1-sum)/unit.is {
			return 0, false
		}
		sum, rest = sum+time.Duration(n)*unit.is, after
	}
	if rest == "" {
		return sum, s != ""
	}
	if rest[0] < '0' || rest[0] > '9' {
		return 0, false // a sign, or no number at all
	}
	d, err := time.ParseDuration(rest)
	if err != nil || sum+d < 0 {
		return 0, false
	}
	return sum + d, true
}
