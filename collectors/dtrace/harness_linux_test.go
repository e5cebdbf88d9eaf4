package dtrace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

func init() {
	if os.Getenv(helperEnv) == "become" {
		runtime.LockOSThread() // so that main is the process's first thread
	}
}

// helperEnv makes the test binary a program that does what a test wants to be traced.
const helperEnv = "IAPI_DTRACE_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "agent":
		agentHelper()
	case "become":
		done := make(chan struct{})
		go func() { must(syscall.Exec("/bin/true", []string{"true"}, nil)) }() // in another thread than the first, which init took
		<-done
	default:
		runtime.LockOSThread()
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			command, err := strconv.Unquote(in.Text())
			if err != nil {
				panic(err)
			}
			obey(command)
			fmt.Println("done")
		}
	}
}

// obey does one command, such as "getppid 100". It is run in one thread.
func obey(command string) {
	verb, rest, _ := strings.Cut(command, " ")
	switch verb {
	case "name":
		name := append([]byte(rest), 0)
		must(unix.Prctl(unix.PR_SET_NAME, bytesPointer(name), 0, 0, 0))
	case "getppid":
		n, err := strconv.Atoi(rest)
		must(err)
		for range n {
			_, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
		}
	case "names": // that many names, each with three calls
		n, err := strconv.Atoi(rest)
		must(err)
		for i := range n {
			obey("name k" + strconv.Itoa(i))
			obey("getppid 3")
		}
	case "cgroup":
		must(os.WriteFile(rest+"/cgroup.procs", []byte("0"), 0o644))
	case "run": // a program that does nothing, with these arguments
		must((&exec.Cmd{Path: "/bin/true", Args: strings.Split(rest, "|")}).Run())
	case "title": // overwrites its own arguments, as daemons do
		last := os.Args[len(os.Args)-1]
		own := unsafe.Slice(unsafe.StringData(os.Args[0]), int(uintptr(unsafe.Pointer(unsafe.StringData(last)))-uintptr(unsafe.Pointer(unsafe.StringData(os.Args[0]))))+len(last))
		clear(own)
		copy(own, rest)
	case "getrandom": // that many times a lot of work within the kernel; tells how many ns of CPU time the calls took
		n, err := strconv.Atoi(rest)
		must(err)
		lot := make([]byte, 4<<20)
		var before, after unix.Timespec
		must(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before))
		for range n {
			for done := 0; done < len(lot); { // by the call itself, which the library does without; signals cut it short
				got, _, err := syscall.RawSyscall(unix.SYS_GETRANDOM, uintptr(unsafe.Pointer(&lot[done])), uintptr(len(lot)-done), 0)
				if err == 0 {
					done += int(got)
				} else if err != unix.EINTR {
					panic(err)
				}
			}
		}
		must(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after))
		fmt.Println(after.Nano() - before.Nano())
	case "offsets":
		at := func(flags int) *os.File {
			f, err := os.OpenFile(rest, flags|os.O_CREATE, 0o600)
			must(err)
			return f
		}
		each := func(_ int64, err error) { must(err) }
		n := func(n int, err error) (int64, error) { return int64(n), err }
		f := at(os.O_RDWR)
		for range 3 {
			each(n(f.Write(make([]byte, 4097))))
		}
		each(n(f.WriteAt(make([]byte, 5), 7001)))
		each(n(f.ReadAt(make([]byte, 6), 7002)))
		each(f.Seek(77, io.SeekStart))
		each(n(f.Read(make([]byte, 8))))
		each(n(f.Read(make([]byte, 9))))
		each(n(unix.Preadv(int(f.Fd()), [][]byte{make([]byte, 10)}, 7003)))
		each(n(unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 10)}, 9003, 0)))
		each(n(unix.Pwritev2(int(f.Fd()), [][]byte{make([]byte, 10)}, 9004, 0)))
		each(n(unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 10)}, -1, 0)))
		must(f.Close())
		f = at(os.O_RDWR | os.O_APPEND)
		each(n(f.Read(make([]byte, 11))))
		each(n(f.Write(make([]byte, 12))))
		must(f.Close())
	case "exec":
		must(exec.Command("/bin/true").Run())
	case "become": // so many processes of which another thread than the first one becomes another program
		n, err := strconv.Atoi(rest)
		must(err)
		for range n {
			become := exec.Command(os.Args[0])
			become.Env = append(os.Environ(), helperEnv+"=become")
			must(become.Run())
		}
	case "threads":
		n, err := strconv.Atoi(rest)
		must(err)
		for range n { // a goroutine that ends while it is locked takes its thread with it
			done := make(chan struct{})
			go func() {
				defer close(done)
				runtime.LockOSThread()
			}()
			<-done
		}
	case "fsync":
		f, err := os.Create(rest)
		must(err)
		_, err = f.Write(make([]byte, 64<<10))
		must(err)
		must(f.Sync())
		must(f.Close())
	case "write4097":
		f, err := os.Create(rest)
		must(err)
		for range 5 {
			_, err = f.Write(make([]byte, 4097))
			must(err)
		}
		must(f.Close())
	case "pipe4098":
		r, w, err := os.Pipe()
		must(err)
		_, err = w.Write(make([]byte, 4098))
		must(err)
		_, err = io.ReadFull(r, make([]byte, 4098))
		must(err)
		must(errors.Join(r.Close(), w.Close()))
	case "connect":
		c, err := net.Dial("tcp", rest)
		must(err)
		must(c.Close())
	case "refused":
		if c, err := net.Dial("tcp", rest); err == nil {
			must(c.Close())
			panic("somebody listens at " + rest)
		}
	case "mkdir":
		must(os.Mkdir(rest, 0o755))
	case "closenothing":
		n, err := strconv.Atoi(rest)
		must(err)
		for range n {
			_, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, 1<<20, 0, 0)
		}
	case "sleep": // that many times for a millisecond
		n, err := strconv.Atoi(rest)
		must(err)
		for range n {
			ms := syscall.Timespec{Nsec: int64(time.Millisecond)}
			if err := syscall.Nanosleep(&ms, nil); !errors.Is(err, syscall.EINTR) { // the runtime of Go sends signals to its threads
				must(err)
			}
		}
	case "listen":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		listening = l.Addr().String()
		go func() {
			for {
				c, err := l.Accept()
				must(err)
				must(c.Close())
			}
		}()
	case "where":
		fmt.Println(listening)
	}
}

