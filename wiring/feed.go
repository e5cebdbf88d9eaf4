package wiring

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/store"
)

// feed lets delivery read and write the store: what is here is only the difference in the words. What both say alike is
// the store's own.
type feed struct{ *store.Store }

var (
	_ delivery.Source     = feed{}
	_ delivery.Unreadable = store.Damage(nil)
)

func (f feed) Rebase(ctx context.Context, host uuid.UUID, known assignment.Version) (assignment.Version, error) {
	v, err := f.Store.Rebase(ctx, host, known)
	if errors.Is(err, store.ErrNoDocument) {
		return assignment.Version{}, nil
	}
	return v, err
}

func (f feed) WatchDocuments(ctx context.Context, fn func(changes []delivery.Change, gap bool)) error {
	return f.Store.WatchDocuments(ctx, func(changes []store.DocChange, gap bool) {
		out := make([]delivery.Change, len(changes))
		for i, c := range changes {
			out[i] = delivery.Change{Host: c.Host, Version: c.Version, Kind: delivery.Kind(c.Kind), Session: c.Session}
		}
		fn(out, gap)
	})
}

func (f feed) Sessions(ctx context.Context, hosts ...uuid.UUID) ([]delivery.Session, error) {
	sessions, err := f.Store.Sessions(ctx, hosts...)
	out := make([]delivery.Session, len(sessions))
	for i, s := range sessions {
		out[i] = delivery.Session(s)
	}
	return out, err // which may be of some hosts only
}

func (f feed) Knows(ctx context.Context, host uuid.UUID) (bool, error) {
	facts, err := f.Facts(ctx, host)
	return facts.Known, err
}

func (f feed) ReportBatch(ctx context.Context, reports []delivery.Report) ([]delivery.ReportResult, error) {
	in := make([]store.Report, len(reports))
	for i, r := range reports {
		statuses := make([]store.Status, len(r.Instrumentations))
		for j, s := range r.Instrumentations {
			statuses[j] = store.Status(s)
		}
		targets := make([]store.TargetStatus, len(r.Targets))
		for j, t := range r.Targets {
			targets[j] = store.TargetStatus(t)
		}
		in[i] = store.Report{Host: r.Host, Session: r.Session, Sequence: r.Sequence, AgentVersion: r.AgentVersion,
			Capabilities: r.Capabilities, Applied: r.Applied, Instrumentations: statuses, Targets: targets}
	}
	results, err := f.Store.ReportBatch(ctx, in)
	if err != nil {
		return nil, err
	}
	out := make([]delivery.ReportResult, len(results))
	for i, r := range results {
		out[i] = delivery.ReportResult{Accepted: r.Accepted, Superseded: r.Superseded, Err: r.Err}
	}
	return out, nil
}
