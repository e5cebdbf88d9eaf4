package delivery_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

// A part of the source that does not answer holds up nobody whose host another part has, whatever he waits for.
func TestAPartThatDoesNotAnswerHoldsUpItsOwnHostsOnly(t *testing.T) {
	source := deliverytest.New()
	source.Split(8)
	w := start(t, source)
	in := func(part byte) (host uuid.UUID) {
		host = uuid.New()
		host[15] = part
		source.Commit(host, `[1]`)
		return host
	}
	ill, well, session := in(1), in(5), uuid.New()
	event(t, w.subscribe(t, ill, uuid.New(), assignment.Version{}))
	s := w.subscribe(t, well, session, assignment.Version{})
	event(t, s)

	release := source.Stick(1)
	defer release()
	for range 300 { // more than one batch, in every queue
		go func() { _, _ = w.Current(t.Context(), ill) }()
		go func() { _, _ = w.Report(t.Context(), delivery.Report{Host: ill, Session: uuid.New()}) }()
	}
	go func() { _, _ = w.Subscribe(t.Context(), ill, uuid.New(), assignment.Version{}) }()
	source.Commit(ill, `[2]`)
	source.Gap()
	v := source.Commit(well, `[2]`)
	require.Equal(t, v, event(t, s).Version)
	doc, err := w.Current(t.Context(), well)
	require.NoError(t, err)
	require.Equal(t, v, doc.Version)
	r, err := w.Report(t.Context(), delivery.Report{Host: well, Session: session})
	require.NoError(t, err)
	require.True(t, r.Accepted)
	_, err = source.BeginSession(t.Context(), well, uuid.New(), 0)
	require.NoError(t, err)
	_, err = next(t, s)
	require.ErrorIs(t, err, delivery.ErrSuperseded)
}
