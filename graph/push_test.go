package graph_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/graph/agentdoc"
)

// A process of its own plays the agents, so that memory and CPU of this one are the server's alone.

const fleetVariable = "IAPI_TEST_FLEET" // address and number of agents: this process is the fleet

func TestMain(m *testing.M) {
	if v := os.Getenv(fleetVariable); v != "" {
		address, n, _ := strings.Cut(v, " ")
		count, err := strconv.Atoi(n)
		if err == nil {
			err = fleet(address, count)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func fleetHost(i int) uuid.UUID {
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], uint64(i+1)) // the last byte spreads them over the lanes
	return uuid.UUID(b)
}

// fleet connects n agents and writes a line whenever all have one more event.
func fleet(address string, n int) error {
	var events atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, n)
	gate := make(chan struct{}, 256)
	for i := range n {
		all.Go(func() {
			gate <- struct{}{}
			conn, err := agent(address, i)
			<-gate
			if err != nil {
				failed <- err
				return
			}
			buf := make([]byte, 4096)
			for {
				h, err := gws.ReadHeader(conn)
				if err != nil {
					return
				}
				for left := int(h.Length); left > 0; {
					m, err := conn.Read(buf[:min(left, len(buf))])
					if err != nil {
						return
					}
					left -= m
				}
				if h.OpCode == gws.OpText && events.Add(1)%int64(n) == 0 {
					fmt.Println(events.Load())
				}
			}
		})
	}
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }() // the test has ended
	select {
	case err := <-failed:
		return err
	case <-wait(&all):
		return nil
	}
}

func wait(g *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	return done
}

func agent(address string, i int) (net.Conn, error) {
	host := fleetHost(i)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	request, err := json.Marshal(map[string]any{"id": "a", "type": "subscribe", "payload": map[string]any{
		"query": agentdoc.Assignments, "variables": agentdoc.AssignmentsVariables{Host: host, Session: host}}})
	if err != nil {
		return nil, err
	}
	d := gws.Dialer{Protocols: []string{agentdoc.Subprotocol}, Header: gws.HandshakeHeaderHTTP{"Authorization": {"Bearer agent-" + host.String()}},
		ReadBufferSize: 512, WriteBufferSize: 512}
	if _, _, err = d.Upgrade(conn, &url.URL{Scheme: "ws", Host: address, Path: "/graphql"}); err != nil {
		return nil, err
	}
	for _, message := range []string{`{"type":"connection_init"}`, string(request)} {
		if err := gws.WriteFrame(conn, gws.MaskFrame(gws.NewTextFrame([]byte(message)))); err != nil {
			return nil, err
		}
		if message[2] == 't' { // wait for connection_ack
			if _, err := gws.ReadFrame(conn); err != nil {
				return nil, err
			}
		}
	}
	return conn, nil
}

func resident(t testing.TB) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("resident memory is read from /proc")
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}

func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPush connects agents over loopback and pushes a changed assignment to all of them. It prints what a connection
// costs in memory and what a push costs in CPU, of this process. IAPI_AGENTS sets their number.
func BenchmarkPush(b *testing.B) {
	n := 2000
	if v := os.Getenv("IAPI_AGENTS"); v != "" {
		var err error
		n, err = strconv.Atoi(v)
		require.NoError(b, err)
	}
	a := newAPI(b)
	hosts := make([]uuid.UUID, n)
	bodies := make([]string, 2)
	for i := range hosts {
		hosts[i] = fleetHost(i)
		a.agent(hosts[i])
	}
	five := append(items(), append(items(), items()[0])...)
	for i := range bodies {
		five[0].Revision = i
		body, _ := assignment.Encode(assignment.Document{Instrumentations: five})
		bodies[i] = string(body)
	}
	a.source.CommitAll(hosts, bodies[0])
	settle := func() int {
		for range 3 {
			runtime.GC()
		}
		debug.FreeOSMemory()
		return resident(b)
	}
	before := settle()

	self, err := os.Executable()
	require.NoError(b, err)
	c := exec.CommandContext(b.Context(), self)
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", fleetVariable, a.http.Listener.Addr(), n))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	require.NoError(b, err)
	out, err := c.StdoutPipe()
	require.NoError(b, err)
	begin, used := time.Now(), cpu(b)
	require.NoError(b, c.Start())
	lines := bufio.NewScanner(out)
	require.True(b, lines.Scan(), "the fleet did not connect")
	connected := time.Since(begin)
	connecting := cpu(b) - used
	steady := settle()

	used = cpu(b)
	rounds := 0
	for b.Loop() {
		rounds++
		a.source.CommitAll(hosts, bodies[rounds%2])
		require.True(b, lines.Scan(), "a push did not reach all")
	}
	b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(n*rounds), "cpu-µs/push")
	b.ReportMetric(float64(len(bodies[0])), "B/push")
	b.ReportMetric(float64(connecting.Microseconds())/float64(n), "cpu-µs/connect")
	b.ReportMetric(float64(n)/connected.Seconds(), "connects/s")
	b.ReportMetric(float64(steady-before)/float64(n), "KiB/connection")
	b.ReportMetric(float64(settle()-before)/float64(n), "KiB/connection-after")
	require.NoError(b, in.Close())
	_ = c.Wait()
}
