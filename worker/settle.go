package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// settle waits until hosts that were just marked are reconciled, so that what is noted afterwards is true of their
// documents. It loses patience in the end: a host that cannot be reconciled must not hold up the others.
func (w *Worker) settle(ctx context.Context, hosts []uuid.UUID) error {
	begun := time.Now()
	marked, err := w.Store.Now(ctx)
	for pause := 2 * time.Millisecond; err == nil && time.Since(begun) < w.patience; pause = min(2*pause, 100*time.Millisecond) {
		if hosts, err = w.Store.Waiting(ctx, marked, hosts...); err != nil || len(hosts) == 0 {
			break
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("wait for hosts: %w", err)
	}
	return nil
}
