package instrumentation_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	in "iapi/instrumentation"
	"iapi/inventory"
)

var (
	vmA   = uuid.MustParse("00000000-0000-4000-8000-00000000000a")
	vmB   = uuid.MustParse("00000000-0000-4000-8000-00000000000b")
	hostA = uuid.MustParse("00000000-0000-4000-8000-0000000000aa")
)

func tag(key string, values ...string) in.Scope {
	return in.Scope{VMTag: &in.TagMatch{Key: key, In: values}}
}

func not(s in.Scope) in.Scope { return in.Scope{Not: &s} }

func TestScopeTextIsForPeople(t *testing.T) {
	db := tag("role", "db", "web")
	for want, s := range map[string]in.Scope{
		`vm tag role in (db, web) and not vm alias "x"`: {And: []in.Scope{db, not(in.Scope{VMAlias: "x"})}},
		`every zone`:         {All: true},
		`every host`:         {EveryHost: true},
		`vm ` + vmA.String(): {VMs: []uuid.UUID{vmA}},
		`vm in (` + vmA.String() + `, ` + vmB.String() + `)`: {VMs: []uuid.UUID{vmA, vmB}},
		`vm tag role`:                         tag("role"),
		`vm tag "a b" in ("", "and", "x\"y")`: tag("a b", "", "and", `x"y`),
		`host ` + hostA.String():              {Hosts: []uuid.UUID{hostA}},
		`host tag ssd in (true)`:              {HostTag: &in.TagMatch{Key: "ssd", In: []string{"true"}}},
		`(vm tag a and vm tag b) or vm tag c`: {Or: []in.Scope{{And: []in.Scope{tag("a"), tag("b")}}, tag("c")}},
		`not (vm tag a or vm tag b)`:          not(in.Scope{Or: []in.Scope{tag("a"), tag("b")}}),
		`not vm tag a`:                        not(in.Scope{Or: []in.Scope{tag("a")}}),
		`hosts chosen by the operators`:       {Hosts: []uuid.UUID{}},
	} {
		require.Equal(t, want, s.Text())
	}
	many := make([]uuid.UUID, 100)
	for i := range many {
		many[i] = uuid.New()
	}
	text := in.Scope{VMs: many}.Text()
	require.True(t, strings.HasSuffix(text, ", … 92 more)"), text)
}

func TestParseScopeReadsWhatMarshalWrites(t *testing.T) {
	for _, text := range []string{
		`{"all":true}`, `{"everyHost":true}`, `{"vmAlias":"x"}`, `{"vms":["` + vmA.String() + `"]}`, `{"hosts":["` + hostA.String() + `"]}`,
		`{"vmTag":{"key":"role"}}`, `{"hostTag":{"key":"role","in":["a","b"]}}`,
		`{"and":[{"or":[{"all":true}]},{"not":{"vmTag":{"key":"k","in":[""]}}}]}`,
	} {
		s, err := in.ParseScope([]byte(text))
		require.NoError(t, err, text)
		out, err := json.Marshal(s)
		require.NoError(t, err)
		require.JSONEq(t, text, string(out))
	}
}

func TestParseScopeIsStrict(t *testing.T) {
	for text, path := range map[string]string{
		``:                                   "",
		`{}`:                                 "",
		`null`:                               "",
		`[]`:                                 "",
		`"all"`:                              "",
		`{"all":true}x`:                      "",
		`{"all":true,"all":true}`:            "",
		`{"all":true,"vmAlias":"x"}`:         "",
		`{"all":true,"vmAlias":null}`:        "",
		`{"all":false}`:                      "all",
		`{"all":1}`:                          "all",
		`{"all":null}`:                       "all",
		`{"everyHost":false}`:                "everyHost",
		`{"vmAlias":""}`:                     "vmAlias",
		`{"vmAlias":5}`:                      "vmAlias",
		`{"vms":"` + vmA.String() + `"}`:     "vms",
		`{"vms":["x"]}`:                      "vms.0",
		`{"vms":["{` + vmA.String() + `}"]}`: "vms.0",
		`{"vms":[5]}`:                        "vms.0",
		`{"vmTag":{"in":["a"]}}`:             "vmTag.key",
		`{"vmTag":{"key":"a","out":["a"]}}`:  "vmTag.out",
		`{"vmTag":{"key":"a","in":"a"}}`:     "vmTag.in",
		`{"vmTag":{"key":"a","in":[5]}}`:     "vmTag.in.0",
		`{"vmTag":{"key":"a","key":"b"}}`:    "",
		`{"VMTag":{"key":"a"}}`:              "VMTag",
		`{"and":{"all":true}}`:               "and",
		`{"and":[{"all":true},{"nothing":true}]}`: "and.1.nothing",
		`{"not":[{"all":true}]}`:                  "not",
		"{\"vmAlias\":\"\xff\"}":                  "",
		strings.Repeat(`{"not":`, 100) + `{"all":true}` + strings.Repeat(`}`, 100): strings.Repeat("not.", 63) + "not",
		strings.Repeat(`{"not":`, 1000):                                            "",
	} {
		_, err := in.ParseScope([]byte(text))
		var wrong in.UserErrors
		require.ErrorAs(t, err, &wrong, text)
		require.Len(t, wrong, 1, text)
		require.Equal(t, in.CodeInvalidScope, wrong[0].Code, text)
		require.Equal(t, path, strings.Join(wrong[0].Path, "."), text)
	}
}

