package targets

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"iapi/measure"
)

// graphite sends the plaintext protocol over TCP, with the time of the data: the interval's start, or for a snapshot
// when it was taken. There is no acknowledgement: a batch that fails is sent again whole, and so is what was written
// within the last seconds before the connection ended, for it may have gone nowhere. Both overwrite the same values.
type graphite struct {
	namer
	address string
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	clock   Clock
	recent  []written // oldest first
	conn    net.Conn
	ended   chan struct{} // closed when the other side of conn has hung up
}

type written struct {
	at    time.Time
	lines []byte
}

const (
	unsureFor   = 5 * time.Second // how long what was written may still be lost with its connection
	unsureBytes = 2 << 20
)

func openGraphite(t measure.Target, o Options) (wire, error) {
	if err := checkHostPort(t.Address); err != nil {
		return nil, err
	}
	return &graphite{namer: newNamer(t.Prefix, o.GraphiteTags, o), address: t.Address, dial: o.Dial, clock: o.Clock}, nil
}

func (g *graphite) prepare(p measure.Point) (item, error) {
	path, tags, err := g.name(p)
	if err != nil {
		return item{}, err
	}
	at := p.Start
	if p.Gauge {
		at = at.Add(p.Interval)
	}
	var suffix strings.Builder
	for _, t := range tags {
		suffix.WriteString(";" + t.key + "=" + t.value)
	}
	stamp := strconv.FormatInt(at.Unix(), 10)
	var it item
	add := func(path, value string) {
		it.lines = append(it.lines, []byte(path+suffix.String()+" "+value+" "+stamp+"\n"))
	}
	add(path, number(p.Value))
	if d := p.Distribution; d != nil {
		for _, q := range quantiles(d) {
			add(path+"."+pathSegment(d.Field)+"."+q.name, strconv.FormatInt(q.value, 10))
		}
	}
	return it, nil
}

func (g *graphite) gap(lostPoints) (item, bool) { return item{}, false }

func (g *graphite) send(ctx context.Context, _ string, items []item) (result, error) {
	if g.conn != nil {
		select {
		case <-g.ended: // a write would still succeed, into nowhere
			g.close()
		default:
		}
	}
	g.forget()
	var again []byte
	if g.conn == nil {
		conn, err := g.dial(ctx, "tcp", g.address)
		if err != nil {
			return result{}, fmt.Errorf("connect: %w", err)
		}
		g.conn, g.ended = conn, make(chan struct{})
		go watchEnd(conn, g.ended)
		for _, w := range g.recent {
			again = append(again, w.lines...)
		}
	}
	var b []byte
	for _, it := range items {
		for _, line := range it.lines {
			b = append(b, line...)
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = g.conn.SetWriteDeadline(deadline) // if it fails, so does the write
	}
	stop := context.AfterFunc(ctx, func() { _ = g.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := g.conn.Write(append(again, b...)); err != nil {
		g.close()
		return result{}, fmt.Errorf("write: %w", err)
	}
	g.recent = append(g.recent, written{g.clock.Now(), b})
	return result{done: len(items)}, nil
}

// forget lets go of what has been written for long, or is too much to keep.
func (g *graphite) forget() {
	kept := 0
	from := len(g.recent)
	for from > 0 {
		w := g.recent[from-1]
		if kept += len(w.lines); kept > unsureBytes || g.clock.Now().Sub(w.at) > unsureFor {
			break
		}
		from--
	}
	g.recent = slices.Delete(g.recent, 0, from)
}

// watchEnd reads until the other side hangs up; graphite itself never says anything. It ends with the connection.
func watchEnd(conn net.Conn, ended chan<- struct{}) {
	defer close(ended)
	var b [512]byte
	for {
		if _, err := conn.Read(b[:]); err != nil {
			return
		}
	}
}

func (g *graphite) close() {
	if g.conn != nil {
		_ = g.conn.Close() // what was written is on its way; nothing is buffered here
		<-g.ended
		g.conn = nil
	}
}
