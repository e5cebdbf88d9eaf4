package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
)

// TestEverythingConvergesWhateverIsRepeatedReorderedOrKilled changes the cloud and the records at random, runs every
// task one to three times in random order on workers that are killed between any two calls of the store, loses one hint
// in ten, and requires after one last sweep that every document is what the inventory and the records come to.
func TestEverythingConvergesWhateverIsRepeatedReorderedOrKilled(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // most of it is waiting for leases to lapse
			b := newBench(t, seed, newFakeStore())
			b.share = 1 // so small a cloud changes by more than a guard lets pass
			b.chaos(60)
			w := b.worker(0)
			require.NoError(t, w.Sweep(context.Background()))
			b.settle(w)
			b.requireTrue()
			require.NoError(t, w.Sweep(context.Background()), "nothing is left for another sweep")
			b.settle(w)
			b.requireTrue()
		})
	}
}

// chaos does n random things, each one to three times and in random order, two at once.
func (b *bench) chaos(n int) {
	ctx := context.Background()
	var ids []instrumentation.ID
	var jobs []func(w *Worker) error
	for range n {
		switch b.r.IntN(10) {
		case 0, 1, 2:
			ids = append(ids, b.create(b.anyOwner(), b.randomScope()))
		case 3:
			if len(ids) > 0 {
				id := ids[b.r.IntN(len(ids))]
				b.update(id, b.randomUpdate())
				ids = append(ids, id)
			}
		case 4:
			jobs = append(jobs, func(w *Worker) error { return w.Sweep(ctx) })
		default:
			jobs = append(jobs, func(*Worker) error { b.disturb(); return nil })
		}
		if len(ids) > 0 {
			id := ids[len(ids)-1]
			jobs = append(jobs, func(w *Worker) error { return w.evaluate(ctx, id) })
		}
		jobs = append(jobs, func(w *Worker) error { return w.drain(ctx) }, func(w *Worker) error {
			return firstOf(w.requeue(ctx), w.expire(ctx), w.finishDeletes(ctx), w.rejudge(ctx))
		})
	}
	var all []func(w *Worker) error
	for _, j := range jobs {
		for range 1 + b.r.IntN(3) {
			all = append(all, j)
		}
	}
	b.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	lives := make([]int64, len(all)+2)
	for i := range lives {
		lives[i] = 1 + int64(b.r.IntN(60))
	}
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			w := b.worker(lives[half])
			for i := half; i < len(all); i += 2 {
				if err := all[i](w); err != nil {
					w = b.worker(lives[i+2]) // it is dead, and another takes its place
				}
			}
		})
	}
	wg.Wait()
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) anyOwner() uuid.UUID {
	if b.r.IntN(3) == 0 {
		return uuid.Nil
	}
	return ownerID(b.r.IntN(3))
}

func (b *bench) randomUpdate() func(*instrumentation.Instrumentation) {
	scope, kind := b.randomScope(), b.r.IntN(4)
	return func(rec *instrumentation.Instrumentation) {
		switch now := time.Now().UTC(); kind {
		case 0:
			rec.DeletedAt, rec.State = now, instrumentation.Deleting
		case 1:
			rec.PausedAt, rec.State = now, instrumentation.Paused
		case 2:
			rec.PausedAt = time.Time{}
		default:
			rec.Scope = scope
		}
	}
}

// disturb changes the cloud: a VM is retagged, moved, given away, destroyed or made, or a host's traits change. Nine hints
// in ten arrive. It is safe to call from many goroutines.
func (b *bench) disturb() {
	var vm inventory.VM
	var hint bool
	b.cloud.set(func() {
		if b.r.IntN(8) == 0 {
			h := b.randomHost(b.r.IntN(5))
			b.cloud.hosts[h.UUID] = h
			return
		}
		vm, hint = b.randomVM(b.r.IntN(20)), b.r.IntN(10) > 0
		if was, ok := b.cloud.vms[vm.UUID]; ok && b.r.IntN(2) == 0 {
			tags := vm.Tags
			vm = was // only retagged
			vm.Tags = tags
		}
		b.cloud.vms[vm.UUID] = vm
	})
	if hint {
		if err := b.store.MarkVMs(context.Background(), vm.UUID); err != nil {
			b.t.Error(err)
		}
	}
}

// drain does all that waits and that this worker can claim.
func (w *Worker) drain(ctx context.Context) error {
	for ctx.Err() == nil {
		sum := 0
		for _, work := range []func(context.Context) (int, error){w.lookUp, w.reconcile, w.judge} {
			n, err := work(ctx)
			if err != nil && !errors.Is(err, inventory.ErrUnavailable) { // what could not be asked for is claimed again later
				return err
			}
			sum += n
		}
		if sum == 0 {
			return nil
		}
	}
	return ctx.Err()
}
