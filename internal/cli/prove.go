package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/internal/semconv"
	"github.com/meshaudit/meshaudit/seal"
)

func newProve(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "prove STORE RECORD-ID",
		Short: "Make an offline proof of one record",
		Long: `Writes a proof that one record was sealed, which anyone with the trust file can
check without the log and without any secret: meshaudit check. It is a C2SP
tlog-proof; the record itself is in it.

RECORD-ID is an audit.record.id or mesh.evidence.id, or its first 4 or more
hexadecimal digits.`,
		Example: `  meshaudit prove run/store 55816f96 -o refund.tlog-proof
  meshaudit check refund.tlog-proof --trust run/keys/trust`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage(c, fmt.Errorf("expected a STORE and a RECORD-ID, got %d arguments", len(args)))
			}
			return nil
		},
	}
	file := c.Flags().StringP("output", "o", "", "`FILE` to write the proof to, instead of stdout; it must not exist")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := parseID(args[1])
		if err != nil {
			return usage(c, err)
		}
		store, err := openStore(c.Context(), args[0])
		if err != nil {
			return err
		}
		at, err := locate(c, store, id)
		if err != nil {
			return err
		}
		log, err := store.OpenLog(at.origin)
		if err != nil {
			return err
		}
		proof, err := log.Prove(c.Context(), at.entry, at.index)
		if err != nil {
			return err
		}
		if *file == "" {
			return s.print(string(proof))
		}
		if err := seal.WritePublic(*file, proof); errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists and is not overwritten: give another -o", *file)
		} else if err != nil {
			return err
		}
		fmt.Fprintf(s.err, "%s proves record %s; check it with: meshaudit check %s --trust FILE\n", *file, at.id, *file)
		return nil
	}
	return c
}

// place is where a record was sealed.
type place struct {
	id, origin string
	entry      uint64
	index      int // in the entry
}

// locate finds the one record with the given id, or beginning of an id.
func locate(c *cobra.Command, store seal.Store, id string) (*place, error) {
	q := &query.Query{IDs: []string{id}}
	var found *place
	_, err := q.Run(c.Context(), store, func(r *query.Record) error {
		name := r.Str(semconv.AuditRecordID)
		if !strings.HasPrefix(name, id) {
			name = r.Str(semconv.EvidenceID)
		}
		switch {
		case !strings.HasPrefix(name, id): // an amendment of the record
		case found == nil:
			found = &place{name, r.Entry.Origin, r.Entry.Header.Entry, int(r.Number - r.Entry.FirstRecord)}
		case found.id != name:
			return fmt.Errorf("%s and %s begin with %s: give more digits", found.id, name, id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, fmt.Errorf("no record %s in %s", id, store)
	}
	return found, nil
}

func newCheck(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check an offline proof of one record",
		Long: `Checks a proof that meshaudit prove made, offline, and prints the record and what
is proven of it.

Exit codes: 0 proven, 1 not what was sealed, 2 no key for this log is trusted,
3 the check itself failed.`,
		Example: `  meshaudit check refund.tlog-proof --trust run/keys/trust`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, fmt.Errorf("expected one FILE, got %d arguments", len(args)))
			}
			return nil
		},
	}
	trustFile := c.Flags().String("trust", "", "trust `FILE`: whose word counts")
	form := output(c, "text", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *trustFile == "" {
			return usage(c, errors.New("--trust is required: a proof convinces only those who trust a key"))
		}
		trust, err := seal.ReadTrust(*trustFile)
		if err != nil {
			return err
		}
		b, err := readProof(args[0])
		if err != nil {
			return err
		}
		proof, err := seal.CheckProof(b, trust)
		switch {
		case errors.Is(err, seal.ErrNoKey):
			fmt.Fprintf(s.out, "Unproven: %v\n", err)
			return answered{seal.ExitIncomplete}
		case err != nil:
			fmt.Fprintf(s.out, "Not proven: %v\n", err)
			return answered{seal.ExitTampering}
		}
		r, err := query.Proven(proof)
		if err != nil {
			return err
		}
		if form.value == "text" {
			fmt.Fprintf(s.out, "Proven: this record was sealed by %s as record %d, in entry %d, at %s.\n",
				proof.Header.Origin, proof.Number, proof.Header.Entry, moment(unixNano(proof.Header.Sealed)))
			fmt.Fprintf(s.out, "The trusted log key signed for it in a checkpoint of %d entries. Its time of sealing is the writer's word.\n",
				proof.Checkpoint.Size)
			for _, c := range proof.Cosigned {
				fmt.Fprintf(s.out, "Witness %s cosigned that checkpoint at %s.\n", c.Witness.Name(), moment(c.Time))
			}
			fmt.Fprintln(s.out)
		}
		return writeJSON(s.out, recordJSON(r), form.value == "text")
	}
	return c
}

func readProof(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, seal.MaxProofBytes+1))
}
