package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/pkcs11key"
	"github.com/meshaudit/meshaudit/seal"
)

func newKeygen(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "keygen",
		Short: "Make the keys of a writer, of an auditor, a witness or a reviewer, or replace a log key",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return usage(c, errors.New("say whose keys: `meshaudit keygen writer`, `meshaudit keygen auditor`, `meshaudit keygen witness` or `meshaudit keygen reviewer`; to replace a log key: `meshaudit keygen rotate`"))
		},
	}
	c.AddCommand(newKeygenWriter(s), newKeygenAuditor(s), newKeygenRotate(s), newKeygenWitness(s), newKeygenReviewer(s))
	return c
}

func newKeygenWitness(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "witness --name NAME [--out DIR]",
		Short: "Make the key of a witness",
		Long: `Makes the key with which ` + "`meshaudit witness`" + ` cosigns checkpoints, on the
witness's own machine. The line on stdout names the witness in trust files; the
URL where it can be asked may be added to it. Nothing is overwritten.`,
		Example: `  meshaudit keygen witness --name example.org/witness/a --out keys`,
		Args:    noArgs,
	}
	name := c.Flags().String("name", "", "name of the witness, for ever; by convention a URL without a scheme")
	dir := c.Flags().String("out", ".", "`DIR` in which the files are made")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *name == "" {
			return usage(c, errors.New("--name is missing: it names the witness, e.g. example.org/witness/a"))
		}
		if err := seal.ValidWitnessName(*name); err != nil {
			return usage(c, err)
		}
		if err := absent(*dir, seal.WitnessKeyFile, seal.WitnessPubFile); err != nil {
			return err
		}
		k, err := seal.CreateWitnessKey(*dir, *name)
		if err != nil {
			return fmt.Errorf("make the witness's key: %w", err)
		}
		if err := s.print("witness " + k.VerifierKey() + "\n"); err != nil {
			return err
		}
		fmt.Fprintf(s.err, `Made in %s:
  %-12s secret: for meshaudit witness --key
  %-12s the line above: into trust files, and its key into each writer's witnesses::list
`, *dir, seal.WitnessKeyFile, seal.WitnessPubFile)
		return nil
	}
	return c
}

func newKeygenWriter(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "writer --origin ORIGIN [--out DIR] [--log-key URI]",
		Short: "Make the keys of one writer, and what to pin to verify its log",
		Long: `Makes the log key, which signs checkpoints, and the chain key, which moves on
with every start, of one writer: one sealed_log exporter in one collector. The
lines on stdout are what a verifier pins; they are also in the file "trust".
With --log-key, the log key is one that a PKCS#11 token has already; its public
half is read from there. Nothing is overwritten.`,
		Example: `  meshaudit keygen writer --origin example.org/meshaudit/edge-0 --out keys`,
		Args:    noArgs,
	}
	origin := c.Flags().String("origin", "", "name of the log, for ever: a-z 0-9 . _ / -, the exporter's `origin`")
	dir := c.Flags().String("out", ".", "`DIR` in which the files are made")
	logKey := c.Flags().String("log-key", "", "PKCS#11 `URI` of an Ed25519 key in a token, instead of a new key in a file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *origin == "" {
			return usage(c, errors.New("--origin is missing: it names the log, e.g. example.org/meshaudit/edge-0"))
		}
		if err := seal.ValidOrigin(*origin); err != nil {
			return usage(c, err)
		}
		if err := absent(*dir, seal.LogKeyFile, seal.ChainKeyFile, seal.TrustFile); err != nil {
			return err
		}
		if *logKey != "" {
			return s.keygenToken(*dir, *origin, *logKey)
		}
		trust, err := seal.CreateWriterKeys(*dir, *origin)
		if err != nil {
			return fmt.Errorf("make the writer's keys: %w", err)
		}
		if err := s.print(trust); err != nil {
			return err
		}
		fmt.Fprintf(s.err, `Made in %s:
  %-10s secret, signs checkpoints: the exporter's keys::log_key
  %-10s secret, moves on with every start: keys::chain_key, on a disk that is kept
  %-10s the lines above: give them to everyone who verifies, on another machine
Next, on the auditor's machine: meshaudit keygen auditor
`, *dir, seal.LogKeyFile, seal.ChainKeyFile, seal.TrustFile)
		return nil
	}
	return c
}

