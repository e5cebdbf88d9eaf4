package delivery_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

func TestWhatTheStreamDidNotTellOfSessionsIsFoundByComparing(t *testing.T) {
	for name, c := range map[string]struct {
		happen func(s *deliverytest.Source, host uuid.UUID) error
		want   error
	}{
		"superseded elsewhere": {func(s *deliverytest.Source, host uuid.UUID) error {
			_, err := s.BeginSession(t.Context(), host, uuid.New(), 0)
			return err
		}, delivery.ErrSuperseded},
		"revoked": {func(s *deliverytest.Source, host uuid.UUID) error { s.Revoke(host); return nil }, delivery.ErrRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, deliverytest.New())
			hosts := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
			var subs []*delivery.Subscription
			for _, host := range hosts {
				w.source.Commit(host, `[1]`)
				subs = append(subs, w.subscribe(t, host, uuid.New(), assignment.Version{}))
				event(t, subs[len(subs)-1])
			}
			w.source.Silence(true)
			require.NoError(t, c.happen(w.source, hosts[1]))
			w.source.Silence(false)
			w.source.FailWith(errDown) // comparing is tried again until it succeeds
			w.source.Gap()
			require.Eventually(t, func() bool { return w.Stats().Failures > 0 }, patience, time.Millisecond)
			w.source.FailWith(nil)
			_, err := next(t, subs[1])
			require.ErrorIs(t, err, c.want)
			for _, i := range []int{0, 2} {
				v := w.source.Commit(hosts[i], `[2]`)
				require.Equal(t, v, event(t, subs[i]).Version, "the others stay")
			}
		})
	}
}

// A source that has lost who a host's agent is knows of an earlier one, or of none. Who is there goes on, and is told nothing.
func TestASessionThatTheSourceHasLostBeginsAgain(t *testing.T) {
	for name, stands := range map[string]delivery.Session{
		"another stands": {ID: uuid.New(), Number: 1}, "a revocation stands": {ID: delivery.Revoked, Number: 1}, "none stands": {},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, deliverytest.New())
			host, session := uuid.New(), uuid.New()
			w.source.Commit(host, `[1]`)
			_, err := w.source.BeginSession(t.Context(), host, uuid.New(), 0)
			require.NoError(t, err)
			s := w.subscribe(t, host, session, assignment.Version{})
			event(t, s)
			lose := func() { w.source.Restore(host, stands) }

			lose()
			w.source.FailWith(errDown) // comparing is tried again until it succeeds
			w.source.Gap()
			require.Eventually(t, func() bool { return w.Stats().Failures > 0 }, patience, time.Millisecond)
			w.source.FailWith(nil)
			require.Eventually(t, func() bool { return w.source.Session(host) == session }, patience, time.Millisecond)

			lose()
			r, err := w.Report(t.Context(), delivery.Report{Host: host, Session: session})
			require.NoError(t, err)
			require.True(t, r.Accepted, "a report finds it too")
			v := w.source.Commit(host, `[2]`)
			require.Equal(t, v, event(t, s).Version)
			require.Zero(t, w.Stats().Superseded)

			young := w.subscribe(t, host, uuid.New(), assignment.Version{}) // one that is later supersedes it as ever
			event(t, young)
			_, err = next(t, s)
			require.ErrorIs(t, err, delivery.ErrSuperseded)
			r, err = w.Report(t.Context(), delivery.Report{Host: host, Session: session})
			require.NoError(t, err)
			require.True(t, r.Superseded)
		})
	}
}

func TestAPollingSessionThatTheSourceHasLostBeginsAgain(t *testing.T) {
	w := start(t, deliverytest.New())
	host, session := uuid.New(), uuid.New()
	w.source.Commit(host, `[1]`)
	_, err := w.source.BeginSession(t.Context(), host, uuid.New(), 0)
	require.NoError(t, err)
	_, _, err = w.Poll(t.Context(), host, session, assignment.Version{})
	require.NoError(t, err)
	w.source.Restore(host, delivery.Session{ID: uuid.New(), Number: 1})
	r, err := w.Report(t.Context(), delivery.Report{Host: host, Session: session})
	require.NoError(t, err)
	require.True(t, r.Accepted)
}

func TestRevocationsAreToldWithoutASubscriptionToo(t *testing.T) {
	w := start(t, deliverytest.New())
	told := make(chan uuid.UUID, 1)
	w.OnRevoke(func(host uuid.UUID) { told <- host })
	host := uuid.New()
	w.source.Revoke(host)
	select {
	case got := <-told:
		require.Equal(t, host, got)
	case <-time.After(patience):
		require.Fail(t, "nobody was told")
	}
}
