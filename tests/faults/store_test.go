package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/store/storetest"
	"iapi/tests/load/cloud"
	"iapi/tests/load/sim"
)

// relay passes connections on to wherever it is turned.
type relay struct {
	Addr string

	l      net.Listener
	target atomic.Pointer[string] // "": nowhere
	all    sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func startRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{Addr: l.Addr().String(), l: l, conns: make(map[net.Conn]struct{})}
	r.target.Store(&target)
	r.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.all.Go(func() { r.pass(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.turn("")
		r.all.Wait()
	})
	return r
}

// turn ends all connections. New ones go to the target.
func (r *relay) turn(target string) {
	r.target.Store(&target)
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

func (r *relay) pass(from net.Conn) {
	defer from.Close()
	target := *r.target.Load()
	if target == "" {
		return
	}
	to, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return
	}
	defer to.Close()
	r.mu.Lock()
	turned := *r.target.Load() != target
	r.conns[from], r.conns[to] = struct{}{}, struct{}{}
	r.mu.Unlock()
	if !turned {
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(to, from); to.Close(); from.Close() })
		_, _ = io.Copy(from, to)
		to.Close()
		from.Close()
		both.Wait()
	}
	r.mu.Lock()
	delete(r.conns, from)
	delete(r.conns, to)
	r.mu.Unlock()
}

// server is a redis-server of a test.
type server struct {
	*cloud.Process
	t    *testing.T
	dir  string
	addr string
	args []string
}

// servers are the redis-servers of a test. They outlive everything that the test starts after them.
type servers struct {
	t   *testing.T
	all []*server
}

func newServers(t *testing.T) *servers {
	all := &servers{t: t}
	t.Cleanup(func() {
		for _, s := range all.all {
			s.Kill()
		}
	})
	return all
}

// start starts a redis-server.
func (all *servers) start(args ...string) *server {
	t := all.t
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip("left out: redis-server is missing")
	}
	require.NoError(t, err)
	port := storetest.FreePort(t)
	s := &server{t: t, dir: t.TempDir(), addr: "127.0.0.1:" + port}
	s.args = append([]string{program, "--port", port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "",
		"--repl-diskless-sync-delay", "0", "--maxmemory-policy", "noeviction"}, args...)
	s.run()
	all.all = append(all.all, s)
	return s
}

func (s *server) run() {
	s.t.Helper()
	var err error
	s.Process, err = cloud.Start("redis", "", s.args[0], s.args[1:]...)
	require.NoError(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	_, err = s.Expect(ctx, "Ready to accept connections")
	require.NoError(s.t, err)
}

// do runs one command on the very server.
func (s *server) do(args ...any) string {
	s.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.addr})
	defer client.Close()
	reply, err := client.Do(s.t.Context(), args...).Result()
	require.NoError(s.t, err)
	return fmt.Sprint(reply)
}

// loss is a way in which a store loses its last writes. before remembers a state, lose goes back to it.
type loss struct {
	name   string
	before func() (lose func())
	// partly: records are kept, and only what is kept of hosts is lost.
	partly bool
}

