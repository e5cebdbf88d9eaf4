package measure

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func cmp(op Op, field string, v Value) Predicate { return Predicate{Op: op, Field: field, Value: v} }
func and(args ...Predicate) Predicate            { return Predicate{Op: And, Args: args} }
func or(args ...Predicate) Predicate             { return Predicate{Op: Or, Args: args} }

func parse(t testing.TB, text string) Predicate {
	t.Helper()
	p, err := ParsePredicate([]byte(text))
	require.NoError(t, err, text)
	return p
}

// event answers Match from a map.
func event(values map[string]Value) func(string) (Value, bool) {
	return func(name string) (Value, bool) {
		v, ok := values[name]
		return v, ok
	}
}

func TestComparisonsMatchBelowAtAndAboveTheConstant(t *testing.T) {
	for op, want := range map[Op][3]bool{
		Eq: {false, true, false}, Ne: {true, false, true}, Lt: {true, false, false},
		Le: {true, true, false}, Gt: {false, false, true}, Ge: {false, true, true},
	} {
		p := parse(t, `{"`+string(op)+`":["latency",200]}`)
		for i, v := range []int64{100, 200, 300} {
			require.Equal(t, want[i], p.Match(event(map[string]Value{"latency": Int(v)})), "%d %s 200", v, op)
		}
	}
	p := parse(t, `{"ne":["execname","bash"]}`)
	require.True(t, p.Match(event(map[string]Value{"execname": String("sh")})))
	require.False(t, p.Match(event(map[string]Value{"execname": String("bash")})))
}

func TestCompoundsMatch(t *testing.T) {
	values := event(map[string]Value{"a": Int(1), "b": Int(2), "c": Int(3)})
	yes, no := `{"eq":["a",1]}`, `{"eq":["a",2]}`
	for text, want := range map[string]bool{
		`{"and":[` + yes + `,` + yes + `,` + yes + `]}`:            true,
		`{"and":[` + yes + `,` + yes + `,` + no + `]}`:             false,
		`{"or":[` + no + `,` + no + `,` + yes + `]}`:               true,
		`{"or":[` + no + `,` + no + `,` + no + `]}`:                false,
		`{"or":[{"and":[` + yes + `,` + no + `]},` + yes + `]}`:    true,
		`{"or":[{"and":[` + yes + `,` + no + `]},` + no + `]}`:     false,
		`{"and":[{"or":[` + yes + `,` + no + `]},{"gt":["c",2]}]}`: true,
		`{}`: true,
	} {
		require.Equal(t, want, parse(t, text).Match(values), text)
	}
}

