package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

// What is measured runs in a process of its own, this program started again:
// so its CPU time and memory are apart from those of the load that drives it.
// Parent and child speak JSON over the child's standard input and output: each
// question gets one answer.

// task is what a child is started for.
type task struct {
	Role     string
	Exporter string // of receive; who holds, of hold
	Dir      string
	Batch    int           // records in a request, of alone; spans that wait, of hold
	For      time.Duration // of alone, hold and lag
	Window   time.Duration // the processor's, of lag
	AsOf     time.Time     // of verify
	Profile  string        // file for a CPU profile; empty: none
}

const taskVariable = "MESHAUDIT_BENCH_TASK"

// answer is one line from a child.
type answer struct {
	Err   string          `json:",omitempty"`
	Value json.RawMessage `json:",omitempty"`
}

// talk is the child's side of the conversation.
type talk struct {
	in  *json.Decoder
	out *json.Encoder
}

func (t *talk) reply(value any, err error) error {
	if err != nil {
		return t.out.Encode(answer{Err: err.Error()})
	}
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return t.out.Encode(answer{Value: b})
}

// heard returns the parent's next question; io.EOF if it is gone.
func (t *talk) heard() (question string, err error) {
	err = t.in.Decode(&question)
	return question, err
}

// serveAsChild does the task that this process was started for, if it was.
func serveAsChild() bool {
	text, ok := os.LookupEnv(taskVariable)
	if !ok {
		return false
	}
	t := &talk{json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)}
	if err := perform(text, t); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	return true
}

func perform(text string, t *talk) error {
	var job task
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return err
	}
	switch job.Role {
	case "receive":
		return profiled(job.Profile, func() error { return receive(job, t) })
	case "alone":
		return t.reply(alone(job))
	case "hold":
		return profiled(job.Profile, func() error { return t.reply(hold(job)) })
	case "lag":
		return profiled(job.Profile, func() error { return t.reply(lag(job)) })
	case "start":
		return profiled(job.Profile, func() error { return t.reply(start(job)) })
	case "verify":
		return profiled(job.Profile, func() error { return t.reply(verify(job)) })
	}
	return fmt.Errorf("unknown task %q", job.Role)
}

// profiled runs fn and writes a CPU profile of it to a file, if that is wanted.
func profiled(name string, fn func() error) error {
	if name == "" {
		return fn()
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	err = fn()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// child is a started child, as its parent sees it.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startChild(ctx context.Context, t task, env ...string) (*child, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, program)}
	c.cmd.Env = append(append(os.Environ(), env...), taskVariable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	return c, c.cmd.Start()
}

// ask asks a question; the empty one only waits for an answer.
func (c *child) ask(question string, value any) error {
	if question != "" {
		if err := json.NewEncoder(c.in).Encode(question); err != nil {
			return err
		}
	}
	var a answer
	if err := c.out.Decode(&a); err != nil {
		return fmt.Errorf("measured process: %w", err)
	}
	if a.Err != "" {
		return errors.New(a.Err)
	}
	return json.Unmarshal(a.Value, value)
}

// end lets the child end and waits for it.
func (c *child) end() error { return errors.Join(c.in.Close(), c.cmd.Wait()) }

// doInChild has a child do a task with one answer.
func doInChild(ctx context.Context, t task, value any, env ...string) error {
	c, err := startChild(ctx, t, env...)
	if err != nil {
		return err
	}
	return errors.Join(c.ask("", value), c.end())
}

// profileFile names a profile in the directory that the flag says.
func (s *settings) profileFile(of ...any) string {
	if s.profile == "" {
		return ""
	}
	name := strings.TrimSpace(fmt.Sprintln(of...))
	return filepath.Join(s.profile, strings.NewReplacer(", ", "-", " ", "-").Replace(name)+".pprof")
}

// cpuTime is what this process has used so far, in user and kernel.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // only for a first argument that does not exist
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
