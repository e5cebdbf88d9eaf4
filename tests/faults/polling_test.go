package faults

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/identity"
	"iapi/tests/load/cloud"
	"iapi/tests/load/sim"
)

func (s *service) connected(api, n int) error {
	is, err := s.APIs[api].Connected(s.ctx)
	if err == nil && is != n {
		err = fmt.Errorf("%d agents are connected", is)
	}
	return err
}

// A proxy that passes plain requests only delays what agents run; and when it lets websockets pass, they return by themselves.
func TestAgentsPollWhileWebsocketsDoNotPass(t *testing.T) {
	t.Parallel()
	s := start(t, 20, 1, cloud.Options{})
	h := newHistory()
	p := startProxy(t, s.APIs[0].URL, 9, h.document)
	f := s.connect([]string{p.URL}, h.observer())
	s.eventually(patience, "all have websockets", func() error { return s.connected(0, len(s.Hosts)) })

	p.plan.Store(&faultPlan{Blocked: true})
	p.dropAll()
	polled := s.everywhere(0)
	s.eventually(patience, "everybody runs it all the same", func() error { return everybodyRuns(f, polled) })
	s.eventually(patience, "nobody has a websocket", func() error { return s.connected(0, 0) })
	s.eventually(patience, "and reports it", func() error {
		in, err := s.APIs[0].Get(s.ctx, polled)
		if err == nil && in.Coverage.Running != len(s.Hosts) {
			err = fmt.Errorf("%+v", in.Coverage)
		}
		return err
	})
	require.NoError(t, s.APIs[0].Delete(s.ctx, polled))
	s.eventually(patience, "a delete arrives too", func() error {
		for _, a := range f.Agents {
			if runs(a, polled) {
				return errors.New("somebody still runs it")
			}
		}
		return nil
	})

	p.plan.Store(&faultPlan{})
	s.eventually(patience, "all have websockets again", func() error { return s.connected(0, len(s.Hosts)) })
	last := s.everywhere(0)
	s.eventually(patience, "everybody runs what comes", func() error {
		return errors.Join(everybodyRuns(f, last), s.current(f))
	})
	s.lawful(h)
}

// A proxy that ends websockets after some bytes lets no large document pass. Polling does.
func TestADocumentThatNoWebsocketPassesIsPolled(t *testing.T) {
	t.Parallel()
	s := start(t, 2, 1, cloud.Options{VMs: 200})
	h := newHistory()
	p := startProxy(t, s.APIs[0].URL, 9, h.document)
	f := s.connect([]string{p.URL}, h.observer())
	p.plan.Store(&faultPlan{CutAfter: 4000})
	p.dropAll()
	in, err := s.APIs[0].Create(s.ctx, s.Owner, cloud.Tagged("load", "off"))
	require.NoError(t, err)
	s.eventually(patience, "everybody runs it", func() error { return errors.Join(everybodyRuns(f, in.ID), s.current(f)) })
	require.Positive(t, p.toAgents.cut.Load())
	s.lawful(h)
}

// Who polls shows its credential each time, so a revoked one is told nothing more. Its host's next agent is.
func TestAnAgentThatPollsIsCutOffWhenItIsRevoked(t *testing.T) {
	t.Parallel()
	s := start(t, 2, 1, cloud.Options{})
	p := startProxy(t, s.APIs[0].URL, 9, nil)
	p.plan.Store(&faultPlan{Blocked: true})
	f := s.connect([]string{p.URL}, sim.Observer{})
	first := s.everywhere(0)
	s.eventually(patience, "everybody runs it", func() error { return everybodyRuns(f, first) })

	require.NoError(t, s.APIs[0].Revoke(s.ctx, s.Hosts[0]))
	dials := f.Agents[0].Dials()
	second := s.everywhere(0)
	s.eventually(patience, "the other goes on, and the revoked one has tried again", func() error {
		if !runs(f.Agents[1], second) || f.Agents[0].Dials() < dials+2 {
			return errors.New("not yet")
		}
		return nil
	})
	require.False(t, runs(f.Agents[0], second), "who was revoked is told nothing")

	require.NoError(t, s.Store.SetAgentToken(s.ctx, s.Hosts[0], identity.HashToken(s.tokens[0]))) // as by joining again
	s.eventually(patience, "it is let in again", func() error { return everybodyRuns(f, second) })
}
