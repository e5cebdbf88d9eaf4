package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/tests/yardstick"
)

// The story of a newcomer: start, look what can be measured, create, watch, delete.
func TestFromOneCommandToLiveData(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	a := d.api()

	metrics := a.run("metrics")
	for _, name := range []string{"cpu.usage", "cpu.loadavg1", "memory.rss", "disk.physio_ops", "disk.physio_bytes", "nic.bytes", "nic.packets", "unix.processes"} {
		require.Contains(t, metrics, name)
	}

	a.run("delete", requestOfReadme(t, d.server))

	sd := startStatsd(t)
	id := a.create("cpu.usage", "--by", "cpumode", "--every-host", "--target", "statsd://"+sd.address+"/tour", "--name", "tour")
	v := a.becomes(id, "ENABLED")
	require.Equal(t, 1, v.Coverage.Expected)
	require.Equal(t, 1, v.Coverage.Running)
	require.Contains(t, a.run("list"), id)
	require.True(t, wait(patience, func() bool { lines, _ := sd.seen(); return len(lines) >= 4 }))
	lines, _ := sd.seen()
	for _, line := range lines {
		require.Regexp(t, `^tour\.cpu\.usage\.[^:]+\.(kernel|user):[0-9.e+-]+\|g$`, line)
	}

	a.run("delete", id)
	sd.watch.Store(yardstick.Start(t))
	require.True(t, wait(patience, func() bool {
		code, _, _ := a.try("get", id)
		return code == 4
	}), "once its host has acknowledged, a deleted instrumentation is gone")
	_, last := sd.seen()
	require.Less(t, last, 2*time.Second, "delete stops the collection within two seconds")
	count, _ := sd.seen()
	require.Never(t, func() bool { now, _ := sd.seen(); return len(now) > len(count) }, 2500*time.Millisecond, 100*time.Millisecond,
		"no datagram comes after the delete is acknowledged")
}

// requestOfReadme sends what the README gives curl to send, and returns the id that was created.
func requestOfReadme(t testing.TB, server string) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(readme), "curl -s http://127.0.0.1:8080/graphql -H 'Content-Type: application/json' -d '")
	require.True(t, found)
	body, _, found := strings.Cut(rest, "'\n```")
	require.True(t, found)
	resp, err := http.Post(server+"/graphql", "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			CreateInstrumentation struct{ Instrumentation struct{ ID string } }
		}
		Errors json.RawMessage
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	require.Empty(t, string(answer.Errors))
	require.NotEmpty(t, answer.Data.CreateInstrumentation.Instrumentation.ID)
	return answer.Data.CreateInstrumentation.Instrumentation.ID
}

// procStat reads the jiffies of all processors together, independently of the collector.
func procStat(t testing.TB) (user, kernel float64) {
	raw, err := os.ReadFile("/proc/stat")
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(raw), "\n")
	var f []float64
	for _, text := range strings.Fields(line)[1:] {
		n, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		f = append(f, n)
	}
	return f[0] + f[1], f[2] + f[5] + f[6]
}

func TestCPUUsageAgreesWithProcStat(t *testing.T) {
	d := startDev(t, t.TempDir())
	a := d.api()
	id := a.create("cpu.usage", "--by", "cpumode", "--every-host")
	a.becomes(id, "ENABLED")
	stop := make(chan struct{})
	defer close(stop)
	go func() { // something to see
		for busy := 0; ; busy++ {
			if busy%1_000_000 == 0 {
				select {
				case <-stop:
					return
				default:
				}
			}
		}
	}()

	// Read at the same boundaries as the agent does: 20 ms after a whole second.
	boundary := func() time.Time {
		at := time.Now().Truncate(time.Second).Add(time.Second)
		time.Sleep(time.Until(at.Add(20 * time.Millisecond)))
		return at
	}
	agrees := func() bool {
		from := boundary()
		user0, kernel0 := procStat(t)
		const seconds = 6
		var to time.Time
		for range seconds {
			to = boundary()
		}
		user1, kernel1 := procStat(t)
		user, kernel := user1-user0, kernel1-kernel0 // jiffies of 10 ms are percent of one processor over the seconds, summed

		sums := map[string]float64{}
		counted := map[string]int{}
		partial := false
		for _, e := range parseEvents(t, a.run("watch", id, "--since", "30s", "--for", "2s", "-o", "json")) {
			if !e.Timestamp.Before(from) && e.Timestamp.Before(to) {
				require.Equal(t, e.Timestamp, e.Timestamp.Truncate(time.Second))
				partial = partial || e.Partial
				sums[e.Fields["cpumode"]] += e.value(t)
				counted[e.Fields["cpumode"]]++
			}
		}
		t.Logf("values: %v; user: %.1f by the agent, %.1f by /proc/stat; kernel: %.1f and %.1f", counted, sums["user"], user, sums["kernel"], kernel)
		return !partial && maps.Equal(map[string]int{"user": seconds, "kernel": seconds}, counted) && // one value for each second
			math.Abs(user-sums["user"]) <= 0.05*user && math.Abs(kernel-sums["kernel"]) <= 0.05*kernel+6
	}
	// On a machine that is busy either may come late to a boundary: then they have looked at different times.
	for tries := 1; !agrees(); tries++ {
		require.Less(t, tries, 6, "they do not agree")
	}
}

