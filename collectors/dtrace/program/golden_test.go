package program

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	zoneA = uuid.MustParse("a0a0a0a0-0000-4000-8000-000000000001")
	zoneB = uuid.MustParse("b0b0b0b0-0000-4000-8000-000000000002")
)

type fakeDevices struct{}

func (fakeDevices) Number(name string) (uint64, bool) { return 254 << 20, name == "vda" }
func (fakeDevices) Name(dev uint64) (string, bool)    { return "vda", dev == 254<<20 }

// embedded reads what comes with IAPI once.
var embedded = sync.OnceValues(catalog.Embedded)

// readDefinition reads a definition that comes with IAPI after replacing texts in pairs.
func readDefinition(t testing.TB, name string, replace ...string) *catalog.Definition {
	t.Helper()
	all, err := embedded()
	require.NoError(t, err)
	d, found := all.DefinitionOf(name)
	require.True(t, found, name)
	d, err = catalog.Parse([]byte(strings.NewReplacer(replace...).Replace(string(d.Document))))
	require.NoError(t, err, name)
	return d
}

func tracing(d *catalog.Definition, l Language) *catalog.Variant {
	for i := range d.Variants {
		if v := &d.Variants[i]; v.Tracing() && (v.Source.Bpftrace != nil) == (l == Bpftrace) {
			return v
		}
	}
	return nil
}

func parsed(t testing.TB, text string) measure.Predicate {
	t.Helper()
	p, err := measure.ParsePredicate([]byte(text))
	require.NoError(t, err, text)
	return p
}

// compiled compiles for this test's fixed machine; whole if there are no zones.
func compiled(t testing.TB, d *catalog.Definition, l Language, predicate measure.Predicate, zones []uuid.UUID, by ...string) (*Program, error) {
	t.Helper()
	v := tracing(d, l)
	require.NotNil(t, v)
	return Compile(Wish{
		Definition: d, Variant: v, Predicate: predicate, Decompositions: by, Whole: zones == nil, Zones: zones,
		Hostname: "headnode", Arch: "amd64", Devices: fakeDevices{},
	})
}

var fixedClock = Clock{Offset: 1_700_000_000 * time.Second, End: 3600 * time.Second, Remote: Remote{Left: time.Minute, PID: 4711, Whence: 1001}}

var goldens = []struct {
	name, metric, predicate string
	zones                   []uuid.UUID
	by                      []string
}{
	{"syscalls", "syscall.syscalls", `{}`, nil, nil},
	{"syscalls-execname-latency-zones", "syscall.syscalls", `{"and":[{"ne":["execname","redis-server"]},{"ge":["latency",1000]}]}`, []uuid.UUID{zoneB, zoneA}, []string{"execname", "latency"}},
	{"syscalls-syscall-pid-zones", "syscall.syscalls", `{"or":[{"eq":["pid","17"]},{"ne":["syscall","read"]}]}`, []uuid.UUID{zoneA}, []string{"zonename", "execname", "syscall", "pid"}},
	{"syscalls-no-zones", "syscall.syscalls", `{"eq":["zonename","` + zoneA.String() + `"]}`, []uuid.UUID{}, nil},
	{"disk-all", "disk.physio_ops", `{"and":[{"eq":["disk","vda"]},{"eq":["optype","read"]},{"or":[{"gt":["size",4096]},{"lt":["latency",-5]}]}]}`, nil, []string{"latency", "optype", "disk"}},
	{"accepts-raddr-zones", "tcp.accepts", `{"or":[{"eq":["raddr","10.0.0.1"]},{"ne":["raddr","::1"]}]}`, []uuid.UUID{zoneA}, []string{"raddr", "rport"}},
	{"connects", "tcp.connects", `{"eq":["rport","443"]}`, nil, []string{"raddr"}},
	{"execs-zones", "unix.proc_execs", `{"and":[{"eq":["hostname","headnode"]},{"eq":["execname","it's \"é\""]}]}`, []uuid.UUID{zoneA}, []string{"hostname", "execname"}},
	{"exits", "unix.proc_exits", `{}`, nil, []string{"execname"}},
	{"forks-zones", "unix.proc_forks", `{}`, []uuid.UUID{zoneA}, []string{"ppid"}},
	{"threads", "unix.thr_creates", `{"eq":["execname","a name of sixteen"]}`, nil, nil},
	{"rwops-optype-size-zones", "fs.logical_rwops", `{"and":[{"eq":["optype","write"]},{"eq":["pid","1"]}]}`, []uuid.UUID{zoneA}, []string{"optype", "size"}},
	{"samples-zones", "cpu.thread_samples", `{}`, []uuid.UUID{zoneA}, []string{"execname", "subsecond"}},
}

