// Package e2e runs the program as its users do: real processes, a real store, this machine's kernel as the source of data.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/zone"
	"iapi/store/storetest"
	"iapi/tests/yardstick"
)

// binary is the program under test, built once with the race detector.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(driverEnv) != "" {
		drive()
		return
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "iapi-e2e-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // others than root run it too
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		binary = filepath.Join(dir, "iapi")
		build := exec.Command("go", "build", "-race", "-o", binary, "iapi/cmd/iapi")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// need skips a test whose part is missing; in CI it fails instead.
func need(t testing.TB, ok bool, part string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing, and nothing may be left out in CI", part)
	}
	t.Skipf("left out: %s is missing", part)
}

// process is a running part of the service.
type process struct {
	t   testing.TB
	cmd *exec.Cmd

	mu   sync.Mutex
	out  bytes.Buffer
	done chan struct{}
	err  error
}

// start runs a command until the test ends.
func start(t testing.TB, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	require.NoError(t, p.cmd.Start())
	w.Close()
	go func() {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.mu.Lock()
			p.out.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s %s said:\n%s", filepath.Base(name), strings.Join(args, " "), p.output())
		}
	})
	return p
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// stop asks it to end, as Ctrl-C does.
func (p *process) stop() { p.end(syscall.SIGINT) }

// kill ends it as a crash would.
func (p *process) kill() { p.end(syscall.SIGKILL) }

func (p *process) end(with syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.cmd.Process.Signal(with)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%s did not end within %v of %v", filepath.Base(p.cmd.Path), patience, with)
	}
}

// expect waits for the output to match, and returns the first group.
func (p *process) expect(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found string
	ok := wait(patience, func() bool {
		if m := re.FindStringSubmatch(p.output()); m != nil {
			found = m[len(m)-1]
			return true
		}
		return false
	})
	require.True(p.t, ok, "waited for %q; it said:\n%s", pattern, p.output())
	return found
}

// patience is how long tests wait for what must come, and for which no time is promised. What comes ends the wait.
const patience = 2 * time.Minute

// wait polls a condition.
func wait(most time.Duration, ok func() bool) bool {
	for until := time.Now().Add(most); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

// dev is a running "iapi dev".
type dev struct {
	*process
	server, dataAPI, inventory string
	dir                        string
}

func startDev(t testing.TB, dir string, flags ...string) *dev {
	t.Helper()
	p := start(t, binary, append([]string{"dev", "--listen", "127.0.0.1:0", "--data-dir", dir}, flags...)...)
	d := &dev{process: p, dir: dir}
	d.server = p.expect(`API and explorer\s+(http://\S+)`)
	d.dataAPI = p.expect(`Data API\s+(http://\S+)`)
	d.inventory = p.expect(`Inventory\s+(http://\S+)`)
	return d
}

// api is where a client finds a server.
type api struct {
	t      testing.TB
	server string
	dir    string // with the operators' token
}

func (d *dev) api() api { return api{t: d.t, server: d.server, dir: d.dir} }

// try runs a client verb. What is not ready, as on a machine that is too slow for the deadlines of the store, is asked again, as a
// script would.
func (a api) try(args ...string) (code int, out, errs string) {
	a.t.Helper()
	const notReady = 3
	wait(patience, func() bool {
		code, out, errs = a.once(args...)
		return code != notReady
	})
	return code, out, errs
}

func (a api) once(args ...string) (code int, out, errs string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--server", a.server, "--data-dir", a.dir)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// run runs a client verb that must succeed.
func (a api) run(args ...string) string {
	a.t.Helper()
	code, out, errs := a.try(args...)
	require.Zero(a.t, code, "iapi %s: %s", strings.Join(args, " "), errs)
	return out
}

// create returns the id.
func (a api) create(args ...string) string {
	a.t.Helper()
	id := strings.TrimSpace(a.run(append([]string{"create"}, args...)...))
	require.Regexp(a.t, `^i-[0-9a-v]{20}$`, id)
	return id
}

// view is what the tests look at of an instrumentation.
type view struct {
	State    string
	Coverage struct{ Expected, Running, Pending, Failed, Offline int }
	Problems []struct{ Status, Message string }
}

func (a api) get(id string) view {
	a.t.Helper()
	var v view
	require.NoError(a.t, json.Unmarshal([]byte(a.run("get", id, "-o", "json")), &v))
	require.Equal(a.t, v.Coverage.Expected, v.Coverage.Running+v.Coverage.Pending+v.Coverage.Failed+v.Coverage.Offline,
		"I8: the coverage adds up")
	return v
}

// becomes waits for a state.
func (a api) becomes(id, state string) view {
	a.t.Helper()
	var last view
	ok := wait(patience, func() bool { last = a.get(id); return last.State == state })
	require.True(a.t, ok, "%s is %+v, and should be %s", id, last, state)
	return last
}

// event is a value as the Data API shows it.
type event struct {
	Timestamp time.Time
	Count     json.Number
	VM        string
	Host      string
	Partial   bool
	Fields    map[string]string
	Dist      map[string][]bucket
}

// bucket is a range of values, both ends inclusive, and how many were in it.
type bucket struct{ Low, High, Count int64 }

// UnmarshalJSON reads [[low,high],count].
func (b *bucket) UnmarshalJSON(text []byte) error {
	var bounds [2]int64
	if err := json.Unmarshal(text, &[]any{&bounds, &b.Count}); err != nil {
		return err
	}
	b.Low, b.High = bounds[0], bounds[1]
	return nil
}

// watch returns the events of some seconds, in which there are some.
func (a api) watch(id, seconds string) (all []event) {
	a.t.Helper()
	require.True(a.t, wait(patience, func() bool {
		all = parseEvents(a.t, a.run("watch", id, "--for", seconds, "-o", "json"))
		return len(all) > 0
	}), "%s measures nothing", id)
	return all
}

func parseEvents(t testing.TB, lines string) []event {
	var events []event
	for line := range strings.Lines(lines) {
		var all map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(line), &all), line)
		e := event{Fields: map[string]string{}}
		for name, raw := range all {
			switch name {
			case "timestamp":
				require.NoError(t, json.Unmarshal(raw, &e.Timestamp))
			case "count":
				require.NoError(t, json.Unmarshal(raw, &e.Count))
			case "vm":
				require.NoError(t, json.Unmarshal(raw, &e.VM))
			case "host":
				require.NoError(t, json.Unmarshal(raw, &e.Host))
			case "partial":
				require.NoError(t, json.Unmarshal(raw, &e.Partial))
			case "dist":
				require.NoError(t, json.Unmarshal(raw, &e.Dist))
			default:
				var text string
				if json.Unmarshal(raw, &text) == nil {
					e.Fields[name] = text
				}
			}
		}
		events = append(events, e)
	}
	return events
}

