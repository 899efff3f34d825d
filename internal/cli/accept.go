package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/seal"
)

func newAccept(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "accept STORE --trust FILE --key reviewer.key --reason TEXT -o FILE",
		Short: "Sign that what is incomplete in a store was reviewed",
		Long: `Verifies the store and signs for every incompleteness that can be accepted, such
as a crash on a day when there was one: verify --accepted FILE then shows it as
accepted, by whom and why, and no longer counts it. FILE is extended if it is
there. Each is bound to the entry where it was found, so a rewritten log is
excused nothing. Tampering, silence, and what says nothing about the past (no
trust file, a missing log) cannot be accepted.

Exit code:
  0  signed: verify --accepted FILE gives 0 now
  1  tampering was found: nothing is signed
  2  what can be accepted is signed, and something else keeps verify from 0
  3  the command could not do its work; also for bad usage`,
		Example: `  meshaudit accept run/store --trust trust --key reviewer.key --reason 'OOM kill, incident 311' -o accepted
  meshaudit verify run/store --trust trust --accepted accepted`,
		Args: oneStore,
	}
	f := c.Flags()
	trustFile := f.String("trust", "", "trust `FILE`; it must name the reviewer: reviewer VKEY")
	keyFile := f.String("key", "", "the reviewer's secret `KEY`, from keygen reviewer")
	auditorFile := f.String("auditor", "", "the auditor's secret `KEY`, as for verify")
	reason := f.String("reason", "", "why, as `TEXT`, for everything that is accepted now")
	out := f.StringP("output", "o", "", "`FILE` to make or to extend")
	asOf := f.String("as-of", "", "`TIME` up to which the logs should reach, as for verify")
	c.RunE = func(c *cobra.Command, args []string) error {
		var missing []string
		for _, flag := range []string{"trust", "key", "reason", "output"} {
			if f.Lookup(flag).Value.String() == "" {
				missing = append(missing, "--"+flag)
			}
		}
		if len(missing) > 0 {
			return usage(c, fmt.Errorf("required, and not given: %s", strings.Join(missing, ", ")))
		}
		now := time.Now()
		opts := seal.VerifyOptions{AsOf: now}
		var err error
		if *asOf != "" {
			if opts.AsOf, err = query.ParseTime(*asOf, now); err != nil {
				return usage(c, fmt.Errorf("--as-of: %w", err))
			}
		}
		if opts.Trust, err = seal.ReadTrust(*trustFile); err != nil {
			return fmt.Errorf("--trust: %w", err)
		}
		if *auditorFile != "" {
			key, err := seal.ReadAuditorKey(*auditorFile)
			if err != nil {
				return fmt.Errorf("--auditor: %w", err)
			}
			opts.Auditor = &key
		}
		key, err := seal.ReadReviewerKey(*keyFile)
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
		var all []seal.Acceptance
		before, err := os.ReadFile(*out)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			if all, err = seal.OpenAccepted(before, opts.Trust); err != nil {
				return fmt.Errorf("%s: %w", *out, err)
			}
			for _, a := range all {
				if a.By != key.Name() {
					return fmt.Errorf("%s is signed by %s: extend it with that key, or begin a file of your own", *out, a.By)
				}
			}
			opts.Accepted = before
		}
		store, err := openStore(c.Context(), args[0])
		if err != nil {
			return err
		}
		report, err := store.Verify(c.Context(), opts)
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if report.ExitCode() == seal.ExitTampering {
			fmt.Fprintln(s.err, "tampering was found, and nothing is accepted: run meshaudit verify")
			return answered{seal.ExitTampering}
		}
		found, others := report.Reviewable()
		listed := map[seal.Subject]bool{}
		for _, f := range found {
			if listed[*f.Subject] {
				continue
			}
			listed[*f.Subject] = true
			all = append(all, seal.Acceptance{Subject: *f.Subject, Reason: *reason})
			if _, err := fmt.Fprintf(s.out, "%s entry %d  %s  %s\n", f.Subject.Origin, f.Subject.Entry, f.Subject.Code, printable(f.What)); err != nil {
				return err
			}
		}
		if len(found) > 0 {
			signed, err := seal.SignAccepted(all, key)
			if err != nil {
				return err
			}
			// The reviewer's name must count, or the file is of no use.
			if _, err := seal.OpenAccepted(signed, opts.Trust); err != nil {
				return fmt.Errorf("%w; add the line of %s to the trust file", err, seal.ReviewerPubFile)
			}
			if err := replace(*out, signed); err != nil {
				return err
			}
		}
		if len(found) > 0 {
			fmt.Fprintf(s.err, "%s accepted by %s\n", counted(len(listed), "finding"), key.Name())
		} else {
			fmt.Fprintf(s.err, "nothing new was found that can be accepted: %s was not written\n", *out)
		}
		// A report has room for so many; there may be more behind them.
		opts.Accepted, err = os.ReadFile(*out)
		if errors.Is(err, fs.ErrNotExist) {
			opts.Accepted = nil
		} else if err != nil {
			return err
		}
		if len(found) > 0 {
			if report, err = store.Verify(c.Context(), opts); err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			_, others = report.Reviewable()
		}
		if code := report.ExitCode(); code != seal.ExitProven {
			fmt.Fprintf(s.err, "verify does not give 0 yet: %s cannot be accepted; run it, and accept again if more can\n", counted(others, "finding"))
			return answered{code}
		}
		return nil
	}
	return c
}

// replace puts b in the place of a file, atomically.
func replace(name string, b []byte) error {
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func newKeygenReviewer(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "reviewer --name NAME [--out DIR]",
		Short: "Make the key of a reviewer",
		Long: `Makes the key with which ` + "`meshaudit accept`" + ` signs that an incompleteness was
reviewed. The line on stdout goes into the trust files of those who take the
reviewer's word. Nothing is overwritten.`,
		Example: `  meshaudit keygen reviewer --name alice@example.org --out keys`,
		Args:    noArgs,
	}
	name := c.Flags().String("name", "", "`NAME` of the reviewer, without spaces")
	dir := c.Flags().String("out", ".", "`DIR` in which the files are made")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *name == "" {
			return usage(c, errors.New("--name is missing: it names the reviewer, e.g. alice@example.org"))
		}
		if err := seal.ValidReviewerName(*name); err != nil {
			return usage(c, err)
		}
		if err := absent(*dir, seal.ReviewerKeyFile, seal.ReviewerPubFile); err != nil {
			return err
		}
		line, err := seal.CreateReviewerKey(*dir, *name)
		if err != nil {
			return fmt.Errorf("make the reviewer's key: %w", err)
		}
		if err := s.print(line); err != nil {
			return err
		}
		fmt.Fprintf(s.err, `Made in %s:
  %-12s secret: for meshaudit accept --key
  %-12s the line above: into the trust file of who takes this reviewer's word
`, *dir, seal.ReviewerKeyFile, seal.ReviewerPubFile)
		return nil
	}
	return c
}