// One container is measured, and nothing else: a real cgroup with a busy process, found as a VM.
func TestASingleContainerIsMeasured(t *testing.T) {
	t.Parallel()
	busy := startContainer(t, "sh", "-c", "while :; do :; done")
	idle := startContainer(t, "sleep", "600")
	d := startDev(t, t.TempDir())
	a := d.api()

	id := a.create("cpu.usage", "--by", "cpumode", "--vm", busy.uuid.String())
	v := a.becomes(id, "ENABLED")
	require.Equal(t, 1, v.Coverage.Expected)
	total, zones := 0.0, map[string]bool{}
	seconds := map[time.Time]bool{}
	before, began := processorTime(t, busy.cmd.Process.Pid), time.Now()
	for _, e := range a.watch(id, "4s") {
		zones[e.VM] = true
		seconds[e.Timestamp] = true
		total += e.value(t)
	}
	require.Equal(t, map[string]bool{busy.uuid.String(): true}, zones)
	perSecond := total / float64(len(seconds))
	used := 100 * (processorTime(t, busy.cmd.Process.Pid) - before).Seconds() / time.Since(began).Seconds()
	require.Greater(t, perSecond, used/3, "the busy container uses a good part of a processor, as far as others let it")
	require.Less(t, perSecond, 110.0, "and it has only one process")

	for metric, flags := range map[string][]string{
		"memory.rss":     nil,
		"unix.processes": {"--by", "execname"},
		"cpu.usage":      {"--where", `{"eq":["cpumode","user"]}`},
	} {
		both := a.create(append([]string{metric, "--vm", busy.uuid.String(), "--vm", idle.uuid.String()}, flags...)...)
		a.becomes(both, "ENABLED")
		seen := map[string]bool{}
		wait(patience, func() bool {
			for _, e := range a.watch(both, "3s") {
				seen[e.VM] = true
				if metric == "unix.processes" {
					require.Contains(t, []string{"sh", "sleep"}, e.Fields["execname"])
				}
			}
			return len(seen) >= 2
		})
		require.Equal(t, map[string]bool{busy.uuid.String(): true, idle.uuid.String(): true}, seen, metric)
	}
}

// The snapshot has the host, the journal the record, and neither its place: it must come back at once, and the agent, which
// goes on measuring meanwhile, is never told to end.
func TestAPlacementSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	require.True(t, wait(patience, func() bool { return strings.Contains(d.api().run("fleet"), "online") }))
	d.stop() // leaves a snapshot
	d = startDev(t, dir)
	sd := startStatsd(t)
	id := d.api().create("cpu.loadavg1", "--every-host", "--target", "statsd://"+sd.address)
	d.api().becomes(id, "ENABLED")
	d.kill()

	d = startDev(t, dir)
	require.True(t, wait(patience, func() bool { return d.api().get(id).Coverage.Running == 1 }))
	require.NotRegexp(t, `took the assignment.*ending=1`, d.output())
}

func TestAnInstrumentationExpires(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	a := d.api()
	sd := startStatsd(t)
	var before []string
	for ttl := 3; len(before) == 0; ttl *= 2 { // a machine that is slow needs more until the first sample
		require.Less(t, ttl, 100, "nothing was measured")
		id := a.create("cpu.loadavg1", "--every-host", "--ttl", fmt.Sprint(ttl, "s"), "--target", "statsd://"+sd.address)
		v := a.becomes(id, "EXPIRED")
		require.True(t, wait(patience, func() bool { v = a.get(id); return v.Coverage.Expected == 0 }), "nothing is expected of what has expired: %+v", v)
		before, _ = sd.seen()
	}
	require.Never(t, func() bool { now, _ := sd.seen(); return len(now) > len(before) }, 2*time.Second, 100*time.Millisecond)
}

func TestWhatWasAnsweredSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	sd := startStatsd(t)
	id := d.api().create("cpu.loadavg1", "--every-host", "--target", "statsd://"+sd.address)
	d.kill() // at once after the answer

	d = startDev(t, dir)
	d.api().becomes(id, "ENABLED")
	d.stop()
	require.Contains(t, d.output(), "stopped")

	d = startDev(t, dir)
	d.api().becomes(id, "ENABLED")
	require.True(t, wait(patience, func() bool { l, _ := sd.seen(); return len(l) > 0 }))
}

func TestADamagedSnapshotIsKeptAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	d.api().create("cpu.loadavg1", "--every-host")
	d.stop()
	snapshots, err := filepath.Glob(filepath.Join(dir, "store", "*snapshot*"))
	require.NoError(t, err)
	require.NotEmpty(t, snapshots)
	for _, s := range snapshots {
		require.NoError(t, os.WriteFile(s, []byte("this is no snapshot"), 0o600))
	}
	p := start(t, binary, "dev", "--listen", "127.0.0.1:0", "--data-dir", dir)
	<-p.done
	require.Error(t, p.err, "to go on from nothing is not decided for the user")
	require.Contains(t, p.output(), "the store's snapshot is damaged: it was kept aside")
	aside, err := filepath.Glob(filepath.Join(dir, "store", "*damaged*"))
	require.NoError(t, err)
	require.Len(t, aside, len(snapshots))
	kept, err := os.ReadFile(aside[0])
	require.NoError(t, err)
	require.Equal(t, "this is no snapshot", string(kept))
	startDev(t, dir) // told once; who starts again goes on
}

