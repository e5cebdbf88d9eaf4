package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/delivery/deliverytest"
)

// slowest is how long a call to a moody source takes before it is done, and after, and how far a stream is behind; most take
// less.
const slowest = 50 * time.Millisecond

// ledger knows in which order things have happened at the source, which those who ask it do not.
type ledger struct {
	*deliverytest.Source

	mu      sync.Mutex
	dice    *rand.Rand
	calm    bool
	last    map[uuid.UUID]*claim    // whose session of a host was the last to begin
	revoked map[uuid.UUID]bool      // nothing has begun since it was
	when    map[uuid.UUID]time.Time // it was last revoked
}

// claim is one attempt to be a host's agent.
type claim struct {
	host, session uuid.UUID
	began         time.Time // at the source; zero if it never did

	mu        sync.Mutex
	abandoned bool // its connection is gone
	err       error
	known     assignment.Version
}

type claimKey struct{}

// mood decides how long something takes and whether it fails.
func (l *ledger) mood() (wait time.Duration, fails bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calm || l.dice.IntN(3) == 0 {
		return 0, false
	}
	return time.Duration(l.dice.Int64N(int64(slowest))), l.dice.IntN(8) == 0
}

func (l *ledger) wait(ctx context.Context) error {
	wait, fails := l.mood()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
	}
	if fails {
		return errDown
	}
	return nil
}

func (l *ledger) roll(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dice.IntN(n)
}

// BeginSession may fail although the session has begun.
func (l *ledger) BeginSession(ctx context.Context, host, session uuid.UUID, held int64) (int64, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	l.mu.Lock()
	number, err := l.Source.BeginSession(ctx, host, session, held)
	if err == nil && held == 0 {
		c := ctx.Value(claimKey{}).(*claim)
		c.began = time.Now()
		l.last[host], l.revoked[host] = c, false
	}
	l.mu.Unlock()
	return number, errors.Join(err, l.wait(ctx))
}

func (l *ledger) revoke(host uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Revoke(host)
	l.revoked[host], l.when[host] = true, time.Now()
}

func (l *ledger) Sessions(ctx context.Context, hosts ...uuid.UUID) ([]delivery.Session, error) {
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	out, err := l.Source.Sessions(ctx, hosts...)
	return out, errors.Join(err, l.wait(ctx))
}

func (l *ledger) Documents(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Stored, error) {
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	out, err := l.Source.Documents(ctx, hosts...)
	return out, errors.Join(err, l.wait(ctx))
}

// WatchDocuments is behind, for each hub by another time.
func (l *ledger) WatchDocuments(ctx context.Context, fn func([]delivery.Change, bool)) error {
	missed := true // perhaps, before it began
	return l.Source.WatchDocuments(ctx, func(changes []delivery.Change, gap bool) {
		wait, _ := l.mood()
		time.Sleep(wait)
		fn(changes, gap || missed)
		missed = false
	})
}

// However calls, streams and failures overlap: at rest the last session to begin is served, by the hub that it subscribed at;
// all others were told; and nobody is served who was revoked.
func TestTheLastSessionToBeginIsServedHoweverThingsOverlap(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { overlap(t, seed) })
		})
	}
}

