package agent

import (
	"context"
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
)

// tracing is a collector whose probes are told when to end, and which may hang.
type tracing struct {
	mu        sync.Mutex
	hang      bool // in Open and Collect, until the context ends
	opened    int
	open      int
	lifetimes []time.Duration
	notice    string
	every     time.Duration
}

func (c *tracing) Open(ctx context.Context, r collect.Request) (collect.Probe, error) {
	c.mu.Lock()
	c.opened++
	c.lifetimes = append(c.lifetimes, r.Lifetime)
	hang := c.hang
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	return &tracingProbe{c: c}, nil
}

func (c *tracing) seen() (opened, open int, lifetimes []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened, c.open, append([]time.Duration(nil), c.lifetimes...)
}

type tracingProbe struct {
	c      *tracing
	primed bool
}

func (p *tracingProbe) Collect(ctx context.Context, _ time.Time) (collect.Result, error) {
	p.c.mu.Lock()
	hang, notice, every := p.c.hang, p.c.notice, p.c.every
	p.c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return collect.Result{}, ctx.Err()
	}
	if !p.primed {
		p.primed = true
		return collect.Result{Primed: true}, nil
	}
	return collect.Result{Samples: []collect.Sample{{Value: 1}}, Notice: notice, Every: every}, nil
}

func (p *tracingProbe) SetZones(context.Context, []uuid.UUID) error { return nil }

func (p *tracingProbe) SetLifetime(left time.Duration) error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.lifetimes = append(p.c.lifetimes, left)
	return nil
}

func (p *tracingProbe) Close() error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.c.open--
	return nil
}

// traced starts an agent that traces.
func traced(r *rig, c *tracing) {
	r.collectors = c
	r.start()
}

func (r *rig) limited(id string, left time.Duration) assignment.Item {
	item := r.item(id)
	expires := time.Now().Add(left)
	item.ExpiresAt = &expires
	return item
}

// I5: what hangs is no reason to go on.
func TestTheTimeToLiveEndsWhateverItWaitsFor(t *testing.T) {
	for _, where := range []string{"in Open", "in Collect"} {
		t.Run(where, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				c := &tracing{hang: where == "in Open"}
				traced(r, c)
				item := r.limited("i-1", 2*time.Second)
				r.assign(1, item)
				if where == "in Collect" {
					r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })
					c.mu.Lock()
					c.hang = true
					c.mu.Unlock()
				}
				r.eventually("it is reported", func() bool { return r.status("i-1").ID != "" })
				r.eventually("it ends", func() bool {
					_, open, _ := c.seen()
					return open == 0 && time.Now().After(*item.ExpiresAt) && len(r.session.last().Instrumentations) == 0
				})
				require.WithinRange(t, time.Now(), *item.ExpiresAt, item.ExpiresAt.Add(time.Second))
			})
		})
	}
}

// A machine that has slept wakes with times to live that have passed, and no timer that tells.
func TestTimeAsleepCounts(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		asleep := time.Duration(0)
		c := &tracing{}
		awake := r.sinceBoot
		r.sinceBoot = func() time.Duration { mu.Lock(); defer mu.Unlock(); return awake() + asleep }
		traced(r, c)
		r.assign(1, r.limited("i-1", time.Hour), r.limited("i-2", 3*time.Hour))
		r.eventually("both run", func() bool { _, open, _ := c.seen(); return open == 2 })
		mu.Lock()
		asleep = 2 * time.Hour
		mu.Unlock()
		slept := time.Now()
		r.eventually("one has ended", func() bool { _, open, _ := c.seen(); return open == 1 })
		require.Less(t, time.Since(slept), time.Second)
		r.eventually("the other is told of", func() bool {
			all := r.session.last().Instrumentations
			return len(all) == 1 && all[0].ID == "i-2"
		})
	})
}

func TestAProbeKnowsWhenToEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		c := &tracing{}
		traced(r, c)
		item := r.limited("i-1", time.Minute)
		r.assign(1, item)
		r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })
		later := item.ExpiresAt.Add(time.Hour)
		item.ExpiresAt, item.Revision = &later, 2
		r.assign(2, item)
		r.eventually("it is told of its extension", func() bool { _, _, told := c.seen(); return len(told) == 2 })
		opened, _, told := c.seen()
		require.Equal(t, 1, opened, "nothing is restarted")
		require.InDelta(t, time.Minute, told[0], float64(5*time.Second))
		require.InDelta(t, time.Minute+time.Hour, told[1], float64(15*time.Second))
		sooner := time.Now().Add(-time.Second)
		item.ExpiresAt, item.Revision = &sooner, 3
		r.assign(3, item)
		r.eventually("it ends with what is shortened", func() bool { _, open, _ := c.seen(); return open == 0 })
		r.eventually("and is acknowledged", func() bool { return r.session.last().Applied.Generation == 3 })
		opened, _, _ = c.seen()
		require.Equal(t, 1, opened)
	})
}

// An extension that arrives when the run is ending already is not lost.
func TestAnExtensionInTheLastMomentStartsItAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.probes.closing = make(chan struct{})
		r.start()
		item := r.limited("i-1", 1500*time.Millisecond)
		r.assign(1, item)
		r.eventually("it runs", func() bool { return r.status("i-1").Status == statusRunning })
		require.Eventually(t, func() bool { return time.Now().After(item.ExpiresAt.Add(300 * time.Millisecond)) }, time.Minute, time.Millisecond)
		later := item.ExpiresAt.Add(time.Hour)
		item.ExpiresAt, item.Revision = &later, 2
		r.assign(2, item)
		r.eventually("the extension is applied", func() bool { return r.session.last().Applied.Generation == 2 })
		close(r.probes.closing)
		r.eventually("it runs again", func() bool {
			s := r.status("i-1")
			return s.Status == statusRunning && s.Revision == 2
		})
	})
}

func TestWhatIsToBeKnownOfAProbeThatMeasuresIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		c := &tracing{notice: "it takes much"}
		traced(r, c)
		r.assign(1, r.item("i-1"))
		r.eventually("told", func() bool {
			s := r.status("i-1")
			return s.Status == statusRunning && s.Message == "it takes much"
		})
	})
}

func TestADiskThatCannotBeWrittenIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		path := filepath.Join(r.dir, "assignment.json")
		r.start()
		require.NoError(t, os.Mkdir(path, 0o700)) // nothing can take its name
		r.assign(1, r.item("i-1"))
		r.eventually("the assignment cannot be saved", func() bool {
			s := r.status("i-1")
			return s.Status == statusRunning && len(s.Message) > 0
		})
		require.Contains(t, r.status("i-1").Message, "a restart without the API would measure nothing")
		require.NoError(t, os.Remove(path))
		r.eventually("it is saved", func() bool { return r.status("i-1").Message == "" })
		d := disk{dir: r.dir, host: rigHost}
		last, ok, err := d.load()
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, session.Version{Epoch: epoch, Generation: 1, Hash: "h"}, last.Version)

		r.queue.mu.Lock()
		r.queue.spool = "the spool takes no more: the disk has too little room left"
		r.queue.mu.Unlock()
		r.eventually("the spool's trouble is told", func() bool { return r.status("i-1").Message == r.queue.spool })
	})
}
