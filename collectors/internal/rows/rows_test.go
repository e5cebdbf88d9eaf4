package rows

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// The metric of these tests: disks with operations, by disk and optype, and with sizes.
func testDefinition() *catalog.Definition {
	return &catalog.Definition{Metric: catalog.Metric{Name: "disk.test", Fields: []catalog.Field{
		{Name: "hostname", Arity: catalog.Discrete, Builtin: true},
		{Name: "zonename", Arity: catalog.Discrete, Builtin: true},
		{Name: "disk", Arity: catalog.Discrete},
		{Name: "optype", Arity: catalog.Discrete, Values: []string{"read", "write"}},
		{Name: "size", Arity: catalog.Numeric, Unit: "bytes", Buckets: measure.LogLinear{Base: 10, Low: 1, High: 6, Steps: 100}},
	}}}
}

func column(name string) catalog.Expr { return catalog.Expr{Op: catalog.OpGauge, Column: name} }

func op(o catalog.ExprOp, of ...catalog.Expr) catalog.Expr { return catalog.Expr{Op: o, Of: of} }

var testTable = catalog.Table{
	From: map[string]catalog.ColumnRef{"disk": {Column: "disk"}},
	Rows: []catalog.Row{
		{Set: map[string]string{"optype": "read"}, Numeric: map[string]catalog.Expr{"size": column("size")}, Value: op(catalog.OpDelta, column("rd"))},
		{Set: map[string]string{"optype": "write"}, Numeric: map[string]catalog.Expr{"size": column("size")}, Value: op(catalog.OpDelta, column("wr"))},
	},
}

type harness struct {
	*Source
	plan *Plan
	at   int64
}

func newHarness(t testing.TB, r collect.Request, table catalog.Table) *harness {
	t.Helper()
	if r.Definition == nil {
		r.Definition = testDefinition()
	}
	plan, err := Compile(r, []Table{{Table: table}}, NoDevices{})
	require.NoError(t, err)
	return &harness{Source: plan.NewSource(uuid.Nil, "here"), plan: plan}
}

// read takes one reading of records, a second after the last.
func (h *harness) read(t testing.TB, records ...map[string]string) []collect.Sample {
	t.Helper()
	h.at += 1e9
	h.Begin()
	for _, r := range records {
		cols := make([][]byte, len(h.plan.Slots(0)))
		for name, slot := range h.plan.Slots(0) {
			if text, has := r[name]; has {
				cols[slot] = []byte(text)
			}
		}
		h.Row(0, cols, nil, h.at)
	}
	samples, err := h.End(nil)
	require.NoError(t, err)
	return samples
}

func disk(name string, rd, wr uint64, size int) map[string]string {
	return map[string]string{
		"disk": name, "rd": strconv.FormatUint(rd, 10), "wr": strconv.FormatUint(wr, 10), "size": strconv.Itoa(size),
	}
}

func TestTheFirstReadingOnlyPrimes(t *testing.T) {
	h := newHarness(t, collect.Request{}, testTable)
	require.Empty(t, h.read(t, disk("a", 5, 5, 1)))
	require.Equal(t, []collect.Sample{{Value: 3}}, h.read(t, disk("a", 7, 6, 1)))
	require.Equal(t, []collect.Sample{{Value: 0}}, h.read(t, disk("a", 7, 6, 1)), "nothing happened is a value")
	require.Equal(t, []collect.Sample{{Value: 1}}, h.read(t, disk("a", 8, 6, 1), disk("new", 100, 100, 1)), "a new record primes by itself")
}

