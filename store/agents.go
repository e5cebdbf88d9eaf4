package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// JoinHost returns the host that a join token, given by its hash, was made for, without using it up. It returns ErrToken for
// one that is unknown or used.
func (s *Store) JoinHost(ctx context.Context, hash string) (uuid.UUID, error) {
	v, err := s.hget(ctx, "joins", hash)
	if err != nil {
		return uuid.Nil, err
	}
	if v == "" {
		return uuid.Nil, fmt.Errorf("join: %w", ErrToken)
	}
	_, host, err := parseJoin(v)
	return host, err
}

// RevokeCertificates voids the certificates of a host's agent that were issued before now, by the store's clock. They are
// kept in the hash "revoked": host → when, in ms. A certificate that is issued later is good again.
func (s *Store) RevokeCertificates(ctx context.Context, host uuid.UUID) error {
	now, err := s.clock(ctx)
	if err != nil {
		return err
	}
	for range racers {
		before, err := s.hget(ctx, "revoked", host.String())
		if err != nil {
			return err
		}
		err = s.setFields(ctx, nil, field{"revoked", host.String(), before, itoa(max(now.UnixMilli(), number(before)))})
		if !errors.Is(err, errMoved) {
			return err
		}
	}
	return fmt.Errorf("revoke the certificates of %s: too many writers at once", host)
}

// CertificatesRevoked returns when the certificates of a host's agent were last voided, zero for never.
func (s *Store) CertificatesRevoked(ctx context.Context, host uuid.UUID) (time.Time, error) {
	v, err := s.hget(ctx, "revoked", host.String())
	if err != nil || v == "" {
		return time.Time{}, err
	}
	return time.UnixMilli(number(v)).UTC(), nil
}
