package agent

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

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
