package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
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
	Replay  float64 // the frame is sent again at once, or after a later one
	Reorder float64 // it comes after the one that follows it
	Delay   float64 // it waits up to DelayMost
	Halve   float64 // it comes in two parts
	Cut     float64 // only a part comes, and the connection ends

	DelayMost time.Duration
	CutAfter  int64 // each direction of a connection ends after so many bytes; 0: never
	Blocked   bool  // websockets are not opened; plain requests pass
}

// harm counts what was done to the frames of one direction.
type harm struct{ replayed, reordered, delayed, halved, cut atomic.Int64 }

func (h *harm) String() string {
	return fmt.Sprintf("%d replayed, %d reordered, %d delayed, %d halved, %d cut", h.replayed.Load(), h.reordered.Load(), h.delayed.Load(),
		h.halved.Load(), h.cut.Load())
}

// least is how much there was of that of which there was least; of cuts, which end a connection, a fifth is as much. Frames are
// left out that were reordered: it takes two on their way, and agents wait for the answer to their first.
func (h *harm) least() int64 {
	return min(h.replayed.Load(), h.delayed.Load(), h.halved.Load(), 5*h.cut.Load())
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

	toAgents, toAPI harm
	plain           atomic.Int64

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
	framed := strings.Contains(strings.ToLower(request), "upgrade: websocket")
	if framed && p.plan.Load().Blocked {
		_, _ = io.WriteString(agent, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	if !framed { // so that what follows on a connection is looked at too
		p.plain.Add(1)
		request = strings.Replace(request, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
	}
	if _, err := io.WriteString(api, request); err != nil {
		return
	}
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
	both.Go(func() { p.one(framed, down, agent, n, &p.toAgents, p.noteDown); agent.Close(); api.Close() })
	p.one(framed, up, api, n+1, &p.toAPI, p.noteUp)
	agent.Close()
	api.Close()
}

// one passes one direction.
func (p *proxy) one(framed bool, from *bufio.Reader, to net.Conn, stream uint64, done *harm, note func([]byte)) {
	if !framed {
		_, _ = io.Copy(to, from)
		return
	}
	frames, over := make(chan passing), make(chan struct{})
	defer close(over)
	p.all.Go(func() {
		defer close(frames)
		for {
			f, err := readFrame(from)
			if err != nil {
				return
			}
			if f.op == ws.OpText {
				note(f.payload)
			}
			select {
			case frames <- f:
			case <-over:
				return
			}
		}
	})
	d := &direction{p: p, harm: done, to: to, dice: rand.New(rand.NewPCG(p.seed, stream))}
	for {
		var ok bool
		select {
		case f, more := <-frames:
			ok = more && d.pass(f)
		case <-d.due:
			ok = d.flush()
		}
		if !ok {
			return
		}
	}
}

// passing is a frame on its way: as it is, and its payload in clear.
type passing struct {
	whole, payload []byte
	op             ws.OpCode
}

// direction does harm to the frames of one direction of a connection.
type direction struct {
	*harm
	p    *proxy
	to   net.Conn
	dice *rand.Rand
	sent int64

	old  []byte // comes again after some later frames
	wait int    // how many of them are still to come
	late []byte // comes after the next one, or when due
	due  <-chan time.Time
}

// pass sends a frame on, or does not. It returns false at the end of the connection.
func (d *direction) pass(f passing) bool {
	plan := d.p.plan.Load()
	frame := f.whole
	if d.dice.Float64() < plan.Delay {
		d.delayed.Add(1)
		time.Sleep(time.Duration(d.dice.Int64N(int64(plan.DelayMost) + 1)))
	}
	switch {
	case plan.CutAfter > 0 && d.sent+int64(len(frame)) > plan.CutAfter:
		d.cut.Add(1)
		_, _ = d.to.Write(frame[:max(plan.CutAfter-d.sent, 0)])
		return false
	case d.dice.Float64() < plan.Cut:
		d.cut.Add(1)
		_, _ = d.to.Write(frame[:d.dice.IntN(len(frame))])
		return false
	case f.op == ws.OpText && d.late == nil && d.dice.Float64() < plan.Reorder:
		d.late, d.due = frame, time.After(200*time.Millisecond) // if nothing follows
		return true
	case d.dice.Float64() < plan.Halve:
		d.halved.Add(1)
		half := d.dice.IntN(len(frame))
		if !d.write(frame[:half]) {
			return false
		}
		time.Sleep(time.Duration(d.dice.Int64N(int64(20 * time.Millisecond))))
		if !d.write(frame[half:]) {
			return false
		}
		return d.flush()
	}
	if d.late != nil {
		d.reordered.Add(1)
	}
	return d.write(frame) && d.flush() && (f.op != ws.OpText || d.again(frame, plan))
}

// flush sends what was held back.
func (d *direction) flush() bool {
	late := d.late
	d.late, d.due = nil, nil
	return late == nil || d.write(late)
}

// again sends a frame twice, or keeps it until some others have passed.
func (d *direction) again(frame []byte, plan *faultPlan) bool {
	switch {
	case d.old != nil:
		if d.wait--; d.wait > 0 {
			return true
		}
		frame, d.old = d.old, nil
	case d.dice.Float64() >= plan.Replay:
		return true
	case d.dice.IntN(4) > 0:
		d.old, d.wait = frame, 1+d.dice.IntN(8)
		return true
	}
	d.replayed.Add(1)
	return d.write(frame)
}

func (d *direction) write(b []byte) bool {
	n, err := d.to.Write(b)
	d.sent += int64(n)
	return err == nil
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

// readFrame reads a whole frame.
func readFrame(r io.Reader) (f passing, err error) {
	h, err := ws.ReadHeader(r)
	if err != nil {
		return f, err
	}
	f.op, f.payload = h.OpCode, make([]byte, h.Length)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return f, err
	}
	var whole bytes.Buffer
	if err := ws.WriteHeader(&whole, h); err != nil {
		return f, err
	}
	whole.Write(f.payload)
	if h.Masked {
		ws.Cipher(f.payload, h.Mask, 0)
	}
	f.whole = whole.Bytes()
	return f, nil
}
