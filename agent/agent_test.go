package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/agent/session"
	"iapi/assignment"
	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
	"iapi/targets"
)

var (
	tenant  = uuid.MustParse("930896af-bf8c-48d4-885c-6573a94b1853")
	rigHost = uuid.MustParse("00000000-0000-4000-8000-0000000000ff")
	someone = uuid.MustParse("11111111-bf8c-48d4-885c-6573a94b1853")
	zoneA   = uuid.MustParse("00000000-0000-4000-8000-00000000000a")
	zoneB   = uuid.MustParse("00000000-0000-4000-8000-00000000000b")
)

const epoch = "0000000000000001"

// fakeSession is an API of which the test says what it answers.
type fakeSession struct {
	mu        sync.Mutex
	receive   func(session.Assignment)
	known     session.Version
	reports   []session.Report
	reportErr error
	documents map[string][]byte
	fetches   int // of definitions
	ready     chan struct{}
	returned  chan struct{} // nil: it never does

	signatures map[string]catalog.Publication // by digest, without the documents
}

func (f *fakeSession) Run(ctx context.Context, receive func(session.Assignment)) error {
	f.mu.Lock()
	f.receive = receive
	f.mu.Unlock()
	close(f.ready)
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeSession) Know(v session.Version) { f.mu.Lock(); f.known = v; f.mu.Unlock() }

func (f *fakeSession) Returned() <-chan struct{} { return f.returned }

func (f *fakeSession) Report(_ context.Context, r session.Report) (session.ReportResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reportErr != nil {
		return session.ReportResult{}, f.reportErr
	}
	f.reports = append(f.reports, r)
	return session.ReportResult{Accepted: true, NextReportSeconds: 60}, nil
}

func (f *fakeSession) Definition(_ context.Context, digest string) (catalog.Publication, error) {
	time.Sleep(time.Millisecond) // a round trip, in which others come
	f.mu.Lock()
	f.fetches++
	defer f.mu.Unlock()
	if d, ok := f.documents[digest]; ok {
		p := f.signatures[digest]
		p.Document = d
		return p, nil
	}
	return catalog.Publication{}, errors.New("no such definition")
}

func (f *fakeSession) last() session.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.reports) == 0 {
		return session.Report{}
	}
	return f.reports[len(f.reports)-1]
}

// fakeCollectors counts what is opened, and gives one sample for each source.
type fakeCollectors struct {
	mu      sync.Mutex
	opened  []collect.Request
	zones   [][]uuid.UUID
	open    int
	refuse  error
	failing error
	closing chan struct{} // nil: closes at once
}

type fakeProbe struct {
	c      *fakeCollectors
	zones  []uuid.UUID
	whole  bool
	primed bool
}

func (c *fakeCollectors) Open(_ context.Context, r collect.Request) (collect.Probe, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened = append(c.opened, r)
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.open++
	return &fakeProbe{c: c, zones: r.Zones, whole: r.WholeHost}, nil
}

func (p *fakeProbe) Collect(context.Context, time.Time) (collect.Result, error) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if !p.primed {
		p.primed = true
		return collect.Result{Primed: true}, nil
	}
	if p.c.failing != nil {
		return collect.Result{}, p.c.failing
	}
	var r collect.Result
	if p.whole {
		r.Samples = append(r.Samples, collect.Sample{Value: 1})
	}
	for _, z := range p.zones {
		r.Samples = append(r.Samples, collect.Sample{Zone: z, Value: 1})
	}
	return r, nil
}

func (p *fakeProbe) SetZones(_ context.Context, zones []uuid.UUID) error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.zones = zones
	p.c.zones = append(p.c.zones, zones)
	return nil
}

func (p *fakeProbe) Close() error {
	if p.c.closing != nil {
		<-p.c.closing
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.open--
	return nil
}

func (c *fakeCollectors) counts() (opened, open int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.opened), c.open
}

// fakeQueue is a target that takes data, or does not.
type fakeQueue struct {
	mu     sync.Mutex
	down   bool
	spool  string // why there is none
	points []measure.Point
	closed bool
}

