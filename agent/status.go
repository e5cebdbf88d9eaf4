package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"iapi/agent/session"
)

// The statuses of what is not refused; those of refusals are the collectors' codes.
const (
	statusPending = "PENDING"
	statusRunning = "RUNNING"
)

const (
	maxMessage   = 4 << 10                // of a status' text
	spacing      = 100 * time.Millisecond // between two reports, so that a burst of changes becomes one
	firstBeat    = 10 * time.Second       // until the server says otherwise
	retryAtFirst = 500 * time.Millisecond
	retryAtMost  = 15 * time.Second
)

// reporter keeps the one next report up to date and sends it when something has changed, or as a heartbeat. Changes
// between two sends are merged, never queued.
type reporter struct {
	opts Options
	log  *slog.Logger
	wake chan struct{} // capacity 1

	mu       sync.Mutex
	applied  session.Version
	sequence int64
	owners   map[string]*run // who may tell how an instrumentation fares
	status   map[string]session.Status
	targets  map[string]func() []session.TargetStatus // asked when a report is made
	trouble  string                                   // of the host, which all that it measures tells; "" for none
}

func newReporter(o Options) *reporter {
	return &reporter{
		opts: o, log: o.Logger, wake: make(chan struct{}, 1),
		owners:  make(map[string]*run),
		status:  make(map[string]session.Status),
		targets: make(map[string]func() []session.TargetStatus),
	}
}

func (r *reporter) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// setApplied says that exactly the given version runs.
func (r *reporter) setApplied(v session.Version) {
	r.mu.Lock()
	changed := r.applied != v
	r.applied = v
	r.mu.Unlock()
	if changed {
		r.signal()
	}
}

// own makes a run the only one that tells how its instrumentation fares. One that is still ending is not listened to.
func (r *reporter) own(of *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners[of.item.ID] = of
}

// set replaces how one instrumentation fares, if it comes from the run that owns it. A new time of the last sample alone
// does not make a report.
func (r *reporter) set(from *run, s session.Status) {
	s.Message = clip(s.Message)
	for i := range s.VMFailures {
		s.VMFailures[i].Message = clip(s.VMFailures[i].Message)
	}
	r.mu.Lock()
	if r.owners[s.ID] != from {
		r.mu.Unlock()
		return
	}
	old, known := r.status[s.ID]
	r.status[s.ID] = s
	r.mu.Unlock()
	if !known || old.Revision != s.Revision || old.Status != s.Status || old.Message != s.Message ||
		!slices.Equal(old.VMFailures, s.VMFailures) {
		r.signal()
	}
}

// setTrouble has all that this host measures tell operators of a trouble that stops nothing; "" ends it.
func (r *reporter) setTrouble(text string) {
	text = clip(text)
	r.mu.Lock()
	changed := r.trouble != text
	r.trouble = text
	r.mu.Unlock()
	if changed {
		r.signal()
	}
}

// watchTargets has the health of the targets of the run's instrumentation asked with each report.
func (r *reporter) watchTargets(from *run, ask func() []session.TargetStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := from.item.ID; r.owners[id] == from {
		r.targets[id] = ask
	}
}

// forget drops what is known of an instrumentation that does not run any more, and what may still be told of it.
func (r *reporter) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.owners, id)
	delete(r.status, id)
	delete(r.targets, id)
}

func (r *reporter) next() session.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence++
	report := session.Report{
		Host: r.opts.Host, Sequence: r.sequence, AgentVersion: r.opts.Version, Capabilities: r.opts.Capabilities,
		Instrumentations: make([]session.Status, 0, len(r.status)),
	}
	if r.applied != (session.Version{}) {
		v := r.applied
		report.Applied = &v
	}
	for _, s := range r.status {
		s.Message = clip(sentences(s.Message, r.trouble))
		report.Instrumentations = append(report.Instrumentations, s)
	}
	slices.SortFunc(report.Instrumentations, func(a, b session.Status) int { return strings.Compare(a.ID, b.ID) })
	for _, ask := range r.targets {
		report.Targets = append(report.Targets, ask()...)
	}
	return report
}

// run sends reports until ctx ends. A report that fails is made anew, after a wait, with what is true by then.
func (r *reporter) run(ctx context.Context) error {
	beat, retry := firstBeat, retryAtFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing, due := false, time.Now()
	for {
		if !failing {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-r.opts.Session.Returned(): // soon, but not all at once that have come back together
				due = earlier(due, time.Now().Add(session.Jitter(firstBeat)))
				timer.Reset(time.Until(due))
				continue
			case <-r.wake:
			case <-timer.C:
			}
		} else {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
			}
		}
		result, err := r.opts.Session.Report(ctx, r.next())
		var wait time.Duration
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if !failing {
				r.log.Info("the API does not take the status report; repeating it", "error", err)
			}
			failing, wait = true, session.Jitter(retry)
			if asked := session.RetryAfter(err); asked > 0 { // never sooner
				wait = asked + session.Jitter(time.Second)
			}
			retry = min(retry*2, retryAtMost)
		default:
			if failing {
				r.log.Info("the API takes status reports again")
			}
			failing, retry = false, retryAtFirst
			if result.NextReportSeconds > 0 {
				beat = time.Duration(result.NextReportSeconds) * time.Second
			}
			wait = session.Jitter(beat)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(spacing):
			}
		}
		due = time.Now().Add(wait)
		timer.Reset(wait)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func clip(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-3], "") + "…"
}

// sentences joins what there is to say.
func sentences(texts ...string) string {
	texts = slices.DeleteFunc(texts, func(text string) bool { return text == "" })
	return strings.Join(texts, "; ")
}

// statusOf makes a Status from its parts.
func statusOf(id string, revision int, s, message string) session.Status {
	return session.Status{ID: id, Revision: revision, Status: s, Message: message}
}
