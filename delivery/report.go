package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/instrumentation"
)

// Report is how one host fares, whole: an instrumentation that it does not name does not run there.
type Report struct {
	Host             uuid.UUID
	Session          uuid.UUID
	Sequence         int64 // grows within a session
	AgentVersion     string
	Capabilities     []string
	Applied          assignment.Version // zero before the first
	Instrumentations []Status
	Targets          []TargetStatus
}

// Status is how one instrumentation fares on the host.
type Status struct {
	ID         instrumentation.ID
	Revision   int
	Status     instrumentation.Status
	Message    string
	LastSample time.Time
	VMs        map[uuid.UUID]instrumentation.SourceFailure // zones that fare otherwise than Status says
}

// TargetStatus is how one target takes the host's data.
type TargetStatus struct {
	Instrumentation instrumentation.ID
	Target          int
	Connected       bool
	Queued, Dropped int64
	LastSuccess     time.Time
	LastError       string
}

// ReportResult is what became of a report.
type ReportResult struct {
	Accepted   bool  // false for one that came too late to change anything
	Superseded bool  // another session is the host's agent now
	Err        error // it may not have been stored, and can come again; Report returns it
}

// Report stores a report, together with those that arrive at the same time. One that is refused because the source has lost that
// its session has begun here is stored after the session has begun again.
func (h *Hub) Report(ctx context.Context, r Report) (ReportResult, error) {
	result, err := h.store(ctx, r)
	if err != nil || !result.Superseded {
		return result, err
	}
	switch is, err := h.beginAgain(ctx, r.Host, r.Session); {
	case err != nil:
		h.failures.Add(1)
		return ReportResult{}, fmt.Errorf("%w: %w", ErrNotReady, err)
	case !is:
		return result, nil
	}
	return h.store(ctx, r)
}

func (h *Hub) store(ctx context.Context, r Report) (ReportResult, error) {
	result, err := h.reports[h.part(r.Host)].Do(ctx, r)
	if err == nil {
		err = result.Err
	}
	if err != nil {
		h.failures.Add(1)
		return ReportResult{}, fmt.Errorf("%w: store the report: %w", ErrNotReady, err)
	}
	return result, nil
}

// Heartbeat is when an agent should report again if nothing changes. It grows with the number of agents, so that reports
// cost this process no more than ReportsPerSecond.
func (h *Hub) Heartbeat() time.Duration {
	h.mu.Lock()
	agents := len(h.hosts)
	h.mu.Unlock()
	period := time.Duration(agents) * time.Second / time.Duration(h.opts.ReportsPerSecond)
	return min(max(period.Truncate(time.Second), h.opts.MinHeartbeat), h.opts.MaxHeartbeat)
}
