//go:build !illumos

package main

import (
	"time"

	"iapi/instrumentation"
	"iapi/measure"
)

// policyFlags are the limits and defaults of a datacenter: instrumentation.Policy, whole. "iapi api" and "iapi dev" take
// them. A test keeps the defaults here equal to instrumentation.DefaultPolicy.
type policyFlags struct {
	DefaultTarget       []string `sep:"none" group:"limits" help:"Where data goes when a create names no target. Again: others too. ${default_target}" placeholder:"URL"`
	AllowPrivateTargets bool     `negatable:"" default:"${allow_private}" group:"limits" help:"Let tenants send to loopback, link-local and metadata addresses of the hosts."`

	MaxInstrumentations         count `default:"256" group:"limits" help:"Instrumentations that one owner may have, tracing ones included."`
	MaxTracingInstrumentations  count `default:"8" group:"limits" help:"Tracing instrumentations that one owner may have."`
	MaxOperatorInstrumentations count `default:"10000" group:"limits" help:"Instrumentations that the operators may have of their own."`
	MaxOperatorTracing          count `default:"256" group:"limits" help:"Tracing instrumentations that the operators may have of their own."`

	MaxNameBytes     count `default:"128" group:"limits" help:"Bytes of an instrumentation's name."`
	MaxTags          count `default:"32" group:"limits" help:"Tags of one instrumentation."`
	MaxTagKeyBytes   count `default:"128" group:"limits" help:"Bytes of a tag's key."`
	MaxTagValueBytes count `default:"256" group:"limits" help:"Bytes of a tag's value."`
	MaxTargets       count `default:"8" group:"limits" help:"Targets of one instrumentation."`

	MaxScopeDepth      count `default:"8" group:"limits" help:"Levels of a scope: 1 for a term, one more for each and, or, not around it."`
	MaxScopeTerms      count `default:"64" group:"limits" help:"Terms of a scope."`
	MaxScopeUUIDs      count `name:"max-scope-uuids" default:"4096" group:"limits" help:"Uuids in all lists of a scope together."`
	MaxScopeValues     count `default:"256" group:"limits" help:"Values in one list of a scope's tag values."`
	MaxScopeTextBytes  count `default:"512" group:"limits" help:"Bytes of a tag's key, a tag's value or an alias in a scope."`
	MaxPredicateDepth  count `default:"${predicate_depth}" group:"limits" help:"Levels of a predicate; agents take ${predicate_depth} at most."`
	MaxPredicateLeaves count `default:"${predicate_leaves}" group:"limits" help:"Comparisons of a predicate; agents take ${predicate_leaves} at most."`

	MaxDecompositions count `default:"4" group:"limits" help:"Discrete fields to break down by; one numeric field may come beside them."`

	AuditEntries count `default:"100000" group:"limits" help:"Entries of the audit log that are kept at least. Each is also a line of the API's log, where it stays when it has left."`

	MaxGranularity  seconds `default:"1h" group:"limits" help:"The longest interval of an instrumentation, as a time of whole seconds."`
	TracingTTL      seconds `name:"tracing-ttl" default:"1h" group:"limits" help:"How long tracing lives that asks for no time to live."`
	MaxTracingTTL   seconds `name:"max-tracing-ttl" default:"24h" group:"limits" help:"How long tracing may live, where its metric sets no shorter time."`
	MaxTTL          seconds `name:"max-ttl" default:"87600h" group:"limits" help:"The longest time to live that can be asked for; what shall live longer asks for none."`
	MaxJoinTokenTTL seconds `name:"max-join-token-ttl" default:"24h" group:"limits" help:"How long a join token can be made to hold."`
}

func (f policyFlags) policy() (instrumentation.Policy, error) {
	p := instrumentation.Policy{
		Instrumentations: int(f.MaxInstrumentations), TracingInstrumentations: int(f.MaxTracingInstrumentations),
		OperatorInstrumentations: int(f.MaxOperatorInstrumentations), OperatorTracing: int(f.MaxOperatorTracing),
		NameBytes: int(f.MaxNameBytes), Tags: int(f.MaxTags), TagKeyBytes: int(f.MaxTagKeyBytes),
		TagValueBytes: int(f.MaxTagValueBytes), Targets: int(f.MaxTargets),
		ScopeDepth: int(f.MaxScopeDepth), ScopeLeaves: int(f.MaxScopeTerms), ScopeUUIDs: int(f.MaxScopeUUIDs),
		ScopeValues: int(f.MaxScopeValues), ScopeTextBytes: int(f.MaxScopeTextBytes),
		PredicateDepth: int(f.MaxPredicateDepth), PredicateLeaves: int(f.MaxPredicateLeaves),
		DiscreteDecompositions: int(f.MaxDecompositions),
		GranularitySeconds:     f.MaxGranularity.count(), TracingTTL: time.Duration(f.TracingTTL),
		MaxTracingTTL: time.Duration(f.MaxTracingTTL), MaxTTL: time.Duration(f.MaxTTL), JoinTokenTTL: time.Duration(f.MaxJoinTokenTTL),
		AllowPrivateTargets: f.AllowPrivateTargets,
	}
	for _, text := range f.DefaultTarget {
		t, err := measure.ParseTarget(text)
		if err != nil {
			return p, usageError("--default-target: %w", err)
		}
		p.DefaultTargets = append(p.DefaultTargets, t)
	}
	switch {
	case p.PredicateDepth > measure.MaxPredicateDepth:
		return p, usageError("--max-predicate-depth: agents take %d levels at most", measure.MaxPredicateDepth)
	case p.PredicateLeaves > measure.MaxPredicateLeaves:
		return p, usageError("--max-predicate-leaves: agents take %d comparisons at most", measure.MaxPredicateLeaves)
	case p.TracingTTL > p.MaxTracingTTL:
		return p, usageError("--tracing-ttl %s is more than --max-tracing-ttl %s", f.TracingTTL, f.MaxTracingTTL)
	case len(p.DefaultTargets) > p.Targets:
		return p, usageError("--default-target: %d are more than --max-targets %d", len(p.DefaultTargets), p.Targets)
	}
	return p, nil
}

// trafficFlags are what an API takes from one caller, and from all agents together.
type trafficFlags struct {
	Rate      bound `default:"5000" group:"limits" help:"What a caller may ask for in a second, in units of complexity: about one for each field of an answer. 0: anything. Agents are not counted; they are paced by their heartbeat."`
	RateBurst count `default:"100000" group:"limits" help:"What a caller may save up of that, in the same units."`
	Admit     rate  `default:"5000" group:"limits" help:"Websockets that may connect in one second; the others are told when to come back. 0: all that come."`
}