func TestProgramsAreAsRecorded(t *testing.T) {
	for _, g := range goldens {
		for l, suffix := range map[Language]string{Bpftrace: ".bt", D: ".d"} {
			d := readDefinition(t, g.metric)
			if tracing(d, l) == nil {
				continue
			}
			t.Run(g.name+suffix, func(t *testing.T) {
				p, err := compiled(t, d, l, parsed(t, g.predicate), g.zones, g.by...)
				require.NoError(t, err)
				file := filepath.Join("testdata", g.name+suffix)
				if *update {
					require.NoError(t, os.MkdirAll("testdata", 0o755))
					require.NoError(t, os.WriteFile(file, []byte(p.Text(fixedClock)), 0o644))
				}
				want, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Equal(t, string(want), p.Text(fixedClock))
			})
		}
	}
}

// representative are the wishes for which every definition's programs are recorded: the plain total of a host, and where
// zones are measured a decomposition by a numeric and a discrete field of two zones, filtered by every field.
func representative(t testing.TB, d *catalog.Definition, v *catalog.Variant) []Wish {
	t.Helper()
	base := Wish{Definition: d, Variant: v, Hostname: "headnode", Arch: "amd64", Devices: fakeDevices{}}
	plain, rich := base, base
	plain.Whole = slices.Contains(v.Places, catalog.Host)
	rich.Whole = !slices.Contains(v.Places, catalog.Zone)
	for _, w := range []*Wish{&plain, &rich} {
		if !w.Whole {
			w.Zones = []uuid.UUID{zoneB, zoneA}
		}
	}
	numeric, text := false, false
	for _, name := range v.Fields {
		f, found := d.Metric.Field(name)
		require.True(t, found)
		k := kindOf(fieldOf(v, name))
		switch {
		case f.Arity == catalog.Numeric && numeric, k == textKey && text:
		default:
			rich.Decompositions = append(rich.Decompositions, name)
			numeric, text = numeric || f.Arity == catalog.Numeric, text || k == textKey
		}
		if f.Stack {
			continue
		}
		leaf := measure.Predicate{Op: measure.Ne, Field: name, Value: measure.String("x")}
		switch {
		case f.Arity == catalog.Numeric:
			leaf.Op, leaf.Value = measure.Ge, measure.Int(5)
		case len(f.Values) > 0:
			leaf.Value = measure.String(f.Values[0])
		case f.Uint:
			leaf.Value = measure.String("17")
		case k == addressKey:
			leaf.Value = measure.String("10.0.0.1")
		case name == "syscall":
			leaf.Value = measure.String("read")
		case name == "errno":
			leaf.Value = measure.String("ENOENT")
		case name == "fstype":
			leaf.Value = measure.String("sockfs")
		}
		rich.Predicate.Op = measure.And
		rich.Predicate.Args = append(rich.Predicate.Args, leaf)
	}
	if len(rich.Predicate.Args) == 0 {
		rich.Predicate = measure.Predicate{}
	}
	return []Wish{plain, rich}
}

func fieldOf(v *catalog.Variant, name string) catalog.TraceField {
	source := v.Source.Bpftrace
	if source == nil {
		source = v.Source.DTrace
	}
	for _, c := range source.Clauses {
		if f, has := c.Fields[name]; has && c.Role != catalog.Entry {
			return f
		}
	}
	return catalog.TraceField{}
}

// everyVariant calls fn for each variant that traces of each definition that comes with IAPI.
func everyVariant(t *testing.T, fn func(t *testing.T, d *catalog.Definition, v *catalog.Variant)) {
	t.Helper()
	all, err := embedded()
	require.NoError(t, err)
	for _, m := range all.Metrics() {
		d, _ := all.DefinitionOf(m.Name)
		for i := range d.Variants {
			if v := &d.Variants[i]; v.Tracing() {
				t.Run(m.Name+" "+v.ID, func(t *testing.T) { fn(t, d, v) })
			}
		}
	}
}

