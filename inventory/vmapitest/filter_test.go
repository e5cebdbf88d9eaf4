package vmapitest

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLikeAgreesWithARegularExpression(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	word := func(letters string) string {
		var b strings.Builder
		for range dice.IntN(7) {
			b.WriteByte(letters[dice.IntN(len(letters))])
		}
		return b.String()
	}
	for range 20000 {
		pattern, text := word("ab%_"), word("ab_")
		expr := regexp.MustCompile("^(?s:" + strings.NewReplacer("%", ".*", "_", ".").Replace(pattern) + ")$")
		require.Equal(t, expr.MatchString(text), matchLike(pattern, text), "%q LIKE %q", text, pattern)
		parts := strings.Split(word("ab*")+"*"+word("ab"), "*")
		exact := regexp.MustCompile("^(?s:" + strings.Join(parts, ".*") + ")$")
		require.Equal(t, exact.MatchString(text), matchParts(parts, text), "%q in %q", parts, text)
	}
	require.True(t, matchLike(`a\%b`, "a%b"))
	require.False(t, matchLike(`a\%b`, "axb"))
	require.True(t, matchLike("_", "é"))
}

// What SQL lets through includes what matches exactly, unless a not turns it round.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		"(&(tags=*-role=db-*)(!(state=destroyed)))", "(|(uuid=x)(alias:caseIgnoreSubstringsMatch:=*V*))", "(_mtime>=5)",
		"(a<5)", "(!(a=b)(c=d))", "(a=b", "((a=b))", "(&)", `(alias=\2a*\zz)`, "(zone_state=running)",
	} {
		f.Add(seed)
	}
	vms := New(Options{})
	f.Cleanup(vms.Close)
	if err := vms.Load(Fleet{VMs: twelve()}); err != nil {
		f.Fatal(err)
	}
	rows := vms.table.all.settled()
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseFilter(text)
		if err != nil {
			return
		}
		plan, err := parsed.plan()
		if err != nil {
			return
		}
		for _, r := range rows {
			sql, exact := plan.match(r, true), parsed.match(r, false)
			if exact && !sql && !strings.Contains(text, "!") && !strings.Contains(text, `\`) {
				t.Fatalf("%s: SQL loses VM %s", text, r.id)
			}
			if parsed.exactInSQL() && sql != exact {
				t.Fatalf("%s: is not exact in SQL for VM %s", text, r.id)
			}
		}
	})
}

func FuzzPredicate(f *testing.F) {
	for _, seed := range []string{
		`{"eq":["tag.role","db"]}`, `{"and":[{"ne":["state","destroyed"]},{"ge":["ram",1024]}]}`, `{"toString":[1,2]}`, `null`,
		`[]`, `{"eq":["a",null]}`, `{"or":[]}`, `{"eq":["tag.a",true]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := predicateFilter(text)
		if err == nil && (!strings.HasPrefix(filter, "(") || !strings.HasSuffix(filter, ")")) {
			t.Fatalf("%s became %s", text, filter)
		}
		if err == nil {
			_, _ = parseFilter(filter) // VMAPI escapes nothing, so it may be no filter
		}
	})
}
