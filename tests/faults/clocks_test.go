package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/agent"
	"iapi/agent/session"
	"iapi/collectors/collect"
	"iapi/measure"
	"iapi/store"
	"iapi/targets"
	"iapi/tests/load/cloud"
)

// clock goes on, and can be set.
type clock struct{ off atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Round(0).Add(time.Duration(c.off.Load())) }

func (c *clock) jump(by time.Duration) { c.off.Add(int64(by)) }

// lines keeps what is logged.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startKeeper starts a store with a clock of its own, for other processes.
func startKeeper(t *testing.T, c *clock) (url string) {
	t.Helper()
	log := &lines{}
	s, err := store.Open(t.Context(), store.Options{Embedded: &store.Embedded{Listen: "127.0.0.1:0"}, Clock: c.now,
		Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	_, url, _ = strings.Cut(log.String(), "url=")
	return strings.TrimSpace(url)
}

// measuring is a real agent whose sources always answer, and whose wall clock can be set.
type measuring struct {
	host uuid.UUID
	wall clock

	mu     sync.Mutex
	open   map[string]int // probes, by instrumentation
	opened map[string]int
	last   map[string]time.Time // start of the newest point
}

func (m *measuring) Open(_ context.Context, r collect.Request) (collect.Probe, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[r.ID]++
	m.opened[r.ID]++
	return &steady{of: m, id: r.ID}, nil
}

// steady is a source that always answers.
type steady struct {
	of     *measuring
	id     string
	primed bool
	once   sync.Once
}

func (p *steady) Collect(context.Context, time.Time) (collect.Result, error) {
	if !p.primed {
		p.primed = true
		return collect.Result{Primed: true}, nil
	}
	return collect.Result{Samples: []collect.Sample{{Value: 1}}}, nil
}

func (p *steady) SetZones(context.Context, []uuid.UUID) error { return nil }

func (p *steady) Close() error {
	p.once.Do(func() {
		p.of.mu.Lock()
		defer p.of.mu.Unlock()
		p.of.open[p.id]--
	})
	return nil
}

// outlet takes the data of one instrumentation.
type outlet struct {
	of   *measuring
	id   string
	sent atomic.Int64
}

func (o *outlet) Enqueue(points []measure.Point) {
	o.sent.Add(int64(len(points)))
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	for _, p := range points {
		o.of.last[o.id] = p.Start
	}
}

func (o *outlet) Stats() targets.Stats        { return targets.Stats{Connected: true, Sent: o.sent.Load()} }
func (o *outlet) Close(context.Context) error { return nil }

// startMeasuring starts a real agent until the test ends.
func (s *service) startMeasuring(i int) *measuring {
	s.t.Helper()
	m := &measuring{host: s.Hosts[i], open: map[string]int{}, opened: map[string]int{}, last: map[string]time.Time{}}
	talk, err := session.New(session.Options{Servers: s.Servers(), Host: m.host, Token: func() string { return s.tokens[i] }})
	require.NoError(s.t, err)
	a, err := agent.New(agent.Options{Host: m.host, Version: "test", Session: talk, Collectors: m, Dir: s.t.TempDir(), Clock: m.wall.now,
		OpenTarget: func(id string, _ measure.Target) (agent.Queue, error) { return &outlet{of: m, id: id}, nil }})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	s.t.Cleanup(func() { cancel(); running.Wait() })
	return m
}

// measures reports what is wrong if the agent does not measure an instrumentation now, or has ever ended it.
func (m *measuring) measures(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.wall.now()
	switch at := m.last[id]; {
	case m.open[id] != 1 || m.opened[id] != 1:
		return fmt.Errorf("%d of %d probes are open", m.open[id], m.opened[id])
	case at.Before(now.Add(-time.Minute)) || at.After(now.Add(time.Minute)):
		return fmt.Errorf("the newest data are of %s, and it is %s", at, now)
	}
	return nil
}

func (m *measuring) runs(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open[id] > 0
}

// limited creates an instrumentation of every host with a time to live, and returns when it ends.
func (s *service) limited(ttl time.Duration) (id string, expires time.Time) {
	s.t.Helper()
	var data struct {
		R struct {
			Instrumentation struct {
				ID        string
				ExpiresAt time.Time
			}
			UserErrors []struct{ Message string }
		}
	}
	require.NoError(s.t, s.APIs[0].Do(s.ctx, `mutation($i: CreateInstrumentationInput!) { r: createInstrumentation(input: $i) {
		instrumentation { id expiresAt } userErrors { message } } }`, map[string]any{"i": map[string]any{
		"metric": "cpu.usage", "scope": cloud.EveryHost(), "ttlSeconds": int(ttl.Seconds()),
	}}, &data))
	require.Empty(s.t, data.R.UserErrors)
	return data.R.Instrumentation.ID, data.R.Instrumentation.ExpiresAt
}

// The only time is the store's. The wall clocks of the API and of the workers are wrong by years, those of the agents jump, and
// then the store's own does: nobody goes offline, nothing ends before its time to live has passed, and what has one ends.
func TestClocksThatAreWrongOrJump(t *testing.T) {
	t.Parallel()
	var stores clock
	stores.jump(5 * 365 * 24 * time.Hour)
	s := start(t, 2, 1, cloud.Options{StoreURL: startKeeper(t, &stores)})
	fleet := []*measuring{s.startMeasuring(0), s.startMeasuring(1)}
	long, expires := s.limited(time.Hour)
	require.WithinDuration(t, stores.now().Add(time.Hour), expires, time.Minute, "a time to live ends by the store's clock")
	ids := []string{long}
	asEver := func(what string) {
		t.Helper()
		s.eventually(patience, what, func() error {
			n, err := s.APIs[0].Offline(s.ctx)
			if err != nil {
				return err
			}
			if len(ids) > 1 { // who has not connected yet is offline
				require.Zero(t, n, "%s: agents were declared offline", what)
			}
			for _, id := range ids {
				in, err := s.APIs[0].Get(s.ctx, id)
				if err != nil {
					return err
				}
				require.NotNil(t, in, "%s: it is gone", what)
				require.NotEqual(t, "EXPIRED", in.State, what)
				if in.Coverage.Running != len(fleet) {
					return fmt.Errorf("%+v", in.Coverage)
				}
				for _, m := range fleet {
					if err := m.measures(id); err != nil {
						require.Empty(t, m.ended(id), "%s: it has ended", what)
						return err
					}
				}
			}
			return nil
		})
	}
	asEver("everything runs")
	for _, by := range []time.Duration{24 * time.Hour, -48 * time.Hour} {
		fleet[0].wall.jump(by)
		asEver(fmt.Sprintf("an agent's clock jumps by %s", by))
	}
	for _, by := range []time.Duration{20 * time.Minute, -30 * time.Minute} {
		stores.jump(by)
		ids = append(ids, s.everywhere(0)) // so that agents get a document that was sent by the new time
		asEver(fmt.Sprintf("the store's clock jumps by %s", by))
	}

	var short string
	s.eventually(patience, "the API follows the store's clock", func() error { // it reads that every few seconds
		var ends time.Time
		short, ends = s.limited(time.Second)
		if off := ends.Sub(stores.now()); off.Abs() > time.Minute {
			time.Sleep(500 * time.Millisecond) // every try leaves one behind
			return fmt.Errorf("one second to live ends in %s", off)
		}
		return nil
	})
	s.eventually(patience, "what has a time to live ends", func() error {
		in, err := s.APIs[0].Get(s.ctx, short)
		switch {
		case err != nil:
			return err
		case in.State != "EXPIRED":
			return errors.New(in.State)
		case fleet[0].runs(short) || fleet[1].runs(short):
			return errors.New("an agent still measures it")
		}
		return nil
	})
	asEver("and nothing else does")
}

// ended tells that an instrumentation was measured and is not any more, or anew; "" for neither.
func (m *measuring) ended(id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.opened[id] > 1 || m.opened[id] > m.open[id] {
		return fmt.Sprintf("%d of %d probes are open", m.open[id], m.opened[id])
	}
	return ""
}
