package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/meshaudit/meshaudit/internal/erasure"
	"github.com/meshaudit/meshaudit/internal/objectstore"
	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

func newErase(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "erase STORE [RECORD-ID ...] --by NAME --reason TEXT {--keys DIR | --requests DIR}",
		Short: "Take records out of a store's logs for good",
		Long: `Erases records, what amends them and the evidence that they cite, so that the rest
stays proven: who erased what, when and why is sealed, the records' bytes are
overwritten. meshaudit verify proves the log as before and says what was erased.

It says what it will erase and asks before it does. With --keys it writes to the
log itself, while no collector does; with --requests it asks the collector that
does. RECORD-ID is an audit.record.id or mesh.evidence.id, or its first 8 or
more hexadecimal digits.

Exit code:
  0  erased; or nothing had to be
  1  a log is damaged
  3  not, or not all, erased; also for bad usage`,
		Example: `  meshaudit erase run/store --user alice --by dpo@example.org --reason 'Art. 17, case 4711' --dry-run
  meshaudit erase run/store 55816f96 --by dpo@example.org --reason 'case 4711' --keys run/keys
  meshaudit erase run/store --user alice --by dpo@example.org --reason 'case 4711' --requests /run/meshaudit/erase`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return oneStore(c, args)
			}
			return nil
		},
	}
	f := c.Flags()
	users := f.StringSlice("user", nil, "erase all that names this `USER` as user.id")
	by := f.String("by", "", "`NAME` of who erases; it is sealed")
	reason := f.String("reason", "", "why, as `TEXT`; it is sealed, so it must not hold what is to be erased")
	keys := f.String("keys", "", "`DIR` with log.key, chain.key and the auditors' *.pub: write to the log, while no collector does")
	requests := f.String("requests", "", "`DIR` that is erase_requests of the exporter that writes the log")
	wait := f.Duration("wait", time.Minute, "with --requests: how long to wait for each log's answer")
	keepEvidence := f.Bool("keep-evidence", false, "leave the evidence that the records cite")
	finish := f.Bool("finish", false, "only overwrite what is ordered to be erased, but was not")
	dryRun := f.Bool("dry-run", false, "only say what would be erased")
	yes := f.Bool("yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		var ids []string
		for _, a := range args[1:] {
			id, err := parseID(a)
			if err != nil {
				return usage(c, err)
			}
			if len(id) < 8 {
				return usage(c, fmt.Errorf("%s is too short to erase by: give 8 digits or more", id))
			}
			ids = append(ids, id)
		}
		switch {
		case *finish && len(ids)+len(*users) > 0:
			return usage(c, errors.New("--finish erases nothing new: give no RECORD-ID and no --user with it"))
		case !*finish && len(ids)+len(*users) == 0:
			return usage(c, errors.New("say what to erase: a RECORD-ID or --user"))
		case !*dryRun && (*by == "" || *reason == ""):
			return usage(c, errors.New("--by and --reason are required: who erases, and why, is sealed"))
		case !*dryRun && (*keys == "") == (*requests == ""):
			return usage(c, errors.New("give --keys, to write to the log while no collector does, or --requests, to ask the collector that does"))
		}
		store, err := openStore(c.Context(), args[0])
		if err != nil {
			return err
		}
		if *keys != "" && objectstore.IsName(args[0]) {
			return errors.New("a log in an object store is erased by the exporter that writes it: set its `erase_requests`, and give that directory with --requests")
		}
		plan, err := s.planErasure(c.Context(), store, erasure.Select{IDs: ids, Users: *users, KeepEvidence: *keepEvidence}, *finish)
		if err != nil || *dryRun || len(plan.Logs) == 0 {
			return err
		}
		if !*yes {
			if err := confirm(s); err != nil {
				return err
			}
		}
		for _, l := range plan.Logs {
			if *requests != "" {
				err = ask(c.Context(), *requests, l, *by, *reason, *wait)
			} else {
				err = eraseHere(c.Context(), args[0], *keys, l, *by, *reason)
			}
			if err != nil {
				return fmt.Errorf("log of %s: %w", l.Origin, err)
			}
			fmt.Fprintf(s.err, "log of %s: erased, and sealed by whom and why\n", l.Origin)
		}
		return nil
	}
	return c
}

