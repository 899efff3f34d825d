package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/timestamp"
	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

func newVerify(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify STORE [--trust FILE] [--auditor KEY]",
		Short: "Prove that the logs of a store are what their writers sealed",
		Long: `Checks every byte of every log in STORE and answers by axes: integrity, order,
completeness, freshness, witnessed, erasures. Keys come from the trust file alone,
never from the log.

Exit code:
  0  everything is proven
  1  tampering: something is there that no crash explains
  2  incomplete or unproven: no trust file, a crash, a silent writer, no log
  3  the verifier could not do its work; also for bad usage`,
		Example: `  meshaudit verify run/store --trust run/keys/trust --auditor run/keys/auditor.key
  meshaudit verify run/store --trust trust --as-of 2025-11-23T18:00:00Z -o json
  meshaudit verify run/store --trust trust --since checkpoint-of-last-week
  meshaudit verify run/store --trust trust --witness`,
		Args: oneStore,
	}
	trustFile := c.Flags().String("trust", "", "`FILE` with what to trust: the lines that keygen writer printed")
	auditorFile := c.Flags().String("auditor", "", "the auditor's secret `KEY`, to check the HMAC chain too")
	since := c.Flags().String("since", "", "`FILE` with an older published checkpoint, kept elsewhere: the log must still agree with it")
	ask := c.Flags().Bool("witness", false, "ask the witnesses in the trust file that have a URL what they have seen")
	accepted := c.Flags().String("accepted", "", "`FILE` with what was reviewed and accepted, from meshaudit accept: it no longer counts")
	asOf := c.Flags().String("as-of", "", "`TIME` up to which the logs should reach; default now")
	form := output(c, "text", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		now := time.Now()
		opts := seal.VerifyOptions{AsOf: now}
		var err error
		if *asOf != "" {
			if opts.AsOf, err = query.ParseTime(*asOf, now); err != nil {
				return usage(c, fmt.Errorf("--as-of: %w", err))
			}
		}
		if c.Flags().Changed("trust") {
			if opts.Trust, err = seal.ReadTrust(*trustFile); err != nil {
				return fmt.Errorf("--trust: %w", err)
			}
		}
		if opts.Trust != nil && len(opts.Trust.Authorities) > 0 {
			opts.CheckTimestamp = timestamp.Checker(opts.Trust.Authorities)
		}
		if *ask {
			if opts.Trust == nil || opts.Trust.Witnesses == nil || len(opts.Trust.Witnesses.Witnesses) == 0 {
				return usage(c, errors.New("--witness asks the witnesses in the trust file: give one with `witness VKEY URL` lines"))
			}
			opts.WitnessClient = &witness.Client{}
		}
		if *since != "" {
			if opts.Since, err = os.ReadFile(*since); err != nil {
				return fmt.Errorf("--since: %w", err)
			}
		}
		if *accepted != "" {
			if opts.Accepted, err = os.ReadFile(*accepted); err != nil {
				return fmt.Errorf("--accepted: %w", err)
			}
		}
		if *auditorFile != "" {
			key, err := seal.ReadAuditorKey(*auditorFile)
			if err != nil {
				return fmt.Errorf("--auditor: %w", err)
			}
			opts.Auditor = &key
		}
		store, err := openStore(c.Context(), args[0])
		if err != nil {
			return err
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(verifyMemory)
		}
		bar := &progress{s: s, start: now}
		if s.progress {
			opts.Progress = bar.show
		}
		report, err := store.Verify(c.Context(), opts)
		bar.clear()
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		a := answer(args[0], &opts, report)
		if form.value == "json" {
			err = writeJSON(s.out, a, true)
		} else {
			err = s.writeAnswer(a)
		}
		if e := s.out.Flush(); err == nil {
			err = e
		}
		if err != nil && !errors.Is(err, syscall.EPIPE) {
			return err
		}
		return answered{report.ExitCode()}
	}
	return c
}

// verifyMemory is what verify uses before it collects garbage at once. Without
// it, entries of the largest size leave more garbage than verify needs memory.
const verifyMemory = 36 << 20

// progress is a line on the terminal that says how far verify is.
type progress struct {
	s     *streams
	start time.Time

	mu    sync.Mutex
	last  time.Time
	shown bool
}

func (p *progress) show(done, total int64) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.start) < 500*time.Millisecond || now.Sub(p.last) < 100*time.Millisecond {
		return // fast enough that nobody waits
	}
	p.last, p.shown = now, true
	percent := int64(100)
	if total > 0 {
		percent = min(100, 100*done/total)
	}
	fmt.Fprintf(p.s.err, "\r\x1b[Kverifying: %d%% of %s", percent, size(total))
}