// A store that has lost its last writes leads the hosts whose agents know more, and no others, to a greater epoch, and none of
// them ever to an old document under a new number.
func TestAStoreThatLostItsLastWrites(t *testing.T) {
	t.Parallel()
	redises := newServers(t)
	now := redises.start("--appendonly", "yes", "--appendfsync", "always")
	front := startRelay(t, now.addr)
	s := start(t, 12, 1, cloud.Options{StoreURL: "redis://" + front.Addr + "/0"})
	h := newHistory()
	f := s.connect(s.Servers(), h.observer())

	losses := []loss{
		{name: "killed between syncs", before: func() func() {
			kept := filepath.Join(t.TempDir(), "kept")
			require.NoError(t, os.CopyFS(kept, os.DirFS(now.dir)))
			return func() {
				now.Kill()
				require.NoError(t, os.RemoveAll(now.dir))
				require.NoError(t, os.CopyFS(now.dir, os.DirFS(kept)))
				now.run()
			}
		}},
		{name: "a lagging replica promoted", before: func() func() {
			wire := startRelay(t, now.addr)
			_, port, err := net.SplitHostPort(wire.Addr)
			require.NoError(t, err)
			replica := redises.start()
			replica.do("REPLICAOF", "127.0.0.1", port)
			s.eventually(patience, "the replica follows", func() error {
				if is := replica.do("INFO", "replication"); !strings.Contains(is, "master_link_status:up") {
					return errors.New(is)
				}
				if now.do("WAIT", "1", "1000") != "1" {
					return errors.New("it lags")
				}
				return nil
			})
			wire.turn("") // from now on it lags
			return func() {
				now.Kill()
				replica.do("REPLICAOF", "NO", "ONE")
				front.turn(replica.addr)
				now = replica
			}
		}},
		{name: "an older snapshot restored", before: func() func() {
			now.do("SAVE")
			snapshot, err := os.ReadFile(filepath.Join(now.dir, "dump.rdb"))
			require.NoError(t, err)
			return func() {
				now.Kill()
				require.NoError(t, os.WriteFile(filepath.Join(now.dir, "dump.rdb"), snapshot, 0o600))
				now.run()
			}
		}},
		{name: "only what is kept of hosts went back", partly: true, before: func() func() {
			client := s.Store.Client()
			kept := map[string]string{}
			keys, err := client.Keys(s.ctx, "iapi:{h*").Result()
			require.NoError(t, err)
			for _, k := range keys {
				if value, err := client.Dump(s.ctx, k).Result(); err == nil {
					kept[k] = value
				}
			}
			return func() {
				keys, err := client.Keys(s.ctx, "iapi:{h*").Result()
				require.NoError(t, err)
				_, err = client.TxPipelined(s.ctx, func(p redis.Pipeliner) error {
					p.Del(s.ctx, keys...)
					for k, value := range kept {
						p.Restore(s.ctx, k, 0, value)
					}
					return nil
				})
				require.NoError(t, err)
			}
		}},
	}
	for _, l := range losses {
		s.lose(f, l)
		s.lawful(h)
	}
}

// lose has the store lose an instrumentation of some hosts, and follows what comes of it.
func (s *service) lose(f *sim.Fleet, l loss) {
	s.t.Helper()
	const ahead = 4 // hosts whose agents know more than the store does in the end
	base := s.everywhere(0)
	s.eventually(patience, l.name+": everybody runs the first", func() error { return errors.Join(everybodyRuns(f, base), s.current(f)) })
	lose := l.before()
	extra, err := s.APIs[0].Create(s.ctx, cloud.Operators, cloud.OnHosts(s.Hosts[:ahead]...))
	require.NoError(s.t, err)
	some := &sim.Fleet{Agents: f.Agents[:ahead]}
	s.eventually(patience, l.name+": some run the second", func() error { return errors.Join(everybodyRuns(some, extra.ID), s.current(f)) })
	before := make([]assignment.Version, len(f.Agents))
	for i, a := range f.Agents {
		before[i] = a.Applied().Version
	}

	lose()
	s.eventually(patience, l.name+": some are in a new epoch", func() error {
		for i, a := range some.Agents {
			now := a.Applied()
			// Where records are kept, a host that is reconciled before its agent is heard has the same version as before again.
			same := l.partly && now.Version == before[i]
			if now.Version.Epoch <= before[i].Epoch && !same {
				return fmt.Errorf("host %d is at %v, as before", i, now.Version)
			}
			if !runs(a, base) || runs(a, extra.ID) != l.partly {
				return fmt.Errorf("host %d runs the wrong things", i)
			}
		}
		return s.current(f)
	})
	for i := ahead; i < len(f.Agents); i++ {
		require.Equal(s.t, before[i], f.Agents[i].Applied().Version, "%s: the other hosts are as before", l.name)
	}
	fresh := s.everywhere(0)
	s.eventually(patience, l.name+": everybody runs what comes", func() error { return errors.Join(everybodyRuns(f, fresh), s.current(f)) })
	for i := ahead; i < len(f.Agents); i++ {
		require.Equal(s.t, before[i].Epoch, f.Agents[i].Applied().Version.Epoch, "%s: the other hosts stay in their epoch", l.name)
	}
}
