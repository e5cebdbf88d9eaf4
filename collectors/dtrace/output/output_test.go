package output

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

type read func(text string, keys int) (intervals []Interval, started int)

func reading(parse func(r *strings.Reader, h Handler) error) read {
	return func(text string, keys int) (intervals []Interval, started int) {
		err := parse(strings.NewReader(text), Handler{
			Keys: keys, Started: func() { started++ }, Interval: func(i Interval) { intervals = append(intervals, i) },
		})
		if err != nil {
			panic(err)
		}
		return intervals, started
	}
}

var (
	readBpftrace = reading(func(r *strings.Reader, h Handler) error { return Bpftrace(r, h) })
	readD        = reading(func(r *strings.Reader, h Handler) error { return D(r, h) })
)

// shown writes intervals so that people can read them.
func shown(intervals []Interval) string {
	var b strings.Builder
	for _, i := range intervals {
		fmt.Fprintf(&b, "until %d totals %v\n", i.Second, i.Totals)
		for _, r := range i.Rows {
			fmt.Fprintf(&b, "  %q %q %d\n", r.Zone, r.Keys, r.Amount)
		}
	}
	return b.String()
}

// Recorded output of the tracers, with names that processes gave themselves to be mistaken for something else.
func TestRecordedOutput(t *testing.T) {
	for _, c := range []struct {
		file string
		read read
		keys int
	}{
		{"testdata/names.json", readBpftrace, 1},
		{"testdata/latency.json", readBpftrace, 2},
		{"testdata/stacks.json", reading(func(r *strings.Reader, h Handler) error {
			h.Stacks, h.Text = 2, true
			return Bpftrace(r, h)
		}), 4},
		{"testdata/dtrace.txt", readD, 2},
	} {
		text, err := os.ReadFile(c.file)
		require.NoError(t, err)
		intervals, started := c.read(string(text), c.keys)
		require.Equal(t, 1, started)
		golden := c.file + ".golden"
		if *update {
			require.NoError(t, os.WriteFile(golden, []byte(shown(intervals)), 0o644))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, string(want), shown(intervals), c.file)
	}
}

func printf(text string) string { return `{"type": "printf", "data": "` + text + `\n"}` + "\n" }

func maps(name, rows string) string {
	return `{"type": "map", "data": {"` + name + `": {` + rows + `}}}` + "\n"
}

func TestWhatIsOutsideOfMarksIsIgnored(t *testing.T) {
	intervals, started := readBpftrace(maps("@an", `"0": 7`)+printf("E")+printf("S")+printf("B x")+maps("@an", `"0": 7`)+printf("E")+
		printf("B 5")+maps("@an", `"0": 7`)+ // this one has no end
		printf("B 10")+maps("@an", `"0": 1`)+maps("@scope", `"9": 9`)+maps("@a", `"0,x": 1`)+printf("E")+maps("@bn", `"0": 3`)+printf("E"), 1)
	require.Equal(t, 1, started)
	require.Equal(t, []Interval{{Second: 10, Totals: map[string]int64{"0": 1}, Rows: []Row{{Zone: "0", Keys: []string{"x"}, Amount: 1}}}}, intervals)
}

func TestOnlyTheLastPartHoldsCommas(t *testing.T) {
	rows := `"3,1100,a,b": 1, "3,1200,": 2, "3": 3, "3,1000": 4, "3,1,1000,bash": 5`
	intervals, _ := readBpftrace(printf("B 10")+maps("@b", rows)+printf("E"), 2)
	require.Equal(t, []Row{
		{"3", []string{"1100", "a,b"}, 1}, {"3", []string{"1200", ""}, 2}, {"3", []string{"1", "1000,bash"}, 5},
	}, intervals[0].Rows, "keys with too few parts are no rows")
}

func TestStacksAreTakenApart(t *testing.T) {
	const kernel, user = `\n\tffff do_syscall_64+113\n\tffff entry+118\n`, `\n\t41 a(int, char)+1 (/bin/a,b)\n`
	rows := `"0,7,` + kernel + `,` + user + `,a,b": 1, "0,7,,` + user + `,x": 2, "0,7,,,": 3, "0,7,` + kernel + `": 4, "0,7": 5, "0,7,` + kernel + `,,y": 6`
	read := reading(func(r *strings.Reader, h Handler) error {
		h.Keys, h.Stacks, h.Text = 4, 2, true
		return Bpftrace(r, h)
	})
	intervals, _ := read(printf("B 10")+maps("@a", rows)+printf("E"), 4)
	plain := strings.NewReplacer(`\n`, "\n", `\t`, "\t")
	k, u := plain.Replace(kernel), plain.Replace(user)
	require.Equal(t, []Row{
		{"0", []string{"7", k, u, "a,b"}, 1}, {"0", []string{"7", "", u, "x"}, 2}, {"0", []string{"7", "", "", ""}, 3}, {"0", []string{"7", k, "", "y"}, 6},
	}, intervals[0].Rows)
	read = reading(func(r *strings.Reader, h Handler) error {
		h.Keys, h.Stacks = 1, 1
		return Bpftrace(r, h)
	})
	intervals, _ = read(printf("B 10")+maps("@a", `"3,`+user+`": 1, "3,": 2`)+printf("E"), 1)
	require.Equal(t, []Row{{"3", []string{u}, 1}, {"3", []string{""}, 2}}, intervals[0].Rows)
}

