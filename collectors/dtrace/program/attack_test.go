package program

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/measure"
)

// attacks are constants that have broken, or would break, programs that are made by putting texts together.
var attacks = []string{
	`x" || 1 || "`, `x") || (1 == 1) || (execname == "`, `x"/ { system("id"); } tracepoint:syscalls:sys_enter_read /comm=="`,
	`x"; system("reboot"); //`, `\`, `\"`, `x\" || 1`, `"`, `""`, `a\\"b`, `/*`, `*/ {}`, `// }`,
	"x\n#include </etc/shadow>", "\r\n", `#define comm 1`, "x\n#pragma D option destructive", `$1`, `$$1`, `$target`, `%s%n%d`,
	"`id`", `$(id)`, `@a`, `}`, `{`, `/`, `x" == "x`, "a\x00b", "\x7f", "é", "日本", "\u202eevil", "\u2028", "\ufeffx", "\v\f", "\x1b[2J",
	"\xff\xfe", strings.Repeat("a", 15), strings.Repeat("a", 16), strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 200),
	`*`, `[a-z]*`, `BEGIN`, `probe:`, `cat("/etc/passwd")`, `0x41`, `\x22`, `\042`, `\777`, `\u0022`, `%`, "\t", " ", `'`,
	`x' or '1'='1`, `<script>`, `../../x`, `config = {}`, `comm`, `pid == 1`, ``,
}

// literal is the only form of string constant that a program may have.
var literal = regexp.MustCompile(`"((?:[A-Za-z0-9_. -]|\\[0-7]{3})*)"`)

// unquote gives what a lexer makes of such a constant.
func unquote(t testing.TB, text string) string {
	t.Helper()
	out, err := strconv.Unquote(`"` + text + `"`)
	require.NoError(t, err)
	return out
}

func comparison(op measure.Op, s string) measure.Predicate {
	return measure.Predicate{Op: op, Field: "execname", Value: measure.String(s)}
}

// refused are the attacks that no predicate can hold; longer than what a tracer's text can be are accepted and folded.
func refused(s string) bool { return strings.ContainsRune(s, 0) || !utf8.ValidString(s) }

// frame are the string constants that the compiler itself writes into a program, as bpftrace shows them.
var frame = []string{`S\n`, `B %llu\n`, `E\n`, `B %llu\n`, `E\n`}

func TestAttacksKeepTheirPlace(t *testing.T) {
	d := readDefinition(t, "syscall.syscalls", "max_len: 15", "max_len: 255")
	for _, l := range []Language{Bpftrace, D} {
		for _, op := range []measure.Op{measure.Eq, measure.Ne} {
			harmless, err := compiled(t, d, l, comparison(op, "x"), []uuid.UUID{zoneA}, "execname")
			require.NoError(t, err)
			shape := literal.ReplaceAllString(harmless.Text(fixedClock), `""`)
			for _, attack := range attacks {
				p, err := compiled(t, d, l, comparison(op, attack), []uuid.UUID{zoneA}, "execname")
				if refused(attack) {
					require.Error(t, err, "%q", attack)
					continue
				}
				require.NoError(t, err, "%q", attack)
				text := p.Text(fixedClock)
				if len(attack) > l.maxText() {
					require.NotContains(t, text, attack)
					continue
				}
				require.Equal(t, shape, literal.ReplaceAllString(text, `""`), "%q", attack)
				require.True(t, slices.ContainsFunc(literal.FindAllStringSubmatch(text, -1), func(m []string) bool {
					return unquote(t, m[1]) == attack
				}), "%q", attack)
			}
		}
	}
}

// The syntax tree that bpftrace itself makes of a program with all attacks has them as strings, and nothing else is new.
func TestBpftraceSeesAttacksAsStrings(t *testing.T) {
	needBpftrace(t)
	d := readDefinition(t, "syscall.syscalls", "max_len: 15", "max_len: 255")
	calls := func(tree string) map[string]int {
		found := map[string]int{}
		for _, m := range regexp.MustCompile(`(?m)^ *(call: \w+|if|map: @\w+|builtin: \w+)|^ [a-z].*$`).FindAllString(tree, -1) {
			found[strings.TrimSpace(m)]++
		}
		return found
	}
	for _, op := range []measure.Op{measure.Eq, measure.Ne} {
		build := func(constant func(string) string) (*Program, []string) {
			var leaves []measure.Predicate
			want := slices.Clone(frame)
			for _, attack := range attacks {
				if !refused(attack) && len(attack) <= Bpftrace.maxText() {
					s := constant(attack)
					leaves = append(leaves, comparison(op, s))
					want = append(want, asShown(s))
				}
			}
			p, err := compiled(t, d, Bpftrace, measure.Predicate{Op: measure.Or, Args: leaves}, nil)
			require.NoError(t, err)
			slices.Sort(want)
			return p, want
		}
		p, want := build(func(s string) string { return s })
		tree := dryRun(t, p)
		var strs []string
		for _, m := range regexp.MustCompile(`(?m)^ *string: (.*) :: type\[`).FindAllStringSubmatch(tree, -1) {
			strs = append(strs, m[1])
		}
		slices.Sort(strs)
		require.Equal(t, want, strs)
		n := 0
		harmless, _ := build(func(string) string { n++; return fmt.Sprint("harmless", n) })
		require.Equal(t, calls(dryRun(t, harmless)), calls(tree), "the same probes, calls, maps and builtins")
	}
}

