// Command demo plays a small service mesh on the loopback interface and lets it
// report to a collector, so that there is real evidence to audit.
//
// Nothing is replayed and no report is made up: a gateway and three services
// speak mutual TLS with SPIFFE X.509-SVIDs, are traced with OpenTelemetry, ask
// an embedded OPA before they answer, and report over the protocols that
// meshes use: OTLP, Envoy's access log service and OPA's decision log upload.
//
//	customer ──▶ gateway ──▶ frontend ──▶ orders ──▶ payments
//	                             └─────────────────────▲
//
// The files, in the order to read them: story.go plays the calls, shop.go has
// the four applications, service.go puts a sidecar before each of them
// (sidecar.go, accesslog.go), identity.go issues their certificates, policy.go
// decides what they may do, tracing.go traces them, mesh.go wires it up.
//
// The demo exits 0 only if every step went as told and every report was taken
// by the collector.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// endpoints are where the mesh reports to.
type endpoints struct {
	otlp string // host:port, OTLP over gRPC
	als  string // host:port, Envoy's access log service v3 over gRPC
	opa  string // URL, OPA's decision log service; OPA appends decisionLogResource
}

func main() {
	var to endpoints
	flag.StringVar(&to.otlp, "otlp", "127.0.0.1:4317", "host:port that takes OTLP over gRPC")
	flag.StringVar(&to.als, "als", "127.0.0.1:9001", "host:port that takes Envoy access logs (ALS v3) over gRPC")
	flag.StringVar(&to.opa, "opa", "http://127.0.0.1:8182", "URL that takes OPA's decision logs")
	timeout := flag.Duration("timeout", time.Minute, "give up after this long")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := run(ctx, to, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// run starts the mesh, plays the story on it, and returns once the collector
// has taken every report.
func run(ctx context.Context, to endpoints, out io.Writer) error {
	if err := to.check(ctx); err != nil {
		return err
	}
	mesh, err := startMesh(ctx, to)
	if err != nil {
		return fmt.Errorf("start the mesh: %w", err)
	}
	storyErr := play(ctx, mesh, out)
	if err := errors.Join(storyErr, mesh.close(ctx)); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe collector took every report: %d access log entries and %d policy decisions, and the\nspans of the same calls.\n",
		mesh.accessLogEntries(), mesh.decisions())
	return nil
}

// check fails early, and says which flag to look at, if nobody listens.
func (e endpoints) check(ctx context.Context) error {
	opa, err := url.Parse(e.opa)
	if err != nil || opa.Host == "" {
		return fmt.Errorf("--opa: %q is not a URL such as http://127.0.0.1:8182", e.opa)
	}
	for _, endpoint := range []struct{ flag, address string }{
		{"otlp", e.otlp}, {"als", e.als}, {"opa", opa.Host},
	} {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		conn, err := dialer.DialContext(ctx, "tcp", endpoint.address)
		if err != nil {
			return fmt.Errorf("--%s: the collector does not answer: %w", endpoint.flag, err)
		}
		if err := conn.Close(); err != nil {
			return fmt.Errorf("--%s: %w", endpoint.flag, err)
		}
	}
	return nil
}
