package session

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"iapi/graph/agentdoc"
)

// The API takes no larger report, neither as a message nor as a request, and not more failures of zones in one.
const (
	maxReport   = 900 << 10 // bytes, with room for what is around it
	maxFailures = 10_000
)

// Report sends a report, on the websocket where one is open, else by POST. Before the session has begun it waits. The report
// must not be changed while it is sent.
func (s *Session) Report(ctx context.Context, r Report) (ReportResult, error) {
	select {
	case <-ctx.Done():
		return ReportResult{}, ctx.Err()
	case <-s.begun:
	}
	r.Session = s.name
	r.Host = s.opts.Host
	if r.Capabilities == nil {
		r.Capabilities = []string{}
	}
	if r.Instrumentations == nil {
		r.Instrumentations = []Status{}
	}
	if err := fit(&r); err != nil {
		return ReportResult{}, err
	}
	var data agentdoc.ReportData
	if err := s.execute(ctx, agentdoc.Report, agentdoc.ReportVariables{Input: r}, &data); err != nil {
		return ReportResult{}, fmt.Errorf("report the status: %w", err)
	}
	if data.Result.Superseded {
		select {
		case s.superseded <- struct{}{}:
		default:
		}
	}
	return data.Result, nil
}

// fit makes a report small enough to be taken, for one that is not would be refused for ever. First texts get shorter. If
// that is not enough, the instrumentations that fail in most zones are told as failed in all: never better than they are.
func fit(r *Report) error {
	for _, most := range []int{0, 256, 32} {
		if most > 0 {
			shorten(r, most)
		}
		if failures, size, err := weigh(*r); err != nil || failures <= maxFailures && size <= maxReport {
			return err
		}
	}
	failures, size, err := weigh(*r)
	if err != nil {
		return err
	}
	worst := make([]*Status, len(r.Instrumentations))
	for i := range r.Instrumentations {
		worst[i] = &r.Instrumentations[i]
	}
	slices.SortStableFunc(worst, func(a, b *Status) int { return len(b.VMFailures) - len(a.VMFailures) })
	for _, s := range worst {
		if len(s.VMFailures) == 0 || failures <= maxFailures && size <= maxReport {
			break
		}
		whole := Status{ID: s.ID, Revision: s.Revision, Status: "FAILED", LastSampleAt: s.LastSampleAt,
			Message: fmt.Sprintf("%d zones fail, too many to be told one by one: %s", len(s.VMFailures), s.VMFailures[0].Message)}
		before, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("encode the report: %w", err)
		}
		after, err := json.Marshal(whole)
		if err != nil {
			return fmt.Errorf("encode the report: %w", err)
		}
		failures -= len(s.VMFailures)
		size -= len(before) - len(after)
		*s = whole
	}
	return nil
}

// weigh counts a report's failures of zones, and its bytes: at most so many, or exactly where that is too many.
func weigh(r Report) (failures, size int, err error) {
	const around, widest = 256, 6 // bytes around one entry; of one byte of text at most, when it is escaped
	size = around * (1 + len(r.Capabilities))
	for _, s := range r.Instrumentations {
		failures += len(s.VMFailures)
		size += around + widest*len(s.Message)
		for _, f := range s.VMFailures {
			size += around + widest*len(f.Message)
		}
	}
	for _, t := range r.Targets {
		size += around + widest*len(t.LastError)
	}
	if size <= maxReport {
		return failures, size, nil
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return 0, 0, fmt.Errorf("encode the report: %w", err)
	}
	return failures, len(raw), nil
}

// shorten clips all texts of a report, in copies, for the caller keeps his.
func shorten(r *Report, most int) {
	clip := func(text string) string {
		if len(text) <= most {
			return text
		}
		return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
	}
	r.Instrumentations = append([]Status{}, r.Instrumentations...)
	for i := range r.Instrumentations {
		s := &r.Instrumentations[i]
		s.Message = clip(s.Message)
		s.VMFailures = append([]VMFailure(nil), s.VMFailures...)
		for j := range s.VMFailures {
			s.VMFailures[j].Message = clip(s.VMFailures[j].Message)
		}
	}
	r.Targets = append([]TargetStatus(nil), r.Targets...)
	for i := range r.Targets {
		r.Targets[i].LastError = clip(r.Targets[i].LastError)
	}
}
