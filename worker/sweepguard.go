package worker

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"iapi/instrumentation"
)

// The guards that a sweep puts up when the inventory has lost too much to be believed.
const (
	GuardVMs   = "sweep-vms"
	GuardHosts = "sweep-hosts"
)

// floor is how many VMs, hosts and placements, each, a sweep may remove whatever share that is: small clouds change by large
// shares.
const floor = 10

// count counts the placements on some hosts, and those of them that go.
type count func(ctx context.Context, hosts []uuid.UUID) (of, gone int, err error)

// loss is what a sweep would remove.
type loss struct {
	guard, what string      // the guard that it may meet; what has happened, with verbs for gone and of
	gone, of    int         // VMs or hosts, and all that are known
	empty       bool        // the inventory lists nothing at all, which is never believed unasked
	hosts       []uuid.UUID // whose documents lose placements
	known       []uuid.UUID // every host
	most        count       // what goes at most
	sure        count       // what really goes, where that is too much; nil: what goes at most does
	others      func() int  // VMs beside those gone of which sure has found that they lose placements; nil: none do
}

// tooMuch reports whether that is more than a sweep may remove unasked.
func (w *Worker) tooMuch(gone, of int) bool {
	return gone > floor && float64(gone) > w.GuardShare*float64(of)
}

// may decides whether so much may be removed: neither too many VMs or hosts, nor too many placements with them. A placement is
// one instrumentation of one VM, or of one host as a whole, that a document has now.
func (w *Worker) may(ctx context.Context, l loss) (bool, error) {
	refuse := l.gone > 0 && (l.empty || w.tooMuch(l.gone, l.of))
	places, placed, err := w.placesLost(ctx, l, refuse, l.most)
	if err == nil && l.sure != nil && (refuse || w.tooMuch(places, placed)) {
		places, placed, err = w.placesLost(ctx, l, refuse, l.sure)
	}
	if err != nil {
		return false, fmt.Errorf("count placements: %w", err)
	}
	if !refuse && !w.tooMuch(places, placed) {
		return true, w.Store.DropGuard(ctx, l.guard)
	}
	remove, reason := l.gone, fmt.Sprintf(l.what, l.gone, l.of)
	if others := l.others; others != nil && others() > 0 {
		remove += others()
		reason += fmt.Sprintf(" and %d others are not what they were, which takes %d of %d placements away", others(), places, placed)
	} else {
		reason += fmt.Sprintf(", which have %d of %d placements", places, placed)
	}
	confirmed, err := w.Store.PutGuard(ctx, instrumentation.Guard{ID: l.guard, Reason: reason, WouldRemove: remove})
	if err != nil {
		return false, fmt.Errorf("put up a guard: %w", err)
	}
	told := []any{"guard", l.guard, "removing", remove, "of", l.of, "placements", places, "of_placements", placed}
	if confirmed {
		w.log.WarnContext(ctx, "an operator has confirmed a guard", told...)
		return true, nil
	}
	w.log.ErrorContext(ctx, "a guard waits for an operator", told...)
	return false, nil
}

// placesLost counts the placements that go with a loss, and all that there are; unless whole is set, only until there are so
// many that it is not too much. So where little is lost few documents are looked at, and none where nothing is.
func (w *Worker) placesLost(ctx context.Context, l loss, whole bool, count count) (gone, of int, err error) {
	for batch := range slices.Chunk(l.hosts, manySwept) {
		all, some, err := count(ctx, batch)
		if err != nil {
			return 0, 0, err
		}
		gone, of = gone+some, of+all
	}
	counted := make(map[uuid.UUID]bool, len(l.hosts))
	for _, host := range l.hosts {
		counted[host] = true
	}
	for batch := range slices.Chunk(l.known, manySwept) {
		if !whole && !w.tooMuch(gone, of) {
			break
		}
		others := slices.DeleteFunc(slices.Clone(batch), func(host uuid.UUID) bool { return counted[host] })
		all, _, err := w.Store.Placements(ctx, nil, others...)
		if err != nil {
			return 0, 0, err
		}
		of += all
	}
	return gone, of, nil
}