func TestEveryDefinitionsProgramsAreAsRecorded(t *testing.T) {
	recorded := map[string]bool{}
	everyVariant(t, func(t *testing.T, d *catalog.Definition, v *catalog.Variant) {
		var text strings.Builder
		for _, w := range representative(t, d, v) {
			p, err := Compile(w)
			require.NoError(t, err)
			fmt.Fprintf(&text, "# by %s where %s\n%s\n", strings.Join(w.Decompositions, ", "), w.Predicate.Text(), p.Text(fixedClock))
		}
		name := d.Metric.Name + "." + v.ID + map[bool]string{true: ".bt", false: ".d"}[v.Source.Bpftrace != nil]
		recorded[name] = true
		file := filepath.Join("testdata", "definitions", name)
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
			require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), text.String())
	})
	files, err := os.ReadDir(filepath.Join("testdata", "definitions"))
	require.NoError(t, err)
	for _, f := range files {
		require.True(t, recorded[f.Name()], "%s is the record of nothing", f.Name())
	}
}

// Every program has what holds for all: two sets of maps with an unkeyed total, whole seconds of UTC, an end of its own,
// nothing left behind, and where it is for zones the scope as the first condition of each clause.
func TestEveryProgramKeepsTheRules(t *testing.T) {
	everyVariant(t, func(t *testing.T, d *catalog.Definition, v *catalog.Variant) {
		for _, w := range representative(t, d, v) {
			p, err := Compile(w)
			require.NoError(t, err)
			text := p.Text(fixedClock)
			if p.Language == D {
				require.Contains(t, text, "@total[")
				require.Contains(t, text, "(walltimestamp / 1000000000) != iapi_second")
				require.Contains(t, text, "timestamp > iapi_end/ { exit(0); }")
				require.Contains(t, text, "trunc(@total)")
				continue
			}
			for _, part := range []string{"@an[", "@bn[", "clear(@an)", "clear(@bn)", "if (nsecs > @end) { exit(); }", "(nsecs + @offset) / 1000000000"} {
				require.Contains(t, text, part)
			}
			for _, m := range regexp.MustCompile(`@([a-z]\w*)`).FindAllStringSubmatch(text, -1) {
				require.Contains(t, text, "\n  clear(@"+m[1]+");", "a map is printed at the end")
			}
			for _, m := range regexp.MustCompile(`@(s_\w+)\[[^\]]+\] = `).FindAllStringSubmatch(text, -1) {
				require.Contains(t, text, "delete(@"+m[1]+"[", "what is remembered is forgotten")
			}
			entries, threads := 0, 0
			for _, c := range p.clauses {
				if c.role == catalog.Entry {
					entries++
					threads += len(slices.DeleteFunc(slices.Clone(c.saves), func(s save) bool { return !s.thread }))
				}
			}
			require.Equal(t, entries, strings.Count(text, "{ @al[(uint64)0] = count(); }"), "what finds no room is told")
			require.Equal(t, min(1, threads), strings.Count(text, "\n"+threadExec+" /(args->old_pid != args->pid)/ {"), "a thread may get another number")
			if !w.Whole {
				require.Equal(t, strings.Count(text, "@an["), strings.Count(text, "@an[$z]"))
				require.GreaterOrEqual(t, strings.Count(text, "if (($z != 0)"), strings.Count(text, "@an[$z]"))
			}
		}
	})
}

