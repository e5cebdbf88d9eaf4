package instrumentation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/identity"
	"iapi/measure"
)

// attempts bounds how often a change that names no revision is tried again on a record that moves.
const attempts = 64

// maxNamed is how many of those that a delete of many did not delete are named.
const maxNamed = 100

// recordWait bounds how long an audit entry may hold up an answer.
const recordWait = 2 * time.Second

// Create makes an instrumentation. A key that was used for the same input returns the instrumentation made then.
func (s *Service) Create(ctx context.Context, c identity.Caller, in CreateInput) (*Instrumentation, error) {
	return s.create(ctx, c, "createInstrumentation", "", in)
}

// create makes an instrumentation of a wish. origin is what else the idempotency key stands for.
func (s *Service) create(ctx context.Context, c identity.Caller, action, origin string, in CreateInput) (*Instrumentation, error) {
	audit := s.audit(c, action, "")
	owner, err := actsFor(c, in.Owner)
	if err != nil {
		return nil, s.refused(ctx, audit, err)
	}
	audit.Owner, audit.Detail = owner, clip(in.Metric)
	rec, err := s.build(c, owner, in)
	if err != nil {
		return nil, s.refused(ctx, audit, err)
	}
	if rec.ID, err = NewID(rec.CreatedAt, s.entropy); err != nil {
		return nil, s.refused(ctx, audit, fmt.Errorf("create an instrumentation: %w", err))
	}
	all, tracing := s.policy.quota(owner)
	change := Change{
		Record: rec, IdempotencyKey: valueOr(in.IdempotencyKey, ""), InputDigest: inputDigest(origin, owner, in),
		MaxLive: all, MaxTracing: tracing, Audit: audit,
	}
	change.Audit.Subject = string(rec.ID) // what is refused never has it
	made, err := s.first(ctx, change, in)
	if errors.Is(err, ErrNotFound) {
		if in.PreviewToken != nil { // who has no room is told so before the inventory is asked
			err := s.room(ctx, rec)
			if err == nil {
				err = s.checkPreview(ctx, c, rec, *in.PreviewToken)
			}
			if err != nil {
				return nil, s.refused(ctx, audit, err)
			}
		}
		made, err = s.commit(ctx, change)
	}
	var quota *QuotaError
	switch {
	case errors.Is(err, ErrIdempotency):
		err = mistake(CodeIdempotencyConflict, "idempotencyKey", "the key was used for something else within the last 24 hours")
	case errors.As(err, &quota):
		err = quotaMistake(rec, quota.Has, all, tracing)
	case errors.Is(err, ErrNotFound):
		err = mistake(CodeNotFound, "idempotencyKey", "what was made with the key has been deleted since; use another key to make it again")
	case err != nil: // it may have been made all the same
		return nil, s.refused(ctx, change.Audit, fmt.Errorf("create an instrumentation: %w", err))
	}
	if err != nil {
		return nil, s.refused(ctx, audit, err)
	}
	if made.ID != rec.ID { // the answer to the first call with the key; the store records only what it does
		audit.Subject = string(made.ID)
		s.record(ctx, audit)
	}
	made = s.show(c, made)
	return &made, nil
}

// first returns what an idempotency key that comes with a preview token has made already, ErrNotFound for nothing: the
// first answer stands however the places have changed since, and whether or not the preview has lapsed. A commit that
// expects a record which does not exist changes nothing, and looks at the key before that.
func (s *Service) first(ctx context.Context, c Change, in CreateInput) (Instrumentation, error) {
	if in.IdempotencyKey == nil || in.PreviewToken == nil {
		return Instrumentation{}, ErrNotFound
	}
	c.Expect = 1
	return s.store.Commit(ctx, c)
}

// inputDigest is the same for inputs that ask for the same.
func inputDigest(origin string, owner uuid.UUID, in CreateInput) string {
	if in.asked != "" {
		return digest([]string{origin, owner.String(), in.asked})
	}
	tags := slices.Clone(in.Tags)
	sortTags(tags)
	return digest(struct {
		Origin         string            `json:"origin"`
		Owner          uuid.UUID         `json:"owner"`
		Name           string            `json:"name"`
		Metric         string            `json:"metric"`
		Predicate      measure.Predicate `json:"predicate"`
		Decompositions []string          `json:"decompositions"`
		Scope          Scope             `json:"scope"`
		Targets        []measure.Target  `json:"targets"`
		Tags           []Tag             `json:"tags"`
		Granularity    int               `json:"granularity"`
		TTL            *int              `json:"ttl"`
	}{
		origin, owner, in.Name, in.Metric, in.Predicate.Canonical(), append([]string{}, in.Decompositions...),
		in.Scope.Canonical(), append([]measure.Target{}, in.Targets...), append([]Tag{}, tags...),
		valueOr(in.Granularity, defaultGranularity), in.TTL,
	})
}