// planErasure finds what is to be erased and prints it.
func (s *streams) planErasure(ctx context.Context, store seal.Store, sel erasure.Select, finish bool) (*erasure.Plan, error) {
	if finish {
		origins, err := query.Origins(store, nil)
		plan := new(erasure.Plan)
		for _, o := range origins {
			plan.Logs = append(plan.Logs, erasure.Log{Origin: o})
		}
		return plan, err
	}
	plan, err := sel.Make(ctx, store, func(r *query.Record) error {
		id := r.Str(semconv.AuditRecordID)
		if id == "" {
			id = r.Str(semconv.EvidenceID)
		}
		_, err := fmt.Fprintf(s.out, "%s  %-16s  %s  %s entry %d, record %d\n", stamp(r.Time), printable(r.Event), printable(firstDigits(id)), r.Entry.Origin, r.Entry.Header.Entry, r.Number)
		return err
	})
	if e := s.out.Flush(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(s.err, "%s and %s of evidence are to be erased\n", counted(plan.Records, "record"), counted(plan.Pieces, "piece"))
	return plan, nil
}

func firstDigits(id string) string {
	if id == "" {
		return "-"
	}
	return id[:min(len(id), 8)]
}

func confirm(s *streams) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return errors.New("this cannot be undone: confirm with --yes")
	}
	fmt.Fprint(s.err, "This cannot be undone. Erase? [yes/no] ")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was erased")
	}
	return nil
}

func ask(ctx context.Context, dir string, l erasure.Log, by, reason string, wait time.Duration) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("--requests: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return erasure.Ask(ctx, dir, erasure.NewRequest(l, by, reason))
}

// eraseHere erases as the log's writer.
func eraseHere(ctx context.Context, root, dir string, l erasure.Log, by, reason string) error {
	cfg := seal.Config{Root: root, Origin: l.Origin, Chain: seal.ChainFile{FS: seal.OS, Path: filepath.Join(dir, seal.ChainKeyFile)}}
	var err error
	if cfg.LogKey, err = seal.ReadLogKey(filepath.Join(dir, seal.LogKeyFile)); err != nil {
		return fmt.Errorf("--keys: %w", err)
	}
	if cfg.LogKey.Name() != l.Origin {
		return fmt.Errorf("--keys: these are the keys of %s", cfg.LogKey.Name())
	}
	if _, err := seal.ReadChainKey(filepath.Join(dir, seal.ChainKeyFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; with a fresh chain, an HSM or the chain key elsewhere let the exporter erase: --requests", err)
		}
		return fmt.Errorf("--keys: %w", err)
	}
	auditors, err := filepath.Glob(filepath.Join(dir, "*.pub"))
	if err != nil {
		return err
	}
	for _, file := range auditors {
		r, err := seal.ReadRecipient(file)
		if err != nil {
			return fmt.Errorf("--keys: %w", err)
		}
		cfg.Auditors = append(cfg.Auditors, r)
	}
	// The epoch is ours for a moment; what it promises is what the exporter did.
	log, err := seal.OpenLog(root, l.Origin)
	if err != nil {
		return err
	}
	if err := log.Entries(ctx, func(*seal.Header) bool { return true }, func(e *seal.Entry) error {
		if e.Open != nil {
			cfg.Heartbeat = time.Duration(e.Open.HeartbeatSeconds) * time.Second
		}
		return nil
	}); err != nil {
		return err
	}
	w, err := seal.Open(cfg)
	if errors.Is(err, seal.ErrLocked) {
		return errors.New("a collector is writing this log: set `erase_requests: DIR` of its sealed_log exporter and give --requests DIR instead of --keys, or stop it")
	}
	if err != nil {
		return err
	}
	return errors.Join(w.Erase(ctx, l.Erasures, by, reason), w.Close(context.WithoutCancel(ctx)))
}
