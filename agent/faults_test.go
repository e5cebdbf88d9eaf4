package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/agent/session"
	"iapi/assignment"
	"iapi/collectors/collect"
	"iapi/measure"
)

// wallClock is a wall clock that can be set.
type wallClock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *wallClock) step(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += by
}

func (q *fakeQueue) starts() (at []time.Time, partial []bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.points {
		at, partial = append(at, p.Start), append(partial, p.Partial)
	}
	return at, partial
}

// A clock that is set back an hour must not end the data for an hour, and no step may make one interval be told twice in a row.
func TestMeasuringGoesOnWhenTheWallClockIsSet(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.clock = &wallClock{}
		r.start()
		r.assign(1, r.item("i-1"))
		fresh := func(since time.Time) (n int) {
			at, _ := r.queue.starts()
			for i := len(at) - 1; i >= 0 && at[i].After(since.Add(-2*time.Second)) && at[i].Before(since.Add(time.Minute)); i-- {
				n++
			}
			return n
		}
		began := r.clock.now()
		r.eventually("data comes", func() bool { return fresh(began) >= 2 })
		for _, by := range []time.Duration{-time.Hour, 2 * time.Hour, -24 * time.Hour} {
			seen, _ := r.queue.starts()
			r.clock.step(by)
			set := r.clock.now()
			r.eventually("data comes at the new time", func() bool { return fresh(set) >= 2 })
			_, partial := r.queue.starts()
			require.True(t, partial[len(seen)] || partial[len(seen)+1], "the interval of the step is not whole")
			require.Equal(t, statusRunning, r.status("i-1").Status)
		}
		at, _ := r.queue.starts()
		for i := 1; i < len(at); i++ {
			require.NotEqual(t, at[i-1], at[i])
		}
	})
}

func TestAServersClockThatIsSetBackProlongsNoTimeToLive(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		item := r.item("i-1")
		sent := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
		expires := sent.Add(1500 * time.Millisecond)
		item.ExpiresAt = &expires
		send := func(generation int64, at time.Time, items ...assignment.Item) {
			r.session.receive(session.Assignment{Version: session.Version{Epoch: epoch, Generation: generation, Hash: "h"}, SentAt: at, Instrumentations: items})
		}
		began := time.Now()
		send(1, sent, item)
		r.eventually("it runs", func() bool { _, open := r.probes.counts(); return open == 1 })
		send(2, sent.Add(-time.Hour), item, r.item("i-2")) // of another API, or after the clock was set
		r.eventually("the other runs too", func() bool { return r.status("i-2").Status == statusRunning })
		r.eventually("it ends", func() bool { _, open := r.probes.counts(); return open == 1 })
		require.Less(t, time.Since(began), 2500*time.Millisecond, "nothing runs after its time to live and a second")

		send(3, sent.Add(-time.Hour), item, r.item("i-3"))
		r.eventually("the third runs", func() bool { return r.status("i-3").Status == statusRunning })
		opened, _ := r.probes.counts()
		require.Equal(t, 3, opened, "what has ended is not begun again")

		later := sent.Add(time.Hour)
		item.ExpiresAt, item.Revision = &later, 2
		send(4, sent.Add(time.Minute), item)
		r.eventually("an extension counts", func() bool { return r.status("i-1").Status == statusRunning })
	})
}

// slowCollectors open when they are let, and then refuse.
type slowCollectors struct {
	opening chan string
	let     chan error
}

func (c *slowCollectors) Open(ctx context.Context, r collect.Request) (collect.Probe, error) {
	c.opening <- r.ID
	return nil, <-c.let // also when it was cancelled, as a call to the kernel would
}

func TestAnInstrumentationThatIsDeletedWhileItOpensLeavesNoStatus(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		slow := &slowCollectors{opening: make(chan string), let: make(chan error)}
		r.collectors = slow
		r.start()
		r.assign(1, r.item("i-1"))
		require.Equal(t, "i-1", <-slow.opening)
		r.assign(2)
		slow.let <- collect.Errorf(collect.Failed, "too late")
		r.eventually("the end is acknowledged", func() bool { a := r.session.last().Applied; return a != nil && a.Generation == 2 })
		r.assign(3)
		r.eventually("another report", func() bool { return r.session.last().Applied.Generation == 3 })
		require.Empty(t, r.session.last().Instrumentations)
	})
}

