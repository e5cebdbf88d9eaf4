package dtrace

import (
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iapi/collectors/dtrace/program"
)

// The cost of one traced event to whoever causes it: calls of getppid while a program counts system calls, beside no
// program and one that counts nothing.
func BenchmarkEvent(b *testing.B) {
	needTracer(b)
	for _, c := range []struct {
		name, predicate string
		by              []string
	}{
		{"none", "", nil},
		{"nothing matches", `{"eq":["execname","nobody"]}`, nil},
		{"count", `{}`, nil},
		{"by execname", `{}`, []string{"execname"}},
		{"by execname and syscall", `{}`, []string{"execname", "syscall"}},
		{"latency by execname", `{}`, []string{"execname", "latency"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			if c.predicate != "" {
				open(b, newEngine(b, Options{}), wish(definition(b, "syscall.syscalls"), c.predicate, c.by...))
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before := threadTime(b)
			for b.Loop() {
				_, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
			}
			b.ReportMetric(float64(threadTime(b)-before)/float64(b.N), "cpu-ns/op") // the machine may be busy
		})
	}
}

// threadTime is the CPU time of the calling thread.
func threadTime(b *testing.B) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		b.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// From the wish to the program's text.
func BenchmarkCompile(b *testing.B) {
	d := definition(b, "syscall.syscalls")
	v := variant(b, d, true)
	r := wish(d, `{"and":[{"ne":["execname","redis-server"]},{"ge":["latency",1000]}]}`, "execname", "latency")
	for b.Loop() {
		p, err := program.Compile(program.Wish{Definition: d, Variant: v, Predicate: r.Predicate, Decompositions: r.Decompositions, Whole: true})
		if err != nil {
			b.Fatal(err)
		}
		p.Text(program.Clock{Offset: time.Hour})
	}
}
