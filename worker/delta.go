package worker

import (
	"context"
	"fmt"
	"time"

	"iapi/inventory"
)

// deltaOverlap is by how much the windows of two questions overlap: more than the clocks of VMAPI and of this process may
// differ, and longer than a record may take from its time stamp to the data base. What is told twice changes nothing.
const deltaOverlap = time.Minute

// deltaLoop asks VMAPI again and again which of its records have changed, until ctx ends. It finds within DeltaEvery what
// the changefeed did not tell, all but VMs that VMAPI has forgotten. What was before it began is for the sweep that the
// holder of the schedule begins with.
func (w *Worker) deltaLoop(ctx context.Context) {
	since := w.Clock().Add(-deltaOverlap)
	for sleep(ctx, w.DeltaEvery) {
		asked := w.Clock()
		if err := w.delta(ctx, since); err != nil {
			w.failed(ctx, "ask what has changed", err, "since", since)
			continue // the window grows until it has been read whole
		}
		since = asked.Add(-deltaOverlap)
		w.metrics.deltaSucceeded.Set(float64(asked.Unix()))
	}
}

// delta takes over what VMAPI's records say that were written since.
func (w *Worker) delta(ctx context.Context, since time.Time) error {
	return w.timed(ctx, func(asOf time.Time, page []inventory.VM) error {
		changed, err := w.putVMs(ctx, asOf, page)
		if err != nil {
			return fmt.Errorf("put VMs: %w", err)
		}
		w.metrics.deltaVMs.Add(float64(len(page)))
		w.metrics.deltaHosts.Add(float64(len(changed)))
		return nil
	}, func(fn func([]inventory.VM) error) error { return w.VMAPI.ChangedSince(ctx, since, fn) })
}
