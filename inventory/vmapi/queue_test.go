package vmapi

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
)

func TestQueueMergesAndBounds(t *testing.T) {
	a, b, c := uuid.New(), uuid.New(), uuid.New()
	q := newQueue(2)
	seen := &inventory.VM{UUID: a}
	require.True(t, q.put(a, change{seen: seen}, 1))
	require.True(t, q.put(a, change{seen: seen}, 1), "a copy")
	require.True(t, q.put(b, change{}, 1))
	require.True(t, q.put(b, change{destroyed: true}, 2))
	require.False(t, q.put(c, change{}, 1), "full")
	id, ch, err := q.take(t.Context())
	require.NoError(t, err)
	require.Equal(t, a, id)
	require.Same(t, seen, ch.seen, "copies do not hide what was seen")
	id, ch, err = q.take(t.Context())
	require.NoError(t, err)
	require.Equal(t, b, id)
	require.Equal(t, change{destroyed: true}, ch)
	require.True(t, q.put(a, change{seen: seen}, 3), "a new message after an old one was taken")
	_, ch, err = q.take(t.Context())
	require.NoError(t, err)
	require.Same(t, seen, ch.seen)
}