func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.s.err, "\r\x1b[K")
		p.shown = false
	}
}

// The answers for a store, a log or an axis.
const (
	isProven     = "proven"
	isUnproven   = "unproven" // nothing speaks against it, and nothing proves it
	isIncomplete = "incomplete"
	isTampering  = "tampering"
	isNone       = "none" // there is nothing to check
)

// storeAnswer is verify's JSON, see docs/cli.md.
type storeAnswer struct {
	Answer   string          `json:"answer"`
	ExitCode int             `json:"exit_code"`
	Store    string          `json:"store"`
	AsOf     string          `json:"as_of"`
	Seconds  float64         `json:"seconds"`
	Findings []findingAnswer `json:"findings"`
	Logs     []logAnswer     `json:"logs"`

	asOf time.Time
	took time.Duration
}

type logAnswer struct {
	Origin string            `json:"origin"`
	Answer string            `json:"answer"`
	Axes   map[string]string `json:"axes"`

	Trusted       bool     `json:"trusted"`        // the trust file has a key for this log
	Pinned        bool     `json:"pinned"`         // and the chain key that it began with
	SPIFFEIDs     []string `json:"spiffe_ids"`     // whose SVIDs vouch for the log keys, where the trust file goes by them
	FreshChains   uint64   `json:"fresh_chains"`   // epochs whose HMAC chain begins anew
	WithoutSecret string   `json:"without_secret"` // proven or not, by signatures and hashes
	WithAuditor   string   `json:"with_auditor"`   // proven or not, by the HMAC of every entry; none: no key was given

	Timestamped *timestampedAnswer `json:"timestamped"` // null: by no trusted authority

	Witnessed *witnessedAnswer `json:"witnessed"` // null: the trust file names no witness

	Counts     countsAnswer    `json:"counts"`
	LastProven *lastAnswer     `json:"last_proven"` // null: nothing
	FirstBad   *findingAnswer  `json:"first_bad"`   // null: nothing
	Findings   []findingAnswer `json:"findings"`
	Omitted    int             `json:"findings_omitted"`
	Next       string          `json:"next"` // the next thing to do, "" if nothing
}

// witnessedAnswer is how far a quorum of witnesses vouches for a log.
type witnessedAnswer struct {
	Quorum  int      `json:"quorum"`
	Of      int      `json:"of"`
	By      []string `json:"by"`      // witnesses that vouch for any of it
	Entries uint64   `json:"entries"` // from the first on; 0: the quorum is missed
	Time    *string  `json:"time"`    // the earliest of the quorum's cosignatures
	Asked   bool     `json:"asked"`   // the witnesses themselves, with --witness

	time time.Time
}

type countsAnswer struct {
	Entries     uint64 `json:"entries"`
	Records     uint64 `json:"records"`
	Erased      uint64 `json:"erased"` // of the records
	Epochs      uint64 `json:"epochs"`
	Segments    int    `json:"segments"`
	Checkpoints uint64 `json:"checkpoints"`
	Bytes       int64  `json:"bytes"`
}

// timestampedAnswer: a trusted authority saw the log with so many entries.
type timestampedAnswer struct {
	Entries uint64 `json:"entries"`
	Time    string `json:"time"`
	By      string `json:"by"`

	time time.Time
}

// lastAnswer is an entry through which everything is proven; without trust, it
// is what does not contradict itself.
type lastAnswer struct {
	Entry  uint64  `json:"entry"`
	Record *uint64 `json:"record"` // null: no record up to here
	Sealed string  `json:"sealed"`

	sealed time.Time
}

type findingAnswer struct {
	Class  string `json:"class"`
	Axis   string `json:"axis"`
	File   string `json:"file"` // "" if the finding has no place
	Offset int64  `json:"offset"`
	What   string `json:"what"`
	Next   string `json:"next"`
	Code   string `json:"code"` // "" if the finding cannot be accepted

	Accepted *acceptedAnswer `json:"accepted"` // null: it was not
}

type acceptedAnswer struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// answer draws the conclusions from a report.
func answer(store string, opts *seal.VerifyOptions, r *seal.Report) *storeAnswer {
	a := &storeAnswer{
		ExitCode: r.ExitCode(), Store: store, AsOf: moment(opts.AsOf), Seconds: r.Took.Seconds(),
		Findings: []findingAnswer{}, Logs: []logAnswer{}, asOf: opts.AsOf, took: r.Took,
	}
	a.Answer = [...]string{isProven, isTampering, isIncomplete}[a.ExitCode]
	for i := range r.Findings {
		a.Findings = append(a.Findings, finding(store, &r.Findings[i]))
	}
	trusted := len(r.Logs) > 0
	for _, l := range r.Logs {
		a.Logs = append(a.Logs, *answerLog(store, opts, l))
		trusted = trusted && l.Trusted
	}
	if a.Answer == isIncomplete && !trusted && len(r.Logs) > 0 {
		a.Answer = isUnproven
	}
	return a
}

