package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/inventory/cnapi"
	"iapi/inventory/vmapi"
	"iapi/inventory/vmapitest"
	"iapi/placement"
	"iapi/store"
)

// The benchmark of the sweep runs VMAPI and the worker in processes of their own, which are this one executed again.
const sweepRole = "IAPI_SWEEP_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(sweepRole) {
	case "":
		os.Exit(m.Run())
	case "vmapi":
		err = sweptVMAPI()
	case "worker":
		err = sweepingWorker()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sweptFleet is the fleet of a cloud: owners by Zipf's law, VMs anywhere.
func sweptFleet(vms int) vmapitest.GenerateOptions {
	return vmapitest.GenerateOptions{Seed: 8, VMs: vms, Hosts: vms / 100, Owners: vms / 200}
}

// sweptVMAPI serves a fleet of as many VMs as it is told until its input ends. For each line it changes the tags of as many VMs.
func sweptVMAPI() error {
	in := bufio.NewScanner(os.Stdin)
	number := func() (n int, ok bool) { return n, in.Scan() && sscan(in.Text(), &n) }
	vms, ok := number()
	if !ok {
		return fmt.Errorf("no number of VMs: %w", in.Err())
	}
	sim := vmapitest.New(vmapitest.Options{})
	defer sim.Close()
	if err := sim.Fill(sweptFleet(vms)); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: time.Minute}
	defer server.Close()
	go func() { _ = server.Serve(listener) }() // ends with Close
	fmt.Println("http://" + listener.Addr().String())
	for n, ok := number(); ok; n, ok = number() {
		for i := range n {
			id := sweptFleet(vms).VM((i*997 + 13) % vms)
			vm, found := sim.VM(id)
			if !found {
				return fmt.Errorf("there is no VM %s", id)
			}
			tags := map[string]any{"changed": time.Now().String()}
			for k, v := range vm.Tags {
				if k != "changed" {
					tags[k] = v
				}
			}
			if err := sim.SetTags(id, tags); err != nil {
				return err
			}
		}
		fmt.Println("changed")
	}
	return in.Err()
}

func sscan(text string, n *int) bool {
	_, err := fmt.Sscan(text, n)
	return err == nil
}

// spent is what something took of a process.
type spent struct {
	CPU, Wall time.Duration
	Peak      int // KiB of resident memory
	N         int // VMs, bytes or documents
}

// sweepingWorker does what each line of its input says, and tells for each what that took.
func sweepingWorker() error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Options{URL: os.Getenv("IAPI_SWEEP_REDIS"), Timeout: time.Minute})
	if err != nil {
		return err
	}
	defer s.Close()
	url := os.Getenv("IAPI_SWEEP_VMAPI")
	vms, err := vmapi.New(vmapi.Options{URL: url})
	if err != nil {
		return err
	}
	hosts, err := cnapi.New(cnapi.Options{URL: url})
	if err != nil {
		return err
	}
	w, err := New(Options{Store: s, VMAPI: vms, CNAPI: hosts, Catalog: fakeCatalog{}, Redis: s.Client(), NoSchedule: true, Lease: 30 * time.Second})
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the peak from now on; where there is none, none is told
		used, begun := cpu(), time.Now()
		n := 0
		switch in.Text() {
		case "read": // the pages, thrown away
			n, err = readPages(url)
		case "decode": // the pages, decoded and thrown away
			err = vms.Each(ctx, vmapi.Query{Active: true}, func(page []inventory.VM) error { n += len(page); return nil })
		case "walk": // the pages, summed up
			var seen *walked
			if seen, err = w.walk(ctx, uuid.NewString()); err == nil {
				n = seen.Seen
			}
		case "sweep":
			if err = w.Sweep(ctx); err == nil {
				err = w.drain(ctx)
			}
			var last store.Swept
			if last, _ = s.LastSweep(ctx); err == nil {
				n = last.Differing
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", in.Text(), err)
		}
		answer, err := json.Marshal(spent{cpu() - used, time.Since(begun), peak(), n})
		if err != nil {
			return err
		}
		fmt.Println(string(answer))
	}
	return in.Err()
}

// readPages reads what a sweep reads and looks at nothing but where the next page begins.
func readPages(url string) (bytes int, err error) {
	marker := ""
	for {
		r, err := http.Get(url + "/vms?fields=uuid,owner_uuid,alias,state,tags,server_uuid&limit=1000&state=active" + marker)
		if err != nil {
			return 0, err
		}
		page, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return 0, err
		}
		bytes += len(page)
		at := strings.LastIndex(string(page[max(0, len(page)-1000):]), `{"uuid":"`)
		if at < 0 {
			return bytes, nil
		}
		marker = "&marker=%7B%22uuid%22%3A%22" + string(page[max(0, len(page)-1000)+at+9:][:36]) + "%22%7D"
	}
}

// peak is the most memory that was resident, in KiB; 0 where the system does not tell.
func peak() (n int) {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			sscan(v, &n)
		}
	}
	return n
}

// sweepProcess is one of the benchmark's processes.
type sweepProcess struct {
	b   *testing.B
	in  io.WriteCloser
	out *bufio.Scanner
}

func startSweepProcess(b *testing.B, role string, env ...string) *sweepProcess {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), sweepRole+"="+role), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		require.NoError(b, in.Close())
		require.NoError(b, cmd.Wait())
	})
	return &sweepProcess{b, in, bufio.NewScanner(out)}
}

func (p *sweepProcess) tell(line string) string {
	_, err := fmt.Fprintln(p.in, line)
	require.NoError(p.b, err)
	require.True(p.b, p.out.Scan(), "it has ended")
	return p.out.Text()
}

