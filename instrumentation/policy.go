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
		GranularitySeconds:     3600, TracingTTL: time.Hour, MaxTracingTTL: 24 * time.Hour, JoinTokenTTL: 24 * time.Hour,
	}
}

func (p Policy) withDefaults() Policy {
	d := DefaultPolicy()
	for _, m := range []struct{ is, def *int }{
		{&p.Instrumentations, &d.Instrumentations}, {&p.TracingInstrumentations, &d.TracingInstrumentations},
		{&p.OperatorInstrumentations, &d.OperatorInstrumentations}, {&p.OperatorTracing, &d.OperatorTracing},
		{&p.NameBytes, &d.NameBytes}, {&p.Tags, &d.Tags}, {&p.TagKeyBytes, &d.TagKeyBytes},
		{&p.TagValueBytes, &d.TagValueBytes}, {&p.Targets, &d.Targets}, {&p.ScopeDepth, &d.ScopeDepth},
		{&p.ScopeLeaves, &d.ScopeLeaves}, {&p.ScopeUUIDs, &d.ScopeUUIDs}, {&p.ScopeValues, &d.ScopeValues},
		{&p.ScopeTextBytes, &d.ScopeTextBytes}, {&p.PredicateDepth, &d.PredicateDepth},
		{&p.PredicateLeaves, &d.PredicateLeaves}, {&p.DiscreteDecompositions, &d.DiscreteDecompositions},
		{&p.GranularitySeconds, &d.GranularitySeconds},
	} {
		if *m.is == 0 {
			*m.is = *m.def
		}
	}
	for _, m := range []struct{ is, def *time.Duration }{
		{&p.TracingTTL, &d.TracingTTL}, {&p.MaxTracingTTL, &d.MaxTracingTTL}, {&p.JoinTokenTTL, &d.JoinTokenTTL},
	} {
		if *m.is == 0 {
			*m.is = *m.def
		}
	}
	return p
}

// validate refuses a configuration that would refuse everything, or whose defaults break its own rules.
func (p Policy) validate() error {
	if p.TracingTTL < time.Second || p.MaxTracingTTL < p.TracingTTL {
		return fmt.Errorf("policy: the default time to live %v must be between 1s and the longest, %v", p.TracingTTL, p.MaxTracingTTL)
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
