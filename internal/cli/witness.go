package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshaudit/meshaudit/internal/witness"
	"github.com/meshaudit/meshaudit/seal"
)

func newWitness(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "witness --key FILE --logs FILE --state DIR [--listen ADDRESS]",
		Short: "Run a witness, which cosigns the checkpoints of other logs",
		Long: `Runs a C2SP witness: it cosigns a checkpoint of a log that it knows only if that
continues all that it cosigned before, and remembers it first. A log that is
rolled back, rewritten or has two writers finds no witness any more. It also
notices when a log falls silent.

It answers POST /add-checkpoint, GET /<SHA-256 of the origin>/checkpoint and
GET /status. It authenticates nobody: what it signs is true whoever asks.`,
		Example: `  meshaudit witness --key keys/witness.key --logs logs --state /var/lib/meshaudit/witness --listen 0.0.0.0:7380
  meshaudit witness status https://witness.example.org`,
		Args: noArgs,
	}
	keyFile := c.Flags().String("key", "", "the witness's secret key `FILE`")
	logs := c.Flags().String("logs", "", "`FILE` with the `log` lines of the logs to watch, as in a trust file; at a key rotation, both keys")
	state := c.Flags().String("state", "", "`DIR` that keeps what was cosigned; never restore it from a copy")
	listen := c.Flags().String("listen", "localhost:7380", "`ADDRESS` to listen on")
	cert := c.Flags().String("tls-cert", "", "certificate chain `FILE`, for HTTPS")
	certKey := c.Flags().String("tls-key", "", "private key `FILE` of the certificate")
	silent := c.Flags().Duration("silent-after", 5*time.Minute, "how long a log may show nothing new before it is reported")
	c.RunE = func(c *cobra.Command, _ []string) error {
		for flag, value := range map[string]string{"--key": *keyFile, "--logs": *logs, "--state": *state} {
			if value == "" {
				return usage(c, fmt.Errorf("%s is missing", flag))
			}
		}
		if (*cert == "") != (*certKey == "") {
			return usage(c, errors.New("--tls-cert and --tls-key belong together"))
		}
		if *silent < time.Second {
			return usage(c, errors.New("--silent-after must be at least 1s"))
		}
		key, err := seal.ReadWitnessKey(*keyFile)
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
		trust, err := seal.ReadTrust(*logs)
		if err != nil {
			return fmt.Errorf("--logs: %w", err)
		}
		w, err := witness.Open(witness.Config{Key: key, Logs: trust, State: *state, SilentAfter: *silent, Changed: func(l witness.Status) {
			fmt.Fprintf(s.err, "%s log %s is %s (%d entries)\n", moment(time.Now()), l.Origin, l.State, l.Size)
		}})
		if err != nil {
			return err
		}
		err = s.serveWitness(c.Context(), w, *listen, *cert, *certKey)
		return errors.Join(err, w.Close())
	}
	c.AddCommand(newWitnessStatus(s))
	return c
}

func (s *streams) serveWitness(ctx context.Context, w *witness.Witness, listen, cert, key string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := witness.NewServer(w)
	watching := make(chan struct{})
	go w.Watch(watching)
	defer close(watching)
	scheme := "http"
	if cert != "" {
		scheme = "https"
	}
	r := w.Report()
	fmt.Fprintf(s.err, "witness %s watches %s on %s://%s\n", r.Witness, counted(len(r.Logs), "log"), scheme, l.Addr())
	stopped := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	})
	defer stopped()
	if cert != "" {
		err = server.ServeTLS(l, cert, key)
	} else {
		err = server.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func newWitnessStatus(s *streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "status URL",
		Short: "Ask a witness which logs are silent",
		Long: `Asks a witness of meshaudit how the logs are that it watches.

Exit codes: 0 all are current, 2 a log is silent or was never seen, 3 no answer.`,
		Example: `  meshaudit witness status https://witness.example.org`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, fmt.Errorf("expected one URL, got %d arguments", len(args)))
			}
			return nil
		},
	}
	form := output(c, "text", "json")
	c.RunE = func(c *cobra.Command, args []string) error {
		if u, err := url.Parse(args[0]); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return usage(c, fmt.Errorf("%q is no URL of a witness, such as https://witness.example.org", args[0]))
		}
		r, err := askStatus(c.Context(), args[0])
		if err != nil {
			return fmt.Errorf("ask %s: %w", args[0], err)
		}
		code := exitOK
		for _, l := range r.Logs {
			if l.State != witness.Current {
				code = exitIncomplete
			}
		}
		if form.value == "json" {
			err = writeJSON(s.out, r, true)
		} else {
			p := &page{s: s}
			for _, l := range r.Logs {
				seen := "never seen"
				if l.Grown != nil {
					seen = "last grew at " + stamp(*l.Grown) + " UTC"
				}
				p.printf("%-8s %s: %s, %s\n", printable(l.State), printable(l.Origin), counted(l.Size, "entry"), seen)
			}
			err = p.err
		}
		if err != nil {
			return err
		}
		return answered{code}
	}
	return c
}

func askStatus(ctx context.Context, witnessURL string) (*witness.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(witnessURL, "/")+"/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s: is it a witness of meshaudit?", resp.Status)
	}
	var r witness.Report
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&r); err != nil {
		return nil, fmt.Errorf("it answered with something else than a status: %w", err)
	}
	return &r, nil
}
