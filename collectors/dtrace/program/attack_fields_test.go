package program

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

var anyNumber = regexp.MustCompile(`[0-9]+`)

// shape is a program's text without what its constants are: texts of programs are compared as numbers.
func shape(p *Program) string {
	var b strings.Builder
	inText, number := false, false
	for _, c := range []byte(p.Text(fixedClock)) {
		digit := c >= '0' && c <= '9'
		if c == '"' {
			inText = !inText
		}
		if (!inText || c == '"') && !digit {
			b.WriteByte(c)
		} else if !inText && !number {
			b.WriteByte('0')
		}
		number = digit
	}
	return b.String()
}

// As the value of every field of every metric an attack is refused, or changes nothing but a constant, in both languages.
func TestAttacksAsTheValuesOfEveryField(t *testing.T) {
	accepted, refusals := map[string]int{}, 0
	seen := map[string]bool{} // several variants of a metric have the same clauses for other paths
	everyVariant(t, func(t *testing.T, d *catalog.Definition, v *catalog.Variant) {
		source := cmp.Or(v.Source.Bpftrace, v.Source.DTrace)
		if len(source.Clauses) > 8 { // many of one kind, which others have too
			return
		}
		for _, name := range v.Fields {
			f, _ := d.Metric.Field(name)
			key := d.Metric.Name + " " + map[bool]string{true: "bpftrace", false: "dtrace"}[v.Source.Bpftrace != nil] + " " + name
			if f.Stack || seen[key] {
				continue
			}
			seen[key] = true
			build := func(s string) (*Program, error) {
				w := Wish{
					Definition: d, Variant: v, Decompositions: []string{name}, Zones: []uuid.UUID{zoneA}, Whole: v.Scope == catalog.ScopeNone,
					Predicate: measure.Predicate{Op: measure.Ne, Field: name, Value: measure.String(s)}, Hostname: "headnode", Arch: "amd64", Devices: fakeDevices{},
				}
				return Compile(w)
			}
			plain := map[string]string{}
			for _, attack := range attacks {
				if name == "fstype" && attack == "0x41" {
					continue // is how one without a name is shown
				}
				p, err := build(attack)
				if err != nil {
					require.Equal(t, collect.Failed, collect.Refusal(err).Code, "%q", attack)
					refusals++
					continue
				}
				require.False(t, refused(attack), "%s: %q", name, attack)
				like := spaced(attack)
				if plain[like] == "" {
					p, err := build(like)
					require.NoError(t, err, "%s: %q", name, attack)
					plain[like] = shape(p)
				}
				require.Equal(t, plain[like], shape(p), "%s: %q", name, attack)
				accepted[name]++
			}
		}
	})
	require.Greater(t, refusals, 1000)
	for _, name := range []string{"execname", "psargs", "ppsargs", "pexecname", "query", "querysubstr", "user", "database", "http_url", "http_path", "disk", "fstype", "errno"} {
		require.Greater(t, accepted[name], 20, name)
	}
}

// spaced is a harmless text with the length of another, and its spaces, which are compared in another way than letters.
func spaced(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' {
			return r
		}
		return 'x'
	}, latin(s))
}

// latin has a rune for each byte.
func latin(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// As the name of a field, in a predicate or a decomposition, an attack is no field.
func TestAttacksAsTheNamesOfFields(t *testing.T) {
	d := readDefinition(t, "syscall.syscalls")
	for _, l := range []Language{Bpftrace, D} {
		for _, attack := range append(slices.Clone(attacks), "__proto__", "constructor", "latency) || (1", "@a", "kstack", "$t0", "comm") {
			_, err := compiled(t, d, l, measure.Predicate{Op: measure.Eq, Field: attack, Value: measure.String("x")}, nil)
			require.Error(t, err, "%q", attack)
			_, err = compiled(t, d, l, measure.Predicate{}, nil, attack)
			require.Equal(t, collect.Unsupported, collect.Refusal(err).Code, "%q", attack)
			_, err = compiled(t, d, l, measure.Predicate{Op: measure.Op(attack), Field: "pid", Value: measure.String("1")}, nil)
			if attack != "" {
				require.Error(t, err, "%q", attack)
			}
		}
	}
}

// bpftrace's own syntax tree of a program with attacks is that of one with harmless texts wherever they are compared: in
// names that the kernel keeps, and in the memory of processes.
func TestBpftraceSeesTheSameProgramWhereverAttacksAre(t *testing.T) {
	needBpftrace(t)
	d := readDefinition(t, "unix.proc_execs")
	tree := func(constant func(string) string) string {
		all := measure.Predicate{Op: measure.And}
		for field, most := range map[string]int{"pexecname": 20, "psargs": 1} { // each of those costs bpftrace a second
			any := measure.Predicate{Op: measure.Or}
			for _, attack := range attacks {
				if len(any.Args) < most && !refused(attack) && (field == "pexecname" && len(attack) <= 15 || strings.Contains(attack, "system(")) {
					any.Args = append(any.Args, measure.Predicate{Op: measure.Eq, Field: field, Value: measure.String(constant(attack)[:min(len(attack), 63)])})
				}
			}
			all.Args = append(all.Args, any)
		}
		slices.SortFunc(all.Args, func(a, b measure.Predicate) int { return strings.Compare(a.Args[0].Field, b.Args[0].Field) })
		p, err := compiled(t, d, Bpftrace, all, nil, "psargs")
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), "program.bt")
		require.NoError(t, os.WriteFile(file, []byte(p.Text(fixedClock)), 0o600))
		cmd := exec.Command(needBpftrace(t), "-d", file)
		cmd.Env = p.Environment()
		out, err := cmd.Output() // what it warns of shows the text itself
		require.NoError(t, err)
		_, text, found := strings.Cut(string(out), "AST after: parser\n")
		require.True(t, found)
		text, _, found = strings.Cut(text, "AST after: Semantic\n")
		require.True(t, found)
		text = regexp.MustCompile(`string: .* :: type`).ReplaceAllString(text, "string: :: type")
		return anyNumber.ReplaceAllString(text, "0")
	}
	want, got := tree(spaced), tree(func(s string) string { return s })
	require.Contains(t, want, "string: ")
	require.Contains(t, want, "call: uptr")
	require.True(t, want == got, "another program")
}
