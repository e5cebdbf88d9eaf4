package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"iapi/agent/session"
	"iapi/assignment"
)

// supervisor makes what runs equal to the newest assignment. Its state belongs to the goroutine of run; receive and resume only
// leave the newest document where run finds it.
type supervisor struct {
	opts     Options
	log      *slog.Logger
	disk     disk
	trust    *trust
	reporter *reporter
	expiry   *expiry
	parsed   parsed
	fetching turns // of definitions, by digest

	mu     sync.Mutex
	latest *plan
	wake   chan struct{} // capacity 1

	unsaved *plan       // that could not be saved, nil for none
	retry   *time.Timer // when to try again

	running  map[string]*run
	stopping map[*run]struct{}
	ended    chan *run
}

// plan is an assignment whose times to live have been turned into deadlines by this host's own clock.
type plan struct {
	version   assignment.Version
	items     []assignment.Item
	deadlines map[string]time.Duration // since boot; absent: unlimited
	fresh     bool                     // received now rather than read from disk
}

func newSupervisor(o Options, d disk, t *trust, r *reporter) *supervisor {
	return &supervisor{
		opts: o, log: o.Logger, disk: d, trust: t, reporter: r,
		expiry:  newExpiry(o.SinceBoot),
		wake:    make(chan struct{}, 1),
		running: make(map[string]*run), stopping: make(map[*run]struct{}),
		ended: make(chan *run),
	}
}

// receive takes a newer assignment. What is left to live is counted from here on by the time since boot: the server's two
// clock readings are only ever compared with each other.
func (s *supervisor) receive(a session.Assignment) {
	now := s.opts.SinceBoot()
	p := &plan{version: a.Version, items: a.Instrumentations, deadlines: make(map[string]time.Duration), fresh: true}
	for _, item := range a.Instrumentations {
		if item.ExpiresAt != nil {
			p.deadlines[item.ID] = now + item.ExpiresAt.Sub(a.SentAt)
		}
	}
	s.put(p)
}

// noLaterThan keeps the deadlines of those times to live that have not been changed since an earlier plan: a server's clock
// that was set back between the two would prolong them, or begin them again.
func (p *plan) noLaterThan(before *plan) {
	if before == nil {
		return
	}
	expiries := make(map[string]time.Time, len(before.deadlines))
	for _, item := range before.items {
		if item.ExpiresAt != nil {
			expiries[item.ID] = *item.ExpiresAt
		}
	}
	for _, item := range p.items {
		was, limited := before.deadlines[item.ID]
		if limited && item.ExpiresAt != nil && item.ExpiresAt.Equal(expiries[item.ID]) {
			p.deadlines[item.ID] = min(p.deadlines[item.ID], was)
		}
	}
}

// resume starts from what was saved. After a reboot nothing that has a time to live is resumed, for nobody knows how much of it
// has passed; the API has to be asked for it again, which whole tells.
func (s *supervisor) resume(last saved) (whole bool) {
	whole = true
	p := &plan{version: last.Version, deadlines: make(map[string]time.Duration)}
	for _, item := range last.Items {
		if item.ExpiresAt != nil {
			deadline, ok := last.Deadlines[item.ID]
			if !ok || last.Boot != bootID() {
				whole = false
				continue
			}
			p.deadlines[item.ID] = deadline
		}
		p.items = append(p.items, item)
	}
	s.put(p)
	return whole
}

func (s *supervisor) put(p *plan) {
	s.mu.Lock()
	s.latest = p
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *supervisor) take() *plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.latest
	s.latest = nil
	return p
}

