package cli

import (
	"fmt"
	"strconv"
	"time"
)

// count writes a number with its thousands apart: 1 234 567.
func count[T uint64 | int64 | int](n T) string {
	s := strconv.FormatUint(uint64(n), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// counted is a number and its noun.
func counted[T uint64 | int64 | int](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	switch noun {
	case "entry":
		noun = "entries"
	case "batch", "witness":
		noun += "es"
	default:
		noun += "s"
	}
	return count(n) + " " + noun
}

// size writes a number of bytes: 512 B, 3.4 KiB.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1023.95 && unit < len(sizeUnits)-1 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", f, sizeUnits[unit])
}

var sizeUnits = [...]string{"KiB", "MiB", "GiB", "TiB", "PiB"}

// stamp is a time for people, in UTC.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") }

// moment is a time in JSON.
func moment(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func unixNano(ns uint64) time.Time { return time.Unix(0, int64(ns)).UTC() }

// span writes how long something took or lies back, to three digits or so.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
