package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/tests/yardstick"
)

// cloud is the service in parts: two APIs and two workers on one Redis, an inventory, and this machine's agent.
type cloud struct {
	redis     string
	inventory string
	apis      []api
	processes map[string]*process
	host      uuid.UUID
	zone      *container
	owner     uuid.UUID
}

func startCloud(t testing.TB) *cloud {
	c := &cloud{host: uuid.New(), owner: uuid.New(), processes: map[string]*process{}, zone: startContainer(t, "sleep", "600")}
	c.redis, c.processes["redis"] = startRedis(t)
	fleet, err := json.Marshal(map[string]any{
		"hosts": []any{map[string]any{"uuid": c.host, "hostname": "headnode", "traits": map[string]any{"rack": "r1"}}},
		"vms": []any{map[string]any{"uuid": c.zone.uuid, "owner_uuid": c.owner, "alias": "web-1", "state": "running",
			"server_uuid": c.host, "tags": map[string]any{"role": "web"}}},
	})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "fleet.json")
	require.NoError(t, os.WriteFile(file, fleet, 0o600))
	c.processes["vmapi"] = start(t, binary, "vmapi", "--listen", "127.0.0.1:0", "--fleet", file, "--feed-latency", "100ms")
	c.inventory = c.processes["vmapi"].expect(`at (http://[0-9.]+:[0-9]+)`)
	for i := range 2 {
		dir := t.TempDir()
		p := start(t, binary, "api", "--listen", "127.0.0.1:0", "--data-dir", dir, "--redis", c.redis, "--vmapi", c.inventory, "--drain", "1s")
		c.apis = append(c.apis, api{t: t, server: p.expect(`IAPI at (http://[0-9.]+:[0-9]+)`), dir: dir})
		c.processes[fmt.Sprint("api", i)] = p
	}
	for i := range 2 {
		c.startWorker(t, i)
	}
	require.True(t, wait(patience, func() bool { return strings.Contains(c.apis[0].run("fleet"), c.host.String()) }))
	token := strings.TrimSpace(c.apis[0].run("join", c.host.String()))
	static := filepath.Join(t.TempDir(), "zones.json")
	require.NoError(t, os.WriteFile(static, []byte(fmt.Sprintf(`{"%s":{"cgroup":"/docker/%s","owner":"%s"}}`, c.zone.uuid, c.zone.id, c.owner)), 0o600))
	c.processes["agent"] = start(t, binary, "agent", "--host", c.host.String(), "--data-dir", t.TempDir(), "--join-token", token,
		"--zones", static, "--server", c.apis[0].server, "--server", c.apis[1].server)
	c.processes["agent"].expect("the agent is running")
	require.True(t, wait(patience, func() bool { return strings.Contains(c.apis[1].run("fleet"), "online") }))
	return c
}

func (c *cloud) startWorker(t testing.TB, i int) {
	p := start(t, binary, "worker", "--redis", c.redis, "--vmapi", c.inventory)
	p.expect("the worker is running")
	c.processes[fmt.Sprint("worker", i)] = p
}

// put changes the inventory, and hints at it as a workflow would.
func (c *cloud) put(t testing.TB, path, body string) {
	r, err := http.NewRequest(http.MethodPut, c.inventory+path, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Less(t, resp.StatusCode, 300)
}

func TestInPartsWithTwoAPIsAndTwoWorkers(t *testing.T) {
	t.Parallel()
	c := startCloud(t)
	sd := startStatsd(t)
	first, second := c.apis[0], c.apis[1]

	id := first.create("cpu.usage", "--owner", c.owner.String(), "--vm-tag", "role=web", "--target", "statsd://"+sd.address)
	second.becomes(id, "ENABLED")
	require.True(t, wait(patience, func() bool { l, _ := sd.seen(); return len(l) >= 2 }))
	lines, _ := sd.seen()
	for _, line := range lines {
		require.Contains(t, line, c.zone.uuid.String(), "a tenant's data names the zone")
		require.NotContains(t, line, "headnode", "and not the host")
		require.NotContains(t, line, c.host.String())
	}

	t.Run("a tag that goes takes the zone out, and one that comes brings it back", func(t *testing.T) {
		c.put(t, "/sim/vms/"+c.zone.uuid.String()+"/tags", `{"role":"db"}`)
		require.True(t, wait(patience, func() bool { return second.get(id).Coverage.Expected == 0 }))
		c.put(t, "/sim/vms/"+c.zone.uuid.String()+"/tags", `{"role":"web"}`)
		require.True(t, wait(patience, func() bool { v := second.get(id); return v.Coverage.Running == 1 && v.State == "ENABLED" }))
	})

	whole := t // parts that a subtest starts stay for those after it
	t.Run("killed workers are replaced within ten seconds", func(t *testing.T) {
		c.processes["worker0"].kill()
		c.processes["worker1"].kill()
		another := first.create("memory.rss", "--owner", c.owner.String(), "--all", "--target", "statsd://"+sd.address)
		require.Equal(t, "CREATED", second.get(another).State, "with no worker the API keeps answering")
		began := yardstick.Start(t)
		c.startWorker(whole, 2)
		second.becomes(another, "ENABLED")
		require.Less(t, began.Elapsed(), 10*time.Second)
		require.Less(t, began.Wall(), 75*time.Second, "before asynq gives back by itself what they had")
	})

	t.Run("a killed API is replaced by the other", func(t *testing.T) {
		c.processes["api0"].kill()
		third := second.create("cpu.loadavg1", "--every-host", "--target", "statsd://"+sd.address)
		second.becomes(third, "ENABLED")
	})

	t.Run("a delete stops what runs", func(t *testing.T) {
		second.run("delete", id)
		require.True(t, wait(patience, func() bool { code, _, _ := second.try("get", id); return code == 4 }))
	})
}

func TestNobodyIsAnOperatorWithoutTheToken(t *testing.T) {
	t.Parallel()
	url, _ := startRedis(t)
	vmapi := start(t, binary, "vmapi", "--listen", "127.0.0.1:0")
	inventory := vmapi.expect(`at (http://[0-9.]+:[0-9]+)`)
	p := start(t, binary, "api", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--redis", url, "--vmapi", inventory)
	a := api{t: t, server: p.expect(`IAPI at (http://[0-9.]+:[0-9]+)`), dir: t.TempDir()}
	code, _, errs := a.try("list")
	require.NotZero(t, code)
	require.Contains(t, errs, "--token")
}

func TestPartsSayWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"api"}, "--redis"},
		{[]string{"worker", "--redis", "redis://127.0.0.1:1/0", "--vmapi", "http://127.0.0.1:1"}, "--redis"},
		{[]string{"worker", "--redis", "nonsense", "--vmapi", "http://127.0.0.1:1"}, "--redis"},
		{[]string{"agent", "--data-dir", t.TempDir()}, "--join-token"},
		{[]string{"vmapi", "--fleet", "/no/such/file"}, "/no/such/file"},
	} {
		p := start(t, binary, c.args...)
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("%v should have ended", c.args)
		}
		require.Error(t, p.err)
		require.Contains(t, p.output(), c.want, c.args)
	}
}
