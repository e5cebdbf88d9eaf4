package program

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// everyKind is a definition with a field of every kind that a predicate can compare.
func everyKind(l Language) (*catalog.Definition, *catalog.Variant) {
	fields := []catalog.Field{
		{Name: "name", Arity: catalog.Discrete, MaxLen: 8},
		{Name: "pid", Arity: catalog.Discrete, Uint: true},
		{Name: "code", Arity: catalog.Discrete},
		{Name: "call", Arity: catalog.Discrete},
		{Name: "op", Arity: catalog.Discrete, Values: []string{"read", "write"}},
		{Name: "dev", Arity: catalog.Discrete},
		{Name: "addr", Arity: catalog.Discrete},
		{Name: "size", Arity: catalog.Numeric, Buckets: measure.LogLinear{Base: 2, Low: 0, High: 25, Steps: 32}},
		{Name: "change", Arity: catalog.Numeric, Buckets: measure.Linear{Low: 0, High: 1000, Step: 10}},
	}
	v := catalog.Variant{ID: "test", Scope: catalog.ScopeNone}
	for _, f := range fields {
		v.Fields = append(v.Fields, f.Name)
	}
	at := func(addr string) map[string]catalog.TraceField {
		return map[string]catalog.TraceField{
			"name":   {CType: "str", Expr: "comm"},
			"pid":    {CType: "uint", Expr: "pid"},
			"code":   {CType: "int", Expr: "ret"},
			"call":   {CType: "uint", Expr: "args->id", Decode: "syscall"},
			"op":     {CType: "str", Expr: "rwbs", Decode: "firstletter", Map: map[string]string{"R": "read", "W": "write", "A": "read"}},
			"dev":    {CType: "uint", Expr: "dev", Decode: "majorminor"},
			"addr":   {CType: "ip", Expr: addr},
			"size":   {CType: "uint", Expr: "size"},
			"change": {CType: "int", Expr: "change"},
		}
	}
	source := &catalog.TraceSource{Clauses: []catalog.Clause{{Probes: []string{"p"}, Role: catalog.Event, Fields: at("text")}}}
	if l == Bpftrace {
		source.Clauses[0].Fields = at("ntop(2, v4)")
		source.Clauses = append(source.Clauses, catalog.Clause{Probes: []string{"p"}, Role: catalog.Event, Fields: at("ntop(10, v6)")})
		v.Source.Bpftrace = source
	} else {
		v.Source.DTrace = source
	}
	return &catalog.Definition{Metric: catalog.Metric{Name: "test.every", Fields: fields}, Variants: []catalog.Variant{v}}, &v
}

// event is what happened, as the tracer sees it.
type event struct {
	name, rwbs           string
	pid, call, dev, size int64
	ret, change          int64
	addr                 netip.Addr // as it is: an IPv4 address may come within IPv6
}

