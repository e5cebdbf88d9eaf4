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
			return s.BeginSession(t.Context(), host, uuid.New())
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

func TestASessionThatTheSourceHasForgottenStays(t *testing.T) {
	source := deliverytest.New()
	w := start(t, source)
	host := uuid.New()
	source.Commit(host, `[1]`)
	s := w.subscribe(t, host, uuid.New(), assignment.Version{})
	event(t, s)
	source.Forget(host)
	before := source.Calls("Sessions")
	source.Gap()
	require.Eventually(t, func() bool { return source.Calls("Sessions") > before }, patience, time.Millisecond)
	v := source.Commit(host, `[2]`)
	require.Equal(t, v, event(t, s).Version)
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