func TestBytesComeBackAsTheyWere(t *testing.T) {
	for text, want := range map[string]string{
		`"caf\uffffffc3\uffffffa9"`: "café", `"\uffffffff\ufffffffe"`: "\xff\xfe", `"q\"uo\\te\/"`: `q"uo\te/`, `"\n\t\r\b\f"`: "\n\t\r\b\f",
		`"\u001b[31m"`: "\x1b[31m", `"\\uffffffc3"`: `\uffffffc3`, `"\uffffff7f"`: "\uffffff7f", `""`: "",
	} {
		got, rest, ok := jsonString([]byte(text + "!"))
		require.True(t, ok, text)
		require.Equal(t, want, got)
		require.Equal(t, "!", string(rest))
	}
	for _, bad := range []string{``, `x`, `"`, `"a`, `"\`, `"\x41"`, `"\u00"`, `"\u00zz"`} {
		_, _, ok := jsonString([]byte(bad))
		require.False(t, ok, bad)
	}
}

func TestALineThatBreaksOffCountsAsFarAsItGoes(t *testing.T) {
	long := strings.Repeat(`"0,`+strings.Repeat("x", 1000)+`": 1, `, maxLine/1000)
	intervals, _ := readBpftrace(printf("B 10")+maps("@an", `"0": 9000`)+maps("@a", long+`"0,y": 1`)+printf("E"), 1)
	require.Len(t, intervals, 1, "the end mark is read all the same")
	require.Equal(t, int64(9000), intervals[0].Totals["0"])
	require.NotEmpty(t, intervals[0].Rows)
	require.Less(t, len(intervals[0].Rows), maxLine/1000)
}

func TestAnIntervalIsBounded(t *testing.T) {
	line := maps("@a", `"0,`+strings.Repeat("x", 2<<20)+`": 1`)
	intervals, _ := readBpftrace(printf("B 10")+strings.Repeat(line, 20)+printf("E")+printf("B 11")+line+printf("E"), 1)
	require.Len(t, intervals, 2)
	require.Less(t, len(intervals[0].Rows), 6)
	require.Len(t, intervals[1].Rows, 1, "each interval has its own bound")
}

func TestNumbersThatBreakOffAreNoNumbers(t *testing.T) {
	intervals, _ := readBpftrace(printf("B 10")+`{"type": "map", "data": {"@a": {"0,x": 12`+"\n"+`{"type": "map", "data": {"@a": {"0,x": -`+"\n"+
		maps("@an", `"0": -12, "1": 99999999999999999999`)+printf("E"), 1)
	require.Empty(t, intervals[0].Rows)
	require.Equal(t, map[string]int64{"0": -12}, intervals[0].Totals)
}

func TestRecordsOfDAreNotForged(t *testing.T) {
	text := "S\nB\t10\nN\tz\t3\nR\tz\t1100\tR\\t1\\tx\\t1\t1\nR\tz\t1100\tE\t1\nR\tz\t1100\tx\t1\t1\nR\tz\tbad\\q\tx\t1\nE\nE\n"
	intervals, _ := readD(text, 2)
	require.Equal(t, []Interval{{Second: 10, Totals: map[string]int64{"z": 3}, Rows: []Row{
		{"z", []string{"1100", "R\t1\tx\t1"}, 1}, {"z", []string{"1100", "E"}, 1},
	}}}, intervals)
	for escaped, want := range map[string]string{`\303\251`: "é", `\0`: "\x00", `a\"\\\'\?`: `a"\'?`, `\033[31m`: "\x1b[31m"} {
		got, ok := unescape(escaped)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{`\`, `\q`, `\777`} {
		_, ok := unescape(bad)
		require.False(t, ok, bad)
	}
}

// Whatever is printed, what is read is bounded by it, and its rows have all their parts.
func fuzz(f *testing.F, read read, keys int, recorded ...string) {
	for _, file := range recorded {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(string(text))
		for line := range bytes.Lines(text) {
			f.Add("S\nB\t9\n" + printf("B 9") + string(line) + printf("E") + "E\n")
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		intervals, _ := read(text, keys)
		for _, i := range intervals {
			require.Positive(t, i.Second)
			size := 0
			for _, r := range i.Rows {
				require.Len(t, r.Keys, keys)
				size += len(r.Zone)
				for _, key := range r.Keys {
					size += len(key)
				}
			}
			require.LessOrEqual(t, size, len(text))
		}
	})
}

func FuzzBpftrace(f *testing.F) {
	fuzz(f, readBpftrace, 2, "testdata/names.json", "testdata/latency.json")
}

func FuzzStacks(f *testing.F) {
	fuzz(f, reading(func(r *strings.Reader, h Handler) error {
		h.Stacks, h.Text = 2, true
		return Bpftrace(r, h)
	}), 4, "testdata/stacks.json")
}

func FuzzD(f *testing.F) { fuzz(f, readD, 2, "testdata/dtrace.txt") }

func TestWhatWasLostIsTold(t *testing.T) {
	intervals, _ := readBpftrace(`{"type": "printf", "data": "B 1700000000\n"}
{"type": "map", "data": {"@an": {"0": 7}}}
{"type": "map", "data": {"@al": {"0": 5}}}
{"type": "printf", "data": "E\n"}
{"type": "printf", "data": "B 1700000001\n"}
{"type": "map", "data": {"@bl": {}}}
{"type": "printf", "data": "E\n"}
{"type": "map", "data": {"@al": {"0": 9}}}
`, 0)
	require.Equal(t, []Interval{{Second: 1_700_000_000, Totals: map[string]int64{"0": 7}, Lost: 5}, {Second: 1_700_000_001, Totals: map[string]int64{}}}, intervals)
}
