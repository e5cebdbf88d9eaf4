package worker

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
)

func TestAllHaveTheirTurnToBeJudgedAgainHoweverManyThereAre(t *testing.T) {
	for _, state := range []instrumentation.State{
		instrumentation.Created, instrumentation.Updating, instrumentation.Degraded, instrumentation.Enabled,
	} {
		t.Run(string(state), func(t *testing.T) {
			s := newFakeStore()
			b, w := standing(t, s)
			w.batch, s.failing = 2, make(map[instrumentation.ID]bool)
			var ids []instrumentation.ID
			for range 5 {
				id := b.create(ownerID(0), instrumentation.Scope{All: true})
				ids, s.failing[id] = append(ids, id), state == instrumentation.Enabled // so each is in the wrong state
			}
			b.settle(w)
			for _, id := range ids {
				require.NoError(t, s.SetState(t.Context(), id, 1, state, time.Time{}))
			}
			for range 2 { // again from the first
				clear(s.judge)
				for range (len(ids)+2)/w.batch + 1 {
					require.NoError(t, w.rejudge(t.Context()))
				}
				for _, id := range ids {
					require.True(t, s.judge[id], "%s was not judged again", id)
				}
			}
		})
	}
}

func TestWhatCannotBeRemovedYetDoesNotKeepTheNextFromIt(t *testing.T) {
	for state, remove := range map[instrumentation.State]func(*Worker) error{
		instrumentation.Deleting: func(w *Worker) error { return w.finishDeletes(t.Context()) },
		instrumentation.Expired:  func(w *Worker) error { return w.removeExpired(t.Context()) },
	} {
		t.Run(string(state), func(t *testing.T) {
			b := newBench(t, 1, newFakeStore())
			w := b.worker(0)
			w.batch = 2
			now := w.Clock()
			made := func(at time.Time) instrumentation.ID {
				return b.create(uuid.Nil, instrumentation.Scope{EveryHost: true}, func(r *instrumentation.Instrumentation) {
					if r.State = state; state == instrumentation.Deleting {
						r.DeletedAt = at
					} else {
						r.ExpiresAt = at
					}
				})
			}
			stays := []instrumentation.ID{made(now), made(now), made(now)}
			goes := made(now.Add(-2 * kept))
			for range 2 {
				require.NoError(t, remove(w))
			}
			require.Nil(t, b.get(goes))
			for _, id := range stays {
				require.NotNil(t, b.get(id))
			}
		})
	}
}
