package targets

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/measure"
)

func TestWhatIsEnqueuedIsSentQueuedOrDroppedWhateverHappens(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		o := quick()
		o.RingPoints, o.BatchSize, o.SpoolAfter = 200, 20, time.Microsecond
		kind := []measure.TargetKind{measure.DataAPI, measure.OTLP, measure.Statsd}[seed%3]
		if seed%2 == 0 {
			o.Dir, o.SpoolBytes, o.segmentBytes = t.TempDir(), 200<<10, 16<<10
		}
		w := &fakeWire{}
		w.answer = func(_ string, items []item) (result, error) {
			switch rng.IntN(6) {
			case 0:
				return result{}, errors.New("away")
			case 1:
				return result{}, &failure{kind: refused, text: "no"}
			case 2:
				return result{done: rng.IntN(len(items) + 1)}, errors.New("half-way")
			case 3:
				return result{refused: rng.IntN(len(items) + 1), note: "partly"}, nil
			}
			return result{}, nil
		}
		q := openFake(kind, o, w)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					q.Enqueue(livePoints(17))
					requireSum(t, q.Stats())
				}
			})
		}
		wg.Wait()
		awaitStats(t, q, "something is sent", func(s Stats) bool { return s.Sent > 0 })
		s := closeQueue(t, q)
		require.EqualValues(t, 4*50*17, s.Enqueued)
		require.Equal(t, s.Spooled, s.Queued, "after Close only the disk has anything")

		if o.Dir == "" {
			continue
		}
		w.set(func(string, []item) (result, error) { return result{}, nil })
		again := openFake(kind, o, w)
		left := awaitStats(t, again, "the spool is drained", func(now Stats) bool {
			return kind == measure.Statsd || now.Enqueued == s.Spooled && now.Sent == s.Spooled
		})
		require.Equal(t, s.Spooled, left.Enqueued)
		closeQueue(t, again)
	}
}

// livePoints end now, so that they are not late for anybody.
func livePoints(n int) []measure.Point {
	all := points(0, n)
	for i := range all {
		all[i].Start = time.Now().UTC().Add(-time.Second)
	}
	return all
}

func TestAPoisonedPointIsFoundAndDroppedAlone(t *testing.T) {
	w := &fakeWire{}
	taken := map[float64]int{}
	w.answer = func(_ string, items []item) (result, error) {
		for _, it := range items {
			if it.point.Value == 137 || it.point.Value == 300 {
				return result{}, &failure{kind: refused, text: "I do not like 137"}
			}
		}
		for _, it := range items {
			taken[it.point.Value]++
		}
		return result{}, nil
	}
	q := openFake(measure.DataAPI, quick(), w)
	q.Enqueue(points(0, 500))
	s := awaitStats(t, q, "all are settled", func(s Stats) bool { return s.Queued == 0 })
	require.EqualValues(t, 498, s.Sent)
	require.Equal(t, map[string]int64{ReasonRefused: 2}, s.DroppedFor)
	require.Equal(t, "I do not like 137", s.LastRefusal)
	closeQueue(t, q)
	require.Len(t, taken, 498)
	for v, n := range taken {
		require.Equal(t, 1, n, v)
	}
}

func TestEnqueueNeverWaitsAndDropsTheOldest(t *testing.T) {
	w := &fakeWire{answer: func(string, []item) (result, error) { return result{}, errors.New("away") }}
	o := quick()
	o.RingPoints, o.BatchSize = 100, 10
	q := openFake(measure.DataAPI, o, w)
	q.Enqueue(points(0, 10))
	awaitStats(t, q, "a batch is on its way", func(s Stats) bool { return s.LastError != "" })
	q.Enqueue(points(10, 1000))
	s := q.Stats()
	requireSum(t, s)
	require.EqualValues(t, 110, s.Queued)
	require.Equal(t, map[string]int64{ReasonFull: 890}, s.DroppedFor)
	var mu sync.Mutex
	var got []float64
	w.set(func(_ string, items []item) (result, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, it := range items {
			got = append(got, it.point.Value)
		}
		return result{}, nil
	})
	awaitStats(t, q, "the rest is sent", func(s Stats) bool { return s.Queued == 0 })
	require.EqualValues(t, 900, got[10], "the newest were kept")
	require.True(t, slices.IsSorted(got))
	closeQueue(t, q)
	q.Enqueue(points(0, 3))
	require.EqualValues(t, 3, q.Stats().DroppedFor[ReasonClosed])
}