func TestACounterThatGoesBackIsSkippedAndFlagged(t *testing.T) {
	h := newHarness(t, collect.Request{Decompositions: []string{"disk"}}, testTable)
	h.read(t, disk("a", 10, 10, 1), disk("b", 10, 10, 1))
	got := h.read(t, disk("a", 3, 15, 1), disk("b", 11, 11, 1))
	require.Len(t, got, 2)
	require.Equal(t, 5.0, got[0].Value)
	require.True(t, got[0].Partial)
	require.Equal(t, 2.0, got[1].Value)
	require.False(t, got[1].Partial)
	got = h.read(t, disk("a", 4, 16, 1), disk("b", 11, 11, 1))
	require.Equal(t, 2.0, got[0].Value, "the next delta starts from the new value")
	require.False(t, got[0].Partial)

	alone := newHarness(t, collect.Request{}, testTable)
	alone.read(t, disk("a", 10, 10, 1))
	require.Empty(t, alone.read(t, disk("a", 1, 1, 1)), "nothing is known, and 0 would be a lie")
}

func TestDifferencesOfLargeCountersAreExact(t *testing.T) {
	h := newHarness(t, collect.Request{}, testTable)
	h.read(t, disk("a", math.MaxUint64-5, 0, 1))
	require.Equal(t, 5.0, h.read(t, disk("a", math.MaxUint64, 0, 1))[0].Value)
}

func TestARatioUsesTheMeasuredInterval(t *testing.T) {
	h := newHarness(t, collect.Request{}, catalog.Table{Rows: []catalog.Row{
		{Value: catalog.Expr{Op: catalog.OpRatio, Of: []catalog.Expr{column("us")}, Per: "us", Percent: true}},
	}})
	h.read(t, map[string]string{"us": "1000000"})
	h.at += 3e9 // the reading is late
	require.InDelta(t, 50.0, h.read(t, map[string]string{"us": "3000000"})[0].Value, 1e-9)
}

func TestThePredicateAppliesToEachRowBeforeItIsAddedUp(t *testing.T) {
	p, err := measure.ParsePredicate([]byte(`{"and":[{"eq":["optype","read"]},{"gt":["size",10]}]}`))
	require.NoError(t, err)
	h := newHarness(t, collect.Request{Predicate: p}, testTable)
	h.read(t, disk("a", 0, 0, 5), disk("b", 0, 0, 50))
	require.Equal(t, []collect.Sample{{Value: 2}}, h.read(t, disk("a", 1, 100, 5), disk("b", 2, 200, 50)))
	require.Equal(t, []collect.Sample{{Value: 9}}, h.read(t, disk("a", 10, 100, 50), disk("b", 3, 200, 5)), "sizes have changed")
}

func TestBuiltinFieldsComeFromTheSource(t *testing.T) {
	zone := uuid.New()
	p, err := measure.ParsePredicate([]byte(`{"eq":["zonename","` + zone.String() + `"]}`))
	require.NoError(t, err)
	r := collect.Request{Definition: testDefinition(), Predicate: p, Decompositions: []string{"hostname", "zonename"}}
	plan, err := Compile(r, []Table{{Table: testTable}}, NoDevices{})
	require.NoError(t, err)
	for id, want := range map[uuid.UUID]int{zone: 1, uuid.New(): 0, uuid.Nil: 0} {
		h := &harness{Source: plan.NewSource(id, "here"), plan: plan}
		h.read(t, disk("a", 1, 0, 1))
		got := h.read(t, disk("a", 2, 0, 1))
		require.Len(t, got, want)
		if want == 1 {
			require.Equal(t, collect.Sample{Zone: zone, Value: 1, Fields: []measure.Field{
				{Name: "hostname", Value: "here"}, {Name: "zonename", Value: zone.String()},
			}}, got[0])
		}
	}
}

func TestNumericDecompositionsCountByTheDefinitionsBuckets(t *testing.T) {
	h := newHarness(t, collect.Request{Decompositions: []string{"optype", "size"}}, testTable)
	h.read(t, disk("a", 0, 0, 123), disk("b", 0, 0, 129), disk("c", 0, 0, 5000))
	got := h.read(t, disk("a", 3, 1, 123), disk("b", 4, 0, 129), disk("c", 5, 0, 5000))
	require.Len(t, got, 2)
	require.Equal(t, "read", got[0].Fields[0].Value)
	require.Equal(t, 12.0, got[0].Value)
	require.Equal(t, &measure.Distribution{Field: "size", Unit: "bytes", Buckets: []measure.Bucket{
		{Low: 120, High: 129, Count: 7}, {Low: 5000, High: 5099, Count: 5},
	}}, got[0].Distribution)
	require.Equal(t, 1.0, got[1].Value)
}

