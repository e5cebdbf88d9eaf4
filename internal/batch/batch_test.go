package batch_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/internal/batch"
)

// calls is what is asked, each call taking a second.
type calls struct {
	mu   sync.Mutex
	made [][]int
	err  error
}

func (c *calls) double(ctx context.Context, in []int) ([]int, error) {
	c.mu.Lock()
	c.made = append(c.made, in)
	err := c.err
	c.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out := make([]int, len(in))
	for i, n := range in {
		out[i] = 2 * n
	}
	return out, err
}

func TestWhatIsAskedWhileACallIsUnderWayLeavesTogetherAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		b := batch.New(3, 1, time.Minute, c.double)
		var all sync.WaitGroup
		for n := range 6 {
			all.Go(func() {
				got, err := b.Do(t.Context(), n)
				require.NoError(t, err)
				require.Equal(t, 2*n, got)
			})
			synctest.Wait()
		}
		all.Wait()
		require.Equal(t, [][]int{{0}, {1, 2, 3}, {4, 5}}, c.made)
	})
}

func TestWhoGivesUpSpoilsNoOthersCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calls
		b := batch.New(10, 1, time.Minute, c.double)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			_, err := b.Do(ctx, 1) // which leads
			require.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		all.Go(func() {
			got, err := b.Do(t.Context(), 2)
			require.NoError(t, err)
			require.Equal(t, 4, got)
		})
		all.Go(func() {
			_, err := b.Do(ctx, 3)
			require.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		cancel()
		all.Wait()
		require.Equal(t, [][]int{{1}, {2}}, c.made, "what nobody waits for any more is not asked")
	})
}

func TestAnErrorAndADeadlineAreToldToAllAndTheNextCallIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		c := calls{err: failed}
		b := batch.New(10, 1, time.Minute, c.double)
		_, err := b.Do(t.Context(), 1)
		require.ErrorIs(t, err, failed)
		c.err = nil
		got, err := b.Do(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 2, got)

		b = batch.New(10, 1, time.Millisecond, c.double)
		_, err = b.Do(t.Context(), 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		b = batch.New(10, 1, time.Minute, func(context.Context, []int) ([]int, error) { return nil, nil })
		_, err = b.Do(t.Context(), 1)
		require.ErrorContains(t, err, "0 answers to 1 questions")
	})
}
