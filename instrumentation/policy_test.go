package instrumentation_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/identity"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
	"iapi/measure"
)

// small is a policy of which every limit can be reached by hand.
func small() in.Policy {
	return in.Policy{
		Instrumentations: 40, TracingInstrumentations: 30, OperatorInstrumentations: 20, OperatorTracing: 10,
		NameBytes: 3, Tags: 2, TagKeyBytes: 4, TagValueBytes: 5, Targets: 2, ScopeDepth: 3, ScopeLeaves: 4, ScopeUUIDs: 5, ScopeValues: 2,
		ScopeTextBytes: 6, PredicateDepth: 2, PredicateLeaves: 3, DiscreteDecompositions: 2, GranularitySeconds: 7,
		TracingTTL: 10 * time.Second, MaxTracingTTL: 20 * time.Second, MaxTTL: 30 * time.Second, JoinTokenTTL: 2 * time.Minute,
	}
}

// TestEveryLimitOfThePolicyIsKept makes wishes that are as large as each limit allows, and one larger, which is one mistake
// with its code and path.
func TestEveryLimitOfThePolicyIsKept(t *testing.T) {
	and := func(n int) in.Scope { return in.Scope{And: make([]in.Scope, n)} }
	leaves := func(n int) measure.Predicate {
		p := measure.Predicate{Op: measure.Or}
		for range n {
			p.Args = append(p.Args, eq("execname", "x"))
		}
		return p
	}
	nest := func(s in.Scope, n int) in.Scope {
		for range n {
			s = not(s)
		}
		return s
	}
	ids := func(n int) (out []uuid.UUID) {
		for range n {
			out = append(out, uuid.New())
		}
		return out
	}
	discrete := []string{"execname", "optype", "zonename"}
	tests := map[string]struct {
		wish func(w *in.CreateInput, n int)
		most int
		want string
	}{
		"NameBytes":     {func(w *in.CreateInput, n int) { w.Name = strings.Repeat("n", n) }, 3, "LIMIT_EXCEEDED name"},
		"Tags":          {func(w *in.CreateInput, n int) { w.Tags = []in.Tag{{Key: "a"}, {Key: "b"}, {Key: "c"}}[:n] }, 2, "LIMIT_EXCEEDED tags"},
		"TagKeyBytes":   {func(w *in.CreateInput, n int) { w.Tags = []in.Tag{{Key: strings.Repeat("k", n)}} }, 4, "LIMIT_EXCEEDED tags.0.key"},
		"TagValueBytes": {func(w *in.CreateInput, n int) { w.Tags = []in.Tag{{Key: "k", Value: strings.Repeat("v", n)}} }, 5, "LIMIT_EXCEEDED tags.0.value"},
		"Targets": {func(w *in.CreateInput, n int) {
			w.Targets = []measure.Target{it.Target(), it.Target(), it.Target()}[:n]
		}, 2, "LIMIT_EXCEEDED targets"},
		"ScopeDepth":     {func(w *in.CreateInput, n int) { w.Scope = nest(in.Scope{All: true}, n-1) }, 3, "INVALID_SCOPE scope.not.not.not"},
		"ScopeLeaves":    {func(w *in.CreateInput, n int) { w.Scope = and(n); fillAll(w.Scope.And) }, 4, "INVALID_SCOPE scope"},
		"ScopeUUIDs":     {func(w *in.CreateInput, n int) { w.Scope = in.Scope{Or: []in.Scope{{VMs: ids(3)}, {VMs: ids(n - 3)}}} }, 5, "LIMIT_EXCEEDED scope"},
		"ScopeValues":    {func(w *in.CreateInput, n int) { w.Scope = tag("k", []string{"a", "b", "c"}[:n]...) }, 2, "LIMIT_EXCEEDED scope.vmTag.in"},
		"ScopeTextBytes": {func(w *in.CreateInput, n int) { w.Scope = in.Scope{VMAlias: strings.Repeat("a", n)} }, 6, "LIMIT_EXCEEDED scope.vmAlias"},
		"PredicateDepth": {func(w *in.CreateInput, n int) {
			w.Predicate = eq("execname", "x")
			for range n - 1 {
				w.Predicate = measure.Predicate{Op: measure.And, Args: []measure.Predicate{w.Predicate}}
			}
		}, 2, "INVALID_PREDICATE predicate"},
		"PredicateLeaves":        {func(w *in.CreateInput, n int) { w.Predicate = leaves(n) }, 3, "INVALID_PREDICATE predicate"},
		"DiscreteDecompositions": {func(w *in.CreateInput, n int) { w.Decompositions = discrete[:n] }, 2, "LIMIT_EXCEEDED decompositions.2"},
		"GranularitySeconds":     {func(w *in.CreateInput, n int) { w.Granularity = &n }, 7, "LIMIT_EXCEEDED granularitySeconds"},
		"MaxTracingTTL":          {func(w *in.CreateInput, n int) { w.TTL = &n }, 20, "TTL_EXCEEDED ttlSeconds"},
		"MaxTTL":                 {func(w *in.CreateInput, n int) { w.Metric, w.TTL = "cpu.usage", &n }, 30, "TTL_EXCEEDED ttlSeconds"},
	}
	w := it.NewWorld(t, func(o *in.Options) {
		targets := o.Policy.DefaultTargets
		o.Policy = small()
		o.Policy.DefaultTargets = targets
	})
	policy := reflect.ValueOf(small())
	for name, test := range tests {
		limit := policy.FieldByName(name)
		if d, ok := limit.Interface().(time.Duration); ok {
			require.EqualValues(t, test.most, d.Seconds(), name)
		} else {
			require.EqualValues(t, test.most, limit.Int(), name)
		}
		_, err := w.Create(t.Context(), it.Tenant(alice), tracing(func(c *in.CreateInput) { test.wish(c, test.most) }))
		require.NoError(t, err, name)
		_, err = w.Create(t.Context(), it.Tenant(alice), tracing(func(c *in.CreateInput) { test.wish(c, test.most+1) }))
		require.Equal(t, []string{test.want}, mistakes(t, err), name)
	}
	rec := create(t, w, it.Tenant(bob), tracing())
	require.Equal(t, 10, rec.TTL, "TracingTTL")
	_, err := w.CreateJoinToken(t.Context(), it.Operator(), hostA, 2*time.Minute)
	require.NoError(t, err, "JoinTokenTTL")
	_, err = w.CreateJoinToken(t.Context(), it.Operator(), hostA, 2*time.Minute+time.Second)
	require.Equal(t, []string{"TTL_EXCEEDED ttlSeconds"}, mistakes(t, err))

	for name, test := range map[string]struct {
		caller identity.Caller
		wish   in.CreateInput
		most   int
	}{
		"OperatorTracing": {it.Operator(), tracing(everyHost), 10}, "OperatorInstrumentations": {it.Operator(), counter(everyHost), 20},
		"TracingInstrumentations": {it.Tenant(uuid.New()), tracing(), 30}, "Instrumentations": {it.Tenant(uuid.New()), counter(), 40},
	} {
		require.EqualValues(t, test.most, policy.FieldByName(name).Int())
		w := it.NewWorld(t, func(o *in.Options) {
			targets := o.Policy.DefaultTargets
			o.Policy = small()
			o.Policy.DefaultTargets = targets
		})
		for range test.most {
			create(t, w, test.caller, test.wish)
		}
		_, err := w.Create(t.Context(), test.caller, test.wish)
		require.Equal(t, []string{"LIMIT_EXCEEDED metric"}, mistakes(t, err), name)
		tests[name] = tests["Tags"]
	}
	// A limit that comes to the policy comes here too.
	for _, name := range []string{"TracingTTL", "JoinTokenTTL", "DefaultTargets", "AllowPrivateTargets"} {
		tests[name] = tests["Tags"]
	}
	for i := range policy.NumField() {
		require.Contains(t, tests, policy.Type().Field(i).Name)
	}
}

