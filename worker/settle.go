package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// settleAtOnce is how many hosts are asked after at a time.
const settleAtOnce = 256

// settle waits until hosts that were just marked are reconciled, so that what is noted afterwards is true of their
// documents. It loses patience in the end: a host that cannot be reconciled must not hold up the others. Each host is asked
// after at least once, and how many still wait then is logged.
//
// A host that is done stays done, so some are waited for, and the next are asked after as these get done: to ask after all
// again and again would cost the more the more there are, and the longer they take.
func (w *Worker) settle(ctx context.Context, hosts []uuid.UUID) error {
	begun := time.Now()
	marked, err := w.Store.Marked(ctx, hosts...)
	if err != nil {
		return fmt.Errorf("wait for hosts: %w", err)
	}
	shortest, longest := 2*time.Millisecond, 100*time.Millisecond
	if len(hosts) > settleAtOnce { // it takes long in any case, and whoever asks takes from it
		shortest = 20 * time.Millisecond
	}
	var some []uuid.UUID // that are waited for
	late := 0
	for rest, pause := hosts, shortest; len(some)+len(rest) > 0; {
		n := min(settleAtOnce-len(some), len(rest))
		asked := append(some, rest[:n]...)
		rest = rest[n:]
		if some, err = w.Store.Waiting(ctx, marked, asked...); err != nil {
			return fmt.Errorf("wait for hosts: %w", err)
		}
		switch {
		case time.Since(begun) >= w.patience:
			late += len(some)
			some = nil
		case len(some) <= settleAtOnce/2 && len(rest) > 0:
			pause = shortest
		case len(some) > 0:
			if !sleep(ctx, pause) {
				return ctx.Err()
			}
			pause = min(2*pause, longest)
		}
	}
	if late > 0 {
		w.log.WarnContext(ctx, "hosts are not reconciled in time", "hosts", late, "of", len(hosts))
	}
	return nil
}