func (q *fakeQueue) Enqueue(p []measure.Point) {
	q.mu.Lock()
	q.points = append(q.points, p...)
	q.mu.Unlock()
}

func (q *fakeQueue) Stats() targets.Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.down {
		return targets.Stats{Queued: int64(len(q.points)), LastError: "connection refused"}
	}
	return targets.Stats{Connected: true, Sent: int64(len(q.points)), SpoolError: q.spool}
}

func (q *fakeQueue) Close(context.Context) error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	return nil
}

// rig is an agent with all that it is made of.
type rig struct {
	t       *testing.T
	session *fakeSession
	probes  *fakeCollectors
	queue   *fakeQueue
	digest  string
	dir     string
	owner   func(uuid.UUID) uuid.UUID
	stop    func()

	collectors Collectors // nil: probes
	clock      *wallClock // nil: the machine's
	sinceBoot  func() time.Duration
}

// bubble runs a test in a time of its own, which passes only while all wait. So it does not matter how slow the machine is.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, began := rigOf(t), time.Now()
		r.sinceBoot = func() time.Duration { return time.Since(began) }
		test(t, r)
	})
}

func newRig(t *testing.T) *rig {
	t.Parallel()
	return rigOf(t)
}

func rigOf(t *testing.T) *rig {
	embedded, err := catalog.Embedded()
	require.NoError(t, err)
	metric, ok := embedded.Metric("cpu.usage")
	require.True(t, ok)
	def, ok := embedded.Definition(metric.Digest)
	require.True(t, ok)
	return &rig{t: t, probes: &fakeCollectors{}, queue: &fakeQueue{}, digest: metric.Digest, dir: t.TempDir(),
		session: &fakeSession{documents: map[string][]byte{metric.Digest: def.Document}, ready: make(chan struct{})}}
}

func (r *rig) start() *rig {
	r.session.ready = make(chan struct{})
	o := Options{
		Host: rigHost, Version: "test", Session: r.session, Collectors: r.collectors, Dir: r.dir, Owner: r.owner, SinceBoot: r.sinceBoot,
		OpenTarget: func(string, measure.Target) (Queue, error) { return r.queue, nil },
	}
	if r.collectors == nil {
		o.Collectors = r.probes
	}
	if r.clock != nil {
		o.Clock = r.clock.now
	}
	a, err := New(o)
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Run(ctx)
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(r.stop)
	<-r.session.ready
	return r
}

func (r *rig) assign(generation int64, items ...assignment.Item) {
	r.session.receive(session.Assignment{Version: session.Version{Epoch: epoch, Generation: generation, Hash: "h"}, SentAt: time.Now(), Instrumentations: items})
}

func (r *rig) item(id string) assignment.Item {
	return assignment.Item{ID: id, Revision: 1, Metric: "cpu.usage", DefinitionDigest: r.digest, WholeHost: true, Granularity: 1,
		Targets: []assignment.Target{{Kind: "statsd", Address: "127.0.0.1:1"}}}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	require.Eventually(r.t, ok, time.Minute, 5*time.Millisecond, what)
}

func (r *rig) status(id string) session.Status {
	for _, s := range r.session.last().Instrumentations {
		if s.ID == id {
			return s
		}
	}
	return session.Status{}
}

func TestRunningMeansThatATargetHasTakenData(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.queue.down = true
		r.assign(1, r.item("i-1"))
		r.eventually("pending because of the target", func() bool {
			s := r.status("i-1")
			return s.Status == statusPending && s.Message == "no target has taken data yet: connection refused"
		})
		require.Equal(t, int64(1), r.session.last().Applied.Generation)
		r.queue.mu.Lock()
		r.queue.down = false
		r.queue.mu.Unlock()
		r.eventually("running", func() bool { return r.status("i-1").Status == statusRunning })
		require.NotNil(t, r.status("i-1").LastSampleAt)

		r.queue.mu.Lock()
		defer r.queue.mu.Unlock()
		p := r.queue.points[0]
		require.Equal(t, p.Start, p.Start.Truncate(time.Second), "on whole seconds")
		require.Equal(t, time.Second, p.Interval)
		require.Equal(t, time.UTC, p.Start.Location())
	})
}

func TestEachIntervalIsToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.assign(1, r.item("i-1"))
		r.eventually("four points", func() bool { r.queue.mu.Lock(); defer r.queue.mu.Unlock(); return len(r.queue.points) >= 4 })
		r.queue.mu.Lock()
		defer r.queue.mu.Unlock()
		seen := make(map[time.Time]bool)
		for _, p := range r.queue.points {
			require.False(t, seen[p.Start], "the interval from %s is told twice", p.Start)
			seen[p.Start] = true
		}
	})
}

func TestADeleteIsAcknowledgedOnlyWhenNothingOfItRuns(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.probes.closing = make(chan struct{})
		r.start()
		r.assign(1, r.item("i-1"))
		r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })
		r.assign(2)
		r.assign(3, r.item("i-2")) // what is new does not wait for what ends
		r.eventually("the new one starts", func() bool { opened, _ := r.probes.counts(); return opened == 2 })
		require.Never(t, func() bool { return r.session.last().Applied.Generation > 1 }, 300*time.Millisecond, 20*time.Millisecond)
		close(r.probes.closing)
		r.eventually("acknowledged", func() bool { return r.session.last().Applied.Generation == 3 })
		_, open := r.probes.counts()
		require.Equal(t, 1, open)
		require.Empty(t, r.status("i-1").ID)
	})
}

func TestAnExtensionDoesNotRestartAProbe(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		item := r.item("i-1")
		item.WholeHost, item.VMs = false, []assignment.VM{{UUID: zoneA}}
		expires := time.Now().Add(time.Hour)
		item.ExpiresAt = &expires
		r.assign(1, item)
		r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })

		later := expires.Add(time.Hour)
		item.ExpiresAt, item.Revision = &later, 2
		item.VMs = append(item.VMs, assignment.VM{UUID: zoneB})
		r.assign(2, item)
		r.eventually("the new revision runs", func() bool {
			s := r.status("i-1")
			return s.Revision == 2 && s.Status == statusRunning
		})
		r.probes.mu.Lock()
		require.Equal(t, [][]uuid.UUID{{zoneA, zoneB}}, r.probes.zones)
		require.Len(t, r.probes.opened, 1)
		r.probes.mu.Unlock()

		item.Predicate = &measure.Predicate{Op: measure.Eq, Field: "cpumode", Value: measure.String("user")}
		r.assign(3, item)
		r.eventually("another wish needs another probe", func() bool { opened, open := r.probes.counts(); return opened == 2 && open == 1 })
	})
}

func TestTheTimeToLiveEndsWithoutTheAPI(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		item := r.item("i-1")
		expires := time.Now().Add(1200 * time.Millisecond)
		item.ExpiresAt = &expires
		r.assign(1, item)
		r.eventually("it runs", func() bool { _, open := r.probes.counts(); return open == 1 })
		r.eventually("it ends", func() bool { _, open := r.probes.counts(); return open == 0 })
		require.WithinRange(t, time.Now(), expires.Add(-50*time.Millisecond), expires.Add(time.Second))
		r.eventually("and is not reported any more", func() bool { return r.status("i-1").ID == "" && len(r.session.last().Instrumentations) == 0 })
	})
}

// The API's clock may be wrong by years: only the difference of its own two readings counts.
func TestTheTimeToLiveDoesNotDependOnTheHostsClock(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		item := r.item("i-1")
		sent := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
		expires := sent.Add(time.Hour)
		item.ExpiresAt = &expires
		r.session.receive(session.Assignment{Version: session.Version{Epoch: epoch, Generation: 1, Hash: "h"}, SentAt: sent, Instrumentations: []assignment.Item{item}})
		r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })
	})
}