func TestARunThatEndsDoesNotSpeakForTheOneThatFollows(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		slow := &slowCollectors{opening: make(chan string), let: make(chan error)}
		r.collectors = slow
		r.start()
		r.assign(1, r.item("i-1"))
		<-slow.opening
		other := r.item("i-1")
		other.Revision, other.Granularity = 2, 5
		r.assign(2, other)
		<-slow.opening // of the second; the first is still there
		slow.let <- collect.Errorf(collect.Failed, "too late")
		slow.let <- collect.Errorf(collect.Unsupported, "no")
		r.eventually("the second is refused", func() bool { return r.status("i-1").Status == "UNSUPPORTED" || r.status("i-1").Status == "FAILED" })
		require.Equal(t, 2, r.status("i-1").Revision)
	})
}

func TestADamagedAssignmentIsNotRun(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		d, err := openDisk(r.dir, rigHost)
		require.NoError(t, err)
		good := saved{Version: session.Version{Epoch: epoch, Generation: 7, Hash: "h"}, Items: []assignment.Item{r.item("i-1")}}
		require.NoError(t, d.save(good))
		path := filepath.Join(r.dir, "assignment.json")
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		_, ok, err := d.load()
		require.NoError(t, err)
		require.True(t, ok)
		for name, text := range map[string][]byte{
			"empty": {}, "half": whole[:len(whole)/2], "a flipped bit": bytes.Replace(whole, []byte(`"revision":1`), []byte(`"revision":3`), 1),
			"zeros": make([]byte, len(whole)), "more": append(bytes.Clone(whole), '}'), "the old half of it": whole[len(whole)/2:],
		} {
			require.NoError(t, os.WriteFile(path, text, 0o600))
			_, ok, err := d.load()
			require.Error(t, err, name)
			require.False(t, ok, name)
		}
		require.NoError(t, os.WriteFile(path, whole, 0o600))
		elsewhere := disk{dir: r.dir, host: uuid.New()}
		_, ok, err = elsewhere.load()
		require.ErrorContains(t, err, "is that of host "+rigHost.String())
		require.False(t, ok, "another host's")
		require.NoError(t, elsewhere.save(good))
		r.start()
		require.Zero(t, r.session.known, "everything is asked for again")
		r.assign(7, r.item("i-1"))
		r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })
		_, ok, err = d.load()
		require.NoError(t, err)
		require.True(t, ok)
	})
}

// FuzzSavedAssignment: whatever lies on the disk, an agent starts, and resumes nothing that has no proper version.
func FuzzSavedAssignment(f *testing.F) {
	whole, err := json.Marshal(saved{Version: session.Version{Epoch: epoch, Generation: 7, Hash: "h"}, Boot: bootID(),
		Items:     []assignment.Item{{ID: "i-1", Revision: 1, VMs: []assignment.VM{{UUID: uuid.Nil}}, Predicate: &measure.Predicate{}}},
		Deadlines: map[string]time.Duration{"i-1": time.Hour}})
	require.NoError(f, err)
	f.Add(whole, true)
	f.Add([]byte(`{"version":{"epoch":"zzz","generation":-1},"items":[null]}`), true)
	f.Add([]byte("\n{}"), false)
	f.Fuzz(func(t *testing.T, raw []byte, summed bool) {
		if summed {
			raw = append([]byte(checksum(raw)+"\n"), raw...)
		}
		s, err := parseSaved(raw)
		if err != nil {
			return
		}
		require.True(t, summed)
		require.NoError(t, s.Version.Validate())
		sup := newSupervisor(Options{}, disk{}, nil, nil)
		sup.resume(s)
		require.LessOrEqual(t, len(sup.take().items), len(s.Items))
		text, err := s.text()
		require.NoError(t, err)
		again, err := parseSaved(text)
		require.NoError(t, err)
		require.Equal(t, s.Version, again.Version)
	})
}
