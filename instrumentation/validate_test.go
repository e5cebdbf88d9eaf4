package instrumentation_test

import (
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

func eq(field, value string) measure.Predicate {
	return measure.Predicate{Op: measure.Eq, Field: field, Value: measure.String(value)}
}

func TestEveryMistakeHasItsCodeAndPath(t *testing.T) {
	big := strings.Repeat("k", 64<<10)
	deep := in.Scope{All: true}
	for range 8 {
		deep = not(deep)
	}
	wide := in.Scope{}
	for range 65 {
		wide.Or = append(wide.Or, in.Scope{All: true})
	}
	host := in.Scope{Hosts: []uuid.UUID{hostA}}
	statsd := func(address string) []measure.Target {
		return []measure.Target{{Kind: measure.Statsd, Address: address}}
	}
	tests := []struct {
		name   string
		caller identity.Caller
		change func(*in.CreateInput)
		want   []string
	}{
		{"nothing wrong", it.Tenant(alice), func(*in.CreateInput) {}, nil},
		{"unknown metric", it.Tenant(alice), func(w *in.CreateInput) { w.Metric = "cpu.usag" }, []string{"UNKNOWN_METRIC metric"}},
		{"no metric", it.Tenant(alice), func(w *in.CreateInput) { w.Metric = "" }, []string{"UNKNOWN_METRIC metric"}},
		{"operators' metric", it.Tenant(alice), func(w *in.CreateInput) { w.Metric = "test.secret" }, []string{"UNKNOWN_METRIC metric"}},
		{"operators' metric for a tenant", it.Operator(), func(w *in.CreateInput) { w.Metric, w.Owner = "test.secret", &alice }, []string{"UNKNOWN_METRIC metric"}},
		{"operators' field", it.Tenant(alice), func(w *in.CreateInput) { w.Decompositions = []string{"hostname"} }, []string{"UNKNOWN_FIELD decompositions.0"}},
		{"operators' field for a tenant", it.Operator(), func(w *in.CreateInput) { w.Owner, w.Decompositions = &alice, []string{"hostname"} }, []string{"UNKNOWN_FIELD decompositions.0"}},
		{"operators' field in a predicate", it.Tenant(alice), func(w *in.CreateInput) {
			w.Predicate = measure.Predicate{Op: measure.And, Args: []measure.Predicate{eq("execname", "x"), eq("hostname", "x")}}
		}, []string{"UNKNOWN_FIELD predicate.and.1.eq"}},
		{"predicate on an unknown field", it.Tenant(alice), func(w *in.CreateInput) { w.Predicate = eq("execnam", "x") }, []string{"UNKNOWN_FIELD predicate.eq"}},
		{"string for a number", it.Tenant(alice), func(w *in.CreateInput) { w.Predicate = eq("latency", "NaN") }, []string{"TYPE_MISMATCH predicate.eq"}},
		{"order of strings", it.Tenant(alice), func(w *in.CreateInput) {
			w.Predicate = measure.Predicate{Op: measure.Lt, Field: "execname", Value: measure.String("x")}
		}, []string{"TYPE_MISMATCH predicate.lt"}},
		{"value outside a closed set", it.Tenant(alice), func(w *in.CreateInput) { w.Predicate = eq("optype", "wriet") }, []string{"TYPE_MISMATCH predicate.eq"}},
		{"two mistakes in a predicate", it.Tenant(alice), func(w *in.CreateInput) {
			w.Predicate = measure.Predicate{Op: measure.Or, Args: []measure.Predicate{eq("latency", "5"), eq("nope", "x")}}
		}, []string{"TYPE_MISMATCH predicate.or.0.eq", "UNKNOWN_FIELD predicate.or.1.eq"}},
		{"operator of its own", it.Tenant(alice), func(w *in.CreateInput) { w.Predicate = measure.Predicate{Op: "xor"} }, []string{"INVALID_PREDICATE predicate.xor"}},
		{"empty and", it.Tenant(alice), func(w *in.CreateInput) { w.Predicate = measure.Predicate{Op: measure.And} }, []string{"INVALID_PREDICATE predicate.and"}},
		{"field twice", it.Tenant(alice), func(w *in.CreateInput) { w.Decompositions = []string{"execname", "execname"} }, []string{"LIMIT_EXCEEDED decompositions.1"}},
		{"two numeric fields", it.Tenant(alice), func(w *in.CreateInput) { w.Decompositions = []string{"size", "latency"} }, []string{"TYPE_MISMATCH decompositions.0", "LIMIT_EXCEEDED decompositions.1"}},
		{"numeric field first", it.Tenant(alice), func(w *in.CreateInput) { w.Decompositions = []string{"latency", "execname"} }, []string{"TYPE_MISMATCH decompositions.0"}},
		{"four and one", it.Tenant(alice), func(w *in.CreateInput) {
			w.Decompositions = []string{"zonename", "execname", "optype", "pid", "latency"}
		}, nil},
		{"five and one", it.Tenant(alice), func(w *in.CreateInput) {
			w.Decompositions = []string{"zonename", "execname", "optype", "pid", "ppid", "latency"}
		}, []string{"LIMIT_EXCEEDED decompositions.4"}},
		{"no scope", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{} }, []string{"INVALID_SCOPE scope"}},
		{"two members", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{All: true, VMAlias: "x"} }, []string{"INVALID_SCOPE scope"}},
		{"two members below", it.Tenant(alice), func(w *in.CreateInput) {
			w.Scope = in.Scope{And: []in.Scope{{All: true}, {All: true, VMs: []uuid.UUID{vmA}}}}
		}, []string{"INVALID_SCOPE scope.and.1"}},
		{"empty list", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{VMs: []uuid.UUID{}} }, []string{"INVALID_SCOPE scope.vms"}},
		{"empty and in a scope", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = not(in.Scope{And: []in.Scope{}}) }, []string{"INVALID_SCOPE scope.not.and"}},
		{"empty in", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{VMTag: &in.TagMatch{Key: "k", In: []string{}}} }, []string{"INVALID_SCOPE scope.vmTag.in"}},
		{"nil uuid", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{VMs: []uuid.UUID{vmA, uuid.Nil}} }, []string{"INVALID_SCOPE scope.vms.1"}},
		{"no key", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = tag("") }, []string{"INVALID_SCOPE scope.vmTag.key"}},
		{"64 KiB key", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = tag(big) }, []string{"LIMIT_EXCEEDED scope.vmTag.key"}},
		{"64 KiB value", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = tag("k", "v", big) }, []string{"LIMIT_EXCEEDED scope.vmTag.in.1"}},
		{"not UTF-8", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = tag("\xff") }, []string{"INVALID_SCOPE scope.vmTag.key"}},
		{"too deep", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = deep }, []string{"INVALID_SCOPE scope" + strings.Repeat(".not", 8)}},
		{"deep enough", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = *deep.Not }, nil},
		{"too wide", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = wide }, []string{"INVALID_SCOPE scope"}},
		{"wide enough", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{Or: wide.Or[:64]} }, nil},
		{"too many machines", it.Tenant(alice), func(w *in.CreateInput) {
			for range 4097 {
				w.Scope.VMs = append(w.Scope.VMs, vmA)
			}
			w.Scope.All = false
		}, []string{"LIMIT_EXCEEDED scope"}},
		{"tenant chooses hosts", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{And: []in.Scope{{All: true}, not(host)}} }, []string{"SCOPE_FORBIDDEN scope.and.1.not.hosts"}},
		{"tenant chooses racks", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{HostTag: &in.TagMatch{Key: "rack"}} }, []string{"SCOPE_FORBIDDEN scope.hostTag"}},
		{"tenant wants every host", it.Tenant(alice), func(w *in.CreateInput) { w.Scope = in.Scope{EveryHost: true} }, []string{"SCOPE_FORBIDDEN scope.everyHost"}},
		{"cloudapi chooses hosts", it.Cloudapi(), func(w *in.CreateInput) { w.Owner, w.Scope = &alice, host }, []string{"SCOPE_FORBIDDEN scope.hosts"}},
		{"operator chooses hosts", it.Operator(), func(w *in.CreateInput) { w.Scope = host }, nil},
		{"all without an owner", it.Operator(), func(w *in.CreateInput) { w.Scope = in.Scope{And: []in.Scope{{All: true}, host}} }, []string{"INVALID_SCOPE scope.and.0.all"}},
		{"all with an owner", it.Operator(), func(w *in.CreateInput) { w.Owner, w.Scope = &alice, in.Scope{And: []in.Scope{{All: true}, host}} }, nil},
		{"nine targets", it.Tenant(alice), func(w *in.CreateInput) {
			for range 9 {
				w.Targets = append(w.Targets, it.Target())
			}
		}, []string{"LIMIT_EXCEEDED targets"}},
		{"bad target", it.Tenant(alice), func(w *in.CreateInput) { w.Targets = []measure.Target{it.Target(), {Kind: "carrier pigeon"}} }, []string{"INVALID_TARGET targets.1"}},
		{"tenant's loopback target", it.Tenant(alice), func(w *in.CreateInput) { w.Targets = statsd("127.0.0.1:8125") }, []string{"INVALID_TARGET targets.0"}},
		{"cloudapi's loopback target", it.Cloudapi(), func(w *in.CreateInput) { w.Owner, w.Targets = &alice, statsd("[::1]:8125") }, []string{"INVALID_TARGET targets.0"}},
		{"operator's loopback target", it.Operator(), func(w *in.CreateInput) { w.Owner, w.Targets = &alice, statsd("127.0.0.1:8125") }, nil},
		{"too many tags", it.Tenant(alice), func(w *in.CreateInput) { w.Tags = make([]in.Tag, 33) }, []string{"LIMIT_EXCEEDED tags"}},
		{"bad tags", it.Tenant(alice), func(w *in.CreateInput) {
			w.Tags = []in.Tag{{Key: "a", Value: strings.Repeat("v", 256)}, {Key: ""}, {Key: "a"}, {Key: big, Value: "x"}, {Key: "b", Value: strings.Repeat("v", 257)}, {Key: "c", Value: "\x1b[2J"}}
		}, []string{"TYPE_MISMATCH tags.1.key", "TYPE_MISMATCH tags.2.key", "LIMIT_EXCEEDED tags.3.key", "LIMIT_EXCEEDED tags.4.value", "TYPE_MISMATCH tags.5.value"}},
		{"long name", it.Tenant(alice), func(w *in.CreateInput) { w.Name = strings.Repeat("n", 129) }, []string{"LIMIT_EXCEEDED name"}},
		{"control characters", it.Tenant(alice), func(w *in.CreateInput) { w.Name = "a\nb" }, []string{"TYPE_MISMATCH name"}},
		{"granularity 0", it.Tenant(alice), func(w *in.CreateInput) { w.Granularity = ptr(0) }, []string{"LIMIT_EXCEEDED granularitySeconds"}},
		{"granularity 3600", it.Tenant(alice), func(w *in.CreateInput) { w.Granularity = ptr(3600) }, nil},
		{"granularity 3601", it.Tenant(alice), func(w *in.CreateInput) { w.Granularity = ptr(3601) }, []string{"LIMIT_EXCEEDED granularitySeconds"}},
		{"lives too long", it.Tenant(alice), func(w *in.CreateInput) { w.TTL = ptr(7201) }, []string{"TTL_EXCEEDED ttlSeconds"}},
		{"lives as long as may be", it.Tenant(alice), func(w *in.CreateInput) { w.TTL = ptr(7200) }, nil},
		{"lives never", it.Tenant(alice), func(w *in.CreateInput) { w.TTL = ptr(0) }, []string{"TTL_EXCEEDED ttlSeconds"}},
		{"lives backwards", it.Tenant(alice), func(w *in.CreateInput) { w.TTL = ptr(-5) }, []string{"TTL_EXCEEDED ttlSeconds"}},
		{"lives for ages", it.Tenant(alice), func(w *in.CreateInput) { w.Metric, w.TTL = "cpu.usage", ptr(1<<31-1) }, []string{"TTL_EXCEEDED ttlSeconds"}},
		{"long key", it.Tenant(alice), func(w *in.CreateInput) { w.IdempotencyKey = ptr(big) }, []string{"LIMIT_EXCEEDED idempotencyKey"}},
		{"empty key", it.Tenant(alice), func(w *in.CreateInput) { w.IdempotencyKey = ptr("") }, []string{"TYPE_MISMATCH idempotencyKey"}},
		{"control character in a key", it.Tenant(alice), func(w *in.CreateInput) { w.IdempotencyKey = ptr("a\x00") }, []string{"TYPE_MISMATCH idempotencyKey"}},
		{"unknown metric, and what does not depend on it", it.Tenant(alice), func(w *in.CreateInput) {
			w.Metric, w.TTL, w.Predicate = "nope", ptr(-5), measure.Predicate{Op: measure.And}
			w.Decompositions = []string{"a", "a", "b", "c", "d", "e", "f"}
			w.Tags, w.Targets = []in.Tag{{}}, []measure.Target{{}}
		}, []string{
			"UNKNOWN_METRIC metric", "INVALID_PREDICATE predicate.and", "LIMIT_EXCEEDED decompositions.1", "LIMIT_EXCEEDED decompositions.5",
			"TTL_EXCEEDED ttlSeconds", "INVALID_TARGET targets.0", "TYPE_MISMATCH tags.0.key",
		}},
		{"unknown metric, and fields that it might have", it.Tenant(alice), func(w *in.CreateInput) {
			w.Metric, w.TTL, w.Predicate, w.Decompositions = "nope", ptr(7201), eq("a", "x"), []string{"a", "b"}
		}, []string{"UNKNOWN_METRIC metric"}},
		{"unknown metric for ages", it.Tenant(alice), func(w *in.CreateInput) { w.Metric, w.TTL = "nope", ptr(1<<31-1) }, []string{"UNKNOWN_METRIC metric", "TTL_EXCEEDED ttlSeconds"}},
		{"everything at once", it.Tenant(alice), func(w *in.CreateInput) {
			w.Name, w.Metric, w.Scope, w.Granularity = strings.Repeat("n", 129), "nope", in.Scope{}, ptr(0)
		}, []string{"LIMIT_EXCEEDED name", "UNKNOWN_METRIC metric", "INVALID_SCOPE scope", "LIMIT_EXCEEDED granularitySeconds"}},
		{"what reading found is not judged again", it.Tenant(alice), func(w *in.CreateInput) {
			_, w.Mistakes = in.ScopeFrom(map[string]any{"all": false})
			w.Granularity = ptr(0)
		}, []string{"INVALID_SCOPE scope.all", "LIMIT_EXCEEDED granularitySeconds"}},
	}
	w := it.NewWorld(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec, err := w.Create(t.Context(), test.caller, tracing(test.change))
			require.Equal(t, test.want, mistakes(t, err), "%v", err)
			if test.want != nil {
				require.Nil(t, rec)
				require.Equal(t, strings.Fields(test.want[0])[0], last(w).Result, "refusals are on record")
				require.Empty(t, last(w).Subject, "nothing has been made")
				return
			}
			require.NoError(t, w.Delete(t.Context(), it.Operator(), rec.ID))
		})
	}
}

