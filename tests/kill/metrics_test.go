package kill

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/store/storetest"
	"iapi/tests/load/cloud"
	"iapi/tests/yardstick"
	"iapi/worker"
)

// series are what a process exports: values by name and labels, as the text has them.
type series map[string]float64

// scrape reads /metrics of a process as a monitoring system does.
func (s *service) scrape(url string) series {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.ctx, http.MethodGet, url+"/metrics", http.NoBody)
	require.NoError(s.t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	defer answer.Body.Close()
	require.Equal(s.t, http.StatusOK, answer.StatusCode)
	body, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	all := series{}
	for line := range strings.Lines(string(body)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, _ := cut(line)
		v, err := strconv.ParseFloat(value, 64)
		require.NoError(s.t, err, line)
		all[name] = v
	}
	return all
}

// cut splits a line at its last space.
func cut(line string) (name, value string, found bool) {
	i := strings.LastIndexByte(line, ' ')
	return line[:i], line[i+1:], i >= 0
}

// has reports whether there is a metric of that name, whatever its labels.
func (all series) has(name string) bool {
	for key := range all {
		if base, _, _ := strings.Cut(key, "{"); base == name || base == name+"_count" {
			return true
		}
	}
	return false
}

// examples are the names of our metrics in the examples for autoscalers.
func examples(t *testing.T) []string {
	files, err := filepath.Glob("../../examples/kubernetes/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var names []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		names = append(names, regexp.MustCompile(`\biapi_[a-z_]+\b`).FindAllString(string(text), -1)...)
	}
	require.Contains(t, names, "iapi_backlog")
	require.Contains(t, names, "iapi_backlog_oldest_seconds")
	return names
}

// until waits until what a process exports is so, and returns it.
func (s *service) until(url, what string, so func(series) bool) series {
	s.t.Helper()
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		all := s.scrape(url)
		if so(all) {
			return all
		}
		require.Less(s.t, time.Since(begun), 2*time.Minute, "%s: %v", what, all)
	}
}

// waits are the series that tell what waits.
var waits = []string{
	`iapi_backlog{kind="hosts"}`, `iapi_backlog{kind="vms"}`, `iapi_backlog{kind="unevaluated"}`, `iapi_backlog{kind="judge"}`,
	`iapi_queue_tasks{queue="urgent",state="pending"}`, `iapi_queue_tasks{queue="default",state="pending"}`,
	`iapi_queue_tasks{queue="sweep",state="pending"}`,
}

func (all series) nothingWaits() bool {
	for _, name := range waits {
		if v, told := all[name]; !told || v != 0 {
			return false
		}
	}
	return true
}

func TestTheAutoscalersHaveWhatTheyReadAndWithNoWorkerNothingIsLost(t *testing.T) {
	address := "127.0.0.1:" + storetest.FreePort(t) // which the worker that comes later takes over
	begun := time.Now()
	s := start(t, "--metrics-listen", address)
	ofWorker, ofAPI := "http://"+address, s.api.URL

	// While a worker runs, both tell the same of what waits, and the worker tells of its work.
	require.NoError(t, s.Settled(s.ctx))
	_, err := s.api.Create(s.ctx, s.Owner, cloud.Tagged("load", "on"))
	require.NoError(t, err)
	w := s.until(ofWorker, "the worker has evaluated it", func(all series) bool {
		// Another sweep follows when the worker listens to the changefeed: that has come to its end too.
		return all[`iapi_worker_task_seconds_count{result="ok",task="instrumentation:evaluate"}`] >= 1 && all.nothingWaits() &&
			all["iapi_sweep_vms"] == hosts*vms
	})
	require.Positive(t, w[`iapi_worker_task_seconds_sum{result="ok",task="instrumentation:evaluate"}`])
	require.Less(t, w[`iapi_worker_task_seconds_sum{result="ok",task="instrumentation:evaluate"}`], time.Since(begun).Seconds())
	require.GreaterOrEqual(t, w["iapi_worker_hosts_reconciled_total"], float64(hosts))
	require.Positive(t, w["iapi_worker_reconcile_seconds_count"])
	require.Positive(t, w["iapi_sweep_seconds_count"])
	for _, all := range []series{w, s.until(ofAPI, "nothing waits", series.nothingWaits)} {
		for _, name := range examples(t) {
			require.True(t, all.has(name), "the examples read %s", name)
		}
		require.Equal(t, float64(hosts*vms), all["iapi_sweep_last_vms"])
		swept := time.Unix(int64(all["iapi_sweep_last_success_timestamp_seconds"]), 0)
		require.WithinRange(t, swept, begun.Add(-time.Second), time.Now())
		for _, name := range []string{
			`iapi_backlog_oldest_seconds{kind="hosts"}`, `iapi_queue_oldest_seconds{queue="default"}`, "iapi_sweep_stale_instrumentations",
			`iapi_sweep_guarded{guard="` + worker.GuardVMs + `"}`, `iapi_sweep_guarded{guard="` + worker.GuardHosts + `"}`,
		} {
			require.Contains(t, all, name)
			require.Zero(t, all[name], name)
		}
	}

	// A sweep that finds half of the VMs gone stops at its guard, which the API tells also when that worker has ended.
	guard := `iapi_sweep_guarded{guard="` + worker.GuardVMs + `"}`
	queue := worker.NewQueue(s.Store.Client(), s.Store)
	s.put("/sim/faults", `[{"mode":"forget-half"}]`)
	require.NoError(t, queue.Sweep(s.ctx))
	s.until(ofWorker, "the guard holds", func(all series) bool { return all[guard] > hosts*vms/4 })
	s.put("/sim/faults", `[]`)
	s.until(ofAPI, "all is done", series.nothingWaits)
	s.Workers[0].Kill()
	require.Greater(t, s.scrape(ofAPI)[guard], float64(hosts*vms/4))
	s.rightWithin(time.Second, yardstick.Start(t)) // the guard has kept every placement

	// With no worker the API answers, and tells how much waits and for how long.
	const asked = 20
	ids := make([]string, asked)
	s.each(asked, func(i int) error {
		in, err := s.api.Create(s.ctx, s.Owner, cloud.OnHosts(s.Hosts[i]))
		ids[i] = in.ID
		return err
	})
	for i := range 3 {
		require.NoError(t, s.Retag(s.ctx, s.VM(i, 0), map[string]string{"load": "on"}))
		require.NoError(t, s.api.Notify(s.ctx, s.VM(i, 0)))
	}
	for _, id := range ids {
		in, err := s.api.Get(s.ctx, id)
		require.NoError(t, err)
		require.NotNil(t, in)
		require.Equal(t, "CREATED", in.State)
	}
	s.until(ofAPI, "the oldest gets older", func(all series) bool {
		require.Equal(t, float64(asked), all[`iapi_backlog{kind="unevaluated"}`])
		require.Equal(t, float64(asked), all[`iapi_queue_tasks{queue="default",state="pending"}`])
		require.Equal(t, 3.0, all[`iapi_backlog{kind="vms"}`])
		return all[`iapi_backlog_oldest_seconds{kind="unevaluated"}`] >= 1 && all[`iapi_backlog_oldest_seconds{kind="vms"}`] >= 1 &&
			all[`iapi_queue_oldest_seconds{queue="default"}`] >= 1
	})

	// The first worker of a pool that was scaled to none does all of it.
	_, err = s.StartWorker(s.ctx)
	require.NoError(t, err)
	s.until(ofAPI, "nothing waits any more", func(all series) bool { return all.nothingWaits() && all[guard] == 0 })
	s.rightWithin(time.Minute, yardstick.Start(t))
}