func TestComparisonWithWhatAnEventLacksIsFalse(t *testing.T) {
	for _, op := range []Op{Eq, Ne, Lt, Le, Gt, Ge} {
		require.False(t, cmp(op, "latency", Int(1)).Match(event(nil)), op)
		require.False(t, cmp(op, "execname", String("1")).Match(event(map[string]Value{"execname": Int(1)})), op)
		require.False(t, cmp(op, "latency", Int(1)).Match(event(map[string]Value{"latency": String("1")})), op)
	}
	require.False(t, cmp(Lt, "execname", String("b")).Match(event(map[string]Value{"execname": String("a")})), "strings have no order")
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		text, path, message string
		code                PredicateCode
	}{
		{`23`, "", "is an object", InvalidPredicate},
		{`"23"`, "", "is an object", InvalidPredicate},
		{`["foo"]`, "", "is an object", InvalidPredicate},
		{`null`, "", "is an object", InvalidPredicate},
		{``, "", "ends too early", InvalidPredicate},
		{`{`, "", "ends too early", InvalidPredicate},
		{`{"eq":["a",1]`, "", "ends too early", InvalidPredicate},
		{`{"eq":["a",1]} {}`, "", "something follows", InvalidPredicate},
		{`{"eq":["a",1]} x`, "", "something follows", InvalidPredicate},
		{`{"inval":[1,2]}`, "", `no operator "inval"`, InvalidPredicate},
		{`{"EQ":["a",1]}`, "", `no operator "EQ"`, InvalidPredicate},
		{`{"regex":["a","b"]}`, "", `no operator "regex"`, InvalidPredicate},
		{`{"constructor":["a","b"]}`, "", `no operator "constructor"`, InvalidPredicate},
		{`{"":["a","b"]}`, "", `no operator ""`, InvalidPredicate},
		{`{"eq":["a",1],"eq":["a",1]}`, "", "exactly one operator", InvalidPredicate},
		{`{"eq":["a",1],"ne":["a",1]}`, "", "exactly one operator", InvalidPredicate},
		{`{"eq":[]}`, "eq", "field's name and a constant", InvalidPredicate},
		{`{"eq":{}}`, "eq", "field's name and a constant", InvalidPredicate},
		{`{"eq":["a"]}`, "eq", "field's name and a constant", InvalidPredicate},
		{`{"eq":["a",1,2]}`, "eq", "field's name and a constant", InvalidPredicate},
		{`{"eq":[1,"a"]}`, "eq", "field's name and a constant", InvalidPredicate},
		{`{"eq":["a",[1]]}`, "eq", "field's name and a constant", InvalidPredicate},
		{`{"eq":["a",null]}`, "eq", "a string or an integer", InvalidPredicate},
		{`{"eq":["a",true]}`, "eq", "a string or an integer", InvalidPredicate},
		{`{"and":[]}`, "and", "at least one", InvalidPredicate},
		{`{"or":{}}`, "or", "a list", InvalidPredicate},
		{`{"and":[{"eq":["a",1]},{"eq":["a",1.5]}]}`, "and.1.eq", "1.5 is not an integer", InvalidPredicate},
		{`{"gt":["a",1e3]}`, "gt", "1e3 is not an integer", InvalidPredicate},
		{`{"gt":["a",1e21]}`, "gt", "is not an integer", InvalidPredicate},
		{`{"gt":["a",1e400]}`, "gt", "is not an integer", InvalidPredicate},
		{`{"gt":["a",-0]}`, "gt", "is not an integer", InvalidPredicate},
		{`{"gt":["a",1.0]}`, "gt", "is not an integer", InvalidPredicate},
		{`{"gt":["a",9223372036854775808]}`, "gt", "is not an integer", InvalidPredicate},
		{`{"gt":["a",NaN]}`, "gt", "not valid JSON", InvalidPredicate},
		{`{"gt":["a",01]}`, "gt", "not valid JSON", InvalidPredicate},
		{`{"eq":["latency) || (1",1]}`, "eq", "is not a field's name", UnknownField},
		{`{"eq":["",1]}`, "eq", "is not a field's name", UnknownField},
		{`{"eq":["a","x\u0000y"]}`, "eq", "NUL", InvalidPredicate},
		{"{\"eq\":[\"a\",\"\xff\xfe\"]}", "", "UTF-8", InvalidPredicate},
		{`{"eq":["a","\ud800"]}`, "", "surrogate", InvalidPredicate},
		{`{"eq":["a","\udc00\ud800"]}`, "", "surrogate", InvalidPredicate},
		{`{"eq":["a","\ud83d\n"]}`, "", "surrogate", InvalidPredicate},
		{`{"eq":["a","` + strings.Repeat("x", 257) + `"]}`, "eq", "256 bytes", InvalidPredicate},
		{strings.Repeat(" ", 8<<10) + `{}`, "", "larger than", InvalidPredicate},
		{strings.Repeat(`{"and":[`, 8) + `{"eq":["a",1]}` + strings.Repeat(`]}`, 8), "and.0.and.0.and.0.and.0.and.0.and.0.and.0.and.0", "deeper than 8", InvalidPredicate},
		{`{"or":[` + strings.Repeat(`{"eq":["a",1]},`, 64) + `{"eq":["a",1]}]}`, "or.64.eq", "more than 64", InvalidPredicate},
	} {
		_, err := ParsePredicate([]byte(test.text))
		var wrong *PredicateError
		require.True(t, errors.As(err, &wrong), "%s: %v", test.text, err)
		require.Contains(t, wrong.Message, test.message, test.text)
		require.Equal(t, test.code, wrong.Code, test.text)
		require.Equal(t, test.path, strings.Join(wrong.Path, "."), test.text)
	}
}