func TestScopeFromGraphQL(t *testing.T) {
	s, wrong := in.ScopeFrom(map[string]any{"and": []any{
		map[string]any{"vms": vmA.String()}, map[string]any{"vmTag": map[string]any{"key": "k", "in": nil}},
	}})
	require.Empty(t, wrong)
	require.Equal(t, in.Scope{And: []in.Scope{{VMs: []uuid.UUID{vmA}}, tag("k")}}, s)
	_, wrong = in.ScopeFrom(map[string]any{"or": []any{map[string]any{"all": true, "everyHost": true}, map[string]any{"vms": []any{"?"}}}})
	require.Len(t, wrong, 2)
	require.Equal(t, []string{"scope", "or", "0"}, wrong[0].Path)
	require.Equal(t, []string{"scope", "or", "1", "vms", "0"}, wrong[1].Path)
}

// randomScope makes a valid scope over the given names, with host terms if hosts are given.
func randomScope(r *rand.Rand, depth int, vms, hosts []uuid.UUID) in.Scope {
	pick := func(ids []uuid.UUID) []uuid.UUID {
		var out []uuid.UUID
		for range 1 + r.IntN(3) {
			out = append(out, ids[r.IntN(len(ids))])
		}
		return out
	}
	match := func() *in.TagMatch {
		m := &in.TagMatch{Key: string(rune('a' + r.IntN(3)))}
		for range r.IntN(3) {
			m.In = append(m.In, fmt.Sprint(r.IntN(3)))
		}
		return m
	}
	kinds := 4
	if len(hosts) > 0 {
		kinds = 7
	}
	if depth > 1 && r.IntN(3) > 0 {
		var terms []in.Scope
		for range 1 + r.IntN(3) {
			terms = append(terms, randomScope(r, depth-1, vms, hosts))
		}
		switch r.IntN(3) {
		case 0:
			return in.Scope{And: terms}
		case 1:
			return in.Scope{Or: terms}
		}
		return not(terms[0])
	}
	switch r.IntN(kinds) {
	case 0:
		return in.Scope{All: true}
	case 1:
		return in.Scope{VMs: pick(vms)}
	case 2:
		return in.Scope{VMAlias: fmt.Sprint("alias", r.IntN(3))}
	case 3:
		return in.Scope{VMTag: match()}
	case 4:
		return in.Scope{EveryHost: true}
	case 5:
		return in.Scope{Hosts: pick(hosts)}
	}
	return in.Scope{HostTag: match()}
}

func randomTags(r *rand.Rand) map[string]string {
	tags := map[string]string{}
	for range r.IntN(4) {
		tags[string(rune('a'+r.IntN(3)))] = fmt.Sprint(r.IntN(3))
	}
	return tags
}

