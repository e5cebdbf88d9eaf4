// Package storetest starts stores for tests: the embedded one, and a real Redis server as a child process.
package storetest

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/store"
)

// Each runs a test on the embedded store and on a real one.
func Each(t *testing.T, o store.Options, fn func(t *testing.T, s *store.Store)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		fn(t, Embedded(t, o))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		fn(t, Real(t, o))
	})
}

// Embedded opens an embedded store in a directory of its own. It is closed when the test ends.
func Embedded(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	o.Embedded = &store.Embedded{Dir: t.TempDir()}
	return open(t, o)
}

// Real opens a store on a Redis server of its own. Without a redis-server the test is skipped, in CI it fails.
func Real(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	o.URL = Start(t).URL()
	return open(t, o)
}

func open(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(writer{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute // a machine that is slow is no reason to fail
	}
	s, err := store.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// writer sends the store's log to the test's.
type writer struct{ t testing.TB }

func (w writer) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}

// Server is a redis-server on a loopback port.
type Server struct {
	Addr    string
	t       testing.TB
	args    []string
	command *exec.Cmd       // nil: it does not run
	ended   <-chan struct{} // closed when it has
}

// URL is what store.Options take.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Start runs a redis-server with append-only persistence in a directory of its own until the test ends. More options go to
// its command line.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed, and the store must be tested on it")
		}
		t.Skip("redis-server is not installed: the store is tested on the embedded server only")
	}
	s := &Server{t: t}
	t.Cleanup(s.Kill)
	dir := t.TempDir()
	for range 20 {
		port := FreePort(t)
		s.Addr = "127.0.0.1:" + port
		s.args = append([]string{
			binary, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--appendonly", "yes",
			"--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
		}, options...)
		if s.run() {
			return s
		}
	}
	require.FailNow(t, "redis-server does not start")
	return nil
}

// FreePort returns a port that nobody listens at. It is none of those that the system gives to connections, so that nobody
// gets it by chance before it is taken, or while a server that is started again is away.
func FreePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			require.NoError(t, l.Close())
			return port
		}
	}
	require.FailNow(t, "no port is free")
	return ""
}

// Run starts the server, again after Kill with the data that it has on disk, and waits until it answers.
func (s *Server) Run() {
	s.t.Helper()
	require.True(s.t, s.run(), "redis-server has ended")
}

// run starts the server and waits until it answers. It returns false when it has ended instead, as when somebody else has taken
// the port.
func (s *Server) run() bool {
	s.t.Helper()
	s.command = exec.Command(s.args[0], s.args[1:]...)
	s.command.SysProcAttr = child()
	require.NoError(s.t, s.command.Start())
	ended := make(chan struct{})
	s.ended = ended
	go func(c *exec.Cmd) { defer close(ended); _ = c.Wait() }(s.command) // how it ended does not matter
	own := fmt.Sprintf("process_id:%d\r\n", s.command.Process.Pid)
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-ended:
			s.command = nil
			return false
		default:
		}
		if answer, err := s.info(); err == nil && strings.Contains(answer, own) && !strings.Contains(answer, "loading:1") {
			return true
		}
		require.Less(s.t, time.Since(begun), time.Minute, "redis-server does not answer")
	}
}

// info is what the server that has the port says of itself.
func (s *Server) info() (string, error) {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("INFO\r\nQUIT\r\n")); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// Kill ends the server at once.
func (s *Server) Kill() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Kill() // it may have ended
	<-s.ended
	s.command = nil
}