// bpftrace itself takes every program of every definition whose probes this machine has.
func TestBpftraceTakesEveryDefinition(t *testing.T) {
	needBpftrace(t)
	taken := 0
	everyVariant(t, func(t *testing.T, d *catalog.Definition, v *catalog.Variant) {
		if v.Source.Bpftrace == nil {
			return
		}
		for _, name := range v.When.Tracepoints {
			if _, err := os.Stat("/sys/kernel/tracing/events/" + strings.Replace(name, ":", "/", 1)); err != nil {
				t.Logf("not checked: this kernel lacks the tracepoint %s", name)
				return
			}
		}
		if !fitsKernel(t, d, v) {
			t.Logf("not checked: it is for a kernel %s", v.When.Kernel)
			return
		}
		for _, name := range v.When.USDT {
			if binary, _, _ := strings.Cut(name, ":"); !collect.HasUSDT(name) {
				t.Logf("not checked: %s is not here, or has no such probe", binary)
				return
			}
		}
		p, err := Compile(representative(t, d, v)[1])
		require.NoError(t, err)
		tree := dryRun(t, p)
		for _, probe := range []string{"BEGIN", "END", "interval:ms:10"} {
			require.Equal(t, 1, strings.Count(tree, "\n "+probe+"\n"))
		}
		taken++
	})
	require.Greater(t, taken, 12)
}

// fitsKernel reports whether a variant is for kernels as this machine's: others may lack what it reads.
func fitsKernel(t *testing.T, d *catalog.Definition, v *catalog.Variant) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	only := catalog.Variant{Places: v.Places, When: catalog.When{Kernel: v.When.Kernel}}
	_, err = (&catalog.Definition{Metric: d.Metric, Variants: []catalog.Variant{only}}).Select(catalog.Platform{Kernel: strings.TrimSpace(string(release))}, v.Places[0], nil)
	return err == nil
}

// needBpftrace gives the path of bpftrace, by which programs are checked without running them.
func needBpftrace(t testing.TB) string {
	t.Helper()
	path := collect.Command("bpftrace")
	if path != "" && os.Geteuid() == 0 {
		if _, err := os.Stat("/sys/kernel/tracing/events"); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("checking programs needs bpftrace, root and tracefs")
	}
	t.Skip("checking programs needs bpftrace, root and tracefs")
	return ""
}

// dryRun gives the syntax tree that bpftrace makes of a program's text. It fails when bpftrace refuses the text.
func dryRun(t testing.TB, p *Program) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program.bt")
	require.NoError(t, os.WriteFile(file, []byte(p.Text(fixedClock)), 0o600))
	cmd := exec.Command(needBpftrace(t), "-d", file)
	cmd.Env = p.Environment()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, tree, found := strings.Cut(string(out), "AST after: parser\n")
	require.True(t, found, "%s", out)
	tree, _, found = strings.Cut(tree, "AST after: Semantic\n")
	require.True(t, found, "%s", out)
	return tree
}

func TestWishesThatCannotBeTracedAreRefused(t *testing.T) {
	for _, c := range []struct {
		metric, predicate, why string
		code                   collect.Code
		by                     []string
	}{
		{"syscall.syscalls", `{"eq":["syscall","reed"]}`, `no system call "reed"`, collect.Failed, nil},
		{"tcp.accepts", `{"eq":["raddr","10.0.0"]}`, "is an IP address", collect.Failed, nil},
		{"tcp.accepts", `{"eq":["raddr","fe80::1%eth0"]}`, "is an IP address", collect.Failed, nil},
		{"syscall.syscalls", `{"or":[{"eq":["zonename","x"]},{"eq":["pid","1"]}]}`, "zonename in one or", collect.Unsupported, nil},
		{"syscall.syscalls", `{}`, "twice", collect.Unsupported, []string{"execname", "execname"}},
		{"disk.physio_ops", `{}`, "two numeric", collect.Unsupported, []string{"latency", "size"}},
		{"syscall.syscalls", `{}`, `no field "ppsargs"`, collect.Unsupported, []string{"ppsargs"}},
		{"syscall.syscalls", `{"eq":["__proto__","x"]}`, "__proto__", collect.Failed, nil},
		{"syscall.syscalls", `{"eq":["pid","007"]}`, "decimal number", collect.Failed, nil},
		{"disk.physio_ops", `{"eq":["optype","erase"]}`, "one of read, write", collect.Failed, nil},
		{"syscall.syscalls", `{"lt":["execname","x"]}`, "numeric", collect.Failed, nil},
	} {
		d := readDefinition(t, c.metric)
		_, err := compiled(t, d, Bpftrace, parsed(t, c.predicate), []uuid.UUID{zoneA}, c.by...)
		require.ErrorContains(t, err, c.why, c.predicate)
		require.Equal(t, c.code, collect.Refusal(err).Code, c.predicate)
	}
}