// holds is the oracle of Scope.Matches, written from the schema: every member that is set is looked at by itself.
func holds(s in.Scope, vm *inventory.VM, host inventory.Host) bool {
	text, _ := json.Marshal(s)
	var m map[string]json.RawMessage
	_ = json.Unmarshal(text, &m)
	for name, raw := range m {
		var ids []uuid.UUID
		var terms []json.RawMessage
		var match struct {
			Key string
			In  *[]string
		}
		has := func(tags map[string]string) bool {
			_ = json.Unmarshal(raw, &match)
			for k, v := range tags {
				if k == match.Key && (match.In == nil || slices.Contains(*match.In, v)) {
					return true
				}
			}
			return false
		}
		inner := func(raw json.RawMessage) bool {
			s, err := in.ParseScope(raw)
			if err != nil {
				panic(err)
			}
			return holds(s, vm, host)
		}
		switch name {
		case "all":
			return vm != nil
		case "everyHost":
			return true
		case "vms":
			_ = json.Unmarshal(raw, &ids)
			return vm != nil && slices.Contains(ids, vm.UUID)
		case "hosts":
			_ = json.Unmarshal(raw, &ids)
			return slices.Contains(ids, host.UUID)
		case "vmAlias":
			return vm != nil && fmt.Sprintf("%q", vm.Alias) == string(raw)
		case "vmTag":
			return vm != nil && has(vm.Tags)
		case "hostTag":
			return has(host.Traits)
		case "and", "or":
			_ = json.Unmarshal(raw, &terms)
			n := 0
			for _, t := range terms {
				if inner(t) {
					n++
				}
			}
			return name == "and" && n == len(terms) || name == "or" && n > 0
		case "not":
			return !inner(raw)
		}
	}
	return false
}

func TestScopesKeepTheirMeaning(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ids := []uuid.UUID{vmA, vmB, uuid.New()}
	hosts := []uuid.UUID{hostA, uuid.New()}
	for range 300 {
		s := randomScope(r, 4, ids, hosts)
		text, err := json.Marshal(s)
		require.NoError(t, err)
		parsed, err := in.ParseScope(text)
		require.NoError(t, err, string(text))
		require.Equal(t, s, parsed)
		var lenient in.Scope
		require.NoError(t, json.Unmarshal(text, &lenient))
		require.Equal(t, s, lenient, "what a store reads back")
		canonical := s.Canonical()
		require.Equal(t, canonical, canonical.Canonical())
		require.Equal(t, s.Zones(uuid.Nil), canonical.Zones(uuid.Nil))
		for range 5 {
			vm := &inventory.VM{UUID: ids[r.IntN(3)], Alias: fmt.Sprint("alias", r.IntN(3)), Tags: randomTags(r)}
			host := inventory.Host{UUID: hosts[r.IntN(2)], Traits: randomTags(r)}
			if r.IntN(4) == 0 {
				vm = nil
			}
			want := holds(s, vm, host)
			require.Equal(t, want, s.Matches(vm, host), string(text))
			require.Equal(t, want, canonical.Matches(vm, host), "%s\n%s", text, canonical.Text())
		}
		require.NotContains(t, s.WithoutHosts().Text(), hosts[0].String())
		hidden, _ := json.Marshal(s.WithoutHosts())
		require.NotContains(t, string(hidden), hosts[1].String())
		require.NotContains(t, string(hidden), "hostTag")
	}
}

func TestCanonicalScopesOfEqualMeaningAreEqual(t *testing.T) {
	a := in.Scope{And: []in.Scope{tag("x", "2", "1", "2"), {And: []in.Scope{{VMs: []uuid.UUID{vmB, vmA, vmA}}}}, not(not(tag("y")))}}
	b := in.Scope{And: []in.Scope{tag("y"), {VMs: []uuid.UUID{vmA, vmB}}, {Or: []in.Scope{tag("x", "1", "2")}}, tag("y")}}
	require.Equal(t, b.Canonical(), a.Canonical())
	require.Len(t, a.And[0].VMTag.In, 3, "the scope itself is not touched")
}

func FuzzParseScope(f *testing.F) {
	f.Add([]byte(`{"and":[{"vmTag":{"key":"role","in":["db"]}},{"not":{"vmAlias":"x"}}]}`))
	f.Add([]byte(`{"or":[{"all":true},{"hosts":["00000000-0000-4000-8000-0000000000aa"]}]}`))
	f.Add([]byte(`{"not":{"hostTag":{"key":"\ud800"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := in.ParseScope(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(s)
		require.NoError(t, err)
		again, err := in.ParseScope(text)
		require.NoError(t, err)
		require.Equal(t, s, again)
		require.NotPanics(t, func() { _, _ = s.Text(), s.WithoutHosts().Canonical() })
	})
}
