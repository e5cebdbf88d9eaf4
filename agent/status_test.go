package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/agent/session"
	"iapi/assignment"
)

func TestABurstOfChangesBecomesFewReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSession{}
		rep := newReporter(Options{Session: s, Host: uuid.New(), Logger: nil})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = rep.run(ctx) }()
		from := &run{item: assignment.Item{ID: "i-1"}}
		rep.own(from)
		for i := range 1000 {
			rep.set(from, statusOf("i-1", i, statusRunning, ""))
		}
		require.Eventually(t, func() bool {
			last := s.last()
			return len(last.Instrumentations) == 1 && last.Instrumentations[0].Revision == 999
		}, 10*time.Second, 5*time.Millisecond)
		cancel()
		<-done
		s.mu.Lock()
		defer s.mu.Unlock()
		require.LessOrEqual(t, len(s.reports), 5)
	})
}

// refusing is an API that takes no report, and notes when one came.
type refusing struct {
	fakeSession
	err   error
	times chan time.Time
}

func (r *refusing) Report(context.Context, session.Report) (session.ReportResult, error) {
	r.times <- time.Now()
	return session.ReportResult{}, r.err
}

func TestReportsComeBackNoSoonerThanTheyAreAskedTo(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "40")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer api.Close()
	asked := session.Join(t.Context(), session.Options{Servers: []string{api.URL}, Host: uuid.New()}, "token", "agent's token")
	require.Equal(t, 40*time.Second, session.RetryAfter(asked))
	synctest.Test(t, func(t *testing.T) {
		s := &refusing{err: asked, times: make(chan time.Time, 100)}
		rep := newReporter(Options{Session: s, Host: uuid.New(), Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = rep.run(ctx) }()
		last := <-s.times
		for range 5 {
			at := <-s.times
			require.GreaterOrEqual(t, at.Sub(last), 40*time.Second)
			require.LessOrEqual(t, at.Sub(last), 41*time.Second)
			last = at
			rep.signal() // whatever there is to tell
		}
		cancel()
		<-done
	})
}

// patient is an API that says when it wants to hear of the agent again.
type patient struct {
	fakeSession
	next  int // seconds
	times chan time.Time
}

func (p *patient) Report(context.Context, session.Report) (session.ReportResult, error) {
	p.times <- time.Now()
	return session.ReportResult{Accepted: true, NextReportSeconds: p.next}, nil
}

func TestTheAPISetsThePeriodOfTheHeartbeat(t *testing.T) {
	for _, period := range []time.Duration{2 * time.Second, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			s := &patient{next: int(period / time.Second), times: make(chan time.Time, 100)}
			rep := newReporter(Options{Session: s, Host: uuid.New(), Logger: slog.New(slog.DiscardHandler)})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = rep.run(ctx) }()
			last := <-s.times
			for range 20 {
				at := <-s.times
				require.GreaterOrEqual(t, at.Sub(last), period/2, "spread, so that agents do not report together")
				require.LessOrEqual(t, at.Sub(last), period+spacing)
				last = at
			}
			cancel()
			<-done
		})
	}
}

// An agent that was away may have been forgotten, so it tells how it fares soon after it is back, whenever the API wants to hear of
// it next.
func TestWhoHasComeBackReportsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &patient{next: 300, times: make(chan time.Time, 100)}
		s.returned = make(chan struct{}, 1)
		rep := newReporter(Options{Session: s, Host: uuid.New(), Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = rep.run(ctx) }()
		<-s.times
		for range 5 {
			time.Sleep(20 * time.Second) // well before the next
			back := time.Now()
			s.returned <- struct{}{}
			at := <-s.times
			require.GreaterOrEqual(t, at.Sub(back), firstBeat/2, "spread, for many come back together")
			require.LessOrEqual(t, at.Sub(back), firstBeat)
		}
		s.returned <- struct{}{}
		time.Sleep(time.Second)
		s.returned <- struct{}{} // a second time puts nothing off
		begun := time.Now()
		require.LessOrEqual(t, (<-s.times).Sub(begun), firstBeat-time.Second)
		cancel()
		<-done
	})
}

func TestALongTextIsCutAtAWholeCharacter(t *testing.T) {
	rep := newReporter(Options{Session: &fakeSession{}, Host: uuid.New()})
	from := &run{item: assignment.Item{ID: "i-1"}}
	rep.own(from)
	for _, text := range []string{strings.Repeat("é", 3000), "x" + strings.Repeat("é", 3000), strings.Repeat("x", maxMessage+1)} {
		status := statusOf("i-1", 1, "FAILED", text)
		status.VMFailures = []session.VMFailure{{VM: zoneA, Status: "FAILED", Message: text}}
		rep.set(from, status)
		rep.setTrouble(text) // told in one text with the other
		told := rep.next().Instrumentations[0]
		for _, short := range []string{told.Message, told.VMFailures[0].Message} {
			require.LessOrEqual(t, len(short), maxMessage)
			require.Greater(t, len(short), maxMessage-8)
			require.True(t, utf8.ValidString(short))
			require.Equal(t, text[:100], short[:100])
		}
	}
	short := strings.Repeat("x", maxMessage)
	rep.setTrouble("")
	rep.set(from, statusOf("i-1", 1, "FAILED", short))
	require.Equal(t, short, rep.next().Instrumentations[0].Message)
}

func TestReportsThatFailAreMadeAnewWithWhatIsTrueByThen(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.session.reportErr = errors.New("the API is away")
		r.start()
		r.assign(1, r.item("i-1"))
		r.eventually("it runs unreported", func() bool { _, open := r.probes.counts(); return open == 1 })
		r.session.mu.Lock()
		r.session.reportErr = nil
		r.session.mu.Unlock()
		r.eventually("reported", func() bool { return r.status("i-1").Status == statusRunning })
		r.session.mu.Lock()
		defer r.session.mu.Unlock()
		for i := 1; i < len(r.session.reports); i++ {
			require.Greater(t, r.session.reports[i].Sequence, r.session.reports[i-1].Sequence)
		}
	})
}

func TestAProbeThatFailsIsFailedAndComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.probes.failing = errors.New("read /proc/stat: input/output error")
		r.start()
		r.assign(1, r.item("i-1"))
		r.eventually("failed", func() bool { return r.status("i-1").Status == "FAILED" })
		require.Contains(t, r.status("i-1").Message, "input/output error")
		r.probes.mu.Lock()
		r.probes.failing = nil
		r.probes.mu.Unlock()
		r.eventually("running", func() bool { return r.status("i-1").Status == statusRunning })
	})
}
