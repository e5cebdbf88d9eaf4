package program

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/measure"
)

// yamlText is a text as YAML's double-quoted form, which JSON's is.
func yamlText(t testing.TB, s string) string {
	t.Helper()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	return string(text)
}

// rebuilt replaces one place of a definition's document.
func rebuilt(t testing.TB, old, new string) (*catalog.Definition, error) {
	t.Helper()
	all, err := embedded()
	require.NoError(t, err)
	d, _ := all.DefinitionOf("syscall.syscalls")
	require.Contains(t, string(d.Document), old)
	return catalog.Parse([]byte(strings.ReplaceAll(string(d.Document), old, new)))
}

// structure is what a program does, whatever its constants and expressions are.
func structure(text string) map[string]int {
	found := map[string]int{}
	text = literal.ReplaceAllString(text, `""`)
	for _, m := range regexp.MustCompile(`[{};@#]|\w+\(|^\S+:\S+`).FindAllString(text, -1) {
		found[m]++
	}
	return found
}

// What a definition, its fields, variants and saved values are called is a word, or refused.
func TestNamesOfDefinitionsAreWords(t *testing.T) {
	for _, attack := range attacks {
		if !utf8.ValidString(attack) { // no document holds it
			continue
		}
		quoted := yamlText(t, attack)
		for _, place := range []struct{ old, new string }{
			{"module: syscall,", "module: " + quoted + ","}, {"stat: syscalls}", "stat: " + quoted + "}"}, {"  cputime:", "  " + quoted + ":"},
			{"id: linux-raw-syscalls", "id: " + quoted}, {"t0: {key: [tid]", quoted + ": {key: [tid]"},
			{"require: [t0, v0]", "require: [" + quoted + "]"}, {"role: exit", "role: " + quoted}, {"ctype: str", "ctype: " + quoted},
			{"decode: syscall", "decode: " + quoted}, {"scope: map:cgroup", "scope: " + quoted}, {`bpftrace: ">=0.17"`, "bpftrace: " + quoted},
		} {
			if _, err := rebuilt(t, place.old, place.new); err == nil {
				require.Regexp(t, `^[a-z0-9_>=. -]*$`, attack, place.old)
			}
		}
	}
}

// What people read of a definition, and the names of hosts and zones, never reach a program's text.
func TestLabelsHostsAndZonesAreNoProgramText(t *testing.T) {
	plain := readDefinition(t, "syscall.syscalls")
	want := map[Language]string{}
	for _, l := range []Language{Bpftrace, D} {
		p, err := compiled(t, plain, l, measure.Predicate{}, nil, "execname", "latency")
		require.NoError(t, err)
		want[l] = p.Text(fixedClock)
	}
	for _, attack := range attacks {
		if !utf8.ValidString(attack) {
			continue
		}
		for _, old := range []string{"label: system calls", "label: application name", "unit: syscalls"} {
			what, _, _ := strings.Cut(old, ":")
			d, err := rebuilt(t, old, what+": "+yamlText(t, attack))
			for l, text := range want {
				if err == nil {
					p, err := compiled(t, d, l, measure.Predicate{}, nil, "execname", "latency")
					require.NoError(t, err)
					require.Equal(t, text, p.Text(fixedClock), "%q", attack)
				}
			}
		}
		for l, text := range want {
			p, err := Compile(Wish{Definition: plain, Variant: tracing(plain, l), Whole: true, Hostname: attack, Decompositions: []string{"execname", "latency", "hostname"}})
			require.NoError(t, err)
			require.Equal(t, text, p.Text(fixedClock))
			if refused(attack) || len(attack) > measure.MaxConstantBytes {
				continue
			}
			p, err = compiled(t, plain, l, measure.Predicate{Op: measure.Ne, Field: "zonename", Value: measure.String(attack)}, nil, "execname", "latency")
			require.NoError(t, err)
			require.Equal(t, text, p.Text(fixedClock))
		}
	}
}