func overlap(t *testing.T, seed uint64) {
	l := &ledger{Source: deliverytest.New(), dice: rand.New(rand.NewPCG(seed, 0)), last: map[uuid.UUID]*claim{},
		revoked: map[uuid.UUID]bool{}, when: map[uuid.UUID]time.Time{}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	hubs := make([]*delivery.Hub, 2+l.roll(2))
	for i := range hubs {
		hubs[i] = delivery.New(l, delivery.Options{RetryFirst: time.Millisecond, RetryMost: 5 * time.Millisecond, SourceTimeout: 80 * time.Millisecond,
			CompareEvery: time.Hour})
		running.Go(func() { _ = hubs[i].Run(ctx) })
	}
	synctest.Wait()

	hosts := []uuid.UUID{uuid.New(), uuid.New()}
	for _, host := range hosts {
		l.Commit(host, `[0]`)
	}
	var mu sync.Mutex
	var claims []*claim
	// agent claims a host with one session until it is told that another has it, or ctx ends. Sometimes its connection breaks
	// and it claims again, before the old one is known to have gone.
	agent := func(ctx context.Context, host uuid.UUID) {
		session := uuid.New()
		for ctx.Err() == nil {
			c := &claim{host: host, session: session}
			mu.Lock()
			claims = append(claims, c)
			mu.Unlock()
			over := make(chan struct{})
			hub := hubs[l.roll(len(hubs))]
			running.Go(func() { defer close(over); c.hold(ctx, hub, l) })
			var breaks <-chan time.Time
			if l.roll(3) == 0 {
				breaks = time.After(time.Duration(l.roll(int(2 * slowest))))
			}
			select {
			case <-over:
			case <-breaks:
				c.mu.Lock()
				c.abandoned = true
				c.mu.Unlock()
			}
			c.mu.Lock()
			err, abandoned := c.err, c.abandoned
			c.mu.Unlock()
			if !abandoned && !errors.Is(err, delivery.ErrNotReady) {
				return // it was told something that makes it wait for long
			}
		}
	}
	for range 4 + l.roll(8) {
		host := hosts[l.roll(len(hosts))]
		switch l.roll(8) {
		case 0:
			l.revoke(host)
		case 1:
			l.Gap()
		case 2:
			l.BreakStream(errDown)
		case 3:
			l.Commit(host, fmt.Sprintf(`[%d]`, l.roll(1000)))
		default:
			running.Go(func() { agent(ctx, host) })
		}
		time.Sleep(time.Duration(l.roll(int(2 * slowest))))
	}
	l.mu.Lock()
	l.calm = true
	l.mu.Unlock()
	time.Sleep(5 * time.Second) // of the bubble's clock: everything under way has ended
	synctest.Wait()
	newest := map[uuid.UUID]assignment.Version{}
	for _, host := range hosts {
		newest[host] = l.Commit(host, `["the newest"]`)
	}
	time.Sleep(time.Second)
	synctest.Wait()

	for i, host := range hosts {
		last, served := l.last[host], 0
		for _, c := range claims {
			if c.host != host || c.abandoned || c.err != nil {
				continue
			}
			served++
			if c.session != last.session {
				t.Errorf("host %d: who is not the last to have begun is not told", i)
			}
			if c.known != newest[host] {
				t.Errorf("host %d: who is served has %v, and not the newest", i, c.known)
			}
		}
		switch {
		case l.revoked[host] && served > 0:
			t.Errorf("host %d: it was revoked, and is served", i)
		case l.revoked[host] || last == nil || last.abandoned || served > 0:
		case errors.Is(last.err, delivery.ErrRevoked) && !l.when[host].Before(last.began.Add(-4*slowest)):
			// A revocation that comes late ends whoever is there: it comes back with its new credential.
		case errors.Is(last.err, delivery.ErrNotReady):
			// It was not answered that it had begun, and when it tried again it was refused for having been superseded before.
		default:
			t.Errorf("host %d: the last to begin is not served, but told %v", i, last.err)
		}
	}
}

// hold claims the host and reads until it is told the end. When the connection breaks, the server hears of it later.
func (c *claim) hold(ctx context.Context, hub *delivery.Hub, l *ledger) {
	sub, err := hub.Subscribe(context.WithValue(ctx, claimKey{}, c), c.host, c.session, assignment.Version{})
	for err == nil {
		within, cancel := context.WithTimeout(ctx, slowest)
		var e delivery.Event
		e, err = sub.Next(within)
		cancel()
		c.mu.Lock()
		if err == nil {
			c.known = e.Version
		}
		if errors.Is(err, context.DeadlineExceeded) && !c.abandoned {
			err = nil
		}
		c.mu.Unlock()
	}
	if sub != nil {
		sub.Close()
	}
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
}