// room refuses a record that the owner has no room for now. What decides is the commit.
func (s *Service) room(ctx context.Context, rec Instrumentation) error {
	all, tracing := s.policy.quota(rec.Owner)
	has, err := s.store.Usage(ctx, rec.Owner)
	switch {
	case err != nil:
		return fmt.Errorf("read usage: %w", err)
	case has.Live >= all, rec.Tracing && has.Tracing >= tracing:
		return quotaMistake(rec, has, all, tracing)
	}
	return nil
}

// quotaMistake says which quota a record would exceed.
func quotaMistake(rec Instrumentation, has Usage, all, tracing int) error {
	if rec.Tracing && has.Live < all {
		return mistake(CodeLimitExceeded, "metric", "there are %d tracing instrumentations, and %d are allowed", has.Tracing, tracing)
	}
	return mistake(CodeLimitExceeded, "metric", "there are %d instrumentations, and %d are allowed", has.Live, all)
}

// Clone makes a new instrumentation from another, which may have expired.
func (s *Service) Clone(ctx context.Context, c identity.Caller, in CloneInput) (*Instrumentation, error) {
	rec, err := s.readOne(ctx, c, in.ID)
	if err != nil {
		return nil, s.refused(ctx, s.audit(c, "cloneInstrumentation", string(in.ID)), missing(err))
	}
	wish := CreateInput{
		IdempotencyKey: in.IdempotencyKey, Owner: &rec.Owner, Name: rec.Name, Metric: rec.Metric,
		Predicate: rec.Predicate, Decompositions: rec.Decompositions, Scope: rec.Scope, Targets: rec.Targets,
		Tags: rec.Tags, Granularity: &rec.Granularity, Mistakes: in.Mistakes,
	}
	if rec.DefaultTargets {
		wish.Targets = nil // nobody has named them, so they need not be fit for the caller
	}
	if rec.TTL > 0 {
		wish.TTL = &rec.TTL
	}
	said := in
	said.IdempotencyKey, said.Mistakes = nil, nil
	wish.asked = digest(said) // a repetition is known also when what is cloned has changed since
	take(&wish.Name, in.Name)
	take(&wish.Predicate, in.Predicate)
	take(&wish.Decompositions, in.Decompositions)
	take(&wish.Scope, in.Scope)
	take(&wish.Targets, in.Targets)
	take(&wish.Tags, in.Tags)
	take(&wish.Granularity, in.Granularity)
	take(&wish.TTL, in.TTL)
	return s.create(ctx, c, "cloneInstrumentation", string(rec.ID), wish)
}

// take puts the value of an Optional that is set.
func take[T any](to *T, from Optional[T]) {
	if from.Set {
		*to = from.Value
	}
}

// Update changes an instrumentation. An update that changes nothing makes no revision.
func (s *Service) Update(ctx context.Context, c identity.Caller, in UpdateInput) (*Instrumentation, error) {
	return s.change(ctx, c, "updateInstrumentation", in.ID, in.ExpectedRevision, func(rec *Instrumentation, now time.Time) error {
		return s.apply(c, rec, in, now)
	})
}

// Pause takes an instrumentation off its hosts until it is resumed. Its time to live goes on.
func (s *Service) Pause(ctx context.Context, c identity.Caller, id ID) (*Instrumentation, error) {
	return s.change(ctx, c, "pauseInstrumentation", id, nil, func(rec *Instrumentation, now time.Time) error {
		if rec.PausedAt.IsZero() {
			rec.PausedAt = now
		}
		return nil
	})
}

// Resume puts a paused instrumentation back.
func (s *Service) Resume(ctx context.Context, c identity.Caller, id ID) (*Instrumentation, error) {
	return s.change(ctx, c, "resumeInstrumentation", id, nil, func(rec *Instrumentation, _ time.Time) error {
		rec.PausedAt = time.Time{}
		return nil
	})
}

