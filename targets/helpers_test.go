package targets

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/measure"
)

var (
	hostID   = uuid.MustParse("4c4c4544-0039-4d10-8052-b4c04f4d3132")
	hostName = "headnode7.example.com"
	tenantID = uuid.MustParse("930896af-bf8c-48d4-885c-6573a94b1853")
	vmID     = uuid.MustParse("0f1b3c5a-2a3b-4c5d-8e6f-7a8b9c0d1e2f")
	begin    = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
)

const patience = time.Minute

// quick makes an options value for tests: back-off is a thousandth, and the disk is never full.
func quick() Options {
	return Options{
		HostID: hostID, Hostname: hostName, Version: "1.2.3",
		jitter: func(d time.Duration) time.Duration { return d / 1000 },
		free:   func(string) (float64, error) { return 1, nil },
	}
}

func point(i int) measure.Point {
	return measure.Point{
		Instrumentation: "inst-1", Metric: "disk.physio_ops", Owner: tenantID, Host: hostID, VM: vmID,
		Start: begin.Add(time.Duration(i) * time.Second), Interval: time.Second, Value: float64(i),
		Fields: []measure.Field{{Name: "execname", Value: fmt.Sprintf("proc%d", i%3)}},
	}
}

func points(from, to int) []measure.Point {
	var all []measure.Point
	for i := from; i < to; i++ {
		all = append(all, point(i))
	}
	return all
}

// awaitStats waits until the queue fares as told, and shows how it fares if it never does.
func awaitStats(t *testing.T, q *Queue, what string, ok func(Stats) bool) Stats {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s := q.Stats()
		requireSum(t, s)
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			require.Failf(t, "never: "+what, "%+v", s)
		}
		time.Sleep(time.Millisecond)
	}
}

func requireSum(t *testing.T, s Stats) {
	t.Helper()
	require.Equal(t, s.Enqueued, s.Sent+s.Queued+s.Dropped, "%+v", s)
	var dropped int64
	for _, n := range s.DroppedFor {
		dropped += n
	}
	require.Equal(t, s.Dropped, dropped, "%+v", s)
}

func closeQueue(t *testing.T, q *Queue) Stats {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = q.Close(ctx) // tests look at the figures
	s := q.Stats()
	requireSum(t, s)
	return s
}

// logText is a log that can be searched.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logText) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// fakeWire does what a test tells it to.
type fakeWire struct {
	mu     sync.Mutex
	answer func(key string, items []item) (result, error)
}

func (f *fakeWire) prepare(p measure.Point) (item, error) {
	return item{stream: p.Instrumentation}, nil
}

func (f *fakeWire) gap(lostPoints) (item, bool) { return item{}, false }

func (f *fakeWire) send(_ context.Context, key string, items []item) (result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.answer(key, items)
}

func (f *fakeWire) close() {}

func (f *fakeWire) set(answer func(key string, items []item) (result, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func openFake(kind measure.TargetKind, o Options, w *fakeWire) *Queue {
	q := newQueue(measure.Target{Kind: kind, Address: "127.0.0.1:1"}, o.withDefaults())
	q.wire = w
	go q.run()
	return q
}

// handClock moves only when a test moves it.
type handClock struct {
	mu     sync.Mutex
	now    time.Time
	timers []handTimer
	asked  []time.Duration
}

type handTimer struct {
	at time.Time
	c  chan time.Time
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.timers = append(c.timers, handTimer{c.now.Add(d), ch})
	c.asked = append(c.asked, d)
	return ch
}

func (c *handClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	rest := c.timers[:0]
	for _, timer := range c.timers {
		if timer.at.After(c.now) {
			rest = append(rest, timer)
		} else {
			timer.c <- c.now
		}
	}
	c.timers = rest
}

// waits tells how long the queue has asked to wait, each time.
func (c *handClock) waits() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration(nil), c.asked...)
}
