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
	Accepted   bool // false for one that came too late to change anything
	Superseded bool // another session is the host's agent now
}

// Report stores a report, together with those that arrive at the same time.
func (h *Hub) Report(ctx context.Context, r Report) (ReportResult, error) {
	result, err := h.reports.Do(ctx, r)
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

// touchAll records which agents were heard of since the last time. Those for whom that fails are recorded the next time.
func (h *Hub) touchAll(ctx context.Context) {
	var heard []*Subscription
	for _, s := range h.all() {
		s.mu.Lock()
		if s.alive && s.err == nil {
			heard = append(heard, s)
		}
		s.alive = false
		s.mu.Unlock()
	}
	for len(heard) > 0 {
		chunk := heard[:min(len(heard), 1000)]
		hosts := make([]uuid.UUID, len(chunk))
		for i, s := range chunk {
			hosts[i] = s.host
		}
		within, cancel := context.WithTimeout(ctx, h.opts.SourceTimeout)
		err := h.source.Touch(within, hosts...)
		cancel()
		if err != nil {
			for _, s := range heard {
				s.Alive()
			}
			if ctx.Err() == nil {
				h.failures.Add(1)
				h.log.Error("it cannot be recorded which agents are alive", "hosts", len(heard), "error", err)
			}
			return
		}
		heard = heard[len(chunk):]
	}
}
