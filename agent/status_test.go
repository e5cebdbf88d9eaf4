package agent

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/agent/session"
	"iapi/assignment"
)

func TestABurstOfChangesBecomesFewReports(t *testing.T) {
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
	_, asked := session.Join(t.Context(), session.Options{Servers: []string{api.URL}, Host: uuid.New()}, "token")
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