func TestTwoFreeTextsAreNotPutIntoOneKey(t *testing.T) {
	d := readDefinition(t, "syscall.syscalls", "expr: args->id, decode: syscall", "expr: comm")
	d.Variants[0].Source.Bpftrace.Clauses[1].Fields["syscall"] = catalog.TraceField{CType: "str", Expr: "comm"}
	_, err := compiled(t, d, Bpftrace, measure.Predicate{}, nil, "execname", "syscall")
	require.ErrorContains(t, err, "free text")
	_, err = compiled(t, d, Bpftrace, measure.Predicate{}, nil, "execname")
	require.NoError(t, err)
}

// What a thread saves for itself and nothing needs is left out, with its cost.
func TestOnlyWhatIsNeededIsRemembered(t *testing.T) {
	d := readDefinition(t, "syscall.syscalls")
	plain, err := compiled(t, d, Bpftrace, measure.Predicate{}, nil, "execname")
	require.NoError(t, err)
	require.NotContains(t, plain.Text(fixedClock), "sys_enter")
	for _, need := range [][]string{{"latency"}, nil} {
		predicate := measure.Predicate{}
		if need == nil {
			predicate = parsed(t, `{"lt":["latency",5]}`)
		}
		p, err := compiled(t, d, Bpftrace, predicate, nil, need...)
		require.NoError(t, err)
		require.Contains(t, p.Text(fixedClock), "sys_enter")
	}
	// A definition's own condition at the entry says which events count.
	d.Variants[0].Source.Bpftrace.Clauses[0].If = "pid != 1"
	p, err := compiled(t, d, Bpftrace, measure.Predicate{}, nil, "execname")
	require.NoError(t, err)
	require.Contains(t, p.Text(fixedClock), "sys_enter")
}

// What is remembered of each thread has room for twice the threads that there are, within a limit.
func TestThereIsRoomForWhatThreadsSave(t *testing.T) {
	d := readDefinition(t, "syscall.syscalls")
	for threads, want := range map[int]int{0: minMapKeys, 100: minMapKeys, 20_000: 40_000, 1_000_000: maxMapKeys} {
		w := Wish{Definition: d, Variant: tracing(d, Bpftrace), Whole: true, Threads: threads, Predicate: parsed(t, `{"lt":["latency",5]}`)}
		p, err := Compile(w)
		require.NoError(t, err)
		require.Equal(t, want, p.MapKeys)
		w.Predicate = measure.Predicate{}
		p, err = Compile(w)
		require.NoError(t, err)
		require.Equal(t, minMapKeys, p.MapKeys, "nothing is remembered")
	}
}

func TestRowsAreDecoded(t *testing.T) {
	d := readDefinition(t, "disk.physio_ops")
	p, err := compiled(t, d, Bpftrace, measure.Predicate{}, nil, "optype", "latency", "hostname", "disk")
	require.NoError(t, err)
	row, ok := p.Decode(HostZone, []string{"1100", "266338304", "WSM"})
	require.True(t, ok)
	require.Equal(t, Row{Value: 1100, Fields: []measure.Field{{Name: "optype", Value: "write"}, {Name: "hostname", Value: "headnode"}, {Name: "disk", Value: "vda"}}}, row)
	row, ok = p.Decode(HostZone, []string{"18446744073709551615", "7340033", "R"})
	require.True(t, ok)
	require.Equal(t, int64(1<<63-1), row.Value)
	require.Equal(t, "7:1", row.Fields[2].Value)
	for _, bad := range [][]string{nil, {"1"}, {"x", "1", "R"}, {"1", "-1", "R"}, {"1", "1", ""}, {"1", "1", "D"}, {"1", "1", "R", "R"}} {
		_, ok := p.Decode(HostZone, bad)
		require.False(t, ok, "%q", bad)
	}
	d = readDefinition(t, "tcp.accepts")
	p, err = compiled(t, d, Bpftrace, measure.Predicate{}, nil, "raddr", "rport")
	require.NoError(t, err)
	row, ok = p.Decode(HostZone, []string{"80", "::ffff:127.0.0.1"})
	require.True(t, ok)
	require.Equal(t, []measure.Field{{Name: "raddr", Value: "127.0.0.1"}, {Name: "rport", Value: "80"}}, row.Fields)
}
