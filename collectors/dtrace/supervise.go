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
	offset := e.wallOffset()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := e.wallOffset()
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
		if err := r.maps.put(program.OffsetMap, uint64(max(0, e.wallOffset()))); err != nil && r.failure() == nil {
			e.log.Warn("a tracing program could not be told of the clock's step", "metric", r.metric(), "error", err)
		}
	}
	e.charge(r)
}

// charge compares what a program costs with its budget. Above it its probes tell, and it gives out its intervals more rarely
// until it costs less than half of it; above twice of it in two windows in a row is the end.
func (e *Engine) charge(r *running) {
	percent, whole, err := r.usage.window(e.opts.Proc, r.proc.pid, e.opts.Window)
	if err != nil || !whole {
		return // a tracer that has just died is noticed elsewhere
	}
	budget := r.definition.Limits.CPUBudget
	if budget == 0 {
		budget = defaultBudget
	}
	above := r.usage.above
	if r.usage.judge(percent, budget) {
		reason := collect.Errorf(collect.OverBudget, "tracing %s took %.2f%% of this host's CPUs, and %.2f%% is its budget", r.metric(), percent, budget)
		e.condemn(r, reason)
		if err := e.end(r, reason); err != nil {
			e.log.Error("a tracing program could not be stopped", "metric", r.metric(), "error", err)
		}
		return
	}
	every, notice := int64(1), ""
	if r.usage.above {
		every = e.rarely
		notice = fmt.Sprintf("tracing takes %.2f%% of this host's CPUs, and %.2f%% is its budget: data come more rarely until it takes half of that, and above twice of it it is stopped", percent, budget)
		if !above {
			e.log.Warn("a tracing program is above its budget", "metric", r.metric(), "percent", percent, "budget", budget)
		}
	}
	if err := r.setEvery(every); err != nil && r.failure() == nil {
		e.log.Warn("a tracing program could not be told how often to give out its intervals", "metric", r.metric(), "error", err)
	}
	r.setNotice(notice)
}

// condemn has a program that takes too much give no more, and quarantines its definition for its owner: another's wish is another
// program, which may cost little. The program is still to be ended.
func (e *Engine) condemn(r *running, why *collect.Error) {
	e.log.Warn("a tracing program is stopped, and its definition quarantined", "metric", r.metric(), "pid", r.proc.pid, "reason", why.Message)
	r.fail(why)
	if err := e.quarantine.put(r.convict, why.Message); err != nil {
		e.log.Error("the quarantine of a definition will not survive a restart", "metric", r.metric(), "error", err)
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
	at    time.Time
	spent time.Duration
	over  int  // windows in a row above twice the budget
	above bool // it was above its budget, and has not fallen below half of it
}

// judge notes what a window cost, and reports whether that is the end.
func (u *usage) judge(percent, budget float64) (stop bool) {
	u.over++
	if percent <= 2*budget {
		u.over = 0
	}
	u.above = percent > budget || u.above && percent > budget/2
	return u.over >= 2
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