func everyHost(w *in.CreateInput) { w.Scope = in.Scope{EveryHost: true} }

func fillAll(scopes []in.Scope) {
	for i := range scopes {
		scopes[i] = in.Scope{All: true}
	}
}

func TestAPolicyThatCannotHoldIsRefused(t *testing.T) {
	for want, change := range map[string]func(*in.Policy){
		"tags: -1":                          func(p *in.Policy) { p.Tags = -1 },
		"the longest time to live: 1ms":     func(p *in.Policy) { p.MaxTTL = time.Millisecond },
		"more than the longest":             func(p *in.Policy) { p.TracingTTL, p.MaxTracingTTL = time.Hour, time.Minute },
		"8 levels of a predicate at most":   func(p *in.Policy) { p.PredicateDepth = 9 },
		"64 comparisons of a predicate":     func(p *in.Policy) { p.PredicateLeaves = 65 },
		"2 default targets are more than":   func(p *in.Policy) { p.Targets, p.DefaultTargets = 1, []measure.Target{it.Target(), it.Target()} },
		"default target 0":                  func(p *in.Policy) { p.DefaultTargets = []measure.Target{{Kind: "pigeon"}} },
		"the longest life of a join token:": func(p *in.Policy) { p.JoinTokenTTL = -time.Hour },
	} {
		w := it.NewWorld(t)
		o := in.Options{Store: w.Store, Queue: w.Queue, Previewer: w.Store, Agents: w.Agents, Catalog: it.Catalog(t), Policy: in.DefaultPolicy()}
		change(&o.Policy)
		_, err := in.New(o)
		require.ErrorContains(t, err, want)
	}
}
