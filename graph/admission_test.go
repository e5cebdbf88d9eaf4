package graph_test

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/delivery"
	"iapi/graph"
	"iapi/identity"
)

// counting counts who is looked at.
type counting struct {
	identity.Authenticator
	asked atomic.Int64
}

func (c *counting) Authenticate(r *http.Request) (identity.Caller, error) {
	c.asked.Add(1)
	return c.Authenticator.Authenticate(r)
}

// Whoever comes when the bucket is empty is told when to return, by either way in, and nobody asks who it is.
func TestNobodyIsAuthenticatedBeforeHeIsAdmitted(t *testing.T) {
	host := uuid.New()
	for name, c := range map[string]struct {
		path    string
		headers []string
	}{
		"websocket": {"/graphql", []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13",
			"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}},
		"poll": {"/agents/" + host.String() + "/assignment", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var who counting
			admission := delivery.NewAdmission(0.001, 1, nil)
			a := newAPI(t, func(o *graph.Options) {
				o.Admission = admission
				who.Authenticator, o.Authenticator = o.Authenticator, &who
			})
			a.serve(host, nil)
			headers := append(c.headers, "Authorization", "Bearer "+a.agent(host))
			admitted, _ := admission.Admit()
			require.True(t, admitted)
			resp, _ := a.do(t, http.MethodGet, c.path, "", headers...)
			require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
			after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			require.NoError(t, err)
			require.Positive(t, after)
			require.Zero(t, who.asked.Load(), "who is not admitted is not looked at")
		})
	}
}