func TestTheRingIsBoundedInBytes(t *testing.T) {
	var r ring
	p := point(0)
	p.Distribution = &measure.Distribution{Field: "latency", Buckets: make([]measure.Bucket, 1000)}
	require.Greater(t, size(p), 24_000)
	r.push(point(1))
	r.push(p)
	r.pushFront(point(0))
	require.Equal(t, size(point(0))+size(point(1))+size(p), r.bytes)
	require.Len(t, r.popBatch(10, 1000), 2)
	require.Len(t, r.popBatch(10, 1000), 1, "one that is larger than a batch goes alone")
	require.Zero(t, r.bytes)

	w := &fakeWire{answer: func(string, []item) (result, error) { return result{}, errors.New("away") }}
	o := quick()
	o.RingBytes = 100_000
	q := openFake(measure.DataAPI, o, w)
	for range 100 {
		q.Enqueue([]measure.Point{p})
	}
	require.Less(t, q.Stats().Queued, int64(30))
	closeQueue(t, q)
}

func TestPointsWithoutARenderingAreDroppedAndTold(t *testing.T) {
	w := &fakeWire{answer: func(string, []item) (result, error) { return result{}, nil }}
	q := openFake(measure.DataAPI, quick(), w)
	nan, inf, homeless := point(0), point(1), point(2)
	nan.Value, inf.Value, homeless.VM = math.NaN(), math.Inf(-1), uuid.Nil
	q.Enqueue([]measure.Point{nan, inf, homeless, point(3)})
	s := awaitStats(t, q, "one is sent", func(s Stats) bool { return s.Sent == 1 })
	require.Equal(t, map[string]int64{ReasonInvalid: 3}, s.DroppedFor)
	closeQueue(t, q)
}

func TestBackoffGrowsFromOneToSixtySeconds(t *testing.T) {
	var got []time.Duration
	for n := 1; n < 10; n++ {
		got = append(got, backoff(n)/time.Second)
	}
	require.Equal(t, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}, got)
	for range 1000 {
		require.LessOrEqual(t, fullJitter(time.Second), time.Second+time.Millisecond)
		require.Positive(t, fullJitter(time.Second))
	}
}

func TestRetryAfterIsHonouredAndBounded(t *testing.T) {
	now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "x": 0, "-5": 0, "7": 7 * time.Second, "99999999": maxRetryAfter,
		"Mon, 01 Jan 2024 00:00:30 GMT": 30 * time.Second, "Mon, 01 Jan 2001 00:00:30 GMT": 0,
	} {
		require.Equal(t, want, retryAfter(text, now), text)
	}

	for _, c := range []struct {
		err  error
		wait time.Duration
	}{
		{httpFailure(503, http.Header{"Retry-After": {"90"}}, "", now), 90 * time.Second},
		{httpFailure(401, nil, "", now), 5 * time.Minute},
		{errors.New("connection refused"), time.Second},
	} {
		clock := &handClock{now: now}
		tries := make(chan struct{}, 10)
		w := &fakeWire{answer: func(string, []item) (result, error) {
			tries <- struct{}{}
			return result{}, c.err
		}}
		o := quick()
		o.Clock, o.jitter = clock, func(d time.Duration) time.Duration { return d }
		q := openFake(measure.DataAPI, o, w)
		q.Enqueue(points(0, 1))
		<-tries
		require.Eventually(t, func() bool { return slices.Contains(clock.waits(), c.wait) }, patience, time.Millisecond)
		clock.advance(c.wait - time.Millisecond)
		q.Enqueue(points(1, 2)) // new data do not shorten the wait
		require.Eventually(t, func() bool { return slices.Contains(clock.waits(), time.Millisecond) }, patience, time.Millisecond)
		require.Empty(t, tries)
		clock.advance(time.Millisecond)
		<-tries
		closeQueue(t, q)
	}
}

func TestCloseFlushesWhatIsInMemory(t *testing.T) {
	w := &fakeWire{answer: func(string, []item) (result, error) { return result{}, nil }}
	q := openFake(measure.Graphite, quick(), w)
	q.Enqueue(points(0, 3000))
	s := closeQueue(t, q)
	require.EqualValues(t, 3000, s.Sent)

	w.set(func(string, []item) (result, error) { return result{}, errors.New("away") })
	q = openFake(measure.Graphite, quick(), w)
	q.Enqueue(points(0, 10))
	require.ErrorContains(t, q.Close(t.Context()), "10 points were neither sent nor spooled")
}

