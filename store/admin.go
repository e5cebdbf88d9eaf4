package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var (
	auditScript   = load("entry", "audit")
	fieldsScript  = load("entry", "fields")
	leaseScript   = load("lease")
	releaseScript = load("release")
)

// confirmedFor is how long an operator's confirmation of a guard holds.
const confirmedFor = time.Hour

// Record implements instrumentation.Store.
func (s *Store) Record(ctx context.Context, a instrumentation.Audit) error {
	entry, err := s.auditEntry(&a)
	if err != nil {
		return err
	}
	_, err = s.mutate(ctx, auditScript, entry)
	s.told(ctx, &a, err)
	return err
}

// told makes what was appended to the audit log a line of the process's log, which has it when it has left the former.
func (s *Store) told(ctx context.Context, a *instrumentation.Audit, err error) {
	if a != nil && (err == nil || errors.Is(err, instrumentation.ErrNotDurable)) {
		s.log.InfoContext(ctx, "audit", "caller", a.Caller, "kind", a.Kind, "owner", a.Owner, "action", a.Action, "subject", a.Subject,
			"detail", a.Detail, "result", a.Result, "at", a.At)
	}
}

// auditEntry writes an entry as the scripts take it, with how many are kept; "" for none.
func (s *Store) auditEntry(a *instrumentation.Audit) (string, error) {
	if a == nil {
		return "", nil
	}
	b, err := json.Marshal(a)
	if err != nil {
		return "", fmt.Errorf("encode the audit entry: %w", err)
	}
	return fmt.Sprintf("%d|%s", s.opts.AuditEntries, b), nil
}

// AuditLog implements instrumentation.Store.
func (s *Store) AuditLog(ctx context.Context, before string, n int) ([]instrumentation.Audit, error) {
	end := "+"
	if before != "" {
		k, err := strconv.ParseInt(before, 10, 64)
		if err != nil || k < 1 {
			return nil, fmt.Errorf("%w: the audit log has no entry %q", instrumentation.ErrBadRequest, before)
		}
		if k == 1 {
			return nil, nil
		}
		end = itoa(k-1) + "-0"
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	entries, err := s.client.XRevRangeN(ctx, record+"audit", end, "-", int64(n)).Result()
	if err != nil {
		return nil, fault("read the audit log", err)
	}
	out := make([]instrumentation.Audit, len(entries))
	for i, e := range entries {
		if err := json.Unmarshal([]byte(text(e.Values["e"])), &out[i]); err != nil {
			return nil, fmt.Errorf("decode audit entry %s: %w", e.ID, err)
		}
		out[i].ID = itoa(position(e.ID))
	}
	return out, nil
}

// field is a field of one of the records' hashes, its value, and what it shall become ("": removed).
type field struct{ hash, name, old, new string }

// setFields changes fields that stand as they were read, all or none; errMoved says that one has changed.
func (s *Store) setFields(ctx context.Context, a *instrumentation.Audit, fields ...field) error {
	audit, err := s.auditEntry(a)
	if err != nil {
		return err
	}
	args := []any{audit, len(fields)}
	for _, f := range fields {
		args = append(args, f.hash, f.name, f.old)
	}
	for _, f := range fields {
		args = append(args, f.hash, f.name, f.new)
	}
	reply, err := s.mutate(ctx, fieldsScript, args...)
	if err == nil && text(at(reply, 0)) != "OK" {
		err = errMoved
	}
	s.told(ctx, a, err)
	return err
}

// guard is a Guard as it is kept.
type guard struct {
	instrumentation.Guard
	Confirmed time.Time // zero: it waits
}

func (s *Store) guard(ctx context.Context, id string) (text string, g guard, err error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	text, err = s.client.HGet(ctx, record+"guards", id).Result()
	if errors.Is(err, redis.Nil) {
		return "", guard{}, nil
	}
	if err != nil {
		return "", guard{}, fault("read the guard", err)
	}
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		return "", guard{}, fmt.Errorf("decode guard %s: %w", id, err)
	}
	return text, g, nil
}

