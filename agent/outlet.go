package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/agent/session"
	"iapi/assignment"
	"iapi/measure"
)

// outlet sends one instrumentation's points to its targets. A target that fails to open, or does not take data, never
// holds up the others or the collecting.
type outlet struct {
	run *run

	mu     sync.Mutex
	queues []outQueue
	sent   bool // something was handed over
	had    bool // a target that is gone has taken data
}

type outQueue struct {
	key   string // of the target, by content
	queue Queue  // nil: it could not be opened
	err   error
}

func newOutlet(r *run) *outlet { return &outlet{run: r} }

// retarget opens the targets that are new and closes those that are gone.
func (o *outlet) retarget(wanted []assignment.Target) {
	o.mu.Lock()
	old := o.queues
	o.mu.Unlock()

	next := make([]outQueue, 0, len(wanted))
	for _, t := range wanted {
		key := targetKey(t)
		if i := slices.IndexFunc(old, func(q outQueue) bool { return q.key == key }); i >= 0 {
			next = append(next, old[i])
			old = slices.Delete(slices.Clone(old), i, i+1)
			continue
		}
		q, err := o.run.sup.opts.OpenTarget(o.run.item.ID, measureTarget(t))
		if err != nil {
			o.run.log.Warn("a target cannot be used", "error", err)
			q = nil
		}
		next = append(next, outQueue{key: key, queue: q, err: err})
	}

	o.mu.Lock()
	o.queues = next
	o.mu.Unlock()
	o.drop(old)
}

func (o *outlet) send(points []measure.Point) {
	if len(points) == 0 {
		return
	}
	o.mu.Lock()
	queues := o.queues
	o.sent = true
	o.mu.Unlock()
	for _, q := range queues {
		if q.queue != nil {
			q.queue.Enqueue(points)
		}
	}
}

// delivered reports whether a target has taken data, or there was none to take.
func (o *outlet) delivered() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.sent || o.had {
		return true
	}
	for _, q := range o.queues {
		if q.queue != nil && q.queue.Stats().Sent > 0 {
			o.had = true
			return true
		}
	}
	return false
}

// why says why nothing was delivered.
func (o *outlet) why() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, q := range o.queues {
		if q.err != nil {
			return "the target cannot be used: " + q.err.Error()
		}
		if text := q.queue.Stats().LastError; text != "" {
			return "no target has taken data yet: " + text
		}
	}
	return "no target has taken data yet"
}

// trouble is what operators should know though data are taken, "" for nothing: a target of several that cannot be used, one
// that was well and is not any more, and what keeps points from surviving a restart or an outage.
func (o *outlet) trouble() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []string
	for i, q := range o.queues {
		if q.queue == nil {
			all = append(all, fmt.Sprintf("target %d cannot be used: %v", i, q.err))
			continue
		}
		s := q.queue.Stats()
		if !s.Connected && s.LastError != "" {
			all = append(all, fmt.Sprintf("target %d does not take data: %s", i, s.LastError))
		}
		if s.SpoolError != "" && !slices.Contains(all, s.SpoolError) {
			all = append(all, s.SpoolError)
		}
	}
	return sentences(all...)
}

func (o *outlet) health() []session.TargetStatus {
	o.mu.Lock()
	queues := o.queues
	o.mu.Unlock()
	all := make([]session.TargetStatus, 0, len(queues))
	for i, q := range queues {
		s := session.TargetStatus{Instrumentation: o.run.item.ID, Target: i}
		if q.queue == nil {
			s.LastError = q.err.Error()
		} else {
			st := q.queue.Stats()
			s.Connected, s.Queued, s.Dropped, s.LastError = st.Connected, st.Queued, st.Dropped, st.LastError
			if !st.LastSuccess.IsZero() {
				at := st.LastSuccess.UTC()
				s.LastSuccessAt = &at
			}
		}
		s.LastError = clip(s.LastError)
		all = append(all, s)
	}
	return all
}

func (o *outlet) close() {
	o.mu.Lock()
	old := o.queues
	o.queues = nil
	o.mu.Unlock()
	o.drop(old)
}

// drop closes queues together, each within flushFor.
func (o *outlet) drop(queues []outQueue) {
	ctx, cancel := context.WithTimeout(context.Background(), flushFor)
	defer cancel()
	var wg sync.WaitGroup
	for _, q := range queues {
		if q.queue == nil {
			continue
		}
		wg.Go(func() {
			if err := q.queue.Close(ctx); err != nil {
				o.run.log.Info("a target did not take all that was left", "error", err)
			}
		})
	}
	wg.Wait()
}

func targetKey(t assignment.Target) string {
	key, err := json.Marshal(t)
	if err != nil { // cannot happen: strings and maps of strings
		return t.Kind + t.Address
	}
	return string(key)
}

func measureTarget(t assignment.Target) measure.Target {
	m := measure.Target{Kind: measure.TargetKind(t.Kind), Address: t.Address, Headers: t.Headers}
	if t.Prefix != nil {
		m.Prefix = *t.Prefix
	}
	if t.Transport != nil {
		m.Transport = measure.Transport(*t.Transport)
	}
	return m
}

func sameTargets(a, b []assignment.Target) bool {
	return slices.EqualFunc(a, b, func(x, y assignment.Target) bool { return targetKey(x) == targetKey(y) })
}

func sameVMs(a, b []assignment.VM) bool {
	return slices.EqualFunc(a, b, func(x, y assignment.VM) bool {
		return x.UUID == y.UUID && (x.Owner == nil) == (y.Owner == nil) && (x.Owner == nil || *x.Owner == *y.Owner)
	})
}

func equalZones(a, b []uuid.UUID) bool { return slices.Equal(a, b) }

// flushFor bounds how long a target may take to accept what is left when its instrumentation ends.
const flushFor = time.Second
