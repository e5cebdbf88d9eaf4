package instrumentation

import (
	"fmt"
	"time"

	"iapi/measure"
)

// Policy is what a datacenter's operators set: limits and defaults. All limits are inclusive.
type Policy struct {
	Instrumentations         int // of one owner, tracing ones included, until they are gone
	TracingInstrumentations  int // of one owner
	OperatorInstrumentations int // the operators' own
	OperatorTracing          int // the operators' own

	NameBytes     int
	Tags          int // of one instrumentation
	TagKeyBytes   int
	TagValueBytes int
	Targets       int // of one instrumentation

	ScopeDepth      int // a term alone has depth 1; each and, or and not around it adds one
	ScopeLeaves     int
	ScopeUUIDs      int // in all lists of one scope together
	ScopeValues     int // in one list of tag values
	ScopeTextBytes  int // of one tag key, tag value or alias in a scope
	PredicateDepth  int // at most measure.MaxPredicateDepth
	PredicateLeaves int // at most measure.MaxPredicateLeaves

	DiscreteDecompositions int // beside which there may be one numeric decomposition, as the last

	GranularitySeconds int           // the coarsest
	TracingTTL         time.Duration // of tracing instrumentations that ask for none
	MaxTracingTTL      time.Duration // where the metric's definition does not set a shorter one
	MaxTTL             time.Duration // of any; what shall live longer names none
	JoinTokenTTL       time.Duration // the longest life of a join token

	// DefaultTargets are used where an instrumentation names none.
	DefaultTargets []measure.Target
	// AllowPrivateTargets lets tenants send to loopback, link-local and metadata addresses of the hosts that measure.
	// Operators always may.
	AllowPrivateTargets bool
}

// DefaultPolicy returns the limits that hold where nothing is configured.
func DefaultPolicy() Policy {
	return Policy{
		Instrumentations: 256, TracingInstrumentations: 8, OperatorInstrumentations: 10_000, OperatorTracing: 256,
		NameBytes: 128, Tags: 32, TagKeyBytes: 128, TagValueBytes: 256, Targets: 8,
		ScopeDepth: 8, ScopeLeaves: 64, ScopeUUIDs: 4096, ScopeValues: 256, ScopeTextBytes: 512,
		PredicateDepth: measure.MaxPredicateDepth, PredicateLeaves: measure.MaxPredicateLeaves,
		DiscreteDecompositions: 4,
		GranularitySeconds:     3600, TracingTTL: time.Hour, MaxTracingTTL: 24 * time.Hour, MaxTTL: 10 * 365 * 24 * time.Hour,
		JoinTokenTTL: 24 * time.Hour,
	}
}

// limit is one number of a policy, by the name that a message gives it.
type limit[T int | time.Duration] struct {
	name string
	is   *T
}

func (p *Policy) counts() []limit[int] {
	return []limit[int]{
		{"instrumentations", &p.Instrumentations}, {"tracing instrumentations", &p.TracingInstrumentations},
		{"the operators' instrumentations", &p.OperatorInstrumentations}, {"the operators' tracing instrumentations", &p.OperatorTracing},
		{"bytes of a name", &p.NameBytes}, {"tags", &p.Tags}, {"bytes of a tag's key", &p.TagKeyBytes},
		{"bytes of a tag's value", &p.TagValueBytes}, {"targets", &p.Targets}, {"levels of a scope", &p.ScopeDepth},
		{"terms of a scope", &p.ScopeLeaves}, {"uuids in a scope", &p.ScopeUUIDs}, {"values in a scope's list", &p.ScopeValues},
		{"bytes of a scope's texts", &p.ScopeTextBytes}, {"levels of a predicate", &p.PredicateDepth},
		{"comparisons of a predicate", &p.PredicateLeaves}, {"discrete decompositions", &p.DiscreteDecompositions},
		{"seconds of granularity", &p.GranularitySeconds},
	}
}

func (p *Policy) times() []limit[time.Duration] {
	return []limit[time.Duration]{
		{"the default time to live of what traces", &p.TracingTTL}, {"the longest time to live of what traces", &p.MaxTracingTTL},
		{"the longest time to live", &p.MaxTTL}, {"the longest life of a join token", &p.JoinTokenTTL},
	}
}

func (p Policy) withDefaults() Policy {
	d := DefaultPolicy()
	fill(p.counts(), d.counts())
	fill(p.times(), d.times())
	return p
}

// fill puts the defaults where nothing is set.
func fill[T int | time.Duration](to, defaults []limit[T]) {
	for i, l := range to {
		if *l.is == 0 {
			*l.is = *defaults[i].is
		}
	}
}

// validate refuses a configuration that would refuse everything, or whose defaults break its own rules.
func (p Policy) validate() error {
	for _, l := range p.counts() {
		if *l.is < 1 {
			return fmt.Errorf("policy: %s: %d is not a positive number", l.name, *l.is)
		}
	}
	for _, l := range p.times() {
		if *l.is < time.Second {
			return fmt.Errorf("policy: %s: %v is less than 1s", l.name, *l.is)
		}
	}
	switch {
	case p.MaxTracingTTL < p.TracingTTL:
		return fmt.Errorf("policy: the default time to live of what traces, %v, is more than the longest, %v", p.TracingTTL, p.MaxTracingTTL)
	case p.PredicateDepth > measure.MaxPredicateDepth:
		return fmt.Errorf("policy: agents take %d levels of a predicate at most, not %d", measure.MaxPredicateDepth, p.PredicateDepth)
	case p.PredicateLeaves > measure.MaxPredicateLeaves:
		return fmt.Errorf("policy: agents take %d comparisons of a predicate at most, not %d", measure.MaxPredicateLeaves, p.PredicateLeaves)
	}
	if len(p.DefaultTargets) > p.Targets {
		return fmt.Errorf("policy: %d default targets are more than the %d allowed", len(p.DefaultTargets), p.Targets)
	}
	for i, t := range p.DefaultTargets {
		if err := t.Validate(); err != nil {
			return fmt.Errorf("policy: default target %d: %w", i, err)
		}
	}
	return nil
}
