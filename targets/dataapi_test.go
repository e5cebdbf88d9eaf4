package targets

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/dataapi"
	"iapi/dataapi/event"
	"iapi/measure"
)

// door stands before a Data API and can be shut, or lose the answers to what went through.
type door struct {
	inner http.Handler
	mu    sync.Mutex
	shut  bool
	lossy *rand.Rand
}

func (d *door) set(shut bool, lossy *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut, d.lossy = shut, lossy
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	shut, lost := d.shut, d.lossy != nil && d.lossy.IntN(3) == 0
	d.mu.Unlock()
	if r.Method != http.MethodPost && r.Header.Get("Upgrade") == "" {
		d.inner.ServeHTTP(w, r) // the test's own look
		return
	}
	if shut {
		http.Error(w, "shut", http.StatusServiceUnavailable)
		return
	}
	if lost {
		d.inner.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	d.inner.ServeHTTP(w, r)
}

// dataServer is a real Data API behind a door.
func dataServer(t *testing.T) (*door, string) {
	s := dataapi.New(dataapi.Options{})
	d := &door{inner: s.Handler()}
	web := httptest.NewServer(d)
	t.Cleanup(func() {
		_ = s.Close()
		web.Close()
	})
	return d, web.URL
}

// received reads a stream back.
func received(t *testing.T, url, stream string) []event.Event {
	t.Helper()
	resp, err := http.Get(url + "/" + stream + "/data?limit=10000")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode, string(body))
	var all []event.Event
	for line := range strings.Lines(string(body)) {
		e, err := event.Decode([]byte(strings.TrimSuffix(line, "\n")))
		require.NoError(t, err)
		all = append(all, e)
	}
	return all
}

func requireEachOnce(t *testing.T, events []event.Event, from, to int) {
	t.Helper()
	seen := map[string]int{}
	for _, e := range events {
		if !e.Gap {
			seen[string(e.Count)]++
		}
	}
	require.Len(t, seen, to-from)
	for i := from; i < to; i++ {
		require.Equal(t, 1, seen[fmt.Sprint(i)], "count %d", i)
	}
}

func TestPointsArriveAsEvents(t *testing.T) {
	for _, transport := range []measure.Transport{measure.HTTP, measure.WebSocket, ""} {
		_, url := dataServer(t)
		q, err := Open(measure.Target{Kind: measure.DataAPI, Address: url, Transport: transport}, quick())
		require.NoError(t, err)
		a, b := point(7), point(8)
		a.Partial = true
		a.Distribution = &measure.Distribution{Field: "latency", Unit: "ns", Buckets: []measure.Bucket{{Low: 1200000, High: 1299999, Count: 4}}}
		b.Owner, b.VM, b.Instrumentation, b.Gauge, b.Value = uuid.Nil, uuid.Nil, "inst-2", true, 0.5
		q.Enqueue([]measure.Point{a, b})
		awaitStats(t, q, "both are sent", func(s Stats) bool { return s.Sent == 2 && s.Connected })
		require.Equal(t, []event.Event{{
			Stream: "inst-1", Timestamp: a.Start, Interval: time.Second, Count: "7", Instrumentation: "inst-1", Metric: "disk.physio_ops",
			VM: vmID, Partial: true, Fields: map[string]string{"execname": "proc1"}, Dist: map[string][]measure.Bucket{"latency": a.Distribution.Buckets},
		}}, received(t, url, "inst-1"))
		require.Equal(t, []event.Event{{
			Stream: "inst-2", Timestamp: b.Start, Interval: time.Second, Count: "0.5", Instrumentation: "inst-2", Metric: "disk.physio_ops",
			Host: hostName, Gauge: true, Fields: map[string]string{"execname": "proc2"},
		}}, received(t, url, "inst-2"))
		closeQueue(t, q)
	}
}

func TestNothingIsLostOrDoubledWhenAnswersGetLost(t *testing.T) {
	for _, transport := range []measure.Transport{measure.HTTP, measure.WebSocket} {
		d, url := dataServer(t)
		d.set(false, rand.New(rand.NewPCG(1, 2)))
		o := quick()
		o.BatchSize = 10
		q, err := Open(measure.Target{Kind: measure.DataAPI, Address: url, Transport: transport}, o)
		require.NoError(t, err)
		for i := range 30 {
			q.Enqueue(points(i*10, i*10+10))
		}
		awaitStats(t, q, "all are sent", func(s Stats) bool { return s.Sent == 300 })
		closeQueue(t, q)
		requireEachOnce(t, received(t, url, "inst-1"), 0, 300)
	}
}

