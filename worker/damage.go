package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
	"iapi/store"
)

const (
	// tellEvery is how often a host is told of that is damaged: it is stumbled over again and again until it is mended.
	tellEvery = time.Minute
	// manyTold is of how many hosts it is remembered when they were told of. At the bound all are forgotten.
	manyTold = 1 << 12
)

// damage remembers which hosts were told of. The zero damage is ready.
type damage struct {
	mu   sync.Mutex
	told map[uuid.UUID]time.Time
}

// due reports whether a host is to be told of now.
func (d *damage) due(host uuid.UUID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if last, ok := d.told[host]; ok && now.Sub(last) < tellEvery {
		return false
	}
	if d.told == nil || len(d.told) >= manyTold {
		d.told = make(map[uuid.UUID]time.Time)
	}
	d.told[host] = now
	return true
}

// damaged tells of hosts of which something kept is not valid, of each once a minute, and has the next sweep read them whole and
// write them anew. The others go on meanwhile, and these keep the documents that they have.
func (w *Worker) damaged(ctx context.Context, hosts store.Damage) {
	for host, err := range hosts {
		if !w.damage.due(host) {
			continue
		}
		w.failed(ctx, "use what is kept of a host", err, "host", host)
		w.failed(ctx, "have a host written anew", w.Store.Doubt(ctx, host), "host", host)
	}
}

// beside deals with the hosts that a write could not be made to, and returns every other error.
func (w *Worker) beside(ctx context.Context, err error) error {
	if hosts := (store.Damage)(nil); errors.As(err, &hosts) {
		w.damaged(ctx, hosts)
		return nil
	}
	return err
}

// putVMs is Store.PutVMs for the hosts that are not damaged.
func (w *Worker) putVMs(ctx context.Context, asOf time.Time, vms []inventory.VM) (changed []uuid.UUID, err error) {
	changed, err = w.Store.PutVMs(ctx, asOf, vms)
	return changed, w.beside(ctx, err)
}