// change applies edit to the standing record and commits it, unless edit left it as it was. Records that are being
// deleted or have expired cannot be changed.
func (s *Service) change(
	ctx context.Context, c identity.Caller, action string, id ID, expect *int, edit func(*Instrumentation, time.Time) error,
) (*Instrumentation, error) {
	audit := s.audit(c, action, string(id))
	for try := 1; ; try++ {
		stands, err := s.readOne(ctx, c, id)
		if err != nil {
			return nil, s.refused(ctx, audit, missing(err))
		}
		audit.Owner = stands.Owner
		now := s.now()
		rec := stands
		if err := changeable(stands, expect, now); err != nil {
			return nil, s.refused(ctx, audit, err)
		}
		if err := edit(&rec, now); err != nil {
			return nil, s.refused(ctx, audit, err)
		}
		if digest(rec) != digest(stands) {
			rec.Revision++
			rec.UpdatedAt = now
			// Nothing is known of the new revision before it is evaluated.
			rec.State = Judge(rec, Coverage{}, now)
			rec, err = s.commit(ctx, Change{Record: rec, Expect: stands.Revision, Audit: audit})
		} else {
			s.record(ctx, audit)
		}
		switch {
		case err == nil:
			rec = s.show(c, rec)
			return &rec, nil
		case errors.Is(err, ErrRevision) && expect == nil && try < attempts:
			continue
		case errors.Is(err, ErrRevision):
			return nil, s.refused(ctx, audit, mistake(CodeRevisionConflict, "expectedRevision", "it has been changed meanwhile"))
		case errors.Is(err, ErrNotFound):
			return nil, s.refused(ctx, audit, missing(err))
		}
		return nil, s.refused(ctx, audit, fmt.Errorf("%s %s: %w", action, id, err))
	}
}

// changeable refuses to change what is being deleted or has expired, or has moved on from the expected revision.
func changeable(rec Instrumentation, expect *int, now time.Time) error {
	switch {
	case !rec.DeletedAt.IsZero():
		return mistake(CodeNotFound, "id", "it is being deleted")
	case expect != nil && *expect != rec.Revision:
		return mistake(CodeRevisionConflict, "expectedRevision", "its revision is %d, not %d", rec.Revision, *expect)
	case rec.expired(now):
		return mistake(CodeTTLExceeded, "id", "it has expired; clone it to measure again")
	}
	return nil
}

// Refresh has an instrumentation evaluated against the inventory now.
func (s *Service) Refresh(ctx context.Context, c identity.Caller, id ID) (*Instrumentation, error) {
	audit := s.audit(c, "refreshInstrumentation", string(id))
	rec, err := s.readOne(ctx, c, id)
	if err != nil {
		return nil, s.refused(ctx, audit, missing(err))
	}
	audit.Owner = rec.Owner
	if err := s.queue.Evaluate(ctx, rec.ID, rec.Revision); err != nil {
		return nil, s.refused(ctx, audit, fmt.Errorf("refresh %s: %w", id, err))
	}
	s.record(ctx, audit)
	rec = s.show(c, rec)
	return &rec, nil
}

// Delete has an instrumentation removed from every host. Deleting it again is no mistake as long as it is known.
func (s *Service) Delete(ctx context.Context, c identity.Caller, id ID) error {
	audit := s.audit(c, "deleteInstrumentation", string(id))
	for try := 1; ; try++ {
		rec, err := s.readOne(ctx, c, id)
		if err != nil {
			return s.refused(ctx, audit, missing(err))
		}
		audit.Owner = rec.Owner
		if !rec.DeletedAt.IsZero() {
			s.record(ctx, audit)
			return nil
		}
		stands := rec.Revision
		now := s.now()
		rec.Revision++
		rec.UpdatedAt, rec.DeletedAt, rec.State = now, now, Deleting
		_, err = s.commit(ctx, Change{Record: rec, Expect: stands, Audit: audit})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrRevision) && try < attempts:
			continue
		case errors.Is(err, ErrRevision):
			return s.refused(ctx, audit, mistake(CodeRevisionConflict, "id", "others change it all the time; ask again"))
		case errors.Is(err, ErrNotFound):
			return s.refused(ctx, audit, missing(err))
		}
		return s.refused(ctx, audit, fmt.Errorf("delete %s: %w", id, err))
	}
}