func TestTheLastAssignmentIsResumedWithoutTheAPI(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		limited := r.item("i-limited")
		expires := time.Now().Add(time.Hour)
		limited.ExpiresAt = &expires
		r.assign(7, r.item("i-1"), limited)
		r.eventually("both run", func() bool {
			return r.status("i-1").Status == statusRunning && r.status("i-limited").Status == statusRunning
		})
		r.stop()
		_, open := r.probes.counts()
		require.Zero(t, open, "a clean stop ends every probe")

		r.session.documents = nil // the definition comes from disk
		r.session.reports = nil
		r.start()
		require.Equal(t, int64(7), r.session.known.Generation)
		r.eventually("both run again", func() bool {
			return r.status("i-1").Status == statusRunning && r.status("i-limited").Status == statusRunning
		})
	})
}

func TestAfterARebootNothingWithATimeToLiveIsResumed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		limited := r.item("i-limited")
		expires := time.Now().Add(time.Hour)
		limited.ExpiresAt = &expires
		d, err := openDisk(r.dir, rigHost)
		require.NoError(t, err)
		require.NoError(t, d.save(saved{Version: session.Version{Epoch: epoch, Generation: 7, Hash: "h"}, Items: []assignment.Item{r.item("i-1"), limited},
			Boot: "another boot", Deadlines: map[string]time.Duration{"i-limited": r.sinceBoot() + time.Hour}}))
		r.start()
		r.eventually("the other runs", func() bool { return r.status("i-1").Status == statusRunning })
		opened, _ := r.probes.counts()
		require.Equal(t, 1, opened)
		require.Equal(t, int64(6), r.session.known.Generation, "the API is asked for the same version again")
		r.assign(7, r.item("i-1"), limited)
		r.eventually("it runs again", func() bool { return r.status("i-limited").Status == statusRunning })
	})
}

func TestARefusalIsReportedWithItsCodeAndNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.probes.refuse = &collect.Error{Code: collect.Unsupported, Message: "this kernel has no such file"}
		r.start()
		r.assign(1, r.item("i-1"))
		r.eventually("refused", func() bool { return r.status("i-1").Status == "UNSUPPORTED" })
		require.Equal(t, "this kernel has no such file", r.status("i-1").Message)
		r.assign(2, r.item("i-1"), r.item("i-2"))
		r.eventually("the other is asked for", func() bool { return r.status("i-2").Status == "UNSUPPORTED" })
		opened, _ := r.probes.counts()
		require.Equal(t, 2, opened, "one try for each")
	})
}

func TestZonesOfAnotherOwnerAreDenied(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.owner = func(vm uuid.UUID) uuid.UUID {
			if vm == zoneB {
				return someone // the host knows better than the assignment
			}
			return uuid.Nil
		}
		r.start()
		item := r.item("i-1")
		zoneC := uuid.New()
		item.WholeHost, item.Owner = false, &tenant
		item.VMs = []assignment.VM{{UUID: zoneA, Owner: &tenant}, {UUID: zoneB, Owner: &tenant}, {UUID: zoneC, Owner: &someone}}
		r.assign(1, item)
		r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })
		denied := make(map[uuid.UUID]string)
		for _, f := range r.status("i-1").VMFailures {
			denied[f.VM] = f.Status
		}
		require.Equal(t, map[uuid.UUID]string{zoneB: "DENIED", zoneC: "DENIED"}, denied)
		r.probes.mu.Lock()
		defer r.probes.mu.Unlock()
		require.Equal(t, []uuid.UUID{zoneA}, r.probes.opened[0].Zones)
	})
}

func TestADefinitionWithOtherBytesIsNotUsed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		sum := sha256.Sum256([]byte("something else"))
		forged := hex.EncodeToString(sum[:])
		r.session.documents[forged] = r.session.documents[r.digest]
		r.start()
		item := r.item("i-1")
		item.DefinitionDigest = forged
		r.assign(1, item)
		r.eventually("it waits", func() bool { return r.status("i-1").Message == "waiting for the metric's definition" })
		opened, _ := r.probes.counts()
		require.Zero(t, opened)
	})
}
