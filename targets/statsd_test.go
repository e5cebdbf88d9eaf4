package targets

import (
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/measure"
)

// statsdServer is a receiver that reads as statsd 0.9.0 does, but takes nothing that statsd would have to mend.
type statsdServer struct {
	t        *testing.T
	conn     net.PacketConn
	line     *regexp.Regexp
	counters map[string]float64
	gauges   map[string]float64
	largest  int
}

var statsdForms = map[Dialect]*regexp.Regexp{
	Plain:     regexp.MustCompile(`^([A-Za-z0-9_.-]+):(-?[0-9]+(?:\.[0-9]+)?)\|([cg])$`),
	DogStatsD: regexp.MustCompile(`^([A-Za-z0-9_.-]+):(-?[0-9]+(?:\.[0-9]+)?)\|([cg])\|#[A-Za-z0-9_:.,-]+$`),
	GraphiteD: regexp.MustCompile(`^([A-Za-z0-9_.;=-]+):(-?[0-9]+(?:\.[0-9]+)?)\|([cg])$`),
	Influx:    regexp.MustCompile(`^([A-Za-z0-9_.,=-]+):(-?[0-9]+(?:\.[0-9]+)?)\|([cg])$`),
}

func newStatsdServer(t *testing.T, d Dialect) *statsdServer {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &statsdServer{t: t, conn: conn, line: statsdForms[d], counters: map[string]float64{}, gauges: map[string]float64{}}
}

func (s *statsdServer) target() measure.Target {
	return measure.Target{Kind: measure.Statsd, Address: s.conn.LocalAddr().String(), Prefix: "p"}
}

// read takes datagrams until so many lines have come.
func (s *statsdServer) read(lines int) {
	b := make([]byte, 65536)
	for lines > 0 {
		require.NoError(s.t, s.conn.SetReadDeadline(time.Now().Add(patience)))
		n, _, err := s.conn.ReadFrom(b)
		require.NoError(s.t, err)
		s.largest = max(s.largest, n)
		for line := range strings.SplitSeq(string(b[:n]), "\n") {
			lines--
			m := s.line.FindStringSubmatch(line)
			require.NotNil(s.t, m, "%q", line)
			v, err := strconv.ParseFloat(m[2], 64)
			require.NoError(s.t, err)
			switch {
			case m[3] == "c":
				s.counters[m[1]] += v
			case m[2][0] == '-' && s.line != statsdForms[DogStatsD]:
				s.gauges[m[1]] += v
			default:
				s.gauges[m[1]] = v
			}
		}
	}
	require.Zero(s.t, lines)
}

func TestStatsdCountsAndGauges(t *testing.T) {
	s := newStatsdServer(t, Plain)
	q, err := Open(s.target(), quick())
	require.NoError(t, err)
	defer closeQueue(t, q)
	all := livePoints(3)
	all[0].Value, all[1].Value, all[2].Value = 5, -12.5, 7
	all[1].Gauge, all[2].Gauge = true, true
	all[1].Fields, all[2].Fields = nil, []measure.Field{{Name: "state", Value: "a|b:c\nd"}}
	q.Enqueue(all)
	s.read(4)
	vm := "p.disk.physio_ops." + vmID.String()
	require.Equal(t, map[string]float64{vm + ".proc0": 5}, s.counters)
	require.Equal(t, map[string]float64{vm: -12.5, vm + "." + pathSegment("a|b:c\nd"): 7}, s.gauges)
}