func TestUnknownNamesGetSuggestionsThatTheCallerMayUse(t *testing.T) {
	w := it.NewWorld(t)
	for written, want := range map[string]string{"cpu.usag": "cpu.usage", "CPU.Usage": "cpu.usage", "test.secrte": "", "zzzzzzzz": ""} {
		_, err := w.Create(t.Context(), it.Tenant(alice), counter(func(c *in.CreateInput) { c.Metric = written }))
		if want == "" {
			require.NotContains(t, err.Error(), "did you mean")
		} else {
			require.ErrorContains(t, err, "did you mean "+want+"?")
		}
	}
	_, err := w.Create(t.Context(), it.Operator(), counter(func(c *in.CreateInput) { c.Metric, c.Scope = "test.secrte", in.Scope{EveryHost: true} }))
	require.ErrorContains(t, err, "did you mean test.secret?")
	_, err = w.Create(t.Context(), it.Tenant(alice), tracing(func(c *in.CreateInput) { c.Decompositions = []string{"exename", "hostnam"} }))
	require.ErrorContains(t, err, "did you mean execname?")
	require.NotContains(t, err.Error(), "hostname")
}

func TestNoTargetMeansTheConfiguredOneOrAMistake(t *testing.T) {
	w := it.NewWorld(t)
	require.Equal(t, []measure.Target{it.Target()}, create(t, w, it.Tenant(alice), counter()).Targets)
	w = it.NewWorld(t, func(o *in.Options) { o.Policy.DefaultTargets = nil })
	_, err := w.Create(t.Context(), it.Tenant(alice), counter())
	require.Equal(t, []string{"INVALID_TARGET targets"}, mistakes(t, err))
	w = it.NewWorld(t, func(o *in.Options) { o.Policy.AllowPrivateTargets = true })
	create(t, w, it.Tenant(alice), counter(func(c *in.CreateInput) {
		c.Targets = []measure.Target{{Kind: measure.Statsd, Address: "127.0.0.1:8125"}}
	}))
}