func (p *sweepProcess) measure(what string) (took spent) {
	require.NoError(p.b, json.Unmarshal([]byte(p.tell(what)), &took))
	return took
}

// wish makes the n-th instrumentation of a cloud: 95 in 100 are of tenants, whose owners have 20 VMs in them at the
// median; the others are the operators', of some hosts as a whole or of their VMs of a kind.
func wish(dice *rand.Rand, fleet vmapitest.GenerateOptions, n int) instrumentation.Instrumentation {
	now := time.Now().UTC()
	rec := instrumentation.Instrumentation{
		ID: instrumentation.ID(fmt.Sprintf("i%06d", n)), Revision: 1, Metric: "cpu.usage", Granularity: 1, CreatedAt: now, UpdatedAt: now, State: instrumentation.Created,
	}
	is := func(key string, value ...string) instrumentation.Scope {
		return instrumentation.Scope{VMTag: &instrumentation.TagMatch{Key: key, In: value}}
	}
	if n%20 == 0 {
		var hosts []uuid.UUID
		for range 10 {
			hosts = append(hosts, fleet.Host(dice.IntN(fleet.Hosts)))
		}
		rec.Scope = instrumentation.Scope{Hosts: hosts}
		if n%40 == 0 {
			rec.Scope = instrumentation.Scope{And: []instrumentation.Scope{rec.Scope, is("role", "db", "cache")}}
		}
		return rec
	}
	rec.Owner = fleet.Owner(dice.IntN(fleet.Owners))
	switch dice.IntN(8) {
	case 0:
		rec.Scope = instrumentation.Scope{All: true}
	case 1, 2:
		rec.Scope = instrumentation.Scope{And: []instrumentation.Scope{is("env", "prod"), {Not: new(is("role", "ci", "legacy"))}}}
	case 3, 4, 5:
		rec.Scope = is("role", "web", "api", "worker")
	default:
		rec.Scope = instrumentation.Scope{And: []instrumentation.Scope{is("role", "db", "cache"), is("env")}}
	}
	return rec
}

// BenchmarkSweep compares everything with the inventory, of which one VM in a thousand has changed, and reconciles what
// differs: from VMAPI's pages over HTTP to the changed assignments on a real Redis. cpu-s/op and peak-MiB are the client's
// process alone. What reading the same pages takes it, and reading and decoding them, is measured in the same run.
func BenchmarkSweep(b *testing.B) {
	for _, vms := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("vms=%d/instrumentations=%d", vms, vms/100), func(b *testing.B) {
			if testing.Short() && vms > 100_000 {
				b.Skip("filling the store takes minutes")
			}
			cloud, fleet := startSweepProcess(b, "vmapi"), sweptFleet(vms)
			url := cloud.tell(fmt.Sprint(vms))
			redisURL := startRedis(b)
			s := open(b, store.Options{URL: redisURL, Timeout: time.Minute})
			median := commitWishes(b, s, url, fleet, vms/100)
			client := startSweepProcess(b, "worker", "IAPI_SWEEP_REDIS="+redisURL, "IAPI_SWEEP_VMAPI="+url)
			filled := client.measure("sweep")
			b.Logf("%d hosts were filled in %v, %v of CPU", filled.N, filled.Wall, filled.CPU)
			var sweep, walk, decode, read spent
			for b.Loop() {
				cloud.tell(fmt.Sprint(vms / 1000))
				took := client.measure("sweep")
				require.InDelta(b, vms/1000, took.N, float64(vms)/5000, "the hosts of the VMs that changed")
				sweep.CPU, sweep.Wall, sweep.Peak, sweep.N = sweep.CPU+took.CPU, sweep.Wall+took.Wall, max(sweep.Peak, took.Peak), sweep.N+took.N
				walk.CPU += client.measure("walk").CPU
				decode.CPU += client.measure("decode").CPU
				read.CPU += client.measure("read").CPU
			}
			per := func(d time.Duration) float64 { return d.Seconds() / float64(b.N) }
			b.ReportMetric(per(sweep.CPU), "cpu-s/op")
			b.ReportMetric(per(sweep.Wall), "wall-s/op")
			b.ReportMetric(float64(sweep.Peak)/1024, "peak-MiB")
			b.ReportMetric(float64(sweep.N)/float64(b.N), "differing-hosts")
			b.ReportMetric(per(walk.CPU), "walk-cpu-s")
			b.ReportMetric(per(decode.CPU), "read+decode-cpu-s")
			b.ReportMetric(per(read.CPU), "read-cpu-s")
			b.ReportMetric(float64(median), "tenant-scope-median-VMs")
		})
	}
}

// commitWishes commits the instrumentations, and returns how many VMs a tenant's has at the median.
func commitWishes(b *testing.B, s *store.Store, url string, fleet vmapitest.GenerateOptions, n int) (median int) {
	ctx := context.Background()
	dice := rand.New(rand.NewPCG(8, 1))
	client, err := vmapi.New(vmapi.Options{URL: url})
	require.NoError(b, err)
	var counts []int
	for i := range n {
		rec := wish(dice, fleet, i)
		_, err := s.Commit(ctx, instrumentation.Change{Record: rec})
		require.NoError(b, err)
		if rec.Owner != uuid.Nil && i < 400 {
			m, matching := placement.Compile(rec.Scope, rec.Owner), 0
			require.NoError(b, client.Each(ctx, vmapi.Query{Owner: rec.Owner, Active: true}, func(page []inventory.VM) error {
				for i := range page {
					if m.Match(&page[i], nil) {
						matching++
					}
				}
				return nil
			}))
			counts = append(counts, matching)
		}
	}
	slices.Sort(counts)
	return counts[len(counts)/2]
}
