package graph

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph/model"
	"iapi/graph/ws"
	"iapi/identity"
	"iapi/instrumentation"
)

// Assignments serves any selection of the agents' subscription. Agents themselves send agentdoc.Assignments, which never
// gets here.
func (s *subscriptionResolver) Assignments(
	ctx context.Context, host, session uuid.UUID, known *model.AssignmentVersionInput,
) (<-chan model.AssignmentEvent, error) {
	var has assignment.Version
	if known != nil {
		has = versionOf(*known)
	}
	if caller(ctx).Kind == identity.Operator {
		return s.observe(ctx, host, has)
	}
	sub, err := s.feed.Subscribe(ctx, host, session, has)
	if err != nil {
		return nil, err
	}
	ws.Reads(ctx, sub)
	out := make(chan model.AssignmentEvent)
	go func() { // ends with ctx, which is the operation's
		defer close(out)
		defer sub.Close()
		for {
			e, err := s.next(ctx, sub)
			if err != nil {
				if ctx.Err() == nil && !errors.Is(err, delivery.ErrClosed) {
					ws.EndWith(ctx, err)
				}
				return
			}
			select {
			case <-ctx.Done():
				return
			case out <- e:
			}
		}
	}()
	return out, nil
}

func (s *subscriptionResolver) next(ctx context.Context, sub *delivery.Subscription) (model.AssignmentEvent, error) {
	e, err := sub.Next(ctx)
	switch {
	case err != nil:
		return nil, err
	case e.Document == nil:
		return model.AssignmentBookmark{Version: e.Version}, nil
	}
	return newAssignment(*e.Document, s.clock())
}

// observe lets an operator look at what a host's agent gets. It makes nobody the host's agent.
func (s *subscriptionResolver) observe(ctx context.Context, host uuid.UUID, known assignment.Version) (<-chan model.AssignmentEvent, error) {
	changed, stop := s.feed.of.Observe(host)
	doc, err := s.feed.current(ctx, host)
	if err != nil {
		stop()
		return nil, err
	}
	out := make(chan model.AssignmentEvent)
	go func() { // ends with ctx, which is the operation's
		defer close(out)
		defer stop()
		for first := true; ; first = false {
			var event model.AssignmentEvent
			switch {
			case doc.Version != known:
				if event, err = newAssignment(doc, s.clock()); err != nil {
					ws.EndWith(ctx, err)
					return
				}
			case first:
				event = model.AssignmentBookmark{Version: doc.Version}
			}
			known = doc.Version
			if event != nil {
				select {
				case <-ctx.Done():
					return
				case out <- event:
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			if doc, err = s.feed.current(ctx, host); err != nil {
				ws.EndWith(ctx, err)
				return
			}
		}
	}()
	return out, nil
}

// InstrumentationUpdated sends the instrumentation as it stands, and again after changes of it and of how its sources fare. Who
// is slow gets one event for many changes. What no event tells is looked for: agents that have gone offline, and changes whose
// event was lost with a process.
func (s *subscriptionResolver) InstrumentationUpdated(ctx context.Context, id string) (<-chan *model.Instrumentation, error) {
	if s.records == nil {
		return nil, &refusal{code: codeNotReady, message: "Changes cannot be followed here."}
	}
	changed, stop := s.records.follow(instrumentation.ID(id))
	first, err := s.picture(ctx, instrumentation.ID(id))
	if err == nil && first.shown == nil {
		err = instrumentation.ErrNotFound
	}
	if err != nil {
		stop()
		return nil, err
	}
	out := make(chan *model.Instrumentation)
	go func() { // ends with ctx, which is the operation's
		defer close(out)
		defer stop()
		recheck := time.NewTicker(s.records.recheck)
		defer recheck.Stop()
		sent := picture{}
		for now, news := first, true; now.shown != nil; {
			if news || !now.same(sent) {
				select {
				case <-ctx.Done():
					return
				case out <- now.shown:
				}
				sent = now
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
				news = true
			case <-recheck.C:
				news = false
			}
			var err error
			if now, err = s.picture(ctx, instrumentation.ID(id)); err != nil {
				ws.EndWith(ctx, err)
				return
			}
		}
	}()
	return out, nil
}

// picture is an instrumentation and how its sources fare.
type picture struct {
	shown    *model.Instrumentation // nil: it is gone
	coverage *instrumentation.Coverage
}

func (p picture) same(q picture) bool {
	return *p.coverage == *q.coverage && reflect.DeepEqual(p.shown.Record, q.shown.Record)
}

func (s *subscriptionResolver) picture(ctx context.Context, id instrumentation.ID) (p picture, err error) {
	found, err := s.rules.Get(ctx, caller(ctx), id)
	if err != nil {
		return picture{}, err
	}
	if p.shown, err = (*resolver)(s).view(ctx).one(ctx, found[0]); err != nil || p.shown == nil {
		return picture{}, err
	}
	p.coverage, err = (*instrumentationResolver)(s).Coverage(ctx, p.shown)
	return p, err
}