func TestAnOutageAndAnAgentsRestartLoseAndDoubleNothing(t *testing.T) {
	d, url := dataServer(t)
	target := measure.Target{Kind: measure.DataAPI, Address: url, Transport: measure.HTTP}
	o := quick()
	o.Dir, o.SpoolAfter, o.BatchSize, o.RingPoints = t.TempDir(), time.Millisecond, 20, 100
	q, err := Open(target, o)
	require.NoError(t, err)
	q.Enqueue(points(0, 50))
	awaitStats(t, q, "the first are sent", func(s Stats) bool { return s.Sent == 50 })

	d.set(true, nil)
	for i := 50; i < 1050; i += 50 { // ten times what memory holds
		q.Enqueue(points(i, i+50))
		awaitStats(t, q, "they are on disk", func(s Stats) bool { return s.Spooled >= int64(i-50) })
	}
	s := closeQueue(t, q)
	require.Zero(t, s.Dropped)
	require.EqualValues(t, 1000, s.Spooled)

	// Some of the next life's answers get lost, and it ends in the middle too.
	d.set(false, rand.New(rand.NewPCG(3, 4)))
	q, err = Open(target, o)
	require.NoError(t, err)
	awaitStats(t, q, "some are sent", func(s Stats) bool { return s.Sent > 300 })
	s = closeQueue(t, q)
	require.EqualValues(t, 1000, s.Sent+s.Spooled)
	q, err = Open(target, o)
	require.NoError(t, err)
	q.Enqueue(points(1050, 1060))
	awaitStats(t, q, "all are sent", func(s Stats) bool { return s.Queued == 0 && s.Sent >= 10 })
	require.Zero(t, closeQueue(t, q).Dropped)
	requireEachOnce(t, received(t, url, "inst-1"), 0, 1060)
}

func TestLostPointsAreToldToTheDataAPI(t *testing.T) {
	d, url := dataServer(t)
	d.set(true, nil)
	o := quick()
	o.RingPoints, o.BatchSize = 10, 5
	q, err := Open(measure.Target{Kind: measure.DataAPI, Address: url}, o)
	require.NoError(t, err)
	q.Enqueue(points(0, 5))
	awaitStats(t, q, "the first batch is held", func(s Stats) bool { return s.LastError != "" })
	q.Enqueue(points(5, 40))
	require.EqualValues(t, 25, q.Stats().Dropped)
	d.set(false, nil)
	s := awaitStats(t, q, "the rest is sent", func(s Stats) bool { return s.Queued == 0 && s.Connected })
	require.EqualValues(t, 15, s.Sent, "news of a loss are no points")
	closeQueue(t, q)
	var gaps []event.Event
	for _, e := range received(t, url, "inst-1") {
		if e.Gap {
			gaps = append(gaps, e)
		}
	}
	require.Equal(t, []event.Event{{
		Stream: "inst-1", Instrumentation: "inst-1", Gap: true, Count: "25", Timestamp: point(5).Start, Interval: 25 * time.Second,
	}}, gaps)
}

func TestEventsGoByDatagram(t *testing.T) {
	s := dataapi.New(dataapi.Options{})
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.ServeUDP(ctx, conn) }()
	q, err := Open(measure.Target{Kind: measure.DataAPI, Address: "udp://" + conn.LocalAddr().String(), Transport: measure.UDP}, quick())
	require.NoError(t, err)
	long := point(99)
	long.Fields[0].Value = strings.Repeat("x", maxDatagram)
	q.Enqueue(append(points(0, 20), long))
	st := awaitStats(t, q, "all are sent", func(s Stats) bool { return s.Sent == 20 })
	require.Equal(t, map[string]int64{ReasonInvalid: 1}, st.DroppedFor)
	closeQueue(t, q)
	require.Eventually(t, func() bool {
		info, err := dataapi.Client{URL: web.URL}.Info(ctx, "inst-1")
		return err == nil && info.Received == 20+1 // and the news of the lost one
	}, patience, time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

func TestHeaderValuesReachTheTargetAndNobodyElse(t *testing.T) {
	const secret = "s3cr3t-t0ken"
	got := make(chan http.Header, 10)
	status := make(chan int, 10)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		w.Header().Set("Location", "http://127.0.0.1:1/stolen")
		w.WriteHeader(<-status)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "I was sent " + r.Header.Get("Authorization")})
	}))
	defer web.Close()
	for _, code := range []int{400, 401, 307, 500} {
		for _, target := range []measure.Target{
			{Kind: measure.DataAPI, Address: web.URL},
			{Kind: measure.DataAPI, Address: strings.Replace(web.URL, "http", "ws", 1), Transport: measure.WebSocket},
			{Kind: measure.OTLP, Address: web.URL},
		} {
			var log logText
			o := quick()
			o.Logger = log.logger()
			target.Headers = map[string]string{"Authorization": "Bearer " + secret}
			q, err := Open(target, o)
			require.NoError(t, err)
			status <- code
			q.Enqueue(points(0, 1))
			header := <-got
			require.Equal(t, "Bearer "+secret, header.Get("Authorization"))
			require.NotContains(t, fmt.Sprint(header), hostID.String())
			s := awaitStats(t, q, "it fails", func(s Stats) bool { return s.LastError != "" || s.LastRefusal != "" })
			for range 4 {
				status <- 400 // whatever is tried at the end
			}
			closeQueue(t, q)
			require.NotContains(t, fmt.Sprintf("%+v", s), secret)
			require.NotContains(t, log.String(), secret)
			for len(status) > 0 {
				<-status
			}
			for len(got) > 0 {
				<-got
			}
		}
	}
}

