package dtrace

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

func gone(pid int) func() bool {
	return func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(text), ") Z ")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	needTracer(t)
	t.Setenv("TMPDIR", t.TempDir()) // others trace as well
	e := newEngine(t, Options{})
	d := definition(t, "syscall.syscalls")
	one, two := open(t, e, wish(d, `{}`)), open(t, e, wish(d, `{"and":[{},{}]}`))
	require.Same(t, one.run, two.run, "equal wishes share a program")
	pid := one.run.proc.pid
	require.NoError(t, one.Close())
	require.False(t, gone(pid)(), "the other one needs it")
	require.NoError(t, one.Close())
	require.NoError(t, two.Close())
	require.True(t, gone(pid)(), "when Close returns it is gone")
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "iapi-trace-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, e.alive)
}

func TestAKilledTracerIsToldAndNotStartedAgain(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	p := open(t, e, wish(definition(t, "syscall.syscalls"), `{}`))
	require.NoError(t, syscall.Kill(p.run.proc.pid, syscall.SIGKILL))
	for range 2 {
		_, err := p.Collect(t.Context(), time.Now().Add(time.Second))
		require.Equal(t, collect.Failed, collect.Refusal(err).Code)
		require.ErrorContains(t, err, "killed")
	}
	<-p.run.over
	require.Empty(t, e.alive)
}

func TestAProgramEndsByItself(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	p := open(t, e, wish(definition(t, "syscall.syscalls", "max_runtime_s: 3600", "max_runtime_s: 3"), `{}`))
	select {
	case <-p.run.over:
	case <-time.After(time.Minute):
		t.Fatal("it runs on")
	}
	_, err := p.Collect(t.Context(), time.Now())
	require.ErrorContains(t, err, "when its time is over")
}

func TestAnotherProbeGivesASharedProgramMoreTime(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	d := definition(t, "syscall.syscalls", "max_runtime_s: 3600", "max_runtime_s: 6")
	p := open(t, e, wish(d, `{}`))
	for began := time.Now(); time.Since(began) < 3*time.Second; {
		drained(t, p)
	}
	joins := time.Now()
	open(t, e, wish(d, `{}`))
	<-p.run.over
	require.Greater(t, time.Since(joins), 5*time.Second)
}

// agentHelper is a process that traces until it is killed.
func agentHelper() {
	all, err := catalog.Embedded()
	must(err)
	d, _ := all.DefinitionOf("syscall.syscalls")
	e, err := New(Options{StartTimeout: time.Minute})
	must(err)
	p, err := e.Open(context.Background(), collect.Request{Definition: d, WholeHost: true, Predicate: measure.Predicate{}}, &d.Variants[0])
	must(err)
	fmt.Println(p.(*probe).run.proc.pid)
	select {}
}

func TestTracersDieWithTheirAgent(t *testing.T) {
	needTracer(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=agent")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	require.False(t, gone(pid)())
	require.NoError(t, cmd.Process.Kill()) // by -9
	_ = cmd.Wait()                         // it was killed
	require.Eventually(t, gone(pid), time.Minute, 5*time.Millisecond)
}

func TestARunawayIsStoppedAndQuarantined(t *testing.T) {
	needTracer(t)
	dir := t.TempDir()
	d := definition(t, "syscall.syscalls", "cpu_budget_pct: 2.0", "cpu_budget_pct: 0.01")
	e := newEngine(t, Options{Dir: dir, Window: 200 * time.Millisecond})
	p := open(t, e, wish(d, `{}`, "execname", "latency"))
	pid := p.run.proc.pid
	h := newHelper(t)
	deadline := time.Now().Add(time.Minute)
	var err error
	for err == nil && time.Now().Before(deadline) {
		h.do("getppid 100000")
		_, err = p.Collect(t.Context(), time.Now())
	}
	require.Equal(t, collect.OverBudget, collect.Refusal(err).Code, "%v", err)
	require.ErrorContains(t, err, "is its budget")
	require.Eventually(t, gone(pid), time.Minute, 5*time.Millisecond)

	v := variant(t, d, true)
	_, err = e.Open(t.Context(), wish(d, `{"eq":["pid","1"]}`), v)
	require.Equal(t, collect.OverBudget, collect.Refusal(err).Code)
	renamed := definition(t, "syscall.syscalls", "cpu_budget_pct: 2.0", "cpu_budget_pct: 0.01", "stat: syscalls", "stat: calls", "version: ", "version: 1")
	_, err = e.Open(t.Context(), wish(renamed, `{}`), variant(t, renamed, true))
	require.ErrorContains(t, err, "the definition of syscall.calls is in quarantine", "it traces the same")
	require.NoError(t, e.Close())

	again := newEngine(t, Options{Dir: dir})
	_, err = again.Open(t.Context(), wish(d, `{}`), v)
	require.ErrorContains(t, err, "quarantine", "a restart forgets nothing")
	mended := definition(t, "syscall.syscalls", "cpu_budget_pct: 2.0", "cpu_budget_pct: 50.0")
	open(t, again, wish(mended, `{}`))
}

// What is an address is known from the kernel that has the tracepoint: here the array that holds the arguments of a call.
func TestAnAddressOfThisKernelIsNotTraced(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	d := definition(t, "syscall.syscalls", "expr: args->id,", "expr: args->args,")
	_, err := e.Open(t.Context(), wish(d, `{}`), variant(t, d, true))
	require.Equal(t, collect.Denied, collect.Refusal(err).Code)
	require.ErrorContains(t, err, "args->args of the tracepoint raw_syscalls:sys_enter is an address")
	require.Zero(t, e.started)
}

func TestTheNumberOfProgramsIsBounded(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{MaxPrograms: 2})
	d := definition(t, "syscall.syscalls", "max_concurrent: 4", "max_concurrent: 1")
	p := open(t, e, wish(d, `{}`))
	_, err := e.Open(t.Context(), wish(d, `{"eq":["pid","1"]}`), variant(t, d, true))
	require.ErrorContains(t, err, "trace syscall.syscalls")
	open(t, e, wish(definition(t, "unix.proc_execs"), `{}`))
	other := wish(definition(t, "unix.proc_forks"), `{}`)
	_, err = e.Open(t.Context(), other, variant(t, other.Definition, true))
	require.ErrorContains(t, err, "2 tracing programs")
	require.Equal(t, collect.OverBudget, collect.Refusal(err).Code)
	require.NoError(t, p.Close())
	open(t, e, other)
}

