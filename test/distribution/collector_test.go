// Package distribution tests the built collector and the built meshaudit
// command as their users run them: as processes, with the shipped
// configurations, over the network.
package distribution

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const repository = "../.."

// binary finds a program that make has built.
func binary(t *testing.T, env, path string) string {
	t.Helper()
	if fromEnv := os.Getenv(env); fromEnv != "" {
		path = fromEnv
	} else {
		path = filepath.Join(repository, path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	return path
}

func collectorBinary(t *testing.T) string {
	return binary(t, "MESHAUDIT_COLLECTOR", "_build/otelcol-meshaudit")
}

// meshaudit runs the command and returns what it prints and its exit status.
func meshaudit(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	var out, diag bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary(t, "MESHAUDIT_CLI", "bin/meshaudit"), args...)
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return out.String(), diag.String(), cmd.ProcessState.ExitCode()
}

// freePorts returns n addresses on the loopback interface that nobody used a
// moment ago.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var addresses []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// process is a running collector.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan error
}

// start runs a collector until it is healthy.
func start(t *testing.T, program, config, health string, env ...string) *process {
	t.Helper()
	logFile, err := os.CreateTemp(t.TempDir(), "collector-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	p := &process{
		cmd:    exec.Command(program, "--config", config),
		log:    logFile.Name(),
		exited: make(chan error, 1),
	}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = logFile, logFile
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // long gone if the test went well
		if t.Failed() {
			t.Logf("the collector's log:\n%s", p.output(t))
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !healthy(ctx, health) {
		select {
		case err := <-p.exited:
			t.Fatalf("the collector ended before it was healthy: %v\n%s", err, p.output(t))
		case <-ctx.Done():
			t.Fatalf("the collector is not healthy after a minute\n%s", p.output(t))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return p
}

func healthy(ctx context.Context, address string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// output is what the collector logged that is more than information.
func (p *process) output(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(log)) {
		if !strings.Contains(line, "\tinfo\t") {
			lines = append(lines, line)
		}
	}
	const most = 40
	return strings.Join(lines[max(0, len(lines)-most):], "")
}

// stop ends the collector as an orderly shutdown does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.exited:
		if err != nil {
			t.Fatalf("the collector did not stop cleanly: %v\n%s", err, p.output(t))
		}
	case <-time.After(time.Minute):
		t.Fatalf("the collector did not stop within a minute\n%s", p.output(t))
	}
}

// kill ends the collector as the kernel's out-of-memory killer does.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.exited
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// eventually polls until check returns "", or fails with what it last said.
func eventually(t *testing.T, timeout time.Duration, check func() string) {
	t.Helper()
	deadline := time.After(timeout)
	for {
		wrong := check()
		if wrong == "" {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after %v: %s", timeout, wrong)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func writeFile(t *testing.T, name, format string, args ...any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
