package graph

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph/model"
	"iapi/identity"
	"iapi/instrumentation"
)

// Delivery is what the agents' part of the API needs of the feed. It is a *delivery.Hub.
type Delivery interface {
	Subscribe(ctx context.Context, host, session uuid.UUID, known assignment.Version) (*delivery.Subscription, error)
	Current(ctx context.Context, host uuid.UUID) (assignment.Stored, error)
	Poll(ctx context.Context, host, session uuid.UUID, known assignment.Version) (doc assignment.Stored, current bool, err error)
	Observe(host uuid.UUID) (changed <-chan struct{}, stop func())
	Report(ctx context.Context, r delivery.Report) (delivery.ReportResult, error)
	Heartbeat() time.Duration
	OnRevoke(fn func(host uuid.UUID))
	Stats() delivery.Stats
}

// feed lets callers at the feed. An agent is served its own host and nothing else. Operators may look at any, without the
// secrets, and are never taken for its agent: they begin no session, move no version and report nothing.
type feed struct{ of Delivery }

// serves refuses all but the host's agent.
func serves(ctx context.Context, host uuid.UUID) error {
	switch c := caller(ctx); {
	case c.Kind == "":
		return instrumentation.ErrUnauthenticated
	case c.CanServe(host):
		return nil
	}
	return instrumentation.ErrForbidden
}

// looks refuses all but the host's agent and operators.
func looks(ctx context.Context, host uuid.UUID) error {
	if caller(ctx).Kind == identity.Operator {
		return nil
	}
	return serves(ctx, host)
}

// Subscribe is what the websockets call for the agents' known document.
func (f *feed) Subscribe(ctx context.Context, host, session uuid.UUID, known assignment.Version) (*delivery.Subscription, error) {
	if err := serves(ctx, host); err != nil {
		return nil, err
	}
	if session == uuid.Nil {
		return nil, badRequest("a session has a uuid")
	}
	if known != (assignment.Version{}) {
		if err := known.Validate(); err != nil {
			return nil, badRequest("known: %v", err)
		}
	}
	return f.of.Subscribe(ctx, host, session, known)
}

func (f *feed) current(ctx context.Context, host uuid.UUID) (assignment.Stored, error) {
	if err := looks(ctx, host); err != nil {
		return assignment.Stored{}, err
	}
	doc, err := f.of.Current(ctx, host)
	if err != nil || caller(ctx).Kind == identity.Agent {
		return doc, err
	}
	return redacted(doc)
}

// redacted blanks the values of headers in the body, for only agents get them; the version stays.
func redacted(doc assignment.Stored) (assignment.Stored, error) {
	items, err := assignment.Decode(doc.Body)
	if err != nil {
		return doc, fmt.Errorf("read the document of host %s: %w", doc.Host, err)
	}
	for _, item := range items {
		for t := range item.Targets {
			for name := range item.Targets[t].Headers {
				item.Targets[t].Headers[name] = ""
			}
		}
	}
	doc.Body, _ = assignment.Encode(assignment.Document{Host: doc.Host, Instrumentations: items})
	return doc, nil
}

func (f *feed) poll(ctx context.Context, host, session uuid.UUID, known assignment.Version) (assignment.Stored, bool, error) {
	if caller(ctx).Kind == identity.Operator {
		doc, err := f.current(ctx, host)
		return doc, err == nil && doc.Version == known, err
	}
	if err := serves(ctx, host); err != nil {
		return assignment.Stored{}, false, err
	}
	return f.of.Poll(ctx, host, session, known)
}

// The bounds of a report. An agent runs no more than a document holds.
const (
	maxReported  = 1024
	maxFailures  = 20_000
	maxReportage = 4 << 10 // bytes of a text
)

func (f *feed) report(ctx context.Context, r delivery.Report) (delivery.ReportResult, time.Duration, error) {
	if err := serves(ctx, r.Host); err != nil {
		return delivery.ReportResult{}, 0, err
	}
	failures := 0
	for i, s := range r.Instrumentations {
		failures += len(s.VMs)
		r.Instrumentations[i].Message = clip(s.Message)
		for vm, failure := range s.VMs {
			failure.Message = clip(failure.Message)
			s.VMs[vm] = failure
		}
	}
	switch {
	case r.Session == uuid.Nil:
		return delivery.ReportResult{}, 0, badRequest("a session has a uuid")
	case r.Sequence < 0:
		return delivery.ReportResult{}, 0, badRequest("the sequence begins at 0")
	case len(r.Instrumentations) > maxReported, len(r.Targets) > 8*maxReported, len(r.Capabilities) > maxReported, failures > maxFailures:
		return delivery.ReportResult{}, 0, badRequest("a report has at most %d instrumentations, with %d failures in all", maxReported, maxFailures)
	}
	result, err := f.of.Report(ctx, r)
	if err != nil {
		return delivery.ReportResult{}, 0, err
	}
	return result, f.of.Heartbeat(), nil
}

// clip keeps the beginning of a text, up to a whole character.
func clip(s string) string {
	if len(s) <= maxReportage {
		return s
	}
	n := maxReportage
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

func versionOf(v model.AssignmentVersionInput) assignment.Version {
	return assignment.Version{Epoch: v.Epoch, Generation: int64(v.Generation), Hash: v.Hash}
}

func newAssignment(doc assignment.Stored, now time.Time) (*model.Assignment, error) {
	items, err := assignment.Decode(doc.Body)
	if err != nil {
		return nil, fmt.Errorf("read the document of host %s: %w", doc.Host, err)
	}
	var raw []struct {
		Predicate json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(doc.Body, &raw); err != nil {
		return nil, fmt.Errorf("read the document of host %s: %w", doc.Host, err)
	}
	out := &model.Assignment{Host: doc.Host, Version: doc.Version, SentAt: now, Items: items, Predicates: make([]json.RawMessage, len(raw))}
	for i, item := range raw {
		out.Predicates[i] = item.Predicate
	}
	return out, nil
}