func TestDeepBodiesAreRefusedWithoutHarm(t *testing.T) {
	for _, text := range []string{strings.Repeat(`{"and":[`, 10_000), strings.Repeat(`[`, 8000), strings.Repeat("x", 10<<20)} {
		_, err := ParsePredicate([]byte(text))
		require.Error(t, err)
	}
}

func TestParseTakesTheBounds(t *testing.T) {
	require.Equal(t, 64, strings.Count(parse(t, `{"or":[`+strings.Repeat(`{"eq":["a",1]},`, 63)+`{"eq":["a",1]}]}`).Text(), "=="))
	parse(t, strings.Repeat(`{"and":[{"eq":["b",1]},`, 7)+`{"eq":["a",1]}`+strings.Repeat(`]}`, 7))
	parse(t, `{"eq":["a","`+strings.Repeat("x", 256)+`"]}`)
	require.Equal(t, int64(9223372036854775807), parse(t, `{"eq":["a",9223372036854775807]}`).Value.Num())
	require.Equal(t, int64(-9223372036854775808), parse(t, `{"eq":["a",-9223372036854775808]}`).Value.Num())
	require.Equal(t, "é😀\\u", parse(t, `{"eq":["a","\u00e9\ud83d\ude00\\u"]}`).Value.Str())
	require.Equal(t, "", parse(t, `{"eq":["a",""]}`).Value.Str())
}

func TestTrueIsSimplifiedAway(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                          `{}`,
		`{"and":[{},{}]}`:             `{}`,
		`{"and":[{},{"eq":["a",1]}]}`: `{"eq":["a",1]}`,
		`{"or":[{"eq":["a",1]},{}]}`:  `{}`,
		`{"and":[{"eq":["a",1]}]}`:    `{"eq":["a",1]}`,
		`{"or":[{"or":[{"eq":["a",1]}]},{"and":[{"eq":["b",2]},{}]}]}`: `{"or":[{"eq":["a",1]},{"eq":["b",2]}]}`,
	} {
		out, err := json.Marshal(parse(t, text))
		require.NoError(t, err)
		require.Equal(t, want, string(out))
	}
}

func TestTextIsForPeople(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "true",
		`{"and":[{"eq":["execname","mysqld"]},{"gt":["latency",100000000]}]}`: `execname == "mysqld" && latency > 100000000`,
		`{"and":[{"or":[{"ne":["a","x"]},{"le":["b",-1]}]},{"ge":["c",2]}]}`:  `(a != "x" || b <= -1) && c >= 2`,
		`{"or":[{"and":[{"eq":["a","x"]},{"lt":["b",1]}]},{"eq":["c",2]}]}`:   `(a == "x" && b < 1) || c == 2`,
		`{"and":[{"and":[{"eq":["a",1]},{"eq":["b",1]}]},{"eq":["c",1]}]}`:    `a == 1 && b == 1 && c == 1`,
		`{"eq":["execname","x\" || 1 || \"\n"]}`:                              `execname == "x\" || 1 || \"\n"`,
	} {
		require.Equal(t, want, parse(t, text).Text())
	}
	require.Equal(t, "a == 1 || b == 1", or(and(cmp(Eq, "a", Int(1))), cmp(Eq, "b", Int(1))).Text(), "one member needs no parentheses")
}

