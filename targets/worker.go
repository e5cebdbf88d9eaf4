package targets

import (
	"context"
	"errors"
	"slices"
	"time"

	"iapi/measure"
)

// worker is what only the queue's goroutine touches.
type worker struct {
	id       string // of this life of the queue, in keys
	keys     int64
	current  *batch
	prepared map[string][]item // by key, of batches that went to the spool half-way, for wires with a memory
	spool    *spool            // nil: none, or another queue still has it
	spoolAt  time.Time         // when to try to get it again
	fromDisk bool              // the last batch was from the spool: it is the ring's turn

	failingSince time.Time // zero: not failing
	failures     int       // in a row
	refusals     int       // in a row
	notBefore    time.Time
	toldDown     bool      // that the target does not take data was the last thing told
	downSince    time.Time // when that began
	lastFailure  time.Time
	complained   bool // about the disk, and it has not been settled
}

func (q *Queue) run() {
	defer close(q.done)
	defer q.wire.close()
	defer q.cancel()
	for !q.isClosing() {
		q.claimSpool()
		q.spill()
		if wait := q.notBefore.Sub(q.clock.Now()); wait > 0 {
			q.sleep(q.untilChore(wait))
			continue
		}
		if q.current == nil {
			q.current = q.next()
		}
		if q.current == nil {
			q.sleep(q.untilChore(0))
			continue
		}
		q.attempt()
	}
	q.flush()
}

// untilChore shortens a wait, of which 0 has no limit, so that the spool is claimed, filled and synced in time.
func (q *Queue) untilChore(wait time.Duration) time.Duration {
	spools := q.opts.Dir != "" && takesLate(q.target.Kind)
	if !spools || q.spool != nil && !q.spool.unsynced && q.failingSince.IsZero() {
		return wait
	}
	if wait > 0 {
		return min(wait, fsyncEvery)
	}
	return fsyncEvery
}

// claimSpool opens the spool as soon as no other queue has it: one that is closing may still write what it has left.
func (q *Queue) claimSpool() {
	now := q.clock.Now()
	if q.spool != nil || q.opts.Dir == "" || !takesLate(q.target.Kind) || now.Before(q.spoolAt) {
		return
	}
	q.spoolAt = now.Add(time.Second)
	s, err := openSpool(spoolDir(q.opts.Dir, q.opts.Name, q.target), spoolLimits{
		bytes: q.opts.SpoolBytes, age: q.opts.SpoolAge, free: q.opts.SpoolFree, segment: q.opts.segmentBytes,
		freeFraction: q.opts.free, now: q.clock.Now, lost: q.spoolLost,
	})
	if errors.Is(err, errInUse) {
		return
	}
	if err != nil {
		q.complain("the spool cannot be opened", err)
		return
	}
	q.spool, q.complained = s, false
	q.mu.Lock()
	q.stats.SpoolError = ""
	q.stats.Enqueued += s.points
	q.stats.Spooled += s.points
	q.mu.Unlock()
	if s.cut > 0 {
		q.log.Warn("the end of the spool was damaged and has been cut off", "bytes", s.cut)
	}
}

// spoolLost is called when the spool gives records up.
func (q *Queue) spoolLost(reason string, n int64, points []measure.Point) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stats.Spooled -= n
	q.dropLocked(reason, points...)
	q.countDropLocked(reason, n-int64(len(points)))
}

// complain tells of trouble with the disk, and logs it once, until it is settled.
func (q *Queue) complain(what string, err error) {
	if !q.complained {
		q.log.Error(what, "error", err)
	}
	q.complained = true
	q.mu.Lock()
	q.stats.SpoolError = what + ": " + err.Error()
	q.mu.Unlock()
}

// spill moves points from memory to disk when the target is down for long, the ring fills, or older points are on disk
// already and the order matters.
func (q *Queue) spill() {
	if q.spool == nil {
		return
	}
	down := !q.failingSince.IsZero() && q.clock.Now().Sub(q.failingSince) >= q.opts.SpoolAfter
	if down && !q.park() {
		return
	}
	for {
		q.mu.Lock()
		full := q.ring.n > q.opts.RingPoints/2 || q.ring.bytes > q.opts.RingBytes/2
		queued := inOrder(q.target.Kind) && (!q.spool.empty() || q.current != nil && q.current.taken)
		if q.ring.n == 0 || !down && !full && !queued {
			q.mu.Unlock()
			break
		}
		points := q.ring.popBatch(q.opts.BatchSize, maxBatchBytes)
		q.inflight += int64(len(points))
		q.mu.Unlock()
		if inOrder(q.target.Kind) && !q.park() || !q.toSpool(q.nextKey(), points) {
			q.mu.Lock()
			for _, p := range slices.Backward(points) {
				q.ring.pushFront(p)
			}
			q.inflight -= int64(len(points))
			q.mu.Unlock()
			break
		}
	}
	if err := q.spool.syncIfDue(); err != nil {
		q.complain("the spool cannot be synced", err)
	}
}

