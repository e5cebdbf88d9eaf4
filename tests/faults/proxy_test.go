package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

// faultPlan is what a proxy does to frames. Each member is the chance that it happens to one frame.
type faultPlan struct {
	Replay float64 // the frame is sent again at once, or after a later one
	Delay  float64 // it waits up to DelayMost
	Halve  float64 // it comes in two parts
	Cut    float64 // only a part comes, and the connection ends

	DelayMost time.Duration
}

// proxy stands between agents and one API. It reads the frames of websockets, does to them what its plan says, and notes
// what passes, before it harms it.
type proxy struct {
	URL string

	target string // host:port
	l      net.Listener
	plan   atomic.Pointer[faultPlan]
	seed   uint64
	serial atomic.Uint64
	all    sync.WaitGroup

	// noted is told of each assignment that the API sends and of each subscription of an agent; nil: nobody is.
	noted func(kind kind, host uuid.UUID, v agentdoc.Assignment)

	replayed, delayed, halved, cut atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func startProxy(t *testing.T, api string, seed uint64, noted func(kind, uuid.UUID, agentdoc.Assignment)) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{URL: "http://" + l.Addr().String(), target: strings.TrimPrefix(api, "http://"), l: l, seed: seed, noted: noted,
		conns: make(map[net.Conn]struct{})}
	p.plan.Store(&faultPlan{})
	p.all.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.dropAll()
		p.all.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() { p.pass(c) })
	}
}

// dropAll breaks all connections.
func (p *proxy) dropAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) keep(c net.Conn) (forget func()) {
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	return func() {
		c.Close()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}
}

// pass serves one connection of an agent.
func (p *proxy) pass(agent net.Conn) {
	defer p.keep(agent)()
	api, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		return
	}
	defer p.keep(api)()
	up, down := bufio.NewReader(agent), bufio.NewReader(api)
	request, err := head(up)
	if err != nil {
		return
	}
	if _, err := io.WriteString(api, request); err != nil {
		return
	}
	framed := strings.Contains(strings.ToLower(request), "upgrade: websocket")
	if framed {
		response, err := head(down)
		if err != nil {
			return
		}
		if _, err := io.WriteString(agent, response); err != nil {
			return
		}
		framed = strings.HasPrefix(response, "HTTP/1.1 101")
	}
	var both sync.WaitGroup
	defer both.Wait()
	n := p.serial.Add(2)
	both.Go(func() { p.one(framed, down, agent, n, p.noteDown); agent.Close(); api.Close() })
	p.one(framed, up, api, n+1, p.noteUp)
	agent.Close()
	api.Close()
}

// one passes one direction.
func (p *proxy) one(framed bool, from *bufio.Reader, to net.Conn, stream uint64, note func([]byte)) {
	if !framed {
		_, _ = io.Copy(to, from)
		return
	}
	dice := rand.New(rand.NewPCG(p.seed, stream))
	var old []byte // a frame that comes again after some later ones
	wait := 0      // how many of them are still to come
	for {
		frame, op, payload, err := readFrame(from)
		if err != nil {
			return
		}
		if op == ws.OpText {
			note(payload)
		}
		plan := p.plan.Load()
		if dice.Float64() < plan.Delay {
			p.delayed.Add(1)
			time.Sleep(time.Duration(dice.Int64N(int64(plan.DelayMost) + 1)))
		}
		switch {
		case dice.Float64() < plan.Cut:
			p.cut.Add(1)
			_, _ = to.Write(frame[:dice.IntN(len(frame))])
			return
		case dice.Float64() < plan.Halve:
			p.halved.Add(1)
			half := dice.IntN(len(frame))
			if _, err := to.Write(frame[:half]); err != nil {
				return
			}
			time.Sleep(time.Duration(dice.Int64N(int64(20 * time.Millisecond))))
			frame = frame[half:] // never to be replayed
			op = ws.OpContinuation
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
		switch {
		case op != ws.OpText:
		case old != nil:
			if wait--; wait > 0 {
				continue
			}
			p.replayed.Add(1)
			if _, err := to.Write(old); err != nil {
				return
			}
			old = nil
		case dice.Float64() < plan.Replay:
			if dice.IntN(4) > 0 {
				old, wait = frame, 1+dice.IntN(8)
				continue
			}
			p.replayed.Add(1)
			if _, err := to.Write(frame); err != nil {
				return
			}
		}
	}
}

func (p *proxy) noteDown(payload []byte) {
	if p.noted == nil {
		return
	}
	var m struct {
		Type    string
		Payload struct{ Data agentdoc.AssignmentsData }
	}
	if json.Unmarshal(payload, &m) == nil && m.Type == "next" && m.Payload.Data.Assignments.TypeName == agentdoc.TypeAssignment {
		a := m.Payload.Data.Assignments.Assignment
		p.noted(sent, a.Host, a)
	}
}

func (p *proxy) noteUp(payload []byte) {
	if p.noted == nil {
		return
	}
	var m struct {
		Type    string
		Payload struct {
			Query     string
			Variables agentdoc.AssignmentsVariables
		}
	}
	if json.Unmarshal(payload, &m) == nil && m.Type == "subscribe" && m.Payload.Query == agentdoc.Assignments {
		p.noted(subscribed, m.Payload.Variables.Host, agentdoc.Assignment{})
	}
}

// head reads the head of an HTTP message, as it is.
func head(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String(), err
		}
	}
}

// readFrame reads a whole frame: as it is, and its payload in clear.
func readFrame(r io.Reader) (frame []byte, op ws.OpCode, payload []byte, err error) {
	h, err := ws.ReadHeader(r)
	if err != nil {
		return nil, 0, nil, err
	}
	payload = make([]byte, h.Length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, 0, nil, err
	}
	var whole bytes.Buffer
	if err := ws.WriteHeader(&whole, h); err != nil {
		return nil, 0, nil, err
	}
	whole.Write(payload)
	if h.Masked {
		ws.Cipher(payload, h.Mask, 0)
	}
	return whole.Bytes(), h.OpCode, payload, nil
}
