package graph_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	gws "github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"iapi/graph/agentdoc"
	"iapi/graph/ws/poll"
)

// A process of its own plays the agents, so that memory and CPU of this one are the server's alone. It is this test binary
// again, and does little for each agent, for it shares the processors.

const (
	fleetVariable = "IAPI_TEST_FLEET" // address and number of agents: this process is the fleet
	inFlight      = 500               // handshakes at the same time
)

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

// fleet connects n agents, writes a line whenever all have one more event, and ends with its input.
func fleet(address string, n int) error {
	poller, err := poll.New()
	if err != nil {
		return err
	}
	defer poller.Close()
	events := new(atomic.Int64)
	var dialing errgroup.Group
	dialing.SetLimit(inFlight)
	for i := range n {
		dialing.Go(func() error {
			nc, err := agent(address, i)
			if err != nil {
				return fmt.Errorf("agent %d: %w", i, err)
			}
			f := &follower{events: events, of: int64(n)}
			if f.conn, err = poller.Take(nc, f); err != nil {
				return err
			}
			return f.conn.WatchRead(true)
		})
	}
	if err := dialing.Wait(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// follower counts the events that one agent gets.
type follower struct {
	conn   *poll.Conn
	events *atomic.Int64
	of     int64
	header []byte
	left   int64 // of the payload
}

func (f *follower) Writable() {}

func (f *follower) Readable(buf []byte) {
	n, err := f.conn.Read(buf)
	if err != nil {
		f.conn.Close()
		return
	}
	for b := buf[:n]; len(b) > 0; {
		if f.left > 0 {
			skip := min(f.left, int64(len(b)))
			b = b[skip:]
			if f.left -= skip; f.left == 0 && f.events.Add(1)%f.of == 0 {
				fmt.Println(f.events.Load())
			}
			continue
		}
		f.header, b = append(f.header, b[0]), b[1:]
		h, err := gws.ReadHeader(strings.NewReader(string(f.header)))
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			continue
		}
		f.header, f.left = f.header[:0], h.Length
	}
}

// agent connects, and subscribes to its host's assignment.
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

// agents are a fleet, as the test sees it.
type agents struct {
	t     testing.TB
	in    io.Closer
	lines *bufio.Scanner
	wait  func() error
}

func startFleet(t testing.TB, address net.Addr, n int) *agents {
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", fleetVariable, address, n))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	return &agents{t: t, in: in, lines: bufio.NewScanner(out), wait: c.Wait}
}

// served waits until every agent has one more event.
func (f *agents) served() { require.True(f.t, f.lines.Scan(), "not every agent was served") }

func (f *agents) end() {
	require.NoError(f.t, f.in.Close())
	require.NoError(f.t, f.wait())
}
