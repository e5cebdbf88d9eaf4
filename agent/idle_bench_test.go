package agent_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/agent"
	"iapi/agent/session"
	"iapi/assignment"
	"iapi/catalog"
	"iapi/collectors"
	"iapi/dataapi"
	"iapi/measure"
	"iapi/targets"
)

// receiverEnv makes the test binary a Data API, so that what it costs is not counted as the agent's.
const receiverEnv = "IAPI_BENCH_RECEIVER"

func TestMain(m *testing.M) {
	if os.Getenv(receiverEnv) == "" {
		os.Exit(m.Run())
	}
	data := dataapi.New(dataapi.Options{})
	server := httptest.NewServer(http.StripPrefix("/data-api", data.Handler()))
	fmt.Println(server.URL)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the benchmark ends
	server.Close()
	_ = data.Close()
}

// alone is an API that has given its assignment and has nothing more to say.
type alone struct {
	catalog *catalog.Catalog
	items   []assignment.Item
}

func (a alone) Run(ctx context.Context, receive func(session.Assignment)) error {
	receive(session.Assignment{Version: session.Version{Epoch: "0000000000000001", Generation: 1, Hash: "h"}, SentAt: time.Now(), Instrumentations: a.items})
	<-ctx.Done()
	return ctx.Err()
}

func (alone) Returned() <-chan struct{} { return nil }

func (alone) Know(session.Version) {}

func (alone) Report(context.Context, session.Report) (session.ReportResult, error) {
	return session.ReportResult{Accepted: true, NextReportSeconds: 10}, nil
}

func (a alone) Definition(_ context.Context, digest string) (catalog.Publication, error) {
	d, _ := a.catalog.Definition(digest)
	return catalog.Publication{Document: d.Document}, nil
}

// BenchmarkIdle runs 50 instrumentations that count, all of them different, at one second and with a Data API of another
// process. One operation is a second; the percentage is of one processor.
func BenchmarkIdle(b *testing.B) {
	receiver := exec.Command(os.Args[0])
	receiver.Env = append(os.Environ(), receiverEnv+"=1")
	in, err := receiver.StdinPipe()
	require.NoError(b, err)
	out, err := receiver.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, receiver.Start())
	defer func() { in.Close(); _ = receiver.Wait() }()
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)

	all, err := catalog.Embedded()
	require.NoError(b, err)
	var items []assignment.Item
	kinds := [][2]string{
		{"cpu.usage", "cpumode"}, {"cpu.loadavg1", "hostname"}, {"disk.physio_bytes", "optype"}, {"disk.physio_ops", "disk"}, {"nic.bytes", "direction"},
		{"nic.packets", "nic"}, {"tcp.segments", "direction"}, {"tcp.errors", "errtype"}, {"memory.rss", "hostname"}, {"cpu.cpus", "cpu"},
	}
	for i := range 50 {
		k := kinds[i%len(kinds)]
		d, found := all.DefinitionOf(k[0])
		require.True(b, found, k[0])
		items = append(items, assignment.Item{
			ID: fmt.Sprintf("i-%d", i), Revision: 1, Metric: k[0], DefinitionDigest: d.Digest, WholeHost: true, Granularity: 1,
			Decompositions: []string{k[1]},
			Predicate:      &measure.Predicate{Op: measure.Ne, Field: "hostname", Value: measure.String(fmt.Sprint("no-", i))},
			Targets:        []assignment.Target{{Kind: string(measure.DataAPI), Address: strings.TrimSpace(address) + "/data-api"}},
		})
	}
	dir := b.TempDir()
	registry, shared := collectors.New(collectors.Options{}), &targets.Shared{}
	a, err := agent.New(agent.Options{
		Host: uuid.New(), Version: "bench", Session: alone{all, items}, Collectors: registry, Dir: dir,
		OpenTarget: func(instrumentation string, t measure.Target) (agent.Queue, error) {
			return targets.Open(t, targets.Options{Dir: filepath.Join(dir, "spool"), Name: instrumentation, HostID: uuid.Nil, Shared: shared})
		},
	})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	time.Sleep(5 * time.Second) // what starting costs is not measured
	var before, after syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	b.ResetTimer()
	for b.Loop() {
		time.Sleep(time.Second)
	}
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(100*float64(used)/float64(b.Elapsed().Nanoseconds()), "%cpu")
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	b.ReportMetric(float64(heap.Sys)/(1<<20), "MiB-sys")
	b.ReportMetric(0, "ns/op")
	cancel()
	<-done
}