func TestStatsdDistributionsAreGaugesBesideTheCounter(t *testing.T) {
	for _, d := range []Dialect{Plain, DogStatsD, GraphiteD, Influx} {
		s := newStatsdServer(t, d)
		o := quick()
		o.StatsdDialect = d
		q, err := Open(s.target(), o)
		require.NoError(t, err)
		p := livePoints(1)[0]
		p.Value = 10
		p.Distribution = &measure.Distribution{Field: "latency", Unit: "ns", Buckets: []measure.Bucket{{Low: 1000, High: 1099, Count: 9}, {Low: 5000, High: 5099, Count: 1}}}
		q.Enqueue([]measure.Point{p})
		s.read(5)
		require.Len(t, s.counters, 1)
		for name, v := range s.counters {
			require.EqualValues(t, 10, v, name)
		}
		want := map[string]float64{".p50": 1099, ".p95": 5099, ".p99": 5099, ".max": 5099}
		require.Len(t, s.gauges, 4)
		for name, v := range s.gauges {
			found := false
			for suffix, w := range want {
				found = found || strings.Contains(name, ".latency"+suffix) && v == w
			}
			require.True(t, found, "%s %v", name, v)
		}
		closeQueue(t, q)
	}
}

func TestStatsdFillsDatagramsButNoMoreThanPassWhole(t *testing.T) {
	s := newStatsdServer(t, Plain)
	q, err := Open(s.target(), quick())
	require.NoError(t, err)
	defer closeQueue(t, q)
	all := livePoints(200)
	for i := range all {
		all[i].Value = 1
		all[i].Fields[0].Value = strings.Repeat("long", 1+i%40)
	}
	q.Enqueue(all)
	s.read(200)
	require.LessOrEqual(t, s.largest, maxDatagram)
	require.Greater(t, s.largest, maxDatagram/2)
	var sum float64
	for _, v := range s.counters {
		sum += v
	}
	require.EqualValues(t, 200, sum)

	far := livePoints(1)[0]
	far.Fields = nil
	for range 10 {
		far.Fields = append(far.Fields, measure.Field{Name: "f", Value: strings.Repeat("x", 199)})
	}
	q.Enqueue([]measure.Point{far})
	st := awaitStats(t, q, "too long a line is dropped", func(s Stats) bool { return s.Dropped == 1 })
	require.Equal(t, map[string]int64{ReasonInvalid: 1}, st.DroppedFor)
}

func TestAddressesAndOptionsThatCannotWorkAreRefused(t *testing.T) {
	for want, target := range map[string]measure.Target{
		"kind:":               {Kind: "carrier-pigeon"},
		"address: must be h":  {Kind: measure.Statsd, Address: "localhost"},
		"address: the port":   {Kind: measure.Graphite, Address: "localhost:0"},
		"transport:":          {Kind: measure.DataAPI, Address: "http://x", Transport: "SMOKE"},
		"address: must be an": {Kind: measure.DataAPI, Address: "/x"},
		"address: the scheme": {Kind: measure.OTLP, Address: "ftp://x"},
		"headers: a name":     {Kind: measure.OTLP, Address: "http://x", Headers: map[string]string{"a b": "c"}},
		"headers: the value":  {Kind: measure.DataAPI, Address: "http://x", Headers: map[string]string{"A": "secret\n"}},
		"is not for a target": {Kind: measure.DataAPI, Address: "http://x", Headers: map[string]string{"content-length": "1"}},
	} {
		_, err := Open(target, quick())
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
	}
	o := quick()
	o.StatsdDialect = "klingon"
	_, err := Open(measure.Target{Kind: measure.Statsd, Address: "127.0.0.1:8125"}, o)
	require.ErrorContains(t, err, "dialect:")
}

func TestOperatorsSeeTheHostInStatsd(t *testing.T) {
	s := newStatsdServer(t, DogStatsD)
	o := quick()
	o.StatsdDialect = DogStatsD
	w, err := openStatsd(s.target(), o.withDefaults())
	require.NoError(t, err)
	p := point(0)
	p.Owner, p.VM = uuid.Nil, uuid.Nil
	it, err := w.prepare(p)
	require.NoError(t, err)
	require.Equal(t, "p.disk.physio_ops:0|c|#host:"+hostName+",host_uuid:"+hostID.String()+",execname:proc0", string(it.lines[0]))
}