// run applies plans until ctx ends, then ends all that runs. A plan counts as applied, and so acknowledges what it no longer
// has, only when everything that it ended has really ended.
func (s *supervisor) run(ctx context.Context) error {
	s.retry = time.NewTimer(0)
	defer s.retry.Stop()
	var current *plan
	for {
		select {
		case <-ctx.Done():
			for _, r := range s.running {
				s.stop(r)
			}
			for len(s.stopping) > 0 {
				delete(s.stopping, <-s.ended)
			}
			return ctx.Err()
		case r := <-s.ended:
			s.expiry.forget(r)
			delete(s.stopping, r)
			if s.running[r.item.ID] == r { // its time to live has passed
				delete(s.running, r.item.ID)
				s.reporter.forget(r.item.ID)
				s.reporter.signal()
				s.revive(ctx, current, r.item.ID)
			}
		case <-s.retry.C:
			if s.unsaved != nil {
				s.save(s.unsaved)
			}
		case <-s.wake:
			if p := s.take(); p != nil {
				p.noLaterThan(current)
				s.apply(ctx, p)
				current = p
			}
		}
		if current != nil && len(s.stopping) == 0 {
			s.reporter.setApplied(current.version)
		}
	}
}

// saveAgain is how long after it failed the assignment is saved again.
const saveAgain = 5 * time.Second

// save keeps the plan for the next life of the agent. While that does not succeed operators are told, and it is tried again.
func (s *supervisor) save(p *plan) {
	err := s.disk.save(saved{Version: p.version, Items: p.items, Boot: bootID(), Deadlines: p.deadlines, SavedAt: time.Now().UTC()})
	if err == nil {
		s.unsaved = nil
		s.reporter.setTrouble("")
		return
	}
	const meaning = "the assignment could not be saved; a restart without the API would measure nothing, or what was measured before"
	if s.unsaved == nil {
		s.log.Error(meaning, "error", err)
	}
	s.unsaved = p
	s.retry.Reset(saveAgain)
	s.reporter.setTrouble(meaning + ": " + err.Error())
}

func (s *supervisor) apply(ctx context.Context, p *plan) {
	if p.fresh {
		s.save(p)
	}
	wanted := make(map[string]assignment.Item, len(p.items))
	for _, item := range p.items {
		wanted[item.ID] = item
	}
	for id, r := range s.running {
		item, ok := wanted[id]
		if ok && wishOf(item) == r.wish {
			continue
		}
		s.stop(r)
		delete(s.running, id)
		if !ok {
			s.reporter.forget(id)
		}
	}
	started, changed := 0, 0
	for _, item := range p.items {
		deadline, limited := p.deadlines[item.ID]
		if r, ok := s.running[item.ID]; ok {
			if r.update(item, deadline, limited) {
				changed++
			}
			continue
		}
		if limited && s.opts.SinceBoot() >= deadline {
			continue
		}
		s.running[item.ID] = s.start(ctx, item, deadline, limited)
		started++
	}
	s.log.Info("took the assignment", "generation", p.version.Generation, "instrumentations", len(p.items),
		"started", started, "changed", changed, "ending", len(s.stopping))
}

func (s *supervisor) start(ctx context.Context, item assignment.Item, deadline time.Duration, limited bool) *run {
	ctx, cancel := context.WithCancel(ctx)
	r := newRun(s, item, deadline, limited, cancel)
	s.reporter.own(r)
	s.reporter.set(r, r.pending("starting"))
	s.expiry.set(r, deadline, limited)
	go func() {
		defer cancel()
		r.loop(ctx)
		s.ended <- r
	}()
	return r
}

// revive starts what was prolonged in the very moment in which its time to live passed.
func (s *supervisor) revive(ctx context.Context, p *plan, id string) {
	if p == nil || ctx.Err() != nil {
		return
	}
	for _, item := range p.items {
		if deadline, limited := p.deadlines[id]; item.ID == id && (!limited || deadline > s.opts.SinceBoot()) {
			s.running[id] = s.start(ctx, item, deadline, limited)
		}
	}
}

// stop has a run end; it tells on s.ended when it has.
func (s *supervisor) stop(r *run) {
	s.stopping[r] = struct{}{}
	r.cancel()
}
