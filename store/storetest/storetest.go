// Package storetest starts stores for tests: the embedded one, and a real Redis server as a child process.
package storetest

import (
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
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
	command *exec.Cmd
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	s := &Server{Addr: l.Addr().String(), t: t}
	s.args = append([]string{
		binary, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", t.TempDir(), "--appendonly", "yes",
		"--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
	}, options...)
	s.Run()
	t.Cleanup(s.Kill)
	return s
}

// Run starts the server, again after Kill with the data that it has on disk, and waits until it answers.
func (s *Server) Run() {
	s.t.Helper()
	s.command = exec.Command(s.args[0], s.args[1:]...)
	s.command.SysProcAttr = child()
	require.NoError(s.t, s.command.Start())
	require.Eventually(s.t, func() bool {
		c, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		if _, err := c.Write([]byte("PING\r\n")); err != nil {
			return false
		}
		b := make([]byte, 5)
		_, err = c.Read(b)
		return err == nil && string(b) == "+PONG"
	}, 10*time.Second, 5*time.Millisecond, "redis-server does not answer")
}

// Kill ends the server at once.
func (s *Server) Kill() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Kill() // it may have ended
	_ = s.command.Wait()
	s.command = nil
}
