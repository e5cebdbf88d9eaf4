package worker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// settleAtOnce is how many hosts are asked after at a time.
const settleAtOnce = 256

// settle waits until hosts that were just marked are reconciled, so that what is noted afterwards is true of their
// documents. It loses patience in the end: a host that cannot be reconciled must not hold up the others.
//
// A host that is done stays done, so some are waited for before the next are asked after: to ask after all again and again
// would cost the more the more there are, and the longer they take.
func (w *Worker) settle(ctx context.Context, hosts []uuid.UUID) error {
	begun := time.Now()
	marked, err := w.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("wait for hosts: %w", err)
	}
	for some := range slices.Chunk(hosts, settleAtOnce) {
		for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
			if some, err = w.Store.Waiting(ctx, marked, some...); err != nil {
				return fmt.Errorf("wait for hosts: %w", err)
			}
			if len(some) == 0 {
				break
			}
			if time.Since(begun) >= w.patience {
				return nil
			}
			if !sleep(ctx, pause) {
				return ctx.Err()
			}
		}
	}
	return nil
}
