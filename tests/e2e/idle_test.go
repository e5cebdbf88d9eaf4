package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/dataapi"
)

// BenchmarkIdleAgent measures what an agent costs that only counts: 50 instrumentations of a second each, all of them
// different, sent to a Data API over HTTP, for half a minute. To reach: 1 % of a processor and 40 MiB.
func BenchmarkIdleAgent(t *testing.B) {
	program := filepath.Join(t.TempDir(), "iapi") // without the race detector, as it is shipped
	out, err := exec.Command("go", "build", "-o", program, "iapi/cmd/iapi").CombinedOutput()
	require.NoError(t, err, string(out))
	redis, _ := startRedis(t)
	host := uuid.New()
	fleet, err := json.Marshal(map[string]any{"hosts": []any{map[string]any{"uuid": host, "hostname": "idle"}}, "vms": []any{}})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "fleet.json")
	require.NoError(t, os.WriteFile(file, fleet, 0o600))
	inventory := start(t, program, "vmapi", "--listen", "127.0.0.1:0", "--fleet", file).expect(`at (http://[0-9.]+:[0-9]+)`)
	dir := t.TempDir()
	a := api{t: t, dir: dir, server: start(t, program, "api", "--listen", "127.0.0.1:0", "--data-dir", dir, "--redis", redis,
		"--vmapi", inventory).expect(`IAPI at (http://[0-9.]+:[0-9]+)`)}
	start(t, program, "worker", "--redis", redis, "--vmapi", inventory).expect("the worker is running")
	require.True(t, wait(30*time.Second, func() bool { return strings.Contains(a.run("fleet"), host.String()) }))
	agent := start(t, program, "agent", "--host", host.String(), "--data-dir", t.TempDir(), "--server", a.server,
		"--join-token", strings.TrimSpace(a.run("join", host.String())))
	data := dataapi.New(dataapi.Options{})
	defer data.Close()
	receiver := httptest.NewServer(http.StripPrefix("/data-api", data.Handler()))
	defer receiver.Close()

	kinds := []struct{ metric, by string }{
		{"cpu.usage", "cpumode"}, {"cpu.loadavg1", "hostname"}, {"disk.physio_bytes", "optype"}, {"disk.physio_ops", "disk"},
		{"nic.bytes", "direction"}, {"nic.packets", "nic"}, {"tcp.segments", "direction"}, {"tcp.errors", "errtype"},
		{"memory.rss", "hostname"}, {"cpu.cpus", "cpu"},
	}
	var ids []string
	for i := range 50 {
		k := kinds[i%len(kinds)]
		out, err := exec.Command(program, "create", k.metric, "--by", k.by, "--every-host", "--where", fmt.Sprintf(`{"ne":["hostname","no-%d"]}`, i),
			"--target", "dataapi+"+receiver.URL+"/data-api", "--server", a.server, "--data-dir", dir).Output()
		require.NoError(t, err)
		ids = append(ids, strings.TrimSpace(string(out)))
	}
	require.True(t, wait(30*time.Second, func() bool { return strings.Count(a.run("list"), "ENABLED") == len(ids) }))
	time.Sleep(10 * time.Second) // what starting has left behind is not what is measured
	const length = 30 * time.Second
	before := processorTime(t, agent.cmd.Process.Pid)
	began := time.Now()
	time.Sleep(length)
	used := 100 * (processorTime(t, agent.cmd.Process.Pid) - before).Seconds() / time.Since(began).Seconds()
	resident := memory(t, agent.cmd.Process.Pid, "VmRSS:")
	t.ReportMetric(0, "ns/op") // it is no operation that is measured
	t.ReportMetric(used, "%processor")
	t.ReportMetric(float64(resident)/(1<<20), "MiB-resident")
	t.ReportMetric(float64(memory(t, agent.cmd.Process.Pid, "RssFile:"))/(1<<20), "MiB-of-the-file")
}

// processorTime is what a process has used.
func processorTime(t testing.TB, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	require.NoError(t, err)
	kernel, err := strconv.ParseInt(fields[12], 10, 64)
	require.NoError(t, err)
	return time.Duration(user+kernel) * (10 * time.Millisecond) // of which Linux tells
}

// memory is what the kernel says of a process, in bytes.
func memory(t testing.TB, pid int, what string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, is := strings.CutPrefix(line, what); is {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			require.NoError(t, err)
			return n << 10
		}
	}
	t.Fatal("the kernel does not say what the process has in memory")
	return 0
}