func TestTracingAlwaysEnds(t *testing.T) {
	w := it.NewWorld(t)
	now := w.Clock.Now()
	rec := create(t, w, it.Tenant(alice), tracing())
	require.True(t, rec.Tracing)
	require.Equal(t, now.Add(time.Hour), rec.ExpiresAt)
	rec = create(t, w, it.Operator(), tracing(func(c *in.CreateInput) { c.Metric, c.Scope = "test.secret", in.Scope{EveryHost: true} }))
	require.Equal(t, now.Add(time.Hour), rec.ExpiresAt, "operators' too, where the definition sets no limit")
	_, err := w.Create(t.Context(), it.Operator(), tracing(func(c *in.CreateInput) {
		c.Metric, c.Scope, c.TTL = "test.secret", in.Scope{EveryHost: true}, ptr(24*3600+1)
	}))
	require.Equal(t, []string{"TTL_EXCEEDED ttlSeconds"}, mistakes(t, err))
	rec = create(t, w, it.Tenant(alice), counter())
	require.False(t, rec.Tracing)
	require.True(t, rec.ExpiresAt.IsZero())
	require.Equal(t, 1, rec.Granularity)
}

func TestMetricsAreThoseThatTheCallerMayUse(t *testing.T) {
	w := it.NewWorld(t)
	m, err := w.Metric(t.Context(), it.Tenant(alice), "test.secret")
	require.NoError(t, err)
	require.Nil(t, m)
	m, err = w.Metric(t.Context(), it.Tenant(alice), "test.ops")
	require.NoError(t, err)
	for _, f := range m.Fields {
		require.False(t, f.Operator)
	}
	m, err = w.Metric(t.Context(), it.Operator(), "test.ops")
	require.NoError(t, err)
	require.Equal(t, "hostname", m.Fields[0].Name, "hiding fields from one caller hides them from no other")
	all, err := w.Metrics(t.Context(), it.Operator(), "", "")
	require.NoError(t, err)
	some, err := w.Metrics(t.Context(), it.Cloudapi(), "", "")
	require.NoError(t, err)
	require.Less(t, len(some), len(all))
	for _, m := range some {
		require.True(t, m.Tenant)
	}
	dtrace, err := w.Metrics(t.Context(), it.Operator(), "test", "DTRACE")
	require.NoError(t, err)
	require.Len(t, dtrace, 2)
	none, err := w.Metrics(t.Context(), it.Operator(), "test", "KSTAT")
	require.NoError(t, err)
	require.Empty(t, none)
	for _, m := range all {
		if m.Digest == "" {
			continue
		}
		d, err := w.Definition(t.Context(), it.Tenant(alice), m.Digest)
		require.NoError(t, err)
		require.Equal(t, m.Tenant, d != nil)
		d, err = w.Definition(t.Context(), it.AgentOf(hostA), m.Digest)
		require.NoError(t, err)
		require.NotNil(t, d)
	}
	_, err = w.Metrics(t.Context(), it.Workflow(), "", "")
	require.ErrorIs(t, err, in.ErrForbidden)
}