var (
	names     = []string{"", "a", "ab", "a,b", `q"uo\te`, "é", "12345678"}
	constants = append([]string{"123456789"}, names...)
	letters   = []string{"R", "WS", "RA", "AX", "D", ""}
	numbers   = []int64{0, 1, 2, 17, 18, 1000, math.MaxInt64, -1, -5, math.MinInt64}
	addresses = []string{"10.0.0.1", "10.0.0.2", "::1", "::ffff:10.0.0.1", "fe80::1", "0.0.0.0"}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func randomEvent(r *rand.Rand) event {
	positive := func() int64 { return pick(r, numbers[:7]) }
	return event{
		name: pick(r, names), rwbs: pick(r, letters), pid: positive(), call: pick(r, []int64{0, 1, 110, 9999}),
		dev: pick(r, []int64{254 << 20, 7<<20 | 1}), size: positive(), ret: pick(r, numbers), change: pick(r, numbers),
		addr: netip.MustParseAddr(pick(r, addresses)),
	}
}

func (e event) vars() map[string]any {
	vars := map[string]any{
		"comm": e.name, "rwbs": e.rwbs, "pid": e.pid, "args->id": e.call, "dev": e.dev, "size": e.size, "ret": e.ret,
		"change": e.change, "text": e.addr.Unmap().String(),
		"$f_size": e.size, "$f_change": e.change, "this->f_size": e.size, "this->f_change": e.change,
	}
	if e.addr.Is4() {
		vars["v4"] = e.addr.AsSlice()
	} else {
		vars["v6"] = e.addr.AsSlice()
	}
	return vars
}

// field is what a reader of the data would see of the event.
func (e event) field(name string) (measure.Value, bool) {
	switch name {
	case "name":
		return measure.String(e.name), true
	case "pid":
		return measure.String(strconv.FormatInt(e.pid, 10)), true
	case "code":
		return measure.String(strconv.FormatInt(e.ret, 10)), true
	case "call":
		known := map[int64]string{0: "read", 1: "write", 110: "getppid", 9999: "9999"}
		return measure.String(known[e.call]), true
	case "op":
		known := map[string]string{"R": "read", "RA": "read", "WS": "write", "AX": "read"}
		value, has := known[e.rwbs]
		return measure.String(value), has
	case "dev":
		if e.dev == 254<<20 {
			return measure.String("vda"), true
		}
		return measure.String("7:1"), true
	case "addr":
		return measure.String(e.addr.Unmap().String()), true
	case "size":
		return measure.Int(e.size), true
	case "change":
		return measure.Int(e.change), true
	}
	return measure.Value{}, false
}

func randomPredicate(r *rand.Rand, depth int) measure.Predicate {
	if depth > 0 && r.IntN(2) == 0 {
		p := measure.Predicate{Op: pick(r, []measure.Op{measure.And, measure.Or})}
		for range 1 + r.IntN(3) {
			p.Args = append(p.Args, randomPredicate(r, depth-1))
		}
		return p
	}
	if r.IntN(20) == 0 {
		return measure.Predicate{}
	}
	p := measure.Predicate{Op: pick(r, []measure.Op{measure.Eq, measure.Ne})}
	p.Field = pick(r, []string{"name", "pid", "code", "call", "op", "dev", "addr", "size", "change"})
	switch p.Field {
	case "name":
		p.Value = measure.String(pick(r, constants))
	case "pid":
		p.Value = measure.String(strconv.FormatInt(pick(r, numbers[:7]), 10))
	case "code":
		p.Value = measure.String(pick(r, []string{strconv.FormatInt(pick(r, numbers), 10), "007", "x", "+1"}))
	case "call":
		p.Value = measure.String(pick(r, []string{"read", "write", "getppid", "9999"}))
	case "op":
		p.Value = measure.String(pick(r, []string{"read", "write"}))
	case "dev":
		p.Value = measure.String(pick(r, []string{"vda", "7:1", "sda", "07:1"}))
	case "addr":
		p.Value = measure.String(netip.MustParseAddr(pick(r, addresses)).Unmap().String())
	default:
		p.Op = pick(r, []measure.Op{measure.Eq, measure.Ne, measure.Lt, measure.Le, measure.Gt, measure.Ge})
		p.Value = measure.Int(pick(r, numbers))
	}
	return p
}

// counts reports whether a clause counts the event by the conditions in its text.
func (c clause) counts(t *testing.T, l Language, vars map[string]any) bool {
	for _, cond := range append(append([]cond(nil), c.early...), c.late...) {
		v, err := evaluate(cond.text(l), vars)
		require.NoError(t, err)
		if !truthy(v) {
			return false
		}
	}
	return true
}

// The text of a program counts exactly the events that the predicate matches, in both languages.
func TestTextsAgreeWithPredicates(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	matched, missed, tries := 0, 0, 400
	if os.Getenv("IAPI_PROVE") == "1" {
		tries = 10000
	}
	for _, l := range []Language{Bpftrace, D} {
		d, v := everyKind(l)
		for range tries {
			predicate := randomPredicate(r, 3)
			p, err := Compile(Wish{Definition: d, Variant: v, Predicate: predicate, Whole: true, Arch: "amd64", Devices: fakeDevices{}})
			require.NoError(t, err, predicate.Text())
			for range 8 {
				e := randomEvent(r)
				c := p.clauses[0]
				if l == Bpftrace && !e.addr.Is4() {
					c = p.clauses[1]
				}
				want := predicate.Match(e.field)
				if got := c.counts(t, l, e.vars()); got != want {
					t.Fatalf("counted is %t, but %t is right\n%s\n%+v\n%s", got, want, predicate.Text(), e, p.Text(fixedClock))
				}
				if want {
					matched++
				} else {
					missed++
				}
			}
		}
	}
	require.Greater(t, min(matched, missed), tries, "both cases are tested")
}

// The arithmetic of buckets in a text gives a value of the bucket that package measure gives, and where there is one its
// lower bound.
func TestBucketsAgreeWithMeasure(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, by := range []measure.Bucketer{
		measure.LogLinear{Base: 10, Low: 3, High: 11, Steps: 100}, measure.LogLinear{Base: 10, Low: 0, High: 12, Steps: 100},
		measure.LogLinear{Base: 2, Low: 0, High: 25, Steps: 32}, measure.LogLinear{Base: 2, Low: 9, High: 25, Steps: 2},
		measure.LogLinear{Base: 10, Low: 1, High: 6, Steps: 1000}, measure.LogLinear{Base: 10, Low: 7, High: 15, Steps: 100},
		measure.LogLinear{Base: 10, Low: 2, High: 2, Steps: 20},
		measure.Linear{Low: 0, High: 1000, Step: 10}, measure.Linear{Low: 0, High: 0, Step: 1}, measure.Linear{Low: 5, High: 0, Step: 7}, measure.Linear{Low: 50, High: 70, Step: 5},
	} {
		for _, signed := range []bool{false, true} {
			b := bucketing{local: "v", signed: signed, by: by}
			check := func(v int64) {
				if v < 0 && !signed {
					return
				}
				step, err := evaluate(b.step("$v"), map[string]any{"$v": v})
				require.NoError(t, err)
				key, err := evaluate(b.low("$v", "$step"), map[string]any{"$v": v, "$step": step})
				require.NoError(t, err)
				low, high := by.Bucket(v)
				gotLow, gotHigh := by.Bucket(key.(int64))
				if low != gotLow || high != gotHigh || low > math.MinInt64 && key != low {
					t.Fatalf("%+v: %d gives %d, which is in [%d, %d] and not in [%d, %d]", by, v, key, gotLow, gotHigh, low, high)
				}
			}
			for _, v := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64} {
				check(v)
			}
			for v := int64(1); v < math.MaxInt64/10; v *= 10 {
				check(v - 1)
				check(v)
				check(v + 1)
			}
			for range 20 {
				v := int64(r.Uint64() >> r.IntN(64))
				check(v)
				check(-v)
			}
		}
	}
}

func TestUnknownNamesOfCallsAreRefused(t *testing.T) {
	d, v := everyKind(D)
	_, err := Compile(Wish{Definition: d, Variant: v, Whole: true, Predicate: measure.Predicate{Op: measure.Ne, Field: "call", Value: measure.String("READ")}})
	require.Equal(t, collect.Failed, collect.Refusal(err).Code)
}

// What an entry evaluates never leaves out an event that the exit would count.
func TestEntriesEvaluateWhatTheyCan(t *testing.T) {
	d := readDefinition(t, "syscall.syscalls")
	p, err := compiled(t, d, Bpftrace, parsed(t, `{"and":[{"ge":["latency",5]},{"or":[{"eq":["pid","1"]},{"eq":["latency",7]}]},{"eq":["execname","x"]},{"or":[{"eq":["pid","2"]},{"ne":["execname","y"]}]}]}`), nil)
	require.NoError(t, err)
	require.Equal(t, catalog.Entry, p.clauses[0].role)
	require.Len(t, p.clauses[0].early, 2, "those without the latency")
	require.Len(t, append(p.clauses[1].early, p.clauses[1].late...), 4, "the exit evaluates all")
}