func TestABatchWhoseAcknowledgementIsLostComesAgainUnderItsKey(t *testing.T) {
	messages := make(chan string, 2)
	var before atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		_, message, err := conn.Read(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		messages <- string(message)
		if !before.Swap(true) {
			return
		}
		if err := conn.Write(r.Context(), websocket.MessageText, []byte(`{"seq":1,"accepted":3}`)); err != nil {
			t.Error(err)
		}
		_, _, _ = conn.Read(r.Context()) // until the sender leaves
	}))
	defer web.Close()
	q, err := Open(measure.Target{Kind: measure.DataAPI, Address: web.URL, Transport: measure.WebSocket}, quick())
	require.NoError(t, err)
	q.Enqueue(points(0, 3))
	awaitStats(t, q, "all are sent", func(s Stats) bool { return s.Sent == 3 })
	closeQueue(t, q)
	once, again := <-messages, <-messages
	require.Equal(t, once, again)
	require.Regexp(t, `^\{"seq":1,"key":"[0-9a-f]{16}-1"\}\n`, once)
	require.Equal(t, 3, strings.Count(once, "\n"))
}

func TestAWebsocketThatWasClosedForBeingIdleCostsNothing(t *testing.T) {
	s := dataapi.New(dataapi.Options{})
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	q, err := Open(measure.Target{Kind: measure.DataAPI, Address: web.URL, Transport: measure.WebSocket}, quick())
	require.NoError(t, err)
	q.Enqueue(points(0, 1))
	awaitStats(t, q, "one is sent", func(s Stats) bool { return s.Sent == 1 })
	require.NoError(t, s.Close()) // ends its websockets
	fresh := dataapi.New(dataapi.Options{})
	web.Config.Handler = fresh.Handler()
	q.Enqueue(points(1, 2))
	awaitStats(t, q, "two are sent", func(s Stats) bool { return s.Sent == 2 || s.LastError != "" })
	closeQueue(t, q)
	require.NoError(t, fresh.Close())
}

func TestNothingThatATenantGetsNamesTheHost(t *testing.T) {
	p := point(1)
	p.Fields = append(p.Fields, measure.Field{Name: "hostname", Value: hostName}, measure.Field{Name: "where", Value: hostID.String()})
	p.Distribution = &measure.Distribution{Field: "latency", Unit: "ns", Buckets: []measure.Bucket{{Low: 1000, High: 1099, Count: 1}}}
	o := quick().withDefaults()
	tagged := o
	tagged.GraphiteTags, tagged.StatsdDialect = true, DogStatsD
	cleaned := clean(hostName, pathByte)
	for _, open := range []func() (wire, error){
		func() (wire, error) { return openDataAPI(measure.Target{Address: "http://x"}, o) },
		func() (wire, error) { return openDataAPI(measure.Target{Address: "x:1", Transport: measure.UDP}, o) },
		func() (wire, error) { return openStatsd(measure.Target{Address: "x:1"}, o) },
		func() (wire, error) { return openStatsd(measure.Target{Address: "x:1"}, tagged) },
		func() (wire, error) { return openGraphite(measure.Target{Address: "x:1"}, o) },
		func() (wire, error) { return openGraphite(measure.Target{Address: "x:1"}, tagged) },
		func() (wire, error) { return openOTLP(measure.Target{Address: "http://x"}, o) },
	} {
		w, err := open()
		require.NoError(t, err)
		text := func(p measure.Point) string {
			it, err := w.prepare(p)
			require.NoError(t, err)
			all := ""
			for _, line := range it.lines {
				all += string(line) + "\n"
			}
			if sender, ok := w.(*otlp); ok {
				all += sender.request([]item{it}).String()
			}
			g, ok := w.gap(lostPoints{stream: "s", tenant: p.Owner != uuid.Nil})
			require.Equal(t, ok, len(g.lines) == 1)
			if ok {
				all += string(g.lines[0])
			}
			return all
		}
		got := text(p)
		require.Contains(t, got, vmID.String())
		for _, name := range []string{hostName, cleaned, hostID.String(), shortHash(hostID.String())} {
			require.NotContains(t, got, name, "%T", w)
		}
		operators := p
		operators.Owner = uuid.Nil
		got = text(operators)
		require.True(t, strings.Contains(got, hostName) || strings.Contains(got, cleaned), "%T %s", w, got)
		_, err = w.prepare(measure.Point{Instrumentation: "i", Owner: tenantID, Host: hostID})
		require.ErrorIs(t, err, errNoZone)
		w.close()
	}
}
