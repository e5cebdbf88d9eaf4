package instrumentation

import (
	"context"
	"fmt"

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
	if in.PreviewToken != nil {
		if err := s.checkPreview(ctx, c, rec, *in.PreviewToken); err != nil {
			return err
		}
	}
	all, tracing := s.policy.quota(owner)
	has, err := s.store.Usage(ctx, owner)
	switch {
	case err != nil:
		return fmt.Errorf("check a create: %w", err)
	case all > 0 && has.Live >= all, rec.Tracing && tracing > 0 && has.Tracing >= tracing:
		return quotaMistake(rec, has, all, tracing)
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
