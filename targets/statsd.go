package targets

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"iapi/measure"
)

// statsd sends over UDP, up to maxDatagram bytes at a time. Activities are counters and snapshots gauges; a distribution
// is gauges for p50, p95, p99 and max beside the counter.
type statsd struct {
	namer
	dialect Dialect
	out     datagrams
}

// maxDatagram is what passes an ordinary Ethernet whole, in bytes.
const maxDatagram = 1432

func openStatsd(t measure.Target, o Options) (wire, error) {
	switch o.StatsdDialect {
	case Plain, DogStatsD, GraphiteD, Influx:
	default:
		return nil, fmt.Errorf("dialect: %q is not one of plain, dogstatsd, graphite, influx", o.StatsdDialect)
	}
	if err := checkHostPort(t.Address); err != nil {
		return nil, err
	}
	return &statsd{
		namer: newNamer(t.Prefix, o.StatsdDialect != Plain, o), dialect: o.StatsdDialect,
		out: datagrams{address: t.Address, opts: o},
	}, nil
}

func checkHostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("address: must be host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("address: the port must be from 1 to 65535")
	}
	return nil
}

func (s *statsd) prepare(p measure.Point) (item, error) {
	path, tags, err := s.name(p)
	if err != nil {
		return item{}, err
	}
	var it item
	add := func(path, value, kind string) error {
		line := s.line(path, tags, value, kind)
		if kind == "g" && value[0] == '-' && s.dialect != DogStatsD {
			// A sign would make it a change; from zero the change is the value. Both lines stay in one datagram.
			line = s.line(path, tags, "0", "g") + "\n" + line
		}
		if len(line) > maxDatagram {
			return errTooLong
		}
		it.lines = append(it.lines, []byte(line))
		return nil
	}
	if d := p.Distribution; d != nil {
		for _, q := range quantiles(d) {
			if err := add(path+"."+pathSegment(d.Field)+"."+q.name, strconv.FormatInt(q.value, 10), "g"); err != nil {
				return item{}, err
			}
		}
	}
	kind := "c" // behind the gauges: they do no harm when they are sent twice
	if p.Gauge {
		kind = "g"
	}
	if err := add(path, number(p.Value), kind); err != nil {
		return item{}, err
	}
	return it, nil
}

func (s *statsd) line(path string, tags []tag, value, kind string) string {
	var b strings.Builder
	b.WriteString(path)
	joined := func(first, between, sign string) {
		for i, t := range tags {
			if i == 0 {
				b.WriteString(first)
			} else {
				b.WriteString(between)
			}
			b.WriteString(t.key + sign + t.value)
		}
	}
	switch s.dialect {
	case GraphiteD:
		joined(";", ";", "=")
	case Influx:
		joined(",", ",", "=")
	}
	b.WriteString(":" + value + "|" + kind)
	if s.dialect == DogStatsD {
		joined("|#", ",", ":")
	}
	return b.String()
}

func (s *statsd) gap(lostPoints) (item, bool) { return item{}, false }

// send packs lines into datagrams; what it tells as done left in datagrams that were written.
func (s *statsd) send(ctx context.Context, _ string, items []item) (result, error) {
	var packet []byte
	var r result
	whole := 0 // items that are complete in what was written or is in the packet
	for _, it := range items {
		for _, line := range it.lines {
			if len(packet) > 0 && len(packet)+1+len(line) > maxDatagram {
				if err := s.out.write(ctx, packet); err != nil {
					return r, err
				}
				packet = packet[:0]
				r.done = whole
			}
			if len(packet) > 0 {
				packet = append(packet, '\n')
			}
			packet = append(packet, line...)
		}
		whole++
	}
	if len(packet) > 0 {
		if err := s.out.write(ctx, packet); err != nil {
			return r, err
		}
	}
	r.done = whole
	return r, nil
}

func (s *statsd) close() { s.out.close() }

// datagrams is a UDP socket that is opened when needed, and anew each minute for the sake of changed addresses.
type datagrams struct {
	address string
	opts    Options
	conn    net.Conn
	since   time.Time
}

func (d *datagrams) write(ctx context.Context, packet []byte) error {
	now := d.opts.Clock.Now()
	if d.conn != nil && now.Sub(d.since) > time.Minute {
		d.close()
	}
	if d.conn == nil {
		conn, err := d.opts.Dial(ctx, "udp", d.address)
		if err != nil {
			return fmt.Errorf("open the socket: %w", err)
		}
		d.conn, d.since = conn, now
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = d.conn.SetWriteDeadline(deadline) // if it fails, so does the write
	}
	if _, err := d.conn.Write(packet); err != nil {
		d.close()
		return fmt.Errorf("write a datagram: %w", err)
	}
	return nil
}

func (d *datagrams) close() {
	if d.conn != nil {
		_ = d.conn.Close() // nothing is buffered in it
		d.conn = nil
	}
}
