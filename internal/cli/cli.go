// Package cli is the meshaudit command: keys, verification and search of
// sealed logs.
//
// Data goes to stdout, messages to stderr. docs/cli.md is its contract: the
// JSON forms and exit codes stated there are stable.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/query"
	"github.com/meshaudit/meshaudit/seal"
)

// Exit codes of every command; verify alone gives exitIncomplete.
const (
	exitOK         = seal.ExitProven
	exitDamaged    = seal.ExitTampering
	exitIncomplete = seal.ExitIncomplete
	exitFailed     = seal.ExitFailed
)

// Main runs the command line of this process and returns its exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Who closes our stdout has seen enough: writes then fail with EPIPE,
	// and the command ends quietly instead of being killed.
	signal.Ignore(syscall.SIGPIPE)
	return run(ctx, os.Args[1:], newStreams(os.Stdout, os.Stderr))
}

// answered ends a command that has said all there is to say.
type answered struct{ code int }

func (a answered) Error() string { return fmt.Sprintf("exit code %d", a.code) }

func run(ctx context.Context, args []string, s *streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	if e := s.out.Flush(); err == nil {
		err = e
	}
	var done answered
	var damage *query.DamageError
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE):
		return exitOK
	case errors.As(err, &done):
		return done.code
	case ctx.Err() != nil:
		fmt.Fprintln(s.err, "meshaudit: interrupted")
		return exitFailed
	case errors.As(err, &damage):
		fmt.Fprintf(s.err, "meshaudit: %v\n", err)
		return exitDamaged
	}
	fmt.Fprintf(s.err, "meshaudit: %s\n", strings.TrimSpace(err.Error()))
	return exitFailed
}

func newRoot(s *streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "meshaudit",
		Short: "Keys, verification and search of sealed audit logs",
		Long: `meshaudit makes the keys of a sealed log, proves that a log is what its writer
sealed, and finds audit records in it.`,
		Example: `  meshaudit verify run/store --trust run/keys/trust
  meshaudit query run/store --verdict deny --since 24h`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("meshaudit {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newKeygen(s), newVerify(s), newShow(s), newQuery(s), newTrace(s), newProve(s), newCheck(s), newErase(s), newAccept(s), newWitness(s), newVersion(s))
	return root
}

// flagError says what is wrong with a flag in words of our own where the
// library has those of a programmer.
func flagError(c *cobra.Command, err error) error {
	if number := new(strconv.NumError); errors.As(err, &number) {
		which, _, _ := strings.Cut(err.Error(), ": strconv.")
		err = fmt.Errorf("%s: must be a whole number from 0 on, and not too large", which)
	}
	return usage(c, err)
}

// usage adds to an error where to read what is right.
func usage(c *cobra.Command, err error) error {
	return fmt.Errorf("%w; see: %s --help", err, c.CommandPath())
}

// oneStore is the argument that verify, show and query take.
func oneStore(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage(c, fmt.Errorf("expected one STORE, the `directory` of the sealed_log exporter, got %d arguments", len(args)))
	}
	if args[0] == "" {
		return usage(c, errors.New("STORE is empty: is a variable not set?"))
	}
	return nil
}

// noArgs refuses arguments in words of our own.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) != 0 {
		return usage(c, fmt.Errorf("unexpected argument %q", args[0]))
	}
	return nil
}

// oneOf is a flag with a closed set of values, the first being the default.
type oneOf struct {
	value  string
	values []string
}

func newOneOf(values ...string) *oneOf { return &oneOf{values[0], values} }

func (o *oneOf) String() string { return o.value }
func (o *oneOf) Type() string   { return strings.Join(o.values, "|") }
func (o *oneOf) Set(s string) error {
	for _, v := range o.values {
		if s == v {
			o.value = s
			return nil
		}
	}
	last := len(o.values) - 1
	return fmt.Errorf("must be %s or %s", strings.Join(o.values[:last], ", "), o.values[last])
}

// output is the flag -o.
func output(c *cobra.Command, formats ...string) *oneOf {
	o := newOneOf(formats...)
	c.Flags().VarP(o, "output", "o", "form of the output")
	complete(c, "output", formats...)
	return o
}

func complete(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a mistake in this package
	}
}

// streams are where a command writes.
type streams struct {
	out   *bufio.Writer
	err   io.Writer
	color bool // stdout takes colors
	// width is how many columns a table may have.
	width int
	// progress: stderr is a terminal, on which a line can be overwritten.
	progress bool
}
