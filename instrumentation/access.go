package instrumentation

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/identity"
	"iapi/inventory"
)

// This file is who may do what. Operators may do everything. A tenant is bound to its own account. A service acts for
// the account that it names: for one alone where its credentials name that, and never for the operators. Workflows only
// hint, and agents have no business here.

// caller refuses who may use nothing of the API about instrumentations.
func caller(c identity.Caller) error {
	switch c.Kind {
	case identity.Operator, identity.Service:
		return nil
	case identity.Tenant:
		if c.Owner == uuid.Nil {
			return fmt.Errorf("%w: a tenant without an account", ErrUnauthenticated)
		}
		return nil
	case identity.Workflow, identity.Agent:
		return ErrForbidden
	}
	return ErrUnauthenticated
}

// only refuses all but the given kinds.
func only(c identity.Caller, kinds ...identity.Kind) error {
	for _, k := range kinds {
		if c.Kind == k {
			return nil
		}
	}
	switch c.Kind {
	case identity.Operator, identity.Service, identity.Tenant, identity.Workflow, identity.Agent:
		return ErrForbidden
	}
	return ErrUnauthenticated
}

func isOperator(c identity.Caller) bool { return c.Kind == identity.Operator }

// bound returns the account that the caller is bound to, Nil for one that is not.
func bound(c identity.Caller) uuid.UUID {
	if c.Kind == identity.Tenant || c.Kind == identity.Service {
		return c.Owner
	}
	return uuid.Nil
}

// actsFor finds the owner for whom a call is made. named is nil where the caller has named none.
func actsFor(c identity.Caller, named *uuid.UUID) (uuid.UUID, error) {
	if err := caller(c); err != nil {
		return uuid.Nil, err
	}
	own := bound(c)
	switch {
	case named == nil && own != uuid.Nil:
		return own, nil
	case named == nil && isOperator(c):
		return uuid.Nil, nil
	case named == nil:
		return uuid.Nil, badRequest("name the owner that you act for")
	case isOperator(c), *named == own && own != uuid.Nil:
		return *named, nil
	case own == uuid.Nil && *named != uuid.Nil: // a service that is not bound
		return *named, nil
	}
	return uuid.Nil, fmt.Errorf("%w: it belongs to another owner", ErrForbidden)
}

// sees reports whether what an owner has exists for the caller.
func sees(c identity.Caller, owner uuid.UUID) bool {
	switch c.Kind {
	case identity.Operator:
		return true
	case identity.Tenant:
		return c.Owner != uuid.Nil && owner == c.Owner
	case identity.Service:
		return owner != uuid.Nil && (c.Owner == uuid.Nil || owner == c.Owner)
	}
	return false
}

// read returns one record for each id, nil for those that do not exist for the caller.
func (s *Service) read(ctx context.Context, c identity.Caller, ids ...ID) ([]*Instrumentation, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	out := make([]*Instrumentation, len(ids))
	var wanted []ID
	var at []int
	for i, id := range ids {
		if _, err := ParseID(string(id)); err == nil {
			wanted, at = append(wanted, id), append(at, i)
		}
	}
	if len(wanted) == 0 {
		return out, nil
	}
	records, err := s.store.Get(ctx, wanted...)
	if err != nil {
		return nil, fmt.Errorf("read instrumentations: %w", err)
	}
	for i, rec := range records {
		if rec != nil && sees(c, rec.Owner) {
			out[at[i]] = rec
		}
	}
	return out, nil
}

// readOne returns the record, or ErrNotFound where it does not exist for the caller.
func (s *Service) readOne(ctx context.Context, c identity.Caller, id ID) (Instrumentation, error) {
	records, err := s.read(ctx, c, id)
	if err != nil {
		return Instrumentation{}, err
	}
	if records[0] == nil {
		return Instrumentation{}, ErrNotFound
	}
	return *records[0], nil
}

// show prepares a record for the caller: without the values of secret headers, in the state that the time makes it, and
// for all but operators without the hosts that an operator's scope may name.
func (s *Service) show(c identity.Caller, rec Instrumentation) Instrumentation {
	return s.showAt(c, rec, s.now())
}

// showAt is show at a time.
func (s *Service) showAt(c identity.Caller, rec Instrumentation, now time.Time) Instrumentation {
	if rec.Targets != nil {
		targets := append(rec.Targets[:0:0], rec.Targets...)
		for i := range targets {
			targets[i].Headers = nil
		}
		rec.Targets = targets
	}
	rec.State = rec.StateAt(now)
	if !isOperator(c) {
		rec.Scope = rec.Scope.WithoutHosts()
		rec.CreatedBy = ""
	}
	return rec
}

// showVM blanks what only operators may see of a VM.
func showVM(c identity.Caller, vm inventory.VM) inventory.VM {
	if !isOperator(c) {
		vm.Host = uuid.Nil
	}
	return vm
}

// sentences are what tenants read of a status; an agent's own text may name hosts, paths and other tenants' programs.
var sentences = map[Status]string{
	StatusPending:     "It waits to be put in place.",
	StatusRunning:     "It is being measured.",
	StatusFailed:      "Measuring failed.",
	StatusUnsupported: "The platform of this machine does not support the metric.",
	StatusDenied:      "The platform's operator does not allow it there.",
	StatusOverBudget:  "Measuring costs more there than is allowed.",
	StatusOffline:     "The agent that should measure it cannot be reached at present.",
}

// showMessage returns the text of a status that the caller may read.
func showMessage(c identity.Caller, status Status, message string) string {
	if isOperator(c) && message != "" {
		return message
	}
	return sentences[status]
}
