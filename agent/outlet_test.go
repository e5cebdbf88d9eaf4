package agent

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/measure"
)

// What is wrong with one target of several stops nothing, and is told by where the target is in the instrumentation's list.
func TestTroubleOfOneTargetIsToldWhileAnotherTakesTheData(t *testing.T) {
	bubble(t, testTroubleOfOneTarget)
}

func testTroubleOfOneTarget(t *testing.T, r *rig) {
	queues := map[string]*fakeQueue{"good:1": {}, "flaky:1": {}}
	r.session.ready = make(chan struct{})
	a, err := New(Options{
		Host: uuid.New(), Version: "test", Session: r.session, Collectors: r.probes, Dir: r.dir, SinceBoot: r.sinceBoot,
		OpenTarget: func(_ string, target measure.Target) (Queue, error) {
			if q := queues[target.Address]; q != nil {
				return q, nil
			}
			return nil, errors.New("address: must be host:port")
		},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(r.stop)
	<-r.session.ready

	says := func(text string) func() bool {
		return func() bool { s := r.status("i-1"); return s.Status == statusRunning && s.Message == text }
	}
	flaky := func(down bool) {
		q := queues["flaky:1"]
		q.mu.Lock()
		q.down = down
		q.mu.Unlock()
	}
	item := r.item("i-1")
	item.Targets = []assignment.Target{{Kind: "statsd", Address: "good:1"}, {Kind: "statsd", Address: "flaky:1"}, {Kind: "statsd", Address: "nonsense"}}
	r.assign(1, item)
	const broken = "target 2 cannot be used: address: must be host:port"
	r.eventually("what can never work is told", says(broken))
	flaky(true)
	r.eventually("so is what worked and does not any more", says("target 1 does not take data: connection refused; "+broken))
	targets := r.session.last().Targets
	require.Len(t, targets, 3)
	require.Equal(t, []string{"", "connection refused", "address: must be host:port"}, []string{targets[0].LastError, targets[1].LastError, targets[2].LastError})
	require.True(t, targets[0].Connected)
	flaky(false)
	r.eventually("and that it works again", says(broken))

	item.Targets, item.Revision = item.Targets[1:2], 2
	r.assign(2, item)
	r.eventually("nothing is told of what is not a target any more", says(""))
	opened, _ := r.probes.counts()
	require.Equal(t, 1, opened)
}