// asShown is how bpftrace shows a string in its tree.
func asShown(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '"' || c == '\\':
			b.WriteString(`\` + string(c))
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func TestMalformedPredicatesAreRefused(t *testing.T) {
	deep := strings.Repeat(`{"and":[`, 10_000) + `{}` + strings.Repeat(`]}`, 10_000)
	for _, text := range []string{
		`{"EQ":["execname","x"]}`, `{"regex":["execname","x"]}`, `{"eq":["execname","x"],"eq":["execname","y"]}`, `{"eq":["latency",1e3]}`,
		`{"eq":["latency",1.5]}`, `{"eq":["latency",1e400]}`, `{"eq":["latency","5"]}`, `{"eq":["execname",5]}`, `{"eq":["latency) || (1",5]}`,
		`{"eq":["constructor","x"]}`, deep, `null`, `[]`, `"x"`, `23`, `{"and":[]}`, strings.Repeat(" ", 10<<20),
	} {
		var p measure.Predicate
		err := json.Unmarshal([]byte(text), &p)
		if err == nil {
			_, err = compiled(t, readDefinition(t, "syscall.syscalls"), Bpftrace, p, nil)
		}
		require.Error(t, err, "%.60s", text)
	}
	for _, text := range []string{`{"and":[{"eq":["execname","x"]}]}`, `{"or":[{},{"eq":["execname","x"]}]}`, `{"gt":["latency",-0]}`} {
		p, err := measure.ParsePredicate([]byte(text))
		if err != nil { // a number such as -0 may be refused before
			continue
		}
		_, err = compiled(t, readDefinition(t, "syscall.syscalls"), Bpftrace, p, nil)
		require.NoError(t, err, text)
	}
	// What the readers would refuse is refused of a predicate that was made by hand, too.
	for _, p := range []measure.Predicate{{Op: "||"}, {Op: measure.And}, comparison("==", "x"), comparison(measure.Eq, "\x00")} {
		_, err := compiled(t, readDefinition(t, "syscall.syscalls"), D, p, nil)
		require.Error(t, err)
	}
}

func TestNumbersAreIntegersOfTheLanguage(t *testing.T) {
	d := readDefinition(t, "fs.logical_rwops")
	for n, want := range map[int64]string{math.MinInt64: "(-9223372036854775807 - 1)", math.MaxInt64: "9223372036854775807", -7: "(-7)"} {
		p, err := compiled(t, d, Bpftrace, measure.Predicate{Op: measure.Lt, Field: "size", Value: measure.Int(n)}, nil)
		require.NoError(t, err)
		require.Contains(t, p.Text(fixedClock), "($f_size < "+want+")")
	}
}

// Whatever a constant is, it changes nothing but one literal.
func FuzzConstants(f *testing.F) {
	for _, attack := range attacks {
		f.Add(attack)
	}
	d := readDefinition(f, "syscall.syscalls", "max_len: 15", "max_len: 255")
	shapes := map[Language]string{}
	for _, l := range []Language{Bpftrace, D} {
		p, err := compiled(f, d, l, comparison(measure.Eq, "x"), nil, "execname")
		require.NoError(f, err)
		shapes[l] = literal.ReplaceAllString(p.Text(fixedClock), `""`)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for l, shape := range shapes {
			p, err := compiled(t, d, l, comparison(measure.Eq, s), nil, "execname")
			if err != nil {
				require.True(t, refused(s) || len(s) > measure.MaxConstantBytes, "%q", s)
				continue
			}
			if len(s) > l.maxText() {
				continue
			}
			text := p.Text(fixedClock)
			require.Equal(t, shape, literal.ReplaceAllString(text, `""`))
			require.Contains(t, text, quote(s))
			require.Equal(t, s, unquote(t, quote(s)[1:len(quote(s))-1]))
		}
	})
}
