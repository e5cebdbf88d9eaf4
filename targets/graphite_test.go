package targets

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/measure"
)

var graphiteLine = regexp.MustCompile(`^([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*(?:;[A-Za-z0-9_-]+=[A-Za-z0-9_.-]+)*) (-?[0-9]+(?:\.[0-9]+)?) ([0-9]+)$`)

// carbon is a plaintext receiver that stores as whisper does: one value for each path and second.
type carbon struct {
	t       *testing.T
	address string
	mu      sync.Mutex
	values  map[string]float64
	bad     []string
}

func newCarbon(t *testing.T) *carbon {
	return &carbon{t: t, address: loopback() + ":0", values: map[string]float64{}}
}

// loopback is a loopback address that is unlikely to be another's, so that a port of it that was given up is still free later.
func loopback() string {
	if runtime.GOOS != "linux" { // where all of 127.0.0.0/8 is the machine itself
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.N(254), 1+rand.N(254), 1+rand.N(254))
}

// start listens, always at the same address; the function stops it and all that is connected.
func (c *carbon) start() func() {
	l, err := net.Listen("tcp", c.address)
	require.NoError(c.t, err)
	c.address = l.Addr().String()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	stopped := false
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			if stopped {
				_ = conn.Close()
			}
			mu.Unlock()
			wg.Go(func() { c.read(conn) })
		}
	})
	return func() {
		_ = l.Close()
		mu.Lock()
		stopped = true
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
}

func (c *carbon) read(conn net.Conn) {
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // half a line is no line
		}
		m := graphiteLine.FindStringSubmatch(line[:len(line)-1])
		c.mu.Lock()
		if m == nil {
			c.bad = append(c.bad, line)
		} else if v, err := strconv.ParseFloat(m[2], 64); err == nil {
			c.values[m[1]+" "+m[3]] = v
		}
		c.mu.Unlock()
	}
}

func (c *carbon) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(c.t, c.bad)
	return len(c.values)
}

func TestGraphiteGetsValuesAtTheirTimes(t *testing.T) {
	c := newCarbon(t)
	stop := c.start()
	defer stop()
	q, err := Open(measure.Target{Kind: measure.Graphite, Address: c.address, Prefix: "p"}, quick())
	require.NoError(t, err)
	a, b := point(1), point(2)
	b.Gauge, b.Interval, b.Value, b.Fields = true, 10*time.Second, -1.5, nil
	a.Distribution = &measure.Distribution{Field: "latency", Buckets: []measure.Bucket{{Low: 5, High: 9, Count: 1}}}
	q.Enqueue([]measure.Point{a, b})
	require.Eventually(t, func() bool { return c.count() == 6 }, patience, time.Millisecond)
	vm := "p.disk.physio_ops." + vmID.String()
	at, taken := fmt.Sprint(a.Start.Unix()), fmt.Sprint(b.Start.Unix()+10)
	require.Equal(t, map[string]float64{
		vm + ".proc1 " + at: 1, vm + ".proc1.latency.p50 " + at: 9, vm + ".proc1.latency.p95 " + at: 9,
		vm + ".proc1.latency.p99 " + at: 9, vm + ".proc1.latency.max " + at: 9, vm + " " + taken: -1.5,
	}, c.values)
	closeQueue(t, q)

	o := quick()
	o.GraphiteTags = true
	w, err := openGraphite(measure.Target{Kind: measure.Graphite, Address: c.address}, o.withDefaults())
	require.NoError(t, err)
	it, err := w.prepare(a)
	require.NoError(t, err)
	require.Equal(t, "disk.physio_ops;vm="+vmID.String()+";execname=proc1 1 "+at+"\n", string(it.lines[0]))
	require.Regexp(t, graphiteLine, string(it.lines[1][:len(it.lines[1])-1]))
}

func TestGraphiteLosesNothingWhenItIsStoppedAndStarted(t *testing.T) {
	c := newCarbon(t)
	stop := c.start()
	o := quick()
	o.Dir, o.SpoolAfter, o.BatchSize = t.TempDir(), time.Millisecond, 50
	q, err := Open(measure.Target{Kind: measure.Graphite, Address: c.address}, o)
	require.NoError(t, err)
	all := points(0, 1000)
	q.Enqueue(all[:100])
	require.Eventually(t, func() bool { return c.count() == 100 }, patience, time.Millisecond)
	stop()
	for i := 100; i < 900; i += 50 {
		q.Enqueue(all[i : i+50])
		awaitStats(t, q, "they are out of memory", func(s Stats) bool { return s.Sent+s.Spooled >= int64(i-50) })
	}
	stop = c.start()
	awaitStats(t, q, "the spool is drained", func(s Stats) bool { return s.Sent == 900 })
	q.Enqueue(all[900:])
	require.Eventually(t, func() bool { return c.count() == 1000 }, patience, time.Millisecond)
	require.Zero(t, closeQueue(t, q).Dropped)
	stop()
}