func TestWhatMayNotBeTracedIsDenied(t *testing.T) {
	e := newEngine(t, Options{Bpftrace: "/nonexistent/bpftrace"})
	d := definition(t, "disk.physio_ops")
	v := variant(t, d, true)
	for _, r := range []collect.Request{
		{Definition: d, Zones: []uuid.UUID{uuid.New()}},
		{Definition: d, WholeHost: true, Owner: uuid.New()},
	} {
		_, err := e.Open(t.Context(), r, v)
		require.Equal(t, collect.Denied, collect.Refusal(err).Code)
	}
	d = definition(t, "syscall.syscalls")
	_, err := e.Open(t.Context(), collect.Request{Definition: d, WholeHost: true, Owner: uuid.New()}, variant(t, d, true))
	require.Equal(t, collect.Denied, collect.Refusal(err).Code)
	_, err = e.Open(t.Context(), collect.Request{Definition: d, WholeHost: true}, variant(t, d, false))
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code, "DTrace is for illumos")
	_, err = e.Open(t.Context(), wish(d, `{}`), variant(t, d, true))
	require.Equal(t, collect.Failed, collect.Refusal(err).Code)
	require.Empty(t, e.alive)
}

func TestATracersRefusalIsToldInItsOwnWords(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	d := definition(t, "syscall.syscalls", "raw_syscalls:sys_exit", "raw_syscalls:sys_nothing")
	_, err := e.Open(t.Context(), wish(d, `{}`), variant(t, d, true))
	require.Equal(t, collect.Unsupported, collect.Refusal(err).Code, "%v", err)
	require.ErrorContains(t, err, "sys_nothing")
	d = definition(t, "syscall.syscalls", "expr: nsecs - $t0", "expr: comm")
	_, err = e.Open(t.Context(), wish(d, `{}`, "latency"), variant(t, d, true))
	require.Equal(t, collect.Failed, collect.Refusal(err).Code, "%v", err)
	require.ErrorContains(t, err, "comm")
	require.Empty(t, e.alive)
}

func TestATracerThatDoesNotStartIsGivenUp(t *testing.T) {
	script := filepath.Join(t.TempDir(), "bpftrace")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\ntrap '' INT\necho cannot >&2\nexec sleep 100\n"), 0o700))
	d := definition(t, "syscall.syscalls")
	var e *Engine
	var err error
	for patience := 200 * time.Millisecond; ; patience *= 2 { // until the script has had the time to say something
		e = newEngine(t, Options{Bpftrace: script, StartTimeout: patience, StopTimeout: 100 * time.Millisecond})
		_, err = e.Open(t.Context(), wish(d, `{}`), variant(t, d, true))
		require.ErrorContains(t, err, "did not start")
		if strings.Contains(err.Error(), "cannot") || patience > 10*time.Second {
			break
		}
	}
	require.ErrorContains(t, err, "cannot")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.Open(ctx, wish(d, `{}`), variant(t, d, true))
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { e.mu.Lock(); defer e.mu.Unlock(); return len(e.alive) == 0 }, time.Minute, 5*time.Millisecond)
}

func TestTheVersionOfBpftraceIsKnown(t *testing.T) {
	needTracer(t)
	version, err := newEngine(t, Options{}).BpftraceVersion(t.Context())
	require.NoError(t, err)
	require.Regexp(t, `^0\.[0-9]+`, version)
}
