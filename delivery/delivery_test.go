package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

// patience is how long a test waits for what must come, however slow the machine is.
const patience = time.Minute

var errDown = errors.New("redis-7.internal is down")

type world struct {
	*delivery.Hub
	source *deliverytest.Source
}

func start(t testing.TB, source *deliverytest.Source, change ...func(*delivery.Options)) *world {
	t.Helper()
	o := delivery.Options{RetryFirst: time.Millisecond, RetryMost: 5 * time.Millisecond, SourceTimeout: patience}
	for _, fn := range change {
		fn(&o)
	}
	before := source.Watching()
	hub := delivery.New(source, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = hub.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	require.Eventually(t, func() bool { return source.Watching() > before }, patience, time.Millisecond)
	return &world{hub, source}
}

func (w *world) subscribe(t testing.TB, host, session uuid.UUID, known assignment.Version) *delivery.Subscription {
	t.Helper()
	s, err := w.Subscribe(t.Context(), host, session, known)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func next(t testing.TB, s *delivery.Subscription) (delivery.Event, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := s.Next(ctx)
	require.NotErrorIs(t, err, context.DeadlineExceeded, "nothing came")
	return e, err
}

func event(t testing.TB, s *delivery.Subscription) delivery.Event {
	t.Helper()
	e, err := next(t, s)
	require.NoError(t, err)
	return e
}

func TestFirstEventIsTheDocumentAndThenEveryChange(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	v1 := w.source.Commit(host, `[1]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	e := event(t, s)
	require.Equal(t, v1, e.Version)
	require.Equal(t, `[1]`, string(e.Document.Body))
	v2 := w.source.Commit(host, `[2]`)
	require.Equal(t, v2, event(t, s).Version)
}

func TestResumeWithTheStandingVersionReadsNoDocument(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	v := w.source.Commit(host, `[1]`)
	s := w.subscribe(t, host, uuid.New(), v)
	e := event(t, s)
	require.Nil(t, e.Document)
	require.Equal(t, v, e.Version)
	require.Zero(t, w.source.Calls("Documents"))
	require.EqualValues(t, 1, w.Stats().Resumed)
}

func TestResumeWithAnOlderVersionGetsTheDocument(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	old := w.source.Commit(host, `[1]`)
	v := w.source.Commit(host, `[2]`)
	require.Equal(t, v, event(t, w.subscribe(t, host, uuid.New(), old)).Version)
}

func TestAnAgentThatKnowsMoreStartsANewEpoch(t *testing.T) {
	for name, change := range map[string]func(*assignment.Version){
		"greater generation":         func(v *assignment.Version) { v.Generation += 5 },
		"same one with another hash": func(v *assignment.Version) { v.Hash = "other" },
		"greater epoch":              func(v *assignment.Version) { v.Epoch = "00000000000000ff" },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, deliverytest.New())
			host := uuid.New()
			known := w.source.Commit(host, `[1]`)
			change(&known)
			e := event(t, w.subscribe(t, host, uuid.New(), known))
			require.NotNil(t, e.Document)
			require.Greater(t, e.Version.Epoch, known.Epoch)
			require.EqualValues(t, 1, e.Version.Generation)
		})
	}
}

func TestAStoreThatGoesBackUnderAConnectedAgentStartsANewEpoch(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	first := w.source.Commit(host, `[1]`)
	w.source.Commit(host, `[2]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	last := event(t, s).Version
	w.source.Set(assignment.Stored{Host: host, Version: first, Body: []byte(`[1]`)})
	w.source.Gap()
	e := event(t, s)
	require.Greater(t, e.Version.Epoch, last.Epoch)
	require.Equal(t, `[1]`, string(e.Document.Body))
}

func TestColdIsNotReadyAndNeverEmpty(t *testing.T) {
	w := start(t, deliverytest.New())
	host, stranger := uuid.New(), uuid.New()
	w.source.Know(host)

	_, err := next(t, w.subscribe(t, host, uuid.New(), assignment.Version{}))
	require.ErrorIs(t, err, delivery.ErrNotReady)
	_, err = next(t, w.subscribe(t, stranger, uuid.New(), assignment.Version{}))
	require.ErrorIs(t, err, delivery.ErrUnknownHost)
	_, err = w.Current(t.Context(), host)
	require.ErrorIs(t, err, delivery.ErrNotReady)
	_, err = w.Current(t.Context(), stranger)
	require.ErrorIs(t, err, delivery.ErrUnknownHost)

	w.source.Commit(host, `[]`)
	w.source.FailWith(errDown)
	_, err = w.Subscribe(t.Context(), host, uuid.New(), assignment.Version{})
	require.ErrorIs(t, err, delivery.ErrNotReady)
	_, err = w.Current(t.Context(), host)
	require.ErrorIs(t, err, delivery.ErrNotReady)
}

func TestAnOutageKeepsConnectedAgentsAndEndsWithTheLatest(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	w.source.Commit(host, `[1]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	event(t, s)
	w.source.FailWith(errDown)
	w.source.Commit(host, `[2]`)
	v := w.source.Commit(host, `[3]`)
	require.Eventually(t, func() bool { return w.Stats().Failures > 2 }, patience, time.Millisecond)
	_, ok, err := s.Take()
	require.False(t, ok)
	require.NoError(t, err)
	w.source.FailWith(nil)
	require.Equal(t, v, event(t, s).Version)
}

func TestMissedChangesAreFoundByComparing(t *testing.T) {
	for name, notice := range map[string]func(*world){
		"gap":               func(w *world) { w.source.Gap() },
		"broken stream":     func(w *world) { w.source.BreakStream(errDown) },
		"from time to time": func(w *world) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, deliverytest.New(), func(o *delivery.Options) { o.CompareEvery = 50 * time.Millisecond })
			host := uuid.New()
			w.source.Commit(host, `[1]`)
			s := w.subscribe(t, host, uuid.New(), assignment.Version{})
			event(t, s)
			w.source.Silence(true)
			v := w.source.Commit(host, `[2]`)
			w.source.Silence(false)
			notice(w)
			require.Equal(t, v, event(t, s).Version)
		})
	}
}

func TestASlowReaderGetsTheLatestOnly(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	w.source.Commit(host, `[0]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	event(t, s)
	var last assignment.Version
	release := w.source.Hold()
	for i := range 1000 {
		last = w.source.Commit(host, fmt.Sprintf(`[%d]`, i))
	}
	release()
	var got delivery.Event
	events := 0
	for got.Version != last {
		if events == 0 {
			require.Eventually(t, func() bool { return w.Stats().Delivered >= 2 }, patience, time.Millisecond)
		}
		got = event(t, s)
		events++
	}
	require.Less(t, events, 1000)
	require.Less(t, w.source.Calls("Documents"), 1000, "changes that wait together are fetched once")
}

func TestChangesOfHostsThatAreNotConnectedCostNothing(t *testing.T) {
	source, host := deliverytest.New(), uuid.New()
	source.Commit(host, `[1]`) // before the stream is watched, so that only one change of this host is in it
	w := start(t, source)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	event(t, s)
	before := w.source.Calls("Documents of")
	for range 100 {
		w.source.Commit(uuid.New(), `[]`)
	}
	w.source.Commit(host, `[2]`)
	event(t, s)
	require.Equal(t, 1, w.source.Calls("Documents of")-before)
}

func TestTheLastSessionIsTheAgentAndTheOneBeforeIsTold(t *testing.T) {
	source := deliverytest.New()
	long := func(o *delivery.Options) { o.SupersededFor = time.Hour }
	here, there := start(t, source, long), start(t, source, long)
	for name, second := range map[string]*world{"in the same process": here, "in another process": there} {
		t.Run(name, func(t *testing.T) {
			host := uuid.New()
			source.Commit(host, `[1]`)
			a, b := uuid.New(), uuid.New()
			old := here.subscribe(t, host, a, assignment.Version{})
			event(t, old)
			young := second.subscribe(t, host, b, assignment.Version{})
			event(t, young)
			_, err := next(t, old)
			require.ErrorIs(t, err, delivery.ErrSuperseded)
			_, err = here.Subscribe(t.Context(), host, a, assignment.Version{})
			require.ErrorIs(t, err, delivery.ErrSuperseded, "it may not come back at once")
			v := source.Commit(host, `[2]`)
			require.Equal(t, v, event(t, young).Version)
			require.Equal(t, b, source.Session(host))
		})
	}
}

func TestASupersededSessionMayComeBackAfterAWhile(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	w := start(t, deliverytest.New(), func(o *delivery.Options) {
		o.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	host, a := uuid.New(), uuid.New()
	w.source.Commit(host, `[1]`)
	w.subscribe(t, host, a, assignment.Version{})
	w.subscribe(t, host, uuid.New(), assignment.Version{})
	_, err := w.Subscribe(t.Context(), host, a, assignment.Version{})
	require.ErrorIs(t, err, delivery.ErrSuperseded)
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	event(t, w.subscribe(t, host, a, assignment.Version{}))
}

func TestAnEarlierBeginningInTheStreamSupersedesNobody(t *testing.T) {
	w := start(t, deliverytest.New())
	host, mine := uuid.New(), uuid.New()
	w.source.Commit(host, `[1]`)
	w.source.Silence(true) // my own beginning is delayed
	s := w.subscribe(t, host, mine, assignment.Version{})
	event(t, s)
	w.source.Silence(false)
	w.source.Publish(
		delivery.Change{Host: host, Kind: delivery.Superseded, Session: uuid.New()}, // before mine
		delivery.Change{Host: host, Kind: delivery.Superseded, Session: mine},
	)
	v := w.source.Commit(host, `[2]`)
	require.Equal(t, v, event(t, s).Version)
	_, err := w.source.BeginSession(t.Context(), host, uuid.New(), 0) // after mine
	require.NoError(t, err)
	_, err = next(t, s)
	require.ErrorIs(t, err, delivery.ErrSuperseded)
}

func TestASubscriptionThatCannotBeginLeavesTheOneBeforeInPlace(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	w.source.Commit(host, `[1]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	event(t, s)
	w.source.FailWith(errDown)
	_, err := w.Subscribe(t.Context(), host, uuid.New(), assignment.Version{})
	require.ErrorIs(t, err, delivery.ErrNotReady)
	w.source.FailWith(nil)
	v := w.source.Commit(host, `[2]`)
	require.Equal(t, v, event(t, s).Version)
}

func TestRevokingEndsTheSubscription(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	w.source.Commit(host, `[1]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	event(t, s)
	w.source.Publish(delivery.Change{Host: host, Kind: delivery.Revoke})
	_, err := next(t, s)
	require.ErrorIs(t, err, delivery.ErrRevoked)
	require.Zero(t, w.Stats().Connected)
}

// A reconnect may come before, while or after the connection before it is closed. Whatever the order, the host is served.
func TestReconnectRace(t *testing.T) {
	w := start(t, deliverytest.New())
	host, session := uuid.New(), uuid.New()
	w.source.Commit(host, `[0]`)
	old := w.subscribe(t, host, session, assignment.Version{})
	event(t, old)
	for i := range 1000 {
		var wg sync.WaitGroup
		wait := time.Duration(rand.IntN(50)) * time.Microsecond
		gone := old
		wg.Go(func() {
			spin(wait)
			gone.Close()
		})
		s, err := w.Subscribe(t.Context(), host, session, assignment.Version{})
		require.NoError(t, err)
		event(t, s)
		wg.Wait()
		require.Equal(t, 1, w.Stats().Connected)
		v := w.source.Commit(host, fmt.Sprintf(`[%d]`, i+1))
		require.Equal(t, v, event(t, s).Version, "the new subscription is the one that is fed")
		old = s
	}
	old.Close()
	require.Zero(t, w.Stats().Connected)
}

func spin(d time.Duration) {
	for begin := time.Now(); time.Since(begin) < d; {
		runtime.Gosched()
	}
}

func TestPollAnswersAsASubscriptionDoes(t *testing.T) {
	w := start(t, deliverytest.New())
	host, session := uuid.New(), uuid.New()
	v := w.source.Commit(host, `[1]`)
	doc, current, err := w.Poll(t.Context(), host, session, assignment.Version{})
	require.NoError(t, err)
	require.False(t, current)
	require.Equal(t, v, doc.Version)
	require.Equal(t, session, w.source.Session(host))

	before := w.source.Calls("Documents")
	_, current, err = w.Poll(t.Context(), host, uuid.Nil, v)
	require.NoError(t, err)
	require.True(t, current)
	require.Equal(t, before, w.source.Calls("Documents"))

	v.Generation += 3
	doc, current, err = w.Poll(t.Context(), host, uuid.Nil, v)
	require.NoError(t, err)
	require.False(t, current)
	require.Greater(t, doc.Version.Epoch, v.Epoch)
}

func TestReportsThatComeTogetherAreStoredTogether(t *testing.T) {
	w := start(t, deliverytest.New())
	const n = 500
	var wg sync.WaitGroup
	hosts := make([]uuid.UUID, n)
	for i := range hosts {
		hosts[i] = uuid.New()
		wg.Go(func() {
			r, err := w.Report(t.Context(), delivery.Report{Host: hosts[i], Session: uuid.New(), Sequence: int64(i)})
			require.NoError(t, err)
			require.True(t, r.Accepted)
		})
	}
	wg.Wait()
	total := 0
	for _, batch := range w.source.Reports() {
		require.LessOrEqual(t, len(batch), 256)
		total += len(batch)
	}
	require.Equal(t, n, total)

	w.source.FailWith(errDown)
	_, err := w.Report(t.Context(), delivery.Report{Host: hosts[0]})
	require.ErrorIs(t, err, delivery.ErrNotReady)
}

func TestAReportNamesTheSessionThatSupersededIt(t *testing.T) {
	w := start(t, deliverytest.New())
	host := uuid.New()
	w.source.Commit(host, `[1]`)
	w.subscribe(t, host, uuid.New(), assignment.Version{})
	r, err := w.Report(t.Context(), delivery.Report{Host: host, Session: uuid.New()})
	require.NoError(t, err)
	require.Equal(t, delivery.ReportResult{Superseded: true}, r)
}

func TestStoppingEndsAllSubscriptions(t *testing.T) {
	source := deliverytest.New()
	hub := delivery.New(source, delivery.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- hub.Run(ctx) }()
	host := uuid.New()
	source.Commit(host, `[]`)
	s, err := hub.Subscribe(t.Context(), host, uuid.New(), assignment.Version{})
	require.NoError(t, err)
	event(t, s)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	_, err = next(t, s)
	require.ErrorIs(t, err, delivery.ErrClosed)
	_, err = hub.Subscribe(t.Context(), host, uuid.New(), assignment.Version{})
	require.ErrorIs(t, err, delivery.ErrClosed)
}

func TestAdmissionSpreadsThoseItRefuses(t *testing.T) {
	now := time.Unix(0, 0)
	a := delivery.NewAdmission(100, 10, func() time.Time { return now })
	for range 10 {
		ok, _ := a.Admit()
		require.True(t, ok)
	}
	for i := 1; i <= 200; i++ {
		ok, after := a.Admit()
		require.False(t, ok)
		require.InDelta(t, float64(i)/100, after.Seconds(), float64(i)/100/4+0.001, "waiting ÷ rate, and at most a quarter more")
	}
	for range 100_000 {
		ok, after := a.Admit()
		require.False(t, ok)
		require.LessOrEqual(t, after, 75*time.Second, "a flood keeps nobody away for long")
	}
	now = now.Add(time.Second)
	admitted := 0
	for range 200 {
		if ok, _ := a.Admit(); ok {
			admitted++
		}
	}
	require.Equal(t, 10, admitted, "never more than a burst at once")

	var none *delivery.Admission
	ok, _ := none.Admit()
	require.True(t, ok)
}