func TestKeysBeyondTheLimitAreOneOther(t *testing.T) {
	d := testDefinition()
	d.Limits.MaxKeys = 2
	h := newHarness(t, collect.Request{Definition: d, Decompositions: []string{"disk"}}, testTable)
	var before, after []map[string]string
	for i := range 10 {
		before = append(before, disk("d"+strconv.Itoa(i), 0, 0, 1))
		after = append(after, disk("d"+strconv.Itoa(i), uint64(i), 1, 1))
	}
	h.read(t, before...)
	got := h.read(t, after...)
	require.Len(t, got, 3)
	total := 0.0
	for _, s := range got {
		total += s.Value
	}
	require.Equal(t, 55.0, total)
	require.True(t, got[2].Other)
	require.Empty(t, got[2].Fields)

	h.read(t) // all have gone, which makes room
	h.read(t, disk("x", 0, 0, 1))
	got = h.read(t, disk("x", 1, 0, 1))
	require.Len(t, got, 1)
	require.Equal(t, "x", got[0].Fields[0].Value)
	require.Len(t, h.groups, 1)
	require.Len(t, h.order, 1)
}

func TestTextWhereANumberBelongsIsTold(t *testing.T) {
	h := newHarness(t, collect.Request{}, testTable)
	cols := make([][]byte, len(h.plan.Slots(0)))
	cols[h.plan.Slots(0)["disk"]], cols[h.plan.Slots(0)["rd"]], cols[h.plan.Slots(0)["wr"]] = []byte("a"), []byte("many"), []byte("1")
	h.Begin()
	h.Row(0, cols, nil, 1)
	_, err := h.End(nil)
	require.ErrorContains(t, err, `column rd holds "many"`)
}

// Whatever counters do, each sample is the sum of the growth of those that grew, by a naive account.
func TestSamplesAgreeWithANaiveAccount(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		h := newHarness(t, collect.Request{Decompositions: []string{"disk"}}, testTable)
		counters := map[string]*[2]uint64{}
		past := map[string][2]uint64{}
		for range 30 {
			var records []map[string]string
			want, partial := map[string]float64{}, map[string]bool{}
			now := map[string][2]uint64{}
			for d := range 5 {
				name := "d" + strconv.Itoa(d)
				if r.IntN(4) == 0 {
					continue // not there now
				}
				c := counters[name]
				if c == nil {
					c = &[2]uint64{}
					counters[name] = c
				}
				for i := range c {
					if r.IntN(8) == 0 {
						c[i] = uint64(r.IntN(3)) // began anew
					} else {
						c[i] += uint64(r.IntN(100))
					}
				}
				records = append(records, disk(name, c[0], c[1], 1))
				now[name] = *c
				then, known := past[name]
				if !known {
					continue
				}
				for i := range c {
					if c[i] >= then[i] {
						want[name] += float64(c[i] - then[i])
					} else {
						partial[name] = true
					}
				}
				if c[0] < then[0] && c[1] < then[1] {
					delete(want, name)
				}
			}
			past = now
			r.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
			got := map[string]float64{}
			for _, s := range h.read(t, records...) {
				got[s.Fields[0].Value] = s.Value
				require.Equal(t, partial[s.Fields[0].Value], s.Partial)
			}
			require.Equal(t, want, got, "seed %d", seed)
		}
	}
}

func FuzzParseNumber(f *testing.F) {
	for _, s := range []string{"0", "18446744073709551615", "18446744073709551616", "-1", "0.12", "max", "1e5", "", "0x10", "nan", "inf"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, isCounter := parseCounter([]byte(text))
		want, err := strconv.ParseUint(text, 10, 64)
		if isCounter {
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
		v, isNumber := parseNumber([]byte(text))
		require.False(t, math.IsNaN(v) || math.IsInf(v, 0))
		require.True(t, isNumber || !isCounter)
	})
}
