package graph_test

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

// What an agent's connection costs, in this process: the whole door over documents in memory. IAPI_AGENTS sets how many
// there are; 10,000 need as many descriptors.

// figure reads a number of kibibytes from /proc.
func figure(t testing.TB, name string) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("memory is read from /proc")
	}
	_, rest, _ := strings.Cut(string(status), name+":")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}

func resident(t testing.TB) int { return figure(t, "VmRSS") }

func settled(t testing.TB) int {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	return resident(t)
}

func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// population is a door with a document for each of many hosts.
type population struct {
	*api
	hosts  []uuid.UUID
	bodies []assignment.Stored // two, that differ
	round  int
}

func populate(b *testing.B, n int) *population {
	p := &population{api: newAPI(b), hosts: make([]uuid.UUID, n)}
	five := append(items(), append(items(), items()[0])...)
	for i := range 2 {
		five[0].Revision = i
		body, hash := assignment.Encode(assignment.Document{Instrumentations: five})
		p.bodies = append(p.bodies, assignment.Stored{Body: body, Version: assignment.Version{Epoch: deliverytest.FirstEpoch, Hash: hash}})
	}
	for i := range p.hosts {
		p.hosts[i] = fleetHost(i)
		p.agent(p.hosts[i])
	}
	p.next()
	return p
}

// next gives every host a new document and returns the entries of the stream that tell so.
func (p *population) next() []delivery.Change {
	p.round++
	doc := p.bodies[p.round%2]
	doc.Version.Generation = int64(p.round)
	changes := make([]delivery.Change, len(p.hosts))
	for i, h := range p.hosts {
		doc.Host = h
		p.source.Set(doc)
		changes[i] = delivery.Change{Host: h, Version: doc.Version}
	}
	return changes
}

func perAgents(b *testing.B, run func(b *testing.B, n int)) {
	n := 2000
	if v := os.Getenv("IAPI_AGENTS"); v != "" {
		var err error
		n, err = strconv.Atoi(v)
		require.NoError(b, err)
	}
	b.Run(fmt.Sprintf("agents=%d", n), func(b *testing.B) { run(b, n) })
}

// BenchmarkConnect connects all agents anew each time: handshake, authentication, first document.
func BenchmarkConnect(b *testing.B) {
	perAgents(b, func(b *testing.B, n int) {
		p := populate(b, n)
		var took, used time.Duration
		peak := 0.0
		for b.Loop() {
			settled(b)
			require.NoError(b, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)) // begins VmHWM anew
			begin, before := time.Now(), cpu(b)
			f := startFleet(b, p.http.Listener.Addr(), n)
			f.served()
			took += time.Since(begin)
			used += cpu(b) - before
			highest := figure(b, "VmHWM")
			time.Sleep(2 * time.Second) // long enough for garbage to be given back
			peak = max(peak, float64(highest)/float64(resident(b)))
			f.end()
			require.Eventually(b, func() bool { return p.hub.Stats().Connected == 0 }, 10*time.Second, time.Millisecond)
		}
		all := float64(n * b.N)
		b.ReportMetric(float64(used.Microseconds())/all, "cpu-µs/connect")
		b.ReportMetric(all/took.Seconds(), "connects/s")
		b.ReportMetric(peak, "peak/steady")
	})
}

// BenchmarkIdle measures what agents cost that are connected and say nothing.
func BenchmarkIdle(b *testing.B) {
	perAgents(b, func(b *testing.B, n int) {
		p := populate(b, n)
		before, goroutines := settled(b), runtime.NumGoroutine()
		f := startFleet(b, p.http.Listener.Addr(), n)
		f.served()
		after := settled(b)
		goroutines = runtime.NumGoroutine() - goroutines
		used, begin := cpu(b), time.Now()
		for b.Loop() {
			time.Sleep(3 * time.Second)
		}
		b.ReportMetric(float64(after-before)/float64(n), "KiB/connection")
		b.ReportMetric(float64(goroutines)/float64(n), "goroutines/connection")
		b.ReportMetric(float64((cpu(b)-used).Microseconds())/1000/time.Since(begin).Seconds(), "cpu-ms/s")
		f.end()
	})
}

// BenchmarkPush pushes a changed assignment to all agents.
func BenchmarkPush(b *testing.B) {
	perAgents(b, func(b *testing.B, n int) {
		p := populate(b, n)
		before := settled(b)
		f := startFleet(b, p.http.Listener.Addr(), n)
		f.served()
		var took, worst, used time.Duration
		for b.Loop() {
			changes := p.next()
			begin, was := time.Now(), cpu(b)
			p.source.Publish(changes...)
			f.served()
			last := time.Since(begin)
			used += cpu(b) - was
			took += last
			worst = max(worst, last)
		}
		all := float64(n * b.N)
		b.ReportMetric(float64(used.Microseconds())/all, "cpu-µs/push")
		b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "ms-to-last")
		b.ReportMetric(float64(worst.Microseconds())/1000, "ms-to-last-worst")
		b.ReportMetric(float64(len(p.bodies[0].Body)), "B/push")
		b.ReportMetric(float64(settled(b)-before)/float64(n), "KiB/connection-after")
		f.end()
	})
}
