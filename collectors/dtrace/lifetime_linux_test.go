package dtrace

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
	"iapi/collectors/dtrace/output"
	"iapi/collectors/dtrace/program"
)

// busy is how much later than it should a tracer may be gone where a machine has much else to do: it ends by its own clock, and
// then the kernel takes its probes away. Where a time to live did not count, it would go on for minutes.
const busy = 30 * time.Second

// I5, for when whoever holds the probe does nothing any more.
func TestAProgramEndsWithItsTimeToLive(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	r := wish(definition(t, "syscall.syscalls"), `{}`)
	r.Lifetime = 4 * time.Second // of which the start takes a part
	began := time.Now()
	p := open(t, e, r)
	select {
	case <-p.run.over:
	case <-time.After(time.Minute):
		t.Fatal("it runs on")
	}
	require.WithinRange(t, time.Now(), began.Add(3900*time.Millisecond), began.Add(5500*time.Millisecond+busy))
}

func TestAnExtensionRestartsNothing(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	r := wish(definition(t, "syscall.syscalls"), `{}`)
	r.Lifetime = 5 * time.Second
	p := open(t, e, r)
	pid := p.run.proc.pid
	require.NoError(t, p.SetLifetime(9*time.Second))
	extended := time.Now()
	for time.Since(extended) < 6*time.Second {
		drained(t, p)
	}
	require.Equal(t, pid, p.run.proc.pid)
	<-p.run.over
	require.WithinRange(t, time.Now(), extended.Add(9*time.Second), extended.Add(10*time.Second+busy))
}

// The time to live can be changed in both directions, and the program ends by itself at the new time: nobody closes it.
func TestAShorterTimeToLiveEndsTheProgram(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	r := wish(definition(t, "syscall.syscalls"), `{}`)
	r.Lifetime = time.Hour
	p := open(t, e, r)
	require.NoError(t, p.SetLifetime(2*time.Second))
	shortened := time.Now()
	<-p.run.over
	require.WithinRange(t, time.Now(), shortened.Add(2*time.Second), shortened.Add(3*time.Second+busy))
}

// remoteD stands for DTrace: it takes from the D program by what system call it is told its end, and has bpftrace watch for
// that very call.
const remoteD = `#!/bin/sh
clause=$(grep -o 'lseek:entry .*' "$4")
pid=$(echo "$clause" | grep -o 'pid == [0-9]*' | grep -o '[0-9]*$')
whence=$(echo "$clause" | grep -o 'arg2 == [0-9]*' | grep -o '[0-9]*$')
left=$(grep -m 1 -o 'iapi_end = timestamp + [0-9]*' "$4" | grep -o '[0-9]*$')
exec bpftrace -e "BEGIN { @end = nsecs + $left; printf(\"S\n\"); }
tracepoint:syscalls:sys_enter_lseek /pid == $pid && (int32)args->fd == -1 && args->whence == $whence/ { @end = nsecs + args->offset; }
interval:ms:10 /nsecs > @end/ { exit(); } END { clear(@end); }"
`

func TestADProgramIsToldItsEndWhileItRuns(t *testing.T) {
	needTracer(t)
	script := filepath.Join(t.TempDir(), "dtrace")
	require.NoError(t, os.WriteFile(script, []byte(remoteD), 0o700))
	e := newEngine(t, Options{DTrace: script})
	d := definition(t, "syscall.syscalls")
	traced := func(left time.Duration) *probe {
		r := wish(d, `{}`)
		r.Lifetime = left
		p, err := e.Open(t.Context(), r, variant(t, d, false))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		return p.(*probe)
	}
	p := traced(6 * time.Second)
	pid := p.run.proc.pid
	require.NoError(t, p.SetLifetime(time.Hour))
	extended := time.Now()
	select {
	case <-p.run.over:
		t.Fatal("it ended at its first time")
	case <-time.After(7 * time.Second):
	}
	require.Equal(t, pid, p.run.proc.pid, "nothing was started anew")
	require.NoError(t, p.SetLifetime(time.Second))
	shortened := time.Now()
	<-p.run.over
	require.WithinRange(t, time.Now(), shortened.Add(time.Second), shortened.Add(3*time.Second+busy), "%s after its extension", time.Since(extended))

	long, short := traced(time.Hour), traced(5*time.Second)
	require.NotSame(t, p.run, long.run)
	require.Same(t, long.run, short.run, "equal wishes share it")
	began := time.Now()
	require.NoError(t, long.Close())
	<-short.run.over
	require.Less(t, time.Since(began), 7*time.Second+busy, "what only the other one needed goes with it")
}