func TestABatchThatIsHalfSentAtTheEndIsKeptByHalf(t *testing.T) {
	o := quick()
	o.Dir, o.SpoolAfter = t.TempDir(), time.Millisecond
	away := func(string, []item) (result, error) { return result{}, errors.New("away") }
	w := &fakeWire{answer: away}
	q := openFake(measure.DataAPI, o, w)
	both := points(0, 10)
	for i := range both {
		both[i].Instrumentation = []string{"good", "bad"}[i%2]
	}
	q.Enqueue(both)
	awaitStats(t, q, "all are on disk, or taken from there", func(s Stats) bool { return s.LastError != "" })
	require.EqualValues(t, 10, closeQueue(t, q).Spooled)

	var mu sync.Mutex
	got := map[string]int{}
	w.set(func(_ string, items []item) (result, error) {
		if items[0].stream == "bad" {
			return result{}, errors.New("away")
		}
		mu.Lock()
		defer mu.Unlock()
		got[items[0].stream] += len(items)
		return result{}, nil
	})
	q = openFake(measure.DataAPI, o, w)
	awaitStats(t, q, "half is sent and half fails", func(s Stats) bool { return s.Sent == 5 && s.LastError != "" })
	s := closeQueue(t, q)
	require.EqualValues(t, 5, s.Spooled)

	w.set(func(_ string, items []item) (result, error) {
		mu.Lock()
		defer mu.Unlock()
		got[items[0].stream] += len(items)
		return result{}, nil
	})
	q = openFake(measure.DataAPI, o, w)
	awaitStats(t, q, "the other half is sent", func(s Stats) bool { return s.Sent == 5 && s.Queued == 0 })
	closeQueue(t, q)
	require.Equal(t, map[string]int{"good": 5, "bad": 5}, got)
}

func TestCloseEndsWithItsContextEvenIfTheTargetHangs(t *testing.T) {
	o := quick()
	o.Dir = t.TempDir()
	began := make(chan struct{})
	q := newQueue(measure.Target{Kind: measure.Graphite, Address: "127.0.0.1:1"}, o.withDefaults())
	q.wire = hangingWire{began}
	go q.run()
	q.Enqueue(points(0, 10))
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, q.Close(ctx))
	s := q.Stats()
	requireSum(t, s)
	require.EqualValues(t, 10, s.Spooled)
}

type hangingWire struct{ began chan struct{} }

func (h hangingWire) prepare(measure.Point) (item, error) { return item{}, nil }
func (h hangingWire) gap(lostPoints) (item, bool)         { return item{}, false }
func (h hangingWire) close()                              {}
func (h hangingWire) send(ctx context.Context, _ string, _ []item) (result, error) {
	close(h.began)
	<-ctx.Done()
	return result{}, ctx.Err()
}

func TestStatsdGetsNoLateData(t *testing.T) {
	o := quick()
	o.Dir = t.TempDir()
	clock := &handClock{now: begin}
	o.Clock = clock
	w := &fakeWire{answer: func(string, []item) (result, error) { return result{}, errors.New("away") }}
	q := openFake(measure.Statsd, o, w)
	q.Enqueue(points(0, 5))
	awaitStats(t, q, "it fails", func(s Stats) bool { return s.LastError != "" })
	clock.advance(time.Minute)
	s := awaitStats(t, q, "they are dropped", func(s Stats) bool { return s.Dropped == 5 })
	require.Equal(t, map[string]int64{ReasonOld: 5}, s.DroppedFor)
	require.Zero(t, s.Spooled)
	closeQueue(t, q)
}

func TestATargetThatRefusesEverythingIsNotHammered(t *testing.T) {
	clock := &handClock{now: begin}
	o := quick()
	o.Clock = clock
	var mu sync.Mutex
	tries := 0
	w := &fakeWire{answer: func(string, []item) (result, error) {
		mu.Lock()
		defer mu.Unlock()
		tries++
		return result{}, &failure{kind: refused, text: "never"}
	}}
	q := openFake(measure.DataAPI, o, w)
	q.Enqueue(points(0, 400))
	require.Eventually(t, func() bool { return len(clock.waits()) > 0 && q.Stats().LastError == "never" }, patience, time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, refusalsInARow+1, tries)
	go closeQueue(t, q)
}

func TestSecretsAreNeverShown(t *testing.T) {
	s := secretsOf(measure.Target{
		Address: "https://user:hunter2@example.com/",
		Headers: map[string]string{"Authorization": "Bearer abc.def.ghi", "X-Basic": "Basic dXNlcjpwYXNzd29yZDE=", "X-Key": "k3y"},
	})
	text := s.scrub("bad token abc.def.ghi (Bearer abc.def.ghi), k3y, password1, hunter2\nfor you")
	for _, secret := range []string{"abc.def", "k3y", "password1", "hunter2", "\n"} {
		require.NotContains(t, text, secret)
	}
	require.Less(t, len(s.scrub(strings.Repeat("é", 1000))), 310)
	require.Equal(t, "read tcp 192.0.2.1:80: reset", s.scrub("read tcp 10.9.8.7:45678->192.0.2.1:80: reset"))
}
