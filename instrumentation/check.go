package instrumentation

import (
	"context"

	"iapi/identity"
)

// CheckCreate returns the error for which Create would refuse the input now: it judges by the same rules and changes
// nothing. What an idempotency key was used for is not looked at.
func (s *Service) CheckCreate(ctx context.Context, c identity.Caller, in CreateInput) error {
	owner, err := actsFor(c, in.Owner)
	if err != nil {
		return err
	}
	rec, err := s.build(c, owner, in)
	if err != nil {
		return err
	}
	if err := s.room(ctx, rec); err != nil {
		return err
	}
	if in.PreviewToken != nil {
		return s.checkPreview(ctx, c, rec, *in.PreviewToken)
	}
	return nil
}

// CheckUpdate returns the error for which Update would refuse the input now: it judges by the same rules and changes nothing.
func (s *Service) CheckUpdate(ctx context.Context, c identity.Caller, in UpdateInput) error {
	rec, err := s.readOne(ctx, c, in.ID)
	if err != nil {
		return missing(err)
	}
	now := s.now()
	if err := changeable(rec, in.ExpectedRevision, now); err != nil {
		return err
	}
	return s.apply(c, &rec, in, now)
}
