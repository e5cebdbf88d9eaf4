package dtrace

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"iapi/collectors/collect"
	"iapi/collectors/dtrace/program"
)

// Defaults and intervals of the watch.
const (
	defaultBudget = 2.0 // percent of all CPUs together
	lookAgain     = time.Second
	maxDrift      = 5 * time.Millisecond // of the wall clock, before programs are told
)

// supervise keeps scopes and clocks of all programs up to date and ends those that cost too much.
func (e *Engine) supervise(ctx context.Context) {
	defer close(e.done)
	tick := time.NewTicker(min(lookAgain, e.opts.Window))
	defer tick.Stop()
	offset := wallOffset()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := wallOffset()
		stepped := (now - offset).Abs() > maxDrift
		if stepped {
			offset = now
		}
		e.mu.Lock()
		all := e.list()
		e.mu.Unlock()
		for _, r := range all {
			select {
			case <-r.ready:
				e.look(r, stepped)
			default: // it is starting
			}
		}
	}
}

func (e *Engine) look(r *running, stepped bool) {
	if r.failure() != nil {
		return
	}
	if err := r.pushScope(); err != nil && r.failure() == nil {
		// Without its scope a program could see what it must not.
		e.halt(r, collect.Errorf(collect.Failed, "keep the tracer to its zones: %w", err))
		return
	}
	if stepped && r.compiled.Language == program.Bpftrace {
		if err := r.maps.put(program.OffsetMap, uint64(max(0, wallOffset()))); err != nil && r.failure() == nil {
			e.log.Warn("a tracing program could not be told of the clock's step", "metric", r.metric(), "error", err)
		}
	}
	e.charge(r)
}

// charge compares what a program costs with its budget: above it its probes tell, above twice of it in two windows in
// a row the end.
func (e *Engine) charge(r *running) {
	percent, whole, err := r.usage.window(e.opts.Proc, r.proc.pid, e.opts.Window)
	if err != nil || !whole {
		return // a tracer that has just died is noticed elsewhere
	}
	budget := r.definition.Limits.CPUBudget
	if budget == 0 {
		budget = defaultBudget
	}
	switch {
	case percent <= budget:
		r.usage.over, r.usage.warned = 0, false
		r.setNotice("")
		return
	case percent <= 2*budget:
		r.usage.over = 0
	default:
		r.usage.over++
	}
	if r.usage.over >= 2 {
		reason := collect.Errorf(collect.OverBudget, "tracing %s took %.2f%% of this host's CPUs, and %.2f%% is its budget", r.metric(), percent, budget)
		if err := e.quarantine.put(r.digest(), reason.Message); err != nil {
			e.log.Error("the quarantine of a definition will not survive a restart", "metric", r.metric(), "error", err)
		}
		e.halt(r, reason)
		return
	}
	r.setNotice(fmt.Sprintf("tracing takes %.2f%% of this host's CPUs, and %.2f%% is its budget; above twice of that it is stopped", percent, budget))
	if !r.usage.warned {
		r.usage.warned = true
		e.log.Warn("a tracing program is above its budget", "metric", r.metric(), "percent", percent, "budget", budget)
	}
}

// halt ends a program against the will of its probes.
func (e *Engine) halt(r *running, why *collect.Error) {
	e.log.Warn("a tracing program is stopped", "metric", r.metric(), "pid", r.proc.pid, "code", string(why.Code), "reason", why.Message)
	if err := e.end(r, why); err != nil {
		e.log.Error("a tracing program could not be stopped", "metric", r.metric(), "error", err)
	}
}

// usage meters one program.
type usage struct {
	at     time.Time
	spent  time.Duration
	over   int // windows in a row above twice the budget
	warned bool
}

func (u *usage) begin(proc string, pid int) {
	u.at = time.Now()
	u.spent, _ = cost(proc, pid) // a tracer that has just died is noticed elsewhere
}

// window gives the percentage of all CPUs together that was used since the last window, when that is long enough ago.
func (u *usage) window(proc string, pid int, length time.Duration) (percent float64, whole bool, err error) {
	elapsed := time.Since(u.at)
	if elapsed < length {
		return 0, false, nil
	}
	spent, err := cost(proc, pid)
	if err != nil {
		return 0, false, err
	}
	percent = 100 * float64(spent-u.spent) / float64(elapsed) / float64(runtime.NumCPU())
	u.at, u.spent = u.at.Add(elapsed), spent
	return percent, true, nil
}
