package instrumentation

import (
	"github.com/google/uuid"

	"iapi/measure"
)

// Optional is a member of an update: unset leaves what is there, set to the zero value clears it.
type Optional[T any] struct {
	Set   bool
	Value T
}

// Some is an Optional that is set.
func Some[T any](v T) Optional[T] { return Optional[T]{Set: true, Value: v} }

// CreateInput is a wish.
type CreateInput struct {
	IdempotencyKey *string    // nil: none
	Owner          *uuid.UUID // nil: a tenant's own, else the operators' own
	Name           string
	Metric         string
	Predicate      measure.Predicate
	Decompositions []string
	Scope          Scope
	Targets        []measure.Target // none: the configured default
	Tags           []Tag
	Granularity    *int    // seconds; nil: 1
	TTL            *int    // seconds; nil: the policy's for tracing metrics, unlimited for others
	PreviewToken   *string // nil: none

	// Mistakes are those that reading the input has found (see ScopeFrom, PredicateFrom and TargetsFrom). They are
	// reported together with those that the rules find, and the members that they are about are not judged again.
	Mistakes UserErrors

	asked string // digest of what the caller has said, where that is not all of this; "" otherwise
}

// UpdateInput changes an instrumentation. Granularity and TTL are cleared by nil: back to what a create without them gets.
type UpdateInput struct {
	ID               ID
	ExpectedRevision *int // nil: whatever stands
	Name             Optional[string]
	Tags             Optional[[]Tag]
	Scope            Optional[Scope]
	Targets          Optional[[]measure.Target]
	Granularity      Optional[*int]
	TTL              Optional[*int] // counts from now
	Mistakes         UserErrors     // as in CreateInput
}

// CloneInput makes a new instrumentation of another's owner and metric. What is unset is taken from the other.
type CloneInput struct {
	ID             ID
	IdempotencyKey *string
	Name           Optional[string]
	Predicate      Optional[measure.Predicate]
	Decompositions Optional[[]string]
	Scope          Optional[Scope]
	Targets        Optional[[]measure.Target]
	Tags           Optional[[]Tag]
	Granularity    Optional[*int]
	TTL            Optional[*int] // unset: the same time to live that the other was given
	Mistakes       UserErrors     // as in CreateInput
}