func (e event) value(t testing.TB) float64 {
	v, err := e.Count.Float64()
	require.NoError(t, err)
	return v
}

// statsd counts the datagrams that arrive.
type statsd struct {
	address string
	watch   atomic.Pointer[yardstick.Watch]

	mu    sync.Mutex
	lines []string
	last  time.Duration // by the watch
}

func startStatsd(t testing.TB) *statsd {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &statsd{address: conn.LocalAddr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 64<<10)
		for {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.lines = append(s.lines, strings.Split(strings.TrimSpace(string(buffer[:n])), "\n")...)
			if w := s.watch.Load(); w != nil {
				s.last = w.Elapsed()
			}
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return s
}

// seen returns what has come, and when, by the watch, the last of it did.
func (s *statsd) seen() (lines []string, last time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...), s.last
}

// container is a real cgroup in every tree of this machine, placed and named as Docker does, with one process in it.
type container struct {
	id   string
	uuid uuid.UUID
	cmd  *exec.Cmd
}

// startContainer makes the cgroups, and runs a command in them until the test ends.
func startContainer(t testing.TB, command ...string) *container {
	t.Helper()
	need(t, os.Getuid() == 0, "root, to make cgroups")
	var raw [32]byte
	_, _ = rand.Read(raw[:])
	c := &container{id: hex.EncodeToString(raw[:])}
	c.uuid = uuid.NewSHA1(zone.Namespace, []byte(c.id))
	roots := []string{"/sys/fs/cgroup"} // v2 alone
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		roots = nil
		for _, controller := range []string{"cpu", "cpuacct", "memory", "blkio", "pids", "systemd", "unified"} {
			if _, err := os.Stat("/sys/fs/cgroup/" + controller + "/cgroup.procs"); err == nil {
				roots = append(roots, "/sys/fs/cgroup/"+controller)
			}
		}
	}
	c.cmd = exec.Command(command[0], command[1:]...)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		for _, root := range roots {
			dir := root + "/docker/" + c.id
			if !wait(patience, func() bool { return os.Remove(dir) == nil || !exists(dir) }) {
				t.Errorf("the cgroup %s could not be removed", dir)
			}
			_ = os.Remove(root + "/docker") // only if it is empty
		}
	})
	for _, root := range roots {
		dir := root + "/docker/" + c.id
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(c.cmd.Process.Pid)), 0o644))
	}
	return c
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// startRedis runs a real redis-server with an append-only file.
func startRedis(t testing.TB) (url string, p *process) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	need(t, err == nil, "redis-server")
	port := freePort(t)
	p = start(t, path, "--port", port, "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", t.TempDir(), "--save", "")
	p.expect("Ready to accept connections")
	return "redis://127.0.0.1:" + port + "/0", p
}

// given are the ports that freePort has given, each once, for the tests run beside each other.
var given sync.Map

func freePort(t testing.TB) string {
	for {
		port := storetest.FreePort(t)
		if _, twice := given.LoadOrStore(port, true); !twice {
			return port
		}
	}
}
