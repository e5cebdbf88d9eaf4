package graph_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

// However an agent asks for its assignment, each time that it is heard of it is recorded to be alive. An operator who looks is no
// sign of it.
func TestWhateverIsHeardOfAnAgentIsASignOfLife(t *testing.T) {
	a := newAPI(t)
	touched := func(host uuid.UUID) (n int) {
		for _, h := range a.source.Touched() {
			if h == host {
				n++
			}
		}
		return n
	}
	counts := func(t *testing.T, host uuid.UUID, speak func()) {
		t.Helper()
		for range 3 {
			before := touched(host)
			speak()
			require.Eventually(t, func() bool { return touched(host) > before }, patience, time.Millisecond)
		}
	}
	for name, query := range map[string]string{
		"the known subscription": agentdoc.Assignments,
		"another subscription":   `subscription($host: UUID!, $session: UUID!) { assignments(host: $host, session: $session) { __typename } }`,
	} {
		t.Run(name, func(t *testing.T) {
			host := uuid.New()
			a.serve(host, nil)
			p := a.ready(t, a.agent(host))
			counts(t, host, func() {
				if touched(host) == 0 {
					p.subscribe("a", query, map[string]any{"host": host, "session": uuid.New()})
					return
				}
				p.say(`{"type":"ping"}`)
			})
		})
	}
	t.Run("polls", func(t *testing.T) {
		host := uuid.New()
		v := a.serve(host, nil)
		counts(t, host, func() {
			resp, _ := a.do(t, http.MethodGet, "/agents/"+host.String()+"/assignment", "", "Authorization", "Bearer "+a.agent(host), "If-None-Match", v.ETag())
			require.Equal(t, http.StatusNotModified, resp.StatusCode)
		})
		looked := uuid.New()
		a.serve(looked, nil)
		resp, _ := a.do(t, http.MethodGet, "/agents/"+looked.String()+"/assignment", "", "Authorization", "Bearer operator")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		counts(t, host, func() { // and meanwhile the other would have been
			resp, _ := a.do(t, http.MethodGet, "/agents/"+host.String()+"/assignment", "", "Authorization", "Bearer "+a.agent(host))
			require.Equal(t, http.StatusOK, resp.StatusCode)
		})
		require.False(t, slices.Contains(a.source.Touched(), looked))
	})
}
