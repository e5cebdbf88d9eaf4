package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Agents that lost the same server come back spread over the whole wait, which doubles up to a bound and begins anew after a
// connection that held.
func TestAgentsComeBackSpreadOverAWaitThatDoubles(t *testing.T) {
	const agents = 400
	fleet := make([]Backoff, agents)
	for i := range fleet {
		fleet[i].Most = 4 * time.Second
	}
	for round, bound := range []time.Duration{250, 500, 1000, 2000, 4000, 4000, 4000} {
		bound *= time.Millisecond
		var quarters [4]int
		for i := range fleet {
			wait := fleet[i].Next() - 10*time.Millisecond // never at once
			require.GreaterOrEqual(t, wait, time.Duration(0))
			require.Less(t, wait, bound, "round %d", round)
			quarters[4*wait/bound]++
		}
		for _, n := range quarters {
			require.InDelta(t, agents/4, n, agents/8, "round %d: %v", round, quarters) // over five standard deviations
		}
	}
	for i := range fleet {
		fleet[i].Reset()
		require.LessOrEqual(t, fleet[i].Next(), 260*time.Millisecond)
	}
	var long Backoff
	for range 100 {
		require.LessOrEqual(t, long.Next(), 31*time.Second, "however often it was tried")
	}
}