// An expression that is an attack is refused, or says no more than an expression can.
func TestExpressionsOfDefinitionsAreNoStatements(t *testing.T) {
	for l, place := range map[Language]string{Bpftrace: "expr: args->id", D: "expr: probefunc"} {
		p, err := compiled(t, readDefinition(t, "syscall.syscalls"), l, measure.Predicate{}, nil, "syscall")
		require.NoError(t, err)
		want := structure(p.Text(fixedClock))
		accepted := 0
		for _, attack := range append(attacks, "1) || (1", "pid) { exit(); } (1", "nsecs, 1", "comm[0]", "args->a.b", "1 ? 2 : 3", "((pid))", "system", "str(arg0)", "kstack", "ustack") {
			if !utf8.ValidString(attack) {
				continue
			}
			d, err := rebuilt(t, place, "expr: "+yamlText(t, attack))
			if err != nil {
				continue
			}
			accepted++
			p, err := compiled(t, d, l, measure.Predicate{}, nil, "syscall")
			require.NoError(t, err, "%q", attack)
			require.Equal(t, want, structure(p.Text(fixedClock)), "%q", attack)
		}
		require.Greater(t, accepted, 3, "some are plain expressions")
	}
}

// A program's own text is compared by numbers: nothing of a constant is in the program at all.
func TestTextsOfProgramsAreComparedByNumbers(t *testing.T) {
	d := readDefinition(t, "postgres.queries")
	numbers := regexp.MustCompile(`[0-9]+`)
	for _, op := range []measure.Op{measure.Eq, measure.Ne} {
		for _, attack := range attacks {
			if refused(attack) || len(attack) > 63 {
				continue
			}
			for _, field := range []string{"query", "querysubstr"} {
				text := func(s string) string {
					p, err := compiled(t, d, Bpftrace, measure.Predicate{Op: op, Field: field, Value: measure.String(s)}, nil, field)
					require.NoError(t, err)
					return p.Text(fixedClock)
				}
				require.Equal(t, numbers.ReplaceAllString(text(strings.Repeat("x", len(attack))), "0"), numbers.ReplaceAllString(text(attack), "0"), "%q", attack)
			}
			p, err := compiled(t, d, D, measure.Predicate{Op: op, Field: "query", Value: measure.String(attack)}, nil, "query")
			require.NoError(t, err)
			require.Contains(t, p.Text(fixedClock), quote(attack))
		}
	}
	c := programText{at: "arg0", op: measure.Eq, bytes: []byte("SELECT 1;\x00")}
	require.Equal(t, "((*(uint64 *)uptr(arg0 + 0) == 3539921955015378259) && (*(uint16 *)uptr(arg0 + 8) == 59))", c.text(Bpftrace))
}

// Stacks come from the functions' own names, which whoever wrote a program has chosen.
func TestStacksAreFolded(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "\n": "",
		"\n\tffff do_syscall_64+113\n\tffff entry_SYSCALL_64_after_hwframe+118\n": "entry_SYSCALL_64_after_hwframe;do_syscall_64",
		"\n\t41 main.inner+9 (/tmp/a b)\n\t42 main.main+18 (/tmp/a b)\n":          "main.main;main.inner",
		"\n\t41 0x41 ([unknown])\n": "[unknown]",
		"\n\t41 a::b(int, char (*)(void))+3 (/bin/x)\n\t42 ns;evil+1 (/x)\n":                                    "ns:evil;a::b(int, char (*)(void))",
		"\n\t41 operator+ (/bin/x)\n\t42 operator++12 (/bin/x)\n\t43 " + strings.Repeat("z", 500) + "+1 (/x)\n": strings.Repeat("z", maxFunction) + ";operator+;operator+",
	} {
		require.Equal(t, want, folded(text), "%q", text)
	}
	require.LessOrEqual(t, len(folded(strings.Repeat("\n\t41 "+strings.Repeat("q", 127)+"+1 (/x)", 1000))), maxStack)
}

func TestErrorsAndFileSystemsHaveNames(t *testing.T) {
	require.Equal(t, "none", errnoName(0))
	require.Equal(t, "ENOENT", errnoName(2))
	require.Equal(t, "4000", errnoName(4000))
	for _, name := range []string{"none", "ENOENT", "EAGAIN", "4000"} {
		n, known := errnoNumber(name)
		require.True(t, known)
		require.Equal(t, name, errnoName(n))
	}
	_, known := errnoNumber("02")
	require.False(t, known)
	require.Equal(t, "ext4", fileSystemName(0xEF53))
	require.Equal(t, "0x12ab", fileSystemName(0x12ab))
	c := &compiler{lang: Bpftrace}
	require.Equal(t, compareUint{left: "(uint64)(x)", op: measure.Eq, n: 0x12ab}, c.fileSystem("x", measure.Eq, "0x12ab"))
	for _, never := range []string{"0x0012ab", "0xEF53", "0xef53", "nofs", ""} {
		require.Equal(t, truth(false), c.fileSystem("x", measure.Eq, never), never)
		require.Equal(t, truth(true), c.fileSystem("x", measure.Ne, never), never)
	}
}