func TestALongerProbeDoesNotKeepAShorterOnesEndAway(t *testing.T) {
	needTracer(t)
	e := newEngine(t, Options{})
	r := wish(definition(t, "syscall.syscalls"), `{}`)
	r.Lifetime = time.Hour
	long := open(t, e, r)
	r.Lifetime = 3 * time.Second
	short := open(t, e, r)
	require.Same(t, long.run, short.run)
	began := time.Now()
	require.NoError(t, long.Close())
	<-short.run.over
	require.Less(t, time.Since(began), 5*time.Second+busy, "what only the other one needed goes with it")
}

// I6: a delete during a slow start is answered only when nothing will come of it any more.
func TestAStartThatNobodyWaitsForLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	script, started := filepath.Join(dir, "bpftrace"), filepath.Join(dir, "started")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\ntrap '' INT\necho $$ >"+started+"\nexec sleep 100\n"), 0o700))
	e := newEngine(t, Options{Bpftrace: script, StartTimeout: time.Minute})
	d := definition(t, "syscall.syscalls")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if text, err := os.ReadFile(started); err == nil && len(text) > 0 {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := e.Open(ctx, wish(d, `{}`), variant(t, d, true))
	require.ErrorIs(t, err, context.Canceled)
	e.mu.Lock()
	defer e.mu.Unlock()
	require.Empty(t, e.alive, "it is gone when Open returns")
	require.Empty(t, e.programs)
}

func TestAWallClockThatIsSetBackStopsNothing(t *testing.T) {
	d := definition(t, "syscall.syscalls")
	compiled, err := program.Compile(program.Wish{Definition: d, Variant: variant(t, d, true), Whole: true})
	require.NoError(t, err)
	r := newRunning(&Engine{}, "key", &probe{request: collect.Request{Definition: d}}, compiled)
	p := &probe{engine: r.engine, request: collect.Request{Definition: d, WholeHost: true}, run: r, primed: true}
	r.add(p)
	collectAt := func(second int64) float64 {
		res, err := p.Collect(t.Context(), time.Unix(second, 0))
		require.NoError(t, err)
		total := 0.0
		for _, s := range res.Samples {
			require.False(t, s.Partial)
			total += s.Value
		}
		return total
	}
	tell := func(second, count int64) {
		r.deliver(output.Interval{Second: second, Totals: map[string]int64{"": count}})
	}
	tell(10_000, 1)
	require.Equal(t, 1.0, collectAt(10_000))
	tell(10_001, 2)
	tell(6402, 4) // an hour back
	require.Equal(t, 6.0, collectAt(6402), "what was not collected yet is not lost")
	tell(6403, 8)
	require.Equal(t, 8.0, collectAt(6403))
	require.Empty(t, p.pending)
	require.Equal(t, uuid.Nil, p.result.Samples[0].Zone)
}

func TestAProbeTellsThatItIsAboveItsBudget(t *testing.T) {
	needTracer(t)
	d := definition(t, "syscall.syscalls", "cpu_budget_pct: 2.0", "cpu_budget_pct: 0.0001", "cpu_budget_pct: 4.0", "cpu_budget_pct: 0.0001")
	e := newEngine(t, Options{Window: 10 * time.Second}) // the second window, which would end it, is far
	p := open(t, e, wish(d, `{}`))
	notice, every := "", time.Duration(0)
	for began := time.Now(); notice == "" && time.Since(began) < 18*time.Second; {
		res, err := p.Collect(t.Context(), time.Now().Truncate(time.Second).Add(time.Second))
		require.NoError(t, err)
		notice, every = res.Notice, res.Every
	}
	require.Contains(t, notice, "of this host's CPUs, and 0.00% is its budget")
	require.Equal(t, 10*time.Second, every, "it costs less from then on")
}
