package delivery_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

// Of one host nothing can be read. Its agent keeps what it runs, newcomers of it are told that we are not ready, and the others
// get their documents, are superseded and polled as ever.
func TestAHostThatCannotBeReadHoldsUpNoOther(t *testing.T) {
	w := start(t, deliverytest.New())
	bad, good, other := uuid.New(), uuid.New(), uuid.New()
	bad[15], other[15] = good[15], good[15] // in one lane
	for _, host := range []uuid.UUID{bad, good, other} {
		w.source.Commit(host, `[1]`)
	}
	kept := w.subscribe(t, bad, uuid.New(), assignment.Version{})
	event(t, kept)
	followed := w.subscribe(t, good, uuid.New(), assignment.Version{})
	event(t, followed)
	superseded := w.subscribe(t, other, uuid.New(), assignment.Version{})
	event(t, superseded)

	w.source.Damage(bad, errors.New("WRONGTYPE"))
	failed := w.Stats().Failures
	w.source.Silence(true)
	_, err := w.source.BeginSession(t.Context(), other, uuid.New(), 0)
	require.NoError(t, err)
	w.source.Silence(false)
	w.source.Gap() // all are compared
	_, err = next(t, superseded)
	require.ErrorIs(t, err, delivery.ErrSuperseded)
	require.Eventually(t, func() bool { return w.Stats().Failures >= failed+2 }, patience, time.Millisecond, "its version and its session")
	v := w.source.Commit(good, `[2]`)
	require.Equal(t, v, event(t, followed).Version)
	doc, _, err := w.Poll(t.Context(), good, uuid.Nil, assignment.Version{})
	require.NoError(t, err)
	require.Equal(t, v, doc.Version)
	for _, known := range []assignment.Version{{}, v} {
		_, _, err = w.Poll(t.Context(), bad, uuid.Nil, known)
		require.ErrorIs(t, err, delivery.ErrNotReady)
	}

	w.source.Damage(bad, nil)
	v = w.source.Commit(bad, `[2]`)
	require.Equal(t, v, event(t, kept).Version, "it is mended")

	w.source.Damage(bad, errors.New("WRONGTYPE"))
	came := w.subscribe(t, bad, uuid.New(), assignment.Version{})
	_, err = next(t, came)
	require.ErrorIs(t, err, delivery.ErrNotReady)
}
