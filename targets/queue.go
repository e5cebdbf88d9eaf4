package targets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/measure"
)

// Queue takes points for one target and sends them on its own goroutine.
type Queue struct {
	target  measure.Target
	opts    Options
	wire    wire
	clock   Clock
	log     *slog.Logger
	secrets secrets
	worker

	wake    chan struct{} // holds one: there is something new to look at
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when the goroutine has ended
	ctx     context.Context
	cancel  context.CancelFunc

	mu       sync.Mutex
	ring     ring
	inflight int64 // points of the batch that the goroutine holds
	stats    Stats // without what Stats computes
	lost     map[string]*lostPoints
	closed   bool
}

func newQueue(t measure.Target, o Options) *Queue {
	ctx, cancel := context.WithCancel(context.Background())
	return &Queue{
		target: t, opts: o, clock: o.Clock, secrets: secretsOf(t),
		log:  o.Logger.With("target", string(t.Kind)),
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
		ctx: ctx, cancel: cancel,
		stats:  Stats{DroppedFor: map[string]int64{}},
		lost:   map[string]*lostPoints{},
		worker: worker{id: newQueueID(), prepared: map[string][]item{}},
	}
}

// Enqueue hands over points, which the caller must not change afterwards. It never waits: when the queue is full the
// oldest points make room and are counted as dropped.
func (q *Queue) Enqueue(points []measure.Point) {
	q.mu.Lock()
	for _, p := range points {
		q.stats.Enqueued++
		switch {
		case q.closed:
			q.dropLocked(ReasonClosed, p)
			continue
		case math.IsNaN(p.Value) || math.IsInf(p.Value, 0) || p.Owner != uuid.Nil && p.VM == uuid.Nil:
			q.dropLocked(ReasonInvalid, p)
			continue
		}
		q.ring.push(p)
		for q.ring.n > q.opts.RingPoints || q.ring.bytes > q.opts.RingBytes {
			q.dropLocked(ReasonFull, q.ring.pop())
		}
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Stats tells how the queue fares.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	s.DroppedFor = maps.Clone(s.DroppedFor)
	s.Queued = int64(q.ring.n) + q.inflight + s.Spooled
	return s
}

// Close sends what is in memory, for as long as ctx lasts and the target takes it, and puts the rest into the spool.
// It waits until the queue's goroutine has ended. The error says how many points were neither sent nor spooled.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.closing)
	}
	q.mu.Unlock()
	stop := context.AfterFunc(ctx, q.cancel)
	defer stop()
	<-q.done
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.stats.DroppedFor[ReasonClosed]; n > 0 {
		return fmt.Errorf("close the queue: %d points were neither sent nor spooled", n)
	}
	return nil
}

// dropLocked counts dropped points, and keeps for the Data API's sake where they are missing.
func (q *Queue) dropLocked(reason string, points ...measure.Point) {
	q.countDropLocked(reason, int64(len(points)))
	if q.target.Kind != measure.DataAPI {
		return
	}
	for _, p := range points {
		q.loseLocked(lostPoints{
			stream: p.Instrumentation, n: 1, from: p.Start.Unix(), to: p.Start.Add(p.Interval).Unix(), tenant: p.Owner != uuid.Nil,
		})
	}
}

// loseLocked adds to the news of lost points.
func (q *Queue) loseLocked(l lostPoints) {
	g := q.lost[l.stream]
	if g == nil {
		if len(q.lost) < maxLostStreams {
			q.lost[l.stream] = &l
		}
		return
	}
	g.n, g.from, g.to = g.n+l.n, min(g.from, l.from), max(g.to, l.to)
}

const maxLostStreams = 1024

func (q *Queue) countDropLocked(reason string, n int64) {
	if n > 0 {
		q.stats.Dropped += n
		q.stats.DroppedFor[reason] += n
	}
}

// dropInflight drops points of the batch that the goroutine holds.
func (q *Queue) dropInflight(reason string, points ...measure.Point) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inflight -= int64(len(points))
	q.dropLocked(reason, points...)
}

// nextKey names a batch for good, whatever becomes of it.
func (w *worker) nextKey() string {
	w.keys++
	return w.id + "-" + strconv.FormatInt(w.keys, 36)
}

// sleep waits until the time has passed, something new is there, or the queue is to close.
func (q *Queue) sleep(d time.Duration) {
	var timer <-chan time.Time
	if d > 0 {
		timer = q.clock.After(d)
	}
	select {
	case <-timer:
	case <-q.wake:
	case <-q.closing:
	}
}

func (q *Queue) isClosing() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}

// failed notes a failed attempt and decides when to try again.
func (q *Queue) failed(err error) {
	now := q.clock.Now()
	f := &failure{text: describe(err)}
	if known, ok := errors.AsType[*failure](err); ok {
		f = known
	}
	if q.failingSince.IsZero() {
		q.failingSince = now
	}
	if !q.toldDown {
		q.downSince = now
	}
	q.lastFailure = now
	q.failures++
	wait := q.opts.jitter(backoff(q.failures))
	if f.kind == misconfigured {
		wait = misconfigWait
	}
	q.notBefore = now.Add(max(wait, f.after))
	text := q.secrets.scrub(f.text)

	q.mu.Lock()
	changed := !q.toldDown || q.stats.LastError != text
	q.toldDown = true
	q.stats.Connected, q.stats.LastError = false, text
	q.mu.Unlock()
	if changed {
		q.log.Warn("the target does not take data", "error", text, "retry", max(wait, f.after).Round(time.Millisecond))
	}
}

// steadyFor is how long datagrams must go out without an error before they are believed to arrive.
const steadyFor = 10 * time.Second

// succeeded notes a successful attempt. A datagram that goes out proves nothing: where nobody listens, every other one
// fails, for the error of the one before. So it counts as a success only after a while without a failure.
func (q *Queue) succeeded() {
	now := q.clock.Now()
	believed := !q.toldDown || !sendsDatagrams(q.target) || now.Sub(q.lastFailure) >= steadyFor
	q.mu.Lock()
	q.stats.LastSuccess = now
	if believed {
		q.stats.Connected, q.stats.LastError = true, ""
	}
	q.mu.Unlock()
	if believed && q.toldDown {
		q.log.Info("the target takes data again", "after", now.Sub(q.downSince).Round(time.Second))
		q.toldDown = false
	}
	q.failures, q.refusals, q.failingSince, q.notBefore = 0, 0, time.Time{}, time.Time{}
}