// keygenToken makes the keys of a writer whose log key is in a token.
func (s *streams) keygenToken(dir, origin, uri string) error {
	key, err := pkcs11key.Open(uri, origin)
	if err != nil {
		return fmt.Errorf("--log-key: %w", err)
	}
	defer key.Close()
	trust, err := seal.CreateChainKey(dir, origin, key.VerifierKey())
	if err != nil {
		return fmt.Errorf("make the writer's keys: %w", err)
	}
	if err := s.print(trust); err != nil {
		return err
	}
	fmt.Fprintf(s.err, `Made in %s, for the log key in the token:
  %-10s secret, moves on with every start: keys::chain_key, on a disk that is kept
  %-10s the lines above: give them to everyone who verifies, on another machine
Next: set the exporter's keys::log_key to the URI; on the auditor's machine: meshaudit keygen auditor
`, dir, seal.ChainKeyFile, seal.TrustFile)
	return nil
}

func newKeygenAuditor(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "auditor [--suite SUITE] [--out DIR]",
		Short: "Make the key pair of an auditor",
		Long: `Makes an auditor's key pair, on the auditor's own machine. Writers escrow their
chain keys to the public half, which is the line on stdout; with the secret half
verify checks the HMAC of every entry. Nothing is overwritten.`,
		Example: `  meshaudit keygen auditor --out keys`,
		Args:    noArgs,
	}
	suite := newOneOf("mlkem768x25519", "x25519")
	c.Flags().Var(suite, "suite", "how keys are escrowed; mlkem768x25519 also withstands quantum computers")
	complete(c, "suite", suite.values...)
	dir := c.Flags().String("out", ".", "`DIR` in which the files are made")
	c.RunE = func(*cobra.Command, []string) error {
		if err := absent(*dir, seal.AuditorKeyFile, seal.AuditorPubFile); err != nil {
			return err
		}
		r, err := seal.CreateAuditorKey(*dir, suite.value)
		if err != nil {
			return fmt.Errorf("make the auditor's keys: %w", err)
		}
		if err := s.print(r.String() + "\n"); err != nil {
			return err
		}
		fmt.Fprintf(s.err, `Made in %s, auditor %s:
  %-12s secret: keep it away from every writer; for verify --auditor
  %-12s the line above: copy it to each writer, into keys::auditors
`, *dir, r.ID(), seal.AuditorKeyFile, seal.AuditorPubFile)
		return nil
	}
	return c
}

func newKeygenRotate(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "rotate [--keys DIR]",
		Short: "Replace a writer's log key by a new one, under the same name",
		Long: `Makes a new log key and keeps the old one as log.key.previous. At its next start
the writer hands the log over: the old key signs its last checkpoint together
with the new one, and its chain goes on. The line on stdout is the new key's in a
trust file; the writer says at which size the old key's line ends.`,
		Example: `  meshaudit keygen rotate --keys keys`,
		Args:    noArgs,
	}
	dir := c.Flags().String("keys", ".", "`DIR` with the log.key to replace")
	c.RunE = func(*cobra.Command, []string) error {
		vkey, err := seal.RotateLogKey(*dir)
		if err != nil {
			return fmt.Errorf("replace the log key: %w", err)
		}
		if err := s.print("log " + vkey + "\n"); err != nil {
			return err
		}
		fmt.Fprintf(s.err, `Made in %s:
  %-16s  secret, signs checkpoints from the next start on
  %-16s  secret, hands the log over at that start; remove it when the writer has started
Next: give witnesses the new key, then restart the writer. It logs the two lines that take
the place of the old key's line in every trust file; so does meshaudit verify.
`, *dir, seal.LogKeyFile, seal.PreviousLogKeyFile)
		return nil
	}
	return c
}

// absent makes sure that none of the files is there: keys are made together
// or not at all.
func absent(dir string, names ...string) error {
	for _, name := range names {
		path := filepath.Join(dir, name)
		switch _, err := os.Lstat(path); {
		case err == nil:
			return fmt.Errorf("%s exists and is not overwritten: nothing was made; give another --out", path)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// print writes data at once, so that it comes before messages about it.
func (s *streams) print(data string) error {
	if _, err := s.out.WriteString(data); err != nil {
		return err
	}
	return s.out.Flush()
}