func TestTheAPIDoesTheSameAsTheCommandLine(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	body, err := json.Marshal(map[string]any{
		"query": `mutation($input: CreateInstrumentationInput!) { createInstrumentation(input: $input) {
			instrumentation { id state metric { name } decompositions { name } } userErrors { code message path } } }`,
		"variables": map[string]any{"input": map[string]any{
			"metric": "nic.bytes", "decompositions": []string{"nic", "direction"}, "scope": map[string]any{"everyHost": true},
			"predicate": map[string]any{"eq": map[string]any{"field": "direction", "value": "received"}},
		}},
	})
	require.NoError(t, err)
	resp, err := http.Post(d.server+"/graphql", "application/json", bytes.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Result struct {
				Instrumentation struct{ ID, State string }
				UserErrors      []struct{ Code, Message string }
			} `json:"createInstrumentation"`
		}
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	require.Empty(t, answer.Data.Result.UserErrors)
	require.Equal(t, "CREATED", answer.Data.Result.Instrumentation.State)
	a := d.api()
	a.becomes(answer.Data.Result.Instrumentation.ID, "ENABLED")
	for _, e := range a.watch(answer.Data.Result.Instrumentation.ID, "3s") {
		require.Equal(t, "received", e.Fields["direction"])
		require.NotEmpty(t, e.Fields["nic"])
	}
}

func TestAFleetFromAFile(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "--fleet", "../../examples/fleet.json")
	a := d.api()
	require.True(t, wait(patience, func() bool { return strings.Count(a.run("fleet"), "\n") > 5 }), "the hosts are known")
	var preview struct{ VMCount, HostCount int }
	require.NoError(t, json.Unmarshal([]byte(a.run("preview", "--vm-tag", "role", "-o", "json")), &preview))
	require.Greater(t, preview.VMCount, 10)
	require.Greater(t, preview.HostCount, 1)
}

func TestBadInputIsOneSentenceAndLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	a := d.api()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "cpu.usag", "--every-host"}, "UNKNOWN_METRIC"},
		{[]string{"create", "cpu.usage", "--by", "cpumod", "--every-host"}, "UNKNOWN_FIELD"},
		{[]string{"create", "cpu.usage", "--where", `{"eq":["cpumode",5]}`, "--every-host"}, "TYPE_MISMATCH"},
		{[]string{"create", "cpu.usage", "--where", `{"gt":["cpumode","user"]}`, "--every-host"}, "cpumode"},
		{[]string{"create", "cpu.usage", "--every-host", "--target", "statsd://nowhere"}, "--target"},
		{[]string{"create", "cpu.usage", "--every-host", "--flag"}, "--flag"},
		{[]string{"create", "cpu.usage", "--vm", "no-uuid"}, "--vm: \"no-uuid\" is not a uuid"},
		{[]string{"watch", "i-00000000000000000000"}, "there is no instrumentation"},
		{[]string{"delete", "i-00000000000000000000"}, "NOT_FOUND"},
	} {
		code, out, errs := a.try(c.args...)
		require.NotZero(t, code, c.args)
		require.Empty(t, out, c.args)
		require.Contains(t, errs, c.want, c.args)
		require.LessOrEqual(t, strings.Count(errs, "\n"), 2, errs)
	}
	require.Equal(t, "[]\n", a.run("list", "-o", "json"))

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--listen", taken.Addr().String(), "--data-dir", t.TempDir()}, "--listen names another address"},
		{[]string{"--listen", "127.0.0.1:0", "--data-dir", "/proc/no-such-dir"}, "--data-dir names another"},
		{[]string{"--listen", "127.0.0.1:0", "--data-dir", dir}, "in use by another process"},
		{[]string{"--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--fleet", "/no/such/file"}, "/no/such/file"},
	} {
		p := start(t, binary, append([]string{"dev"}, c.flags...)...)
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("%v: it should have ended", c.flags)
		}
		require.Error(t, p.err, fmt.Sprint(c.flags))
		require.Contains(t, p.output(), c.want)
	}
}

func TestTheExplorerNeedsNoNetwork(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	resp, err := http.Get(d.server + "/")
	require.NoError(t, err)
	defer resp.Body.Close()
	var page bytes.Buffer
	_, err = page.ReadFrom(resp.Body)
	require.NoError(t, err)
	require.Contains(t, page.String(), "/explorer/graphiql.min.js")
	require.NotRegexp(t, `(src|href)="(https?:)?//`, page.String())
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get(d.server + path)
		require.NoError(t, err)
		resp.Body.Close()
		require.Less(t, resp.StatusCode, 300, path)
	}
}
