// Package collect holds what the registry of collectors and the engines below it share: what is asked of a collector,
// what it answers, and how it refuses.
package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/zone"
	"iapi/measure"
)

// Request is what to measure on this machine.
type Request struct {
	ID             string // the instrumentation, for logs
	Definition     *catalog.Definition
	Predicate      measure.Predicate
	Decompositions []string
	WholeHost      bool        // one source: the host. Operators only
	Zones          []uuid.UUID // else: exactly these zones; none means nothing, never everything
	Granularity    time.Duration
	Owner          uuid.UUID     // of the instrumentation; Nil: the operators
	Lifetime       time.Duration // for how much longer it is to be measured; 0: no end is known
}

// Fields lists the fields that a request needs, sorted, each once: those of its predicate and its decompositions.
func (r Request) Fields() []string {
	names := append(r.Predicate.Fields(), r.Decompositions...)
	slices.Sort(names)
	return slices.Compact(names)
}

// Collector opens probes. An error of Open is an *Error.
type Collector interface {
	Open(ctx context.Context, r Request) (Probe, error)
}

// Engine opens probes for the variants of one kind of source.
type Engine interface {
	Open(ctx context.Context, r Request, v *catalog.Variant) (Probe, error)
}

// Probe measures one request. It is used by one goroutine at a time, but for Close, which may be called at any time.
type Probe interface {
	// Collect measures the interval that ends at the time given. The first call only primes: its Result is empty.
	Collect(ctx context.Context, at time.Time) (Result, error)
	// SetZones replaces the zones of a request that is not for the whole host. Zones that stay keep their history.
	SetZones(ctx context.Context, zones []uuid.UUID) error
	Close() error
}

// Lasting is a Probe of which something runs apart from this process, and so has to know by itself when to end.
type Lasting interface {
	// SetLifetime replaces what is left to live, counted from now; 0: no end is known. Nothing is restarted.
	SetLifetime(left time.Duration) error
}

// Result is what one interval gave. The lists of samples and failures are reused by the next Collect of the same probe;
// what a sample points to, its fields and its distribution, is never changed.
type Result struct {
	Samples  []Sample
	Failures []ZoneFailure
	Primed   bool   // this call has only read the first values
	Notice   string // what operators should know of a probe that measures all the same, "" for nothing
	// Every is how rarely, for the time being, the probe gives anything: at the multiples of so much, at least a second. 0: whenever it is asked.
	Every time.Duration
}

// Sample is the value of one source and one combination of discrete fields.
type Sample struct {
	Zone         uuid.UUID       // the source; Nil: the whole host
	Fields       []measure.Field // the discrete decompositions, in their order
	Value        float64
	Distribution *measure.Distribution // when decomposed by a numeric field; Value is then the sum of its counts
	Other        bool                  // what the limit on keys has left out, in one sum
	Partial      bool                  // some of it is not known, because a counter began anew or wrapped
}

// ZoneFailure says why one zone of the request gave nothing. The other zones are not concerned.
type ZoneFailure struct {
	Zone    uuid.UUID
	Code    Code
	Message string // for operators
}

// Zones is what engines ask of the zone resolver.
type Zones interface {
	Lookup(id uuid.UUID) (zone.Zone, bool)
}

// Code is the kind of a refusal. None of them is worth retrying in a loop.
type Code string

// The codes.
const (
	Unsupported Code = "UNSUPPORTED" // this machine has no way to measure it
	Denied      Code = "DENIED"      // it must not be measured for this owner here
	OverBudget  Code = "OVER_BUDGET" // it would cost, or has cost, more than is allowed
	Failed      Code = "FAILED"      // it went wrong; the text says how
)

// Error is a refusal with its code and a text for operators.
type Error struct {
	Code    Code
	Message string
	Err     error // the cause, if there is one
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; %w works as in fmt.Errorf.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Refusal gives the Error in an error's chain, or makes one of code Failed.
func Refusal(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Failed, Message: err.Error(), Err: err}
}

// Lookup finds a zone that the request may measure. A zone that belongs to somebody else is refused, whatever the control
// plane says.
func (r Request) Lookup(zones Zones, id uuid.UUID) (zone.Zone, error) {
	z, found := zone.Zone{}, false
	if zones != nil {
		z, found = zones.Lookup(id)
	}
	switch {
	case !found:
		return z, Errorf(Failed, "there is no such zone on this host")
	case r.Owner != uuid.Nil && z.Owner != uuid.Nil && z.Owner != r.Owner:
		return z, Errorf(Failed, "the zone belongs to somebody else on this host")
	}
	return z, nil
}
