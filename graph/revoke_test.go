package graph_test

import (
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph"
	"iapi/graph/agentdoc"
	"iapi/identity"
	it "iapi/instrumentation/instrumentationtest"
)

// held is an Authenticator that has looked up one token, and does not tell before it is let.
type held struct {
	identity.Authenticator
	token        string
	looked, tell chan struct{}
}

func (h *held) Authenticate(r *http.Request) (identity.Caller, error) {
	caller, err := h.Authenticator.Authenticate(r)
	if r.Header.Get("Authorization") == "Bearer "+h.token {
		close(h.looked)
		<-h.tell
	}
	return caller, err
}

// Whoever has shown a credential before it was revoked has no use of it afterwards, however far it has come by then.
func TestACredentialThatIsRevokedWhileAnAgentConnects(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		revoke := func(a *door, host uuid.UUID) {
			witness := a.ready(t, a.agent(host)) // it knows when the feed has heard of it
			a.source.Revoke(host)
			code, _ := witness.closes()
			require.Equal(t, agentdoc.CloseExpired, code)
		}
		gone := func(p *peer) {
			code, reason := p.closes()
			require.Equal(t, agentdoc.CloseExpired, code)
			require.Equal(t, "The credential was revoked", reason)
		}
		t.Run("between the handshake and connection_init", func(t *testing.T) {
			a, host := newAPI(t), uuid.New()
			a.serve(host, nil)
			p, later := a.dial(t, a.agent(host)), a.dial(t, "")
			revoke(a, host)
			p.say(`{"type":"connection_init"}`)
			gone(p)
			// Who shows a credential only now shows one that is good.
			later.say(`{"type":"connection_init","payload":{"token":"` + a.agent(host) + `"}}`)
			require.JSONEq(t, `{"type":"connection_ack"}`, later.hear())
		})
		t.Run("in the moment until it is closed", func(t *testing.T) {
			a, host, other := newAPI(t, func(o *graph.Options) { o.Websocket.Farewell = patience }), uuid.New(), uuid.New()
			a.serve(host, nil)
			a.serve(other, nil)
			p, witness := a.ready(t, a.agent(host)), a.ready(t, a.agent(other))
			witness.subscribe("a", agentdoc.Assignments, known(other, uuid.New(), nil))
			witness.hear()
			before := a.source.Calls("BeginSession")
			a.source.Revoke(host)
			a.serve(other, nil)
			witness.hear() // so the feed has heard of what was before
			p.subscribe("a", agentdoc.Assignments, known(host, uuid.New(), nil))
			gone(p)
			require.Equal(t, before, a.source.Calls("BeginSession"))
		})
		t.Run("while it is looked up", func(t *testing.T) {
			h := &held{token: "slow", looked: make(chan struct{}), tell: make(chan struct{})}
			a := newAPI(t, func(o *graph.Options) { h.Authenticator, o.Authenticator = o.Authenticator, h })
			host := uuid.New()
			a.serve(host, nil)
			p := a.dial(t, "")
			a.tokens.put(h.token, it.AgentOf(host))
			p.say(`{"type":"connection_init","payload":{"token":"slow"}}`)
			<-h.looked
			revoke(a, host)
			close(h.tell)
			gone(p)
		})
	})
}