func TestPoliciesThatMakeNoSenseAreRefused(t *testing.T) {
	w := it.NewWorld(t)
	for _, p := range []in.Policy{
		{TracingTTL: -time.Second}, {TracingTTL: 48 * time.Hour}, {DefaultTargets: []measure.Target{{Kind: "x"}}},
	} {
		_, err := in.New(in.Options{Store: w.Store, Queue: w.Queue, Previewer: w.Store, Agents: w.Agents, Catalog: it.Catalog(t), Policy: p})
		require.ErrorContains(t, err, "policy")
	}
	_, err := in.New(in.Options{Store: w.Store})
	require.ErrorContains(t, err, "Queue")
}

// What every agent would refuse is refused here, with its place.
func TestWhatNoHostCouldDoIsRefusedAtOnce(t *testing.T) {
	w, _ := publishingWorld(t)
	for name, c := range map[string]struct {
		metric, predicate string
		by                []string
		want              []string
	}{
		"stack":                  {"cpu.thread_samples", `{"and":[{"eq":["execname","a"]},{"ne":["ustack","main"]}]}`, nil, []string{"TYPE_MISMATCH predicate.and.1.ne"}},
		"no address":             {"tcp.connects", `{"eq":["raddr","nobody"]}`, nil, []string{"TYPE_MISMATCH predicate.eq"}},
		"address of a link":      {"tcp.accepts", `{"eq":["raddr","fe80::1%eth0"]}`, nil, []string{"TYPE_MISMATCH predicate.eq"}},
		"address":                {"tcp.connects", `{"or":[{"eq":["raddr","::ffff:192.0.2.1"]},{"ne":["raddr","192.0.2.1"]}]}`, []string{"raddr"}, nil},
		"never together":         {"cpu.thread_samples", `{}`, []string{"ppsargs", "kstack"}, []string{"TYPE_MISMATCH decompositions"}},
		"never together, either": {"cpu.thread_samples", `{"eq":["ppsargs","a"]}`, []string{"kstack"}, []string{"TYPE_MISMATCH predicate"}},
		"together on illumos":    {"cpu.thread_samples", `{"eq":["ppsargs","a"]}`, []string{"execname"}, nil},
		"zone or program":        {"syscall.syscalls", `{"or":[{"eq":["zonename","a"]},{"eq":["execname","b"]}]}`, nil, []string{"INVALID_PREDICATE predicate"}},
		"zone and program":       {"syscall.syscalls", `{"and":[{"or":[{"eq":["zonename","a"]},{"eq":["zonename","b"]}]},{"eq":["execname","b"]}]}`, nil, nil},
		"zone or mode, counted":  {"cpu.usage", `{"or":[{"eq":["zonename","a"]},{"eq":["cpumode","user"]}]}`, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := measure.ParsePredicate([]byte(c.predicate))
			require.NoError(t, err)
			_, err = w.Create(t.Context(), it.Operator(), counter(func(w *in.CreateInput) {
				w.Owner, w.Metric, w.Predicate, w.Decompositions = &alice, c.metric, p, c.by
				if c.metric == "cpu.thread_samples" {
					w.Owner, w.Scope = nil, in.Scope{EveryHost: true}
				}
			}))
			if c.want == nil {
				require.NoError(t, err)
				return
			}
			require.Equal(t, c.want, mistakes(t, err))
		})
	}
}