func TestCheckReportsEachMistakeOnce(t *testing.T) {
	types := map[string]FieldType{
		"latency": {Numeric: true}, "execname": {}, "pid": {Uint: true}, "optype": {Values: []string{"read", "write"}},
	}
	check := func(text string) []*PredicateError {
		return parse(t, text).Check(func(name string) (FieldType, bool) {
			f, ok := types[name]
			return f, ok
		})
	}
	require.Empty(t, check(`{}`))
	require.Empty(t, check(`{"and":[{"gt":["latency",-1]},{"ne":["execname",""]},{"eq":["pid","0"]},{"eq":["optype","read"]}]}`))
	for text, want := range map[string]string{
		`{"eq":["nope",1]}`:                            `UNKNOWN_FIELD predicate: eq: there is no field "nope"`,
		`{"eq":["__proto__","x"]}`:                     `UNKNOWN_FIELD predicate: eq: there is no field "__proto__"`,
		`{"eq":["latency","5"]}`:                       `TYPE_MISMATCH predicate: eq: field latency is numeric and needs an integer, not "5"`,
		`{"eq":["execname",5]}`:                        `TYPE_MISMATCH predicate: eq: field execname is discrete and needs a string: "5"`,
		`{"lt":["execname","a"]}`:                      `TYPE_MISMATCH predicate: lt: operator lt needs a numeric field, and execname is discrete`,
		`{"lt":["execname",5]}`:                        `TYPE_MISMATCH predicate: lt: operator lt needs a numeric field, and execname is discrete`,
		`{"eq":["pid","012"]}`:                         `TYPE_MISMATCH predicate: eq: field pid is a decimal number in a string, not "012"`,
		`{"eq":["pid","-1"]}`:                          `TYPE_MISMATCH predicate: eq: field pid is a decimal number in a string, not "-1"`,
		`{"eq":["optype","rw"]}`:                       `TYPE_MISMATCH predicate: eq: field optype is never "rw"; it is one of read, write`,
		`{"or":[{"gt":["latency",1]},{"eq":["x",1]}]}`: `UNKNOWN_FIELD predicate: or.1.eq: there is no field "x"`,
	} {
		found := check(text)
		require.Len(t, found, 1, text)
		require.Equal(t, want, string(found[0].Code)+" "+found[0].Error())
	}
	found := check(`{"and":[{"eq":["x",1]},{"or":[{"eq":["y",1]},{"eq":["latency","1"]}]}]}`)
	require.Len(t, found, 3)
	require.Equal(t, []string{"and", "1", "or", "1", "eq"}, found[2].Path)
}

func TestValidateRefusesWhatWasBuiltWrong(t *testing.T) {
	deep := cmp(Eq, "a", Int(1))
	for range 7 {
		deep = and(deep, cmp(Eq, "b", Int(1)))
	}
	require.NoError(t, deep.Validate())
	require.NoError(t, Predicate{}.Validate())
	for _, p := range []Predicate{
		and(deep), and(), {Op: "xor"}, {Field: "a"}, {Args: []Predicate{{}}}, cmp(Eq, "a b", Int(1)),
		cmp(Eq, "a", String("\xff")), cmp(Eq, "a", String("\x00")), or(cmp(Eq, "a", Int(1)), Predicate{Op: "not"}),
	} {
		var wrong *PredicateError
		require.ErrorAs(t, p.Validate(), &wrong, "%+v", p)
	}
}

func TestUnmarshalRefusesNullAndLeavesTheFilter(t *testing.T) {
	p := cmp(Eq, "a", Int(1))
	require.Error(t, json.Unmarshal([]byte(`null`), &p))
	require.Equal(t, cmp(Eq, "a", Int(1)), p)
	var holder struct{ P *Predicate }
	require.NoError(t, json.Unmarshal([]byte(`{"P":null}`), &holder))
	require.Nil(t, holder.P)
}

func TestValueTravelsAsJSON(t *testing.T) {
	for _, v := range []Value{String(""), String("5"), Int(5), Int(-1 << 63), Int(1<<63 - 1), String("<é\"\n")} {
		text, err := json.Marshal(v)
		require.NoError(t, err)
		var back Value
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, v, back)
	}
	for _, text := range []string{`1.5`, `1e3`, `true`, `null`, `[]`, `{}`, `9223372036854775808`, `"\ud800"`} {
		var v Value
		require.Error(t, json.Unmarshal([]byte(text), &v), text)
	}
}

// naive evaluates the documented meaning, written apart from Match.
func naive(p Predicate, values map[string]Value) bool {
	if p.Op == And || p.Op == Or {
		n := 0
		for _, arg := range p.Args {
			if naive(arg, values) {
				n++
			}
		}
		return p.Op == And && n == len(p.Args) || p.Op == Or && n > 0
	}
	if p.Op == "" {
		return true
	}
	v, ok := values[p.Field]
	if !ok || v.IsNumber() != p.Value.IsNumber() {
		return false
	}
	if !v.IsNumber() {
		return p.Op == Eq && v.Str() == p.Value.Str() || p.Op == Ne && v.Str() != p.Value.Str()
	}
	a, b := v.Num(), p.Value.Num()
	return map[Op]bool{Eq: a == b, Ne: a != b, Lt: a < b, Le: a <= b, Gt: a > b, Ge: a >= b}[p.Op]
}

