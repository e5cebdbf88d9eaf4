package graph_test

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/identity"
)

// found reads the id that a text ends with, and requires that the log has it.
func (a *api) found(t *testing.T, text string) string {
	t.Helper()
	parts := regexp.MustCompile(`\(correlationId: ([0-9a-f]{16})\)\s*$`).FindStringSubmatch(text)
	require.NotNil(t, parts, "%q ends with no id", text)
	require.Contains(t, a.log.String(), "correlationId="+parts[1])
	return parts[1]
}

// chained puts what logs refused credentials before the door, as a real one has it.
func chained(o *graph.Options) { o.Authenticator = identity.Chain(o.Logger, o.Authenticator) }

func TestAPollThatIsRefusedHasAnIDThatTheLogHas(t *testing.T) {
	a := newAPI(t, chained)
	host, cold := uuid.New(), uuid.New()
	a.serve(host, nil)
	a.source.Know(cold)
	for name, c := range map[string]struct {
		path, token string
		status      int
	}{
		"no credentials":  {host.String() + "/assignment", "", 401},
		"bad credentials": {host.String() + "/assignment", "wrong", 401},
		"another's":       {host.String() + "/assignment", "alice", 403},
		"no uuid":         {"nonsense/assignment", a.agent(host), 404},
		"no session":      {host.String() + "/assignment?session=1", a.agent(host), 400},
		"unknown":         {bob.String() + "/assignment", a.agent(bob), 404},
		"not ready":       {cold.String() + "/assignment", a.agent(cold), 503},
	} {
		t.Run(name, func(t *testing.T) {
			var header []string
			if c.token != "" {
				header = []string{"Authorization", "Bearer " + c.token}
			}
			resp, body := a.do(t, http.MethodGet, "/agents/"+c.path, "", header...)
			require.Equal(t, c.status, resp.StatusCode, body)
			require.Equal(t, a.found(t, body), resp.Header.Get(identity.CorrelationHeader))
		})
	}
}

func TestAHandshakeThatIsRefusedHasAnIDThatTheLogHas(t *testing.T) {
	a := newAPI(t, chained)
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for status, more := range map[int][]string{
		http.StatusUnauthorized: {"Authorization", "Bearer wrong"},
		http.StatusForbidden:    {"Authorization", "Bearer alice", "Origin", "https://evil.example.com"},
	} {
		resp, body := a.do(t, http.MethodGet, "/graphql", "", append(upgrade, more...)...)
		require.Equal(t, status, resp.StatusCode)
		id := a.found(t, body)
		require.Equal(t, id, resp.Header.Get(identity.CorrelationHeader))
		if status == http.StatusUnauthorized {
			require.Regexp(t, `credentials refused.*correlationId=`+id, a.log.String())
		}
	}
}

func TestAPeerThatIsNotLetInIsToldTheIDOfItsHandshake(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t, chained)
		p := a.dial(t, "")
		p.say(`{"type":"connection_init","payload":{"token":"wrong"}}`)
		code, reason := p.closes()
		require.Equal(t, 4403, code)
		require.Regexp(t, `credentials refused.*correlationId=`+a.found(t, reason), a.log.String())

		g := &gate{asked: make(chan struct{}, 1), open: make(chan struct{}), err: errors.New("the key set is away")}
		close(g.open)
		a = newAPI(t, func(o *graph.Options) { g.Authenticator, o.Authenticator = o.Authenticator, g }, chained)
		p = a.dial(t, "")
		p.say(`{"type":"connection_init","payload":{"token":"slow"}}`)
		code, reason = p.closes()
		require.Equal(t, 1013, code)
		require.Regexp(t, `could not be checked.*correlationId=`+a.found(t, reason), a.log.String())
	})
}

func TestEveryAnswerHasTheIDOfItsErrors(t *testing.T) {
	a := newAPI(t)
	resp, body := a.do(t, http.MethodPost, "/graphql", `{"query":"{ nothing }"}`, "Content-Type", "application/json", "Authorization", "Bearer alice")
	id := resp.Header.Get(identity.CorrelationHeader)
	require.Len(t, id, 16)
	require.Contains(t, body, id)
	require.Equal(t, 1, strings.Count(a.log.String(), "correlationId="+id))
}
