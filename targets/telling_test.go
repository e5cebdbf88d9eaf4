package targets

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/measure"
)

// Where nobody listens, the kernel refuses every other datagram, for the one before it.
func TestWhatDatagramsProveIsToldOnceAndOnlyWhenItLasts(t *testing.T) {
	refusal := errors.New("connection refused")
	for name, c := range map[string]struct {
		target    measure.Target
		datagrams bool
	}{
		"statsd":                {measure.Target{Kind: measure.Statsd}, true},
		"a Data API by UDP":     {measure.Target{Kind: measure.DataAPI, Transport: measure.UDP}, true},
		"a Data API by HTTP":    {measure.Target{Kind: measure.DataAPI, Transport: measure.HTTP}, false},
		"Graphite, which hears": {measure.Target{Kind: measure.Graphite}, false},
	} {
		t.Run(name, func(t *testing.T) {
			clock, log := &handClock{now: begin}, &logText{}
			q := &Queue{target: c.target, opts: quick(), clock: clock, log: log.logger()}
			told := func(down, up int) {
				t.Helper()
				require.Equal(t, down, strings.Count(log.String(), "does not take data"), log)
				require.Equal(t, up, strings.Count(log.String(), "takes data again"), log)
			}
			for range 30 {
				q.failed(refusal)
				clock.advance(time.Second)
				q.succeeded()
				clock.advance(time.Second)
			}
			if !c.datagrams {
				told(30, 30)
				require.True(t, q.Stats().Connected)
				return
			}
			told(1, 0)
			require.False(t, q.Stats().Connected)
			require.Equal(t, refusal.Error(), q.Stats().LastError)

			clock.advance(steadyFor)
			q.succeeded()
			told(1, 1)
			require.True(t, q.Stats().Connected)
			require.Empty(t, q.Stats().LastError)
			q.failed(refusal)
			told(2, 1)
		})
	}
}