func randomValue(r *rand.Rand) Value {
	if r.IntN(2) == 0 {
		return Int(r.Int64N(4) - 1)
	}
	return String([]string{"", "1", "x", "a\"b", "é"}[r.IntN(5)])
}

func randomPredicate(r *rand.Rand, depth int) Predicate {
	if depth > 1 && r.IntN(3) > 0 {
		p := Predicate{Op: []Op{And, Or}[r.IntN(2)]}
		for range 1 + r.IntN(3) {
			p.Args = append(p.Args, randomPredicate(r, depth-1))
		}
		return p
	}
	if r.IntN(10) == 0 {
		return Predicate{}
	}
	return cmp([]Op{Eq, Ne, Lt, Le, Gt, Ge}[r.IntN(6)], "f"+strconv.Itoa(r.IntN(4)), randomValue(r))
}

func TestAllFormsOfAPredicateMeanTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		p := randomPredicate(r, 4)
		canonical := p.Canonical()
		text, err := json.Marshal(p)
		require.NoError(t, err)
		var parsed Predicate
		require.NoError(t, json.Unmarshal(text, &parsed))
		require.Equal(t, p.Simplify(), parsed)
		require.Equal(t, canonical, canonical.Canonical(), "canonical once is canonical")
		require.Equal(t, canonical, parsed.Canonical())
		again, err := ParsePredicate(canonical.appendJSON(nil))
		require.NoError(t, err)
		require.Equal(t, canonical, again)
		for range 20 {
			values := map[string]Value{}
			for i := range 4 {
				if r.IntN(4) > 0 {
					values["f"+strconv.Itoa(i)] = randomValue(r)
				}
			}
			want := naive(p, values)
			for _, form := range []Predicate{p, p.Simplify(), canonical, parsed} {
				require.Equal(t, want, form.Match(event(values)), "%s of %s with %v", form.Text(), text, values)
			}
		}
		for _, field := range canonical.Fields() {
			require.Contains(t, p.Fields(), field)
		}
	}
}

func TestCanonicalFormDoesNotDependOnOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var shuffle func(Predicate) Predicate
	shuffle = func(p Predicate) Predicate {
		if len(p.Args) == 0 {
			return p
		}
		out := Predicate{Op: p.Op}
		for _, i := range r.Perm(len(p.Args)) {
			out.Args = append(out.Args, shuffle(p.Args[i]))
		}
		out.Args = append(out.Args, out.Args[0])
		return out
	}
	for range 1000 {
		p := randomPredicate(r, 4)
		require.Equal(t, p.Canonical(), shuffle(p).Canonical())
	}
}

func TestParsingLeavesItsInputAlone(t *testing.T) {
	p := and(cmp(Eq, "b", Int(1)), cmp(Eq, "a", Int(1)), Predicate{})
	before := string(p.appendJSON(nil))
	_, _ = p.Canonical(), p.Simplify()
	p.Match(event(map[string]Value{"a": Int(1)}))
	require.Equal(t, before, string(p.appendJSON(nil)))
}

func FuzzParsePredicate(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"and":[{"eq":["execname","mysqld"]},{"gt":["latency",100000000]}]}`, `{"or":[{},{"ne":["a","\u00e9"]}]}`,
		`{"eq":["a",1.5]}`, `{"eq":["a","\ud83d\ude00"]}`, `{"eq":["a",1],"eq":["a",1]}`, `[`, `null`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePredicate(data)
		if err != nil {
			var wrong *PredicateError
			require.ErrorAs(t, err, &wrong)
			require.NotEmpty(t, wrong.Message)
			return
		}
		require.NoError(t, p.Validate())
		text, err := p.MarshalJSON()
		require.NoError(t, err)
		require.True(t, json.Valid(text))
		if len(text) <= MaxPredicateBytes { // escapes may make it longer than what was read
			again, err := ParsePredicate(text)
			require.NoError(t, err)
			require.Equal(t, p, again)
		}
		require.NotEmpty(t, p.Text())
		require.NoError(t, p.Canonical().Validate())
	})
}