// DeleteMany deletes all that match, unless their number is not the expected one. Those that are being deleted already
// are not counted. When some are deleted and others are not, deleted has the former, and the error is a mistake for each of
// the latter.
func (s *Service) DeleteMany(ctx context.Context, c identity.Caller, f Filter, expected int) (deleted []ID, err error) {
	audit := s.audit(c, "deleteInstrumentations", "")
	audit.Detail = fmt.Sprintf("expected %d", expected)
	f, empty, err := s.restrict(ctx, c, f)
	if err != nil {
		return nil, s.refused(ctx, audit, err)
	}
	if f.Owner != nil {
		audit.Owner = *f.Owner
	}
	if len(f.States) == 0 {
		f.States = states
	}
	f.States = slices.DeleteFunc(slices.Clone(f.States), func(st State) bool { return st == Deleting })
	var ids []ID
	for p := (Page{First: MaxPage}); !empty && len(f.States) > 0; {
		found, next, _, err := s.store.Search(ctx, f, p)
		if err != nil {
			return nil, s.refused(ctx, audit, fmt.Errorf("find what to delete: %w", err))
		}
		for _, rec := range found {
			if sees(c, rec.Owner) {
				ids = append(ids, rec.ID)
			}
		}
		if !next || len(found) == 0 {
			break
		}
		// Counting on would only tell by how much the expectation is wrong.
		if len(ids) > max(expected, 0) {
			break
		}
		p.After = string(found[len(found)-1].ID)
	}
	if len(ids) > expected {
		return nil, s.refused(ctx, audit, mistake(CodeCountMismatch, "expectedCount", "more than %d match", expected))
	}
	if len(ids) < expected {
		return nil, s.refused(ctx, audit, mistake(CodeCountMismatch, "expectedCount", "%d match, not %d", len(ids), expected))
	}
	deleted, err = s.deleteEach(ctx, c, ids)
	audit.Detail = fmt.Sprintf("deleted %d of %d", len(deleted), expected)
	if err != nil {
		return deleted, s.refused(ctx, audit, err)
	}
	s.record(ctx, audit)
	return deleted, nil
}

// deleteEach deletes one after the other. The error is a fault only where none is deleted; else it is as of DeleteMany.
func (s *Service) deleteEach(ctx context.Context, c identity.Caller, ids []ID) (deleted []ID, err error) {
	var wrong collector
	var fault error // the first
	name := func(id ID, code Code, why string) {
		if len(wrong.found) < maxNamed {
			wrong.add(code, []string{"filter", string(id)}, "%s: %s", id, why)
		}
	}
	for i, id := range ids {
		err := s.Delete(ctx, c, id)
		var mistakes UserErrors
		switch {
		case err == nil, errors.Is(err, ErrNotFound): // what somebody else has deleted meanwhile is deleted
			deleted = append(deleted, id)
			continue
		case errors.As(err, &mistakes):
			name(id, mistakes[0].Code, mistakes[0].Message)
			continue
		case errors.Is(err, ErrNotDurable):
			name(id, CodeUnavailable, "it is deleted, but that is not confirmed; ask again")
		default:
			name(id, CodeUnavailable, "it could not be deleted now; ask again")
		}
		s.log.ErrorContext(ctx, "one of many is not deleted, or that is not confirmed", "instrumentation", id, "caller", c.ID, "correlationId", identity.CorrelationID(ctx), "error", err)
		if fault == nil {
			fault = err
		}
		if ctx.Err() != nil || errors.Is(err, ErrNotReady) { // nor can the others be
			for _, id := range ids[i+1:] {
				name(id, CodeUnavailable, "it was not tried; ask again")
			}
			break
		}
	}
	if len(deleted) == 0 && fault != nil {
		return nil, fault
	}
	return deleted, wrong.found.orNil()
}

// audit begins an entry for a call.
func (s *Service) audit(c identity.Caller, action, subject string) Audit {
	return Audit{
		At: s.now(), Caller: c.ID, Kind: string(c.Kind), Owner: bound(c), Action: action, Subject: clip(subject), Result: "ok",
	}
}

// record appends an entry for what has happened, also for a caller who has gone. The deed stands whether or not it can be
// recorded.
func (s *Service) record(ctx context.Context, a Audit) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWait)
	defer cancel()
	if err := s.store.Record(ctx, a); err != nil {
		s.log.ErrorContext(ctx, "an audit entry is lost", "action", a.Action, "subject", a.Subject, "caller", a.Caller, "result", a.Result, "error", err)
	}
}

// refused records that a call of an authenticated caller was refused or failed, and returns why.
func (s *Service) refused(ctx context.Context, a Audit, why error) error {
	var mistakes UserErrors
	switch {
	case errors.As(why, &mistakes):
		a.Result = string(mistakes[0].Code)
	case errors.Is(why, ErrForbidden):
		a.Result = "FORBIDDEN"
	case errors.Is(why, ErrBadRequest):
		a.Result = "BAD_REQUEST"
	case errors.Is(why, ErrUnauthenticated):
		return why
	case errors.Is(why, ErrNotReady):
		a.Result = "NOT_READY"
	case errors.Is(why, ErrNotDurable):
		a.Result = "NOT_DURABLE"
	default:
		a.Result = "FAILED"
	}
	s.record(ctx, a)
	return why
}

// missing makes what does not exist a mistake in the id.
func missing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return mistake(CodeNotFound, "id", "there is no such instrumentation")
	}
	return err
}