func answerLog(store string, opts *seal.VerifyOptions, l *seal.LogReport) *logAnswer {
	dir := inStore(store, seal.LogDir(".", l.Origin))
	a := &logAnswer{
		Origin: l.Origin, Answer: isProven, Axes: map[string]string{},
		Trusted: l.Trusted, Pinned: l.Pinned, FreshChains: l.FreshChains, SPIFFEIDs: append([]string{}, l.Identities...), WithAuditor: isNone,
		Counts:   countsAnswer{l.Entries, l.Records, l.ErasedRecords, l.Epochs, l.Segments, l.Checkpoints, l.Bytes},
		Findings: []findingAnswer{}, Omitted: l.Omitted,
	}
	worst := seal.Note
	found := byWeight(l.Findings)
	for i := range found {
		worst = max(worst, found[i].Class)
		a.Findings = append(a.Findings, finding(dir, &found[i]))
	}
	// What was not reached because of tampering, and what nobody vouches
	// for, is not proven, even if nothing was found there.
	unproven := !l.Trusted || worst == seal.Tampering
	for _, axis := range seal.Axes() {
		state := isProven
		switch found := l.Axis(axis); {
		case found == seal.Tampering:
			state = isTampering
		case axis == seal.Witnessed && l.Witnessed == nil && found == seal.Note:
			state = isNone // the trust file names none
		case found == seal.Incomplete && l.Trusted:
			state = isIncomplete
		case found == seal.Incomplete || unproven:
			state = isUnproven
		}
		a.Axes[axis.String()] = state
	}
	switch {
	case worst == seal.Tampering:
		a.Answer = isTampering
	case !l.Trusted:
		a.Answer = isUnproven
	case worst == seal.Incomplete:
		a.Answer = isIncomplete
	}
	a.WithoutSecret = isUnproven
	if l.Trusted && l.Axis(seal.Integrity) < seal.Tampering && l.Axis(seal.Order) < seal.Tampering {
		a.WithoutSecret = isProven
	}
	if opts.Auditor != nil {
		a.WithAuditor = isUnproven
		if l.TagsProven {
			a.WithAuditor = isProven
		}
	}
	if len(a.Findings) > 0 && worst > seal.Note {
		a.FirstBad, a.Next = &a.Findings[0], a.Findings[0].Next
	}
	a.LastProven = lastProven(l)
	if t := l.Timestamped; t != nil {
		a.Timestamped = &timestampedAnswer{t.Entries, moment(t.Time), t.By, t.Time}
	}
	if w := l.Witnessed; w != nil {
		a.Witnessed = &witnessedAnswer{Quorum: w.Quorum, Of: w.Of, By: append([]string{}, w.By...), Entries: w.Size, Asked: w.Asked, time: w.Time}
		if w.Size > 0 {
			t := moment(w.Time)
			a.Witnessed.Time = &t
		}
	}
	return a
}

// byWeight orders findings: the worst class first, and in it those in segments,
// by place. What is derived from segments (tiles, the published checkpoint) is
// off where a segment is, and comes after it.
func byWeight(fs []seal.Finding) []seal.Finding {
	outside := func(f *seal.Finding) int {
		if strings.HasPrefix(f.Segment, "segment/") {
			return 0
		}
		return 1
	}
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b seal.Finding) int {
		return cmp.Or(cmp.Compare(b.Class, a.Class), cmp.Compare(outside(&a), outside(&b)))
	})
	return fs
}

func finding(dir string, f *seal.Finding) findingAnswer {
	a := findingAnswer{Class: f.Class.String(), Axis: f.Axis.String(), Offset: f.Offset, What: f.What, Next: f.Next}
	if f.Subject != nil {
		a.Code = string(f.Subject.Code)
	}
	if f.Accepted != nil {
		a.Accepted = &acceptedAnswer{f.Accepted.By, f.Accepted.Reason}
	}
	if f.Segment != "" {
		a.File = inStore(dir, f.Segment)
	}
	return a
}

// lastProven is what a report says of the last proven entry, nil if none is.
func lastProven(l *seal.LogReport) *lastAnswer {
	if !l.Proven {
		return nil
	}
	last := &lastAnswer{Entry: l.LastEntry, sealed: l.LastSealed, Sealed: moment(l.LastSealed)}
	if l.LastRecord > 0 || l.Records > 0 {
		last.Record = &l.LastRecord
	}
	return last
}
