package seal

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Class says what a finding means.
type Class uint8

const (
	// Note changes no answer.
	Note Class = iota
	// Incomplete: something is not proven, or not there; a crash could
	// explain it.
	Incomplete
	// Tampering: no crash explains it.
	Tampering
)

func (c Class) String() string { return [...]string{"note", "incomplete", "tampering"}[c] }

// Axis is one of the questions that a verification answers.
type Axis uint8

const (
	Integrity    Axis = iota // is every byte what was sealed
	Order                    // is every entry where it was sealed
	Completeness             // is everything there that was sealed
	Freshness                // does it reach to the present
	Witnessed                // did others see the same log
	Erasures                 // is what was erased what was ordered
	axisCount
)

func (a Axis) String() string {
	return [...]string{"integrity", "order", "completeness", "freshness", "witnessed", "erasures"}[a]
}

// Finding is one thing that is not as it should be, and where.
type Finding struct {
	Class   Class  `json:"-"`
	Axis    Axis   `json:"-"`
	Segment string `json:"segment,omitempty"` // file below the log's directory
	Offset  int64  `json:"offset"`            // in it, in bytes
	What    string `json:"what"`
	Next    string `json:"next,omitempty"` // what to do about it

	Subject  *Subject    `json:"-"` // what can be accepted; nil: this cannot be
	Accepted *Acceptance `json:"-"` // it was, and is a note; nil: it was not
}

func (f Finding) String() string {
	s := f.Class.String() + ": "
	if f.Segment != "" {
		s += fmt.Sprintf("%s, offset %d: ", f.Segment, f.Offset)
	}
	return s + f.What
}

// LogReport is the answer for one log.
type LogReport struct {
	Origin      string
	Entries     uint64
	Records     uint64
	Epochs      uint64
	Segments    int
	Checkpoints uint64
	Bytes       int64

	ErasedRecords uint64
	ErasedBatches int // of which records were erased

	Trusted     bool         // a key for this log was given
	Pinned      bool         // its first chain key was pinned
	Timestamped *Timestamped // nil: not, as far as trusted authorities go

	Identities []string // SPIFFE IDs that vouched for its log keys, where the trust file goes by them
	TagsProven bool     // the auditor's key was given, and every tag checked with it

	FreshChains uint64       // epochs whose chain does not follow from the one before
	Witnessed   *WitnessedTo // nil: the trust file names no witness

	// The last entry that is proven, if any is: everything through it is.
	Proven     bool
	LastEntry  uint64
	LastRecord uint64 // number of the last record; meaningless without Records
	LastSealed time.Time

	Findings []Finding // by place, the first bad object first
	Omitted  int       // findings beyond maxFindings
	worst    [axisCount]Class
}

// WitnessedTo says how far a quorum of witnesses vouches for a log.
type WitnessedTo struct {
	Quorum, Of int
	By         []string  // who vouches for any of it
	Size       uint64    // entries for which the quorum vouches; 0: none
	Time       time.Time // the earliest of the quorum's cosignatures
	Asked      bool      // the witnesses, and not only the store
}

// maxFindings bounds a report; the first ones matter.
const maxFindings = 100

// Axis is the worst finding on an axis; Note means that it is proven.
func (r *LogReport) Axis(a Axis) Class {
	return r.worst[a]
}

// Axes are all axes, in order.
func Axes() []Axis {
	as := make([]Axis, axisCount)
	for i := range as {
		as[i] = Axis(i)
	}
	return as
}

// First is the first finding of the worst class, nil if there is none.
func (r *LogReport) First() *Finding {
	var first *Finding
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Class > Note && (first == nil || f.Class > first.Class) {
			first = f
		}
	}
	return first
}

// Report is the answer for a store.
type Report struct {
	Logs     []*LogReport
	Findings []Finding // about the store itself
	Took     time.Duration
}

// Exit codes of `meshaudit verify`.
const (
	ExitProven     = 0
	ExitTampering  = 1
	ExitIncomplete = 2
	ExitFailed     = 3 // the verifier could not do its work
)

// ExitCode is tampering before incomplete before proven.
func (r *Report) ExitCode() int {
	worst := Note
	for _, f := range r.Findings {
		worst = max(worst, f.Class)
	}
	for _, l := range r.Logs {
		worst = max(worst, slices.Max(l.worst[:])) // some findings may be omitted
	}
	return [...]int{Note: ExitProven, Incomplete: ExitIncomplete, Tampering: ExitTampering}[worst]
}

// sortFindings puts what is wrong with the segments first: everything else
// follows from them, or is derived.
func sortFindings(fs []Finding) {
	rank := func(f Finding) int {
		switch {
		case strings.HasPrefix(f.Segment, segmentDir+"/"):
			return 0
		case f.Segment != "":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Segment, b.Segment), cmp.Compare(a.Offset, b.Offset))
	})
}