// PutGuard makes something wait for an operator, or notes how it stands now. It returns true when an operator has confirmed
// no less than g.WouldRemove during the last hour; the guard is gone then and the caller goes on, once.
func (s *Store) PutGuard(ctx context.Context, g instrumentation.Guard) (confirmed bool, err error) {
	now, err := s.clock(ctx)
	if err != nil {
		return false, err
	}
	for range racers {
		old, was, err := s.guard(ctx, g.ID)
		if err != nil {
			return false, err
		}
		confirmed = old != "" && !was.Confirmed.IsZero() && now.Sub(was.Confirmed) < confirmedFor && g.WouldRemove <= was.WouldRemove
		next := ""
		if !confirmed {
			if old != "" && was.Confirmed.IsZero() {
				g.Since = was.Since
			}
			if g.Since.IsZero() {
				g.Since = now
			}
			b, err := json.Marshal(guard{Guard: g})
			if err != nil {
				return false, fmt.Errorf("encode the guard: %w", err)
			}
			next = string(b)
		}
		if err = s.setFields(ctx, nil, field{"guards", g.ID, old, next}); !errors.Is(err, errMoved) {
			return confirmed && err == nil, err
		}
	}
	return false, fmt.Errorf("put guard %s: too many writers at once", g.ID)
}

// DropGuard removes a guard whose reason has gone.
func (s *Store) DropGuard(ctx context.Context, id string) error {
	for range racers {
		old, _, err := s.guard(ctx, id)
		if err != nil || old == "" {
			return err
		}
		if err = s.setFields(ctx, nil, field{"guards", id, old, ""}); !errors.Is(err, errMoved) {
			return err
		}
	}
	return fmt.Errorf("drop guard %s: too many writers at once", id)
}

// Guards implements instrumentation.Store: those that wait, the oldest first.
func (s *Store) Guards(ctx context.Context) ([]instrumentation.Guard, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	all, err := s.client.HGetAll(ctx, record+"guards").Result()
	if err != nil {
		return nil, fault("read the guards", err)
	}
	var out []instrumentation.Guard
	for id, t := range all {
		var g guard
		if err := json.Unmarshal([]byte(t), &g); err != nil {
			return nil, fmt.Errorf("decode guard %s: %w", id, err)
		}
		if g.Confirmed.IsZero() {
			out = append(out, g.Guard)
		}
	}
	slices.SortFunc(out, func(a, b instrumentation.Guard) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// ConfirmGuard implements instrumentation.Store.
func (s *Store) ConfirmGuard(ctx context.Context, id string, a instrumentation.Audit) error {
	now, err := s.clock(ctx)
	if err != nil {
		return err
	}
	for range racers {
		old, g, err := s.guard(ctx, id)
		if err != nil {
			return err
		}
		if old == "" || !g.Confirmed.IsZero() {
			return fmt.Errorf("confirm guard %q: %w", id, instrumentation.ErrNotFound)
		}
		g.Confirmed = now
		b, err := json.Marshal(g)
		if err != nil {
			return fmt.Errorf("encode the guard: %w", err)
		}
		if err = s.setFields(ctx, &a, field{"guards", id, old, string(b)}); !errors.Is(err, errMoved) {
			return err
		}
	}
	return fmt.Errorf("confirm guard %s: too many writers at once", id)
}

// Lease takes a lease or extends one that the holder has, and reports whether it is held now, until ttl has passed.
func (s *Store) Lease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error) {
	if holder == "" || ttl < time.Millisecond {
		return false, errors.New("lease: a holder and a time of at least one millisecond must be given")
	}
	reply, err := s.do(ctx, leaseScript, record, name, holder, ttl.Milliseconds())
	return number(reply) == 1, err
}

// ReleaseLease gives a lease back if the holder has it.
func (s *Store) ReleaseLease(ctx context.Context, name, holder string) error {
	_, err := s.do(ctx, releaseScript, record, name, holder)
	return err
}