var listening string // where a helper listens

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// helper is such a program.
type helper struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// newHelper starts one with the arguments, of which the first is its name; none: what its file is called.
func newHelper(t testing.TB, args ...string) *helper {
	t.Helper()
	h := &helper{t: t, cmd: exec.Command(os.Args[0])}
	if len(args) > 0 {
		h.cmd.Args = args
	}
	h.cmd.Env = append(os.Environ(), helperEnv+"=1")
	h.cmd.Stderr = os.Stderr
	var err error
	h.in, err = h.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := h.cmd.StdoutPipe()
	require.NoError(t, err)
	h.out = bufio.NewReader(out)
	require.NoError(t, h.cmd.Start())
	t.Cleanup(func() {
		h.in.Close()
		_ = h.cmd.Wait() // killed or not, it has ended
	})
	return h
}

// do has the helper obey commands and waits until it has.
func (h *helper) do(commands ...string) {
	h.t.Helper()
	for _, command := range commands {
		_, err := fmt.Fprintln(h.in, strconv.Quote(command))
		require.NoError(h.t, err)
		answer, err := h.out.ReadString('\n')
		require.NoError(h.t, err)
		require.Equal(h.t, "done\n", answer)
	}
}

// ask does a command that answers with a line.
func (h *helper) ask(command string) string {
	h.t.Helper()
	_, err := fmt.Fprintln(h.in, strconv.Quote(command))
	require.NoError(h.t, err)
	answer, err := h.out.ReadString('\n')
	require.NoError(h.t, err)
	done, err := h.out.ReadString('\n')
	require.NoError(h.t, err)
	require.Equal(h.t, "done\n", done)
	return strings.TrimSpace(answer)
}

// needTracer makes sure that this machine can trace: it skips the test where it cannot, but fails where CI=true.
func needTracer(t testing.TB) {
	t.Helper()
	missing := ""
	switch {
	case os.Geteuid() != 0:
		missing = "tracing needs root"
	case collect.Command("bpftrace") == "":
		missing = "bpftrace is not installed"
	default:
		if _, err := os.Stat("/sys/kernel/tracing/events"); err != nil {
			if err := unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""); err != nil {
				missing = "tracefs cannot be mounted: " + err.Error()
			}
		}
	}
	if missing == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}

func newEngine(t testing.TB, o Options) *Engine {
	t.Helper()
	if o.StartTimeout == 0 {
		o.StartTimeout = 5 * time.Minute // the machines of tests are busy
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	e, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// wish makes a request for a whole host.
func wish(d *catalog.Definition, predicate string, by ...string) collect.Request {
	p, err := measure.ParsePredicate([]byte(predicate))
	must(err)
	return collect.Request{ID: "test", Definition: d, Predicate: p, Decompositions: by, WholeHost: true, Granularity: time.Second}
}

func open(t testing.TB, e *Engine, r collect.Request) *probe {
	t.Helper()
	p, err := e.Open(t.Context(), r, variant(t, r.Definition, true))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	res, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	require.True(t, res.Primed)
	return p.(*probe)
}

// tally adds up what a probe gives.
type tally struct {
	sums     map[string]float64 // by zone and fields
	buckets  map[string]int64
	other    float64
	failures []collect.ZoneFailure
}

// drain collects the intervals up to and including the one that has this moment.
func drain(t testing.TB, p collect.Probe, into *tally) {
	t.Helper()
	if into.sums == nil {
		into.sums, into.buckets = map[string]float64{}, map[string]int64{}
	}
	end := time.Now().Truncate(time.Second).Add(time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		res, err := p.Collect(ctx, end)
		require.NoError(t, err)
		late := false
		for _, s := range res.Samples {
			late = late || s.Partial
			if s.Other {
				into.other += s.Value
				continue
			}
			key := ""
			if s.Zone != uuid.Nil {
				key = s.Zone.String() + ":"
			}
			for i, f := range s.Fields {
				if i > 0 {
					key += "|"
				}
				key += f.Value
			}
			into.sums[key] += s.Value
			if s.Distribution != nil {
				var n int64
				for _, b := range s.Distribution.Buckets {
					into.buckets[fmt.Sprintf("%s[%d,%d]", key, b.Low, b.High)] += b.Count
					n += b.Count
				}
				require.Equal(t, s.Value, float64(n), "the buckets hold all that was counted")
			}
		}
		into.failures = append(into.failures, res.Failures...)
		if latest, _, _, _ := p.(*probe).run.progress(); latest >= end.Unix() && !late {
			return
		}
	}
}

func drained(t testing.TB, p collect.Probe) tally {
	t.Helper()
	var sum tally
	drain(t, p, &sum)
	return sum
}
