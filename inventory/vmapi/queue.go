package vmapi

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"iapi/inventory"
)

// change is what is known of a VM that waits to be looked at.
type change struct {
	seen      *inventory.VM
	destroyed bool
}

// queue holds the VMs that changed, each once, in the order of their first message.
type queue struct {
	most  int
	ready chan struct{} // holds a token when something may wait

	mu      sync.Mutex
	order   []uuid.UUID
	waiting map[uuid.UUID]change
	last    map[uuid.UUID]uint64 // hash of each VM's latest message; forgotten at the bound
}

func newQueue(most int) *queue {
	return &queue{most: most, ready: make(chan struct{}, 1), waiting: make(map[uuid.UUID]change), last: make(map[uuid.UUID]uint64)}
}

// put adds a message. VMAPI sends the same one several times: one equal to the VM's latest says nothing new. Different
// messages that wait together become one without an object, since their order is not known. put is false when the
// queue is full.
func (q *queue) put(id uuid.UUID, ch change, hash uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last, ok := q.last[id]; ok && last == hash {
		return true
	}
	if len(q.last) >= q.most {
		clear(q.last)
	}
	q.last[id] = hash
	if earlier, ok := q.waiting[id]; ok {
		q.waiting[id] = change{destroyed: earlier.destroyed || ch.destroyed}
		return true
	}
	if len(q.order) >= q.most {
		return false
	}
	q.waiting[id] = ch
	q.order = append(q.order, id)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

// take waits for a VM and removes it.
func (q *queue) take(ctx context.Context) (uuid.UUID, change, error) {
	for {
		if ctx.Err() != nil {
			return uuid.Nil, change{}, ctx.Err()
		}
		q.mu.Lock()
		if len(q.order) > 0 {
			id := q.order[0]
			q.order = q.order[1:]
			ch := q.waiting[id]
			delete(q.waiting, id)
			q.mu.Unlock()
			return id, ch, nil
		}
		q.order = nil
		q.mu.Unlock()
		select {
		case <-q.ready:
		case <-ctx.Done():
			return uuid.Nil, change{}, ctx.Err()
		}
	}
}