// park puts the batch from memory into the spool. Where the order matters its items are kept as they are prepared, for
// the wire has them in its sums already.
func (q *Queue) park() bool {
	if q.current == nil || q.current.taken {
		return true
	}
	for len(q.current.parts) > 0 {
		p := q.current.parts[0]
		points := pointsOf(p.items)
		q.remember(p.items)
		if len(points) > 0 {
			if !q.toSpool(p.key, points) {
				return false
			}
			if inOrder(q.target.Kind) {
				q.prepared[p.key] = p.items
			}
		}
		q.current.parts = q.current.parts[1:]
	}
	q.current = nil
	return true
}

// remember takes back the news of lost points, which are told with a later batch.
func (q *Queue) remember(items []item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range items {
		if it.news != nil {
			q.loseLocked(*it.news)
		}
	}
}

// toSpool writes points that are in flight.
func (q *Queue) toSpool(key string, points []measure.Point) bool {
	if err := q.spool.append(key, points); err != nil {
		q.complain("the spool takes no more; the oldest points in memory make room", err)
		return false
	}
	q.complained = false
	n := int64(len(points))
	q.mu.Lock()
	q.stats.SpoolError = ""
	q.inflight -= n
	q.stats.Spooled += n
	q.mu.Unlock()
	return true
}

// next chooses what to send: where the order does not matter live points come first, and the spool gets every other
// batch; where it does, the oldest.
func (q *Queue) next() *batch {
	if q.spool != nil && !q.spool.empty() {
		q.mu.Lock()
		live := q.ring.n > 0
		q.mu.Unlock()
		if !live || inOrder(q.target.Kind) || !q.fromDisk {
			if b := q.nextFromSpool(); b != nil {
				q.fromDisk = true
				return b
			}
		}
	}
	q.fromDisk = false
	q.mu.Lock()
	points := q.ring.popBatch(q.opts.BatchSize, maxBatchBytes)
	q.inflight += int64(len(points))
	var lost map[string]*lostPoints
	if len(q.lost) > 0 {
		lost, q.lost = q.lost, map[string]*lostPoints{}
	}
	q.mu.Unlock()
	var items []item
	for _, g := range lost {
		if it, ok := q.wire.gap(*g); ok {
			it.news = g
			items = append(items, it)
		}
	}
	if prepared := q.prepareAll(points); len(items) == 0 {
		items = prepared
	} else {
		items = append(items, prepared...)
	}
	return batchOf(q.nextKey(), items)
}

func (q *Queue) nextFromSpool() *batch {
	key, points, ok := q.spool.take()
	if !ok {
		clear(q.prepared)
		return nil
	}
	q.mu.Lock()
	q.stats.Spooled -= int64(len(points))
	q.inflight += int64(len(points))
	q.mu.Unlock()
	items, ok := q.prepared[key]
	if !ok {
		items = q.prepareAll(points)
	}
	delete(q.prepared, key)
	if b := batchOf(key, items); b != nil {
		b.taken = true
		return b
	}
	q.acknowledge()
	return nil
}

// prepareAll renders points that are in flight; what has no rendering is dropped.
func (q *Queue) prepareAll(points []measure.Point) []item {
	items := make([]item, 0, len(points))
	for _, p := range points {
		it, err := q.wire.prepare(p)
		if err != nil {
			q.dropInflight(ReasonInvalid, p)
			continue
		}
		it.point = p
		items = append(items, it)
	}
	return items
}

// attempt sends the first part once and deals with what becomes of it.
func (q *Queue) attempt() {
	p := &q.current.parts[0]
	if !takesLate(q.target.Kind) {
		q.dropLate(p)
	}
	if len(p.items) == 0 {
		q.partDone()
		return
	}
	ctx, cancel := context.WithTimeout(q.ctx, maxSendTime)
	r, err := q.wire.send(ctx, p.key, p.items)
	cancel()
	if err == nil {
		r.done = len(p.items)
	}
	q.dealtWith(p, r)
	if err == nil {
		q.succeeded()
		q.partDone()
		return
	}
	f, known := errors.AsType[*failure](err)
	if !known || f.kind != refused {
		q.failed(err)
		return
	}
	q.refuse(f.text)
	if q.refusals > refusalsInARow {
		q.failed(&failure{text: f.text})
	}
}

// dealtWith takes the first items of a part away.
func (q *Queue) dealtWith(p *part, r result) {
	if r.done == 0 {
		return
	}
	points := countPoints(p.items[:r.done])
	gone := min(int64(r.refused), points)
	p.items = p.items[r.done:]
	q.current.begun = true
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inflight -= points
	q.stats.Sent += points - gone
	q.countDropLocked(ReasonRefused, gone)
	if gone > 0 || r.note != "" {
		q.stats.LastRefusal = q.secrets.scrub(r.note)
	}
}

// refuse halves a part that the target will not take, down to the one point that is to blame, which is dropped. The
// halves' keys follow from the part's, so that they are the same in another life.
func (q *Queue) refuse(text string) {
	q.refusals++
	q.current.begun = true
	p := q.current.parts[0]
	if n := len(p.items); n > 1 {
		halves := []part{{key: p.key + "/0", items: p.items[:n/2]}, {key: p.key + "/1", items: p.items[n/2:]}}
		q.current.parts = append(halves, q.current.parts[1:]...)
		return
	}
	text = q.secrets.scrub(text)
	if p.items[0].news == nil {
		q.mu.Lock()
		q.inflight--
		q.countDropLocked(ReasonRefused, 1)
		q.stats.LastRefusal = text
		q.mu.Unlock()
	}
	q.log.Warn("the target refused a point, which is dropped", "reason", text)
	q.partDone()
}

// dropLate drops what is too old for a protocol that would take it for new.
func (q *Queue) dropLate(p *part) {
	now := q.clock.Now()
	p.items = slices.DeleteFunc(p.items, func(it item) bool {
		late := now.Sub(it.point.Start.Add(it.point.Interval)) > max(statsdLate, it.point.Interval)
		if late {
			q.dropInflight(ReasonOld, it.point)
		}
		return late
	})
}

func (q *Queue) partDone() {
	q.current.parts = q.current.parts[1:]
	if len(q.current.parts) > 0 {
		return
	}
	if q.current.taken {
		q.acknowledge()
	}
	q.current = nil
}

func (q *Queue) acknowledge() {
	if err := q.spool.ack(); err != nil {
		q.complain("the spool's position cannot be written", err)
	}
}

// flush is the end: what is in memory is sent while the target takes it, and the rest goes to disk.
func (q *Queue) flush() {
	q.spoolAt = time.Time{} // there is no later
	q.claimSpool()
	q.failingSince = time.Time{} // one more try, whatever was
	for q.ctx.Err() == nil && q.failingSince.IsZero() {
		if q.current == nil && (q.spool == nil || q.spool.empty() || !inOrder(q.target.Kind)) {
			q.mu.Lock()
			empty := q.ring.n == 0
			q.mu.Unlock()
			if empty {
				break
			}
			q.fromDisk = true // the ring's turn: the spool can wait for another life
			q.current = q.next()
		}
		if q.current == nil {
			break
		}
		q.attempt()
	}
	if q.spool != nil {
		q.keep()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := int64(q.ring.n) + q.inflight
	q.ring, q.inflight = ring{}, 0
	q.countDropLocked(ReasonClosed, n)
}

// keep brings everything in memory to disk and closes the spool.
func (q *Queue) keep() {
	switch c := q.current; {
	case c == nil:
	case c.taken && !c.begun && q.spool.untake():
		n := countPoints(c.items())
		q.mu.Lock()
		q.inflight -= n
		q.stats.Spooled += n
		q.mu.Unlock()
	case c.taken:
		c.taken = false
		if q.park() {
			q.acknowledge()
		}
	default:
		q.park()
	}
	for {
		q.mu.Lock()
		points := q.ring.popBatch(q.opts.BatchSize, maxBatchBytes)
		q.inflight += int64(len(points))
		q.mu.Unlock()
		if len(points) == 0 || !q.toSpool(q.nextKey(), points) {
			break
		}
	}
	if err := q.spool.close(); err != nil {
		q.complain("the spool cannot be closed", err)
	}
}
