package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

const (
	// tickEvery is how often keys of the embedded server age.
	tickEvery = 250 * time.Millisecond
	// patience is how long a command may take on the embedded server, unless its caller says less.
	patience = 30 * time.Second
	// maxBatch is how many mutations one sync of the journal covers at most.
	maxBatch = 128
)

// embedded is the in-process server and what keeps it: one goroutine makes all mutations of this process and writes the
// journal, so that its order is that of the mutations; one takes snapshots; one lets keys age.
type embedded struct {
	server *miniredis.Miniredis
	client *redis.Client
	log    *slog.Logger
	clock  func() time.Time
	pinned bool  // the clock is not the machine's, so the server is told the time at every tick
	disk   *disk // nil: in memory only

	requests  chan *mutation
	rotations chan chan error // asks the goroutine of the mutations for a snapshot
	again     chan struct{}   // capacity 1: a snapshot is wanted now

	stop      context.CancelFunc // ends ticks and snapshots
	jobs      sync.WaitGroup
	stopMuts  context.CancelFunc // ends the goroutine of the mutations, which is the last
	mutations sync.WaitGroup
	done      <-chan struct{}
	listener  net.Listener // nil: none
}

// mutation is a run of a script that waits to be made and journalled.
type mutation struct {
	script *script
	args   []any
	reply  any
	answer chan error // capacity 1
}

// startEmbedded starts the server and restores what its directory has.
func startEmbedded(ctx context.Context, o Options) (e *embedded, err error) {
	e = &embedded{
		server: miniredis.NewMiniRedis(), log: o.Logger, clock: o.Clock, pinned: o.Clock != nil,
		requests: make(chan *mutation, maxBatch), rotations: make(chan chan error), again: make(chan struct{}, 1),
	}
	if e.clock == nil {
		e.clock = time.Now
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.release())
		}
	}()
	if dir := o.Embedded.Dir; dir != "" {
		if e.disk, err = openDisk(dir, o.Logger); err != nil {
			return e, err
		}
	}
	u := &redis.UniversalOptions{}
	tune(u, o)
	simple := u.Simple()
	simple.Addr = "embedded"
	// Nothing gets lost here, and a snapshot of very much may hold the server for seconds.
	simple.ReadTimeout, simple.WriteTimeout, simple.PoolTimeout = patience, patience, patience
	first, err := e.server.Dial() // starts the server; its own pipes have no buffers, in which pipelines get stuck
	if err != nil {
		return e, fmt.Errorf("start the embedded server: %w", err)
	}
	if err := first.Close(); err != nil {
		return e, fmt.Errorf("start the embedded server: %w", err)
	}
	simple.Dialer = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		e.server.Server().ServeConn(newRoomy(far))
		return near, nil
	}
	e.client = redis.NewClient(simple)
	if e.pinned {
		e.server.SetTime(e.clock())
	}
	if err := e.client.Ping(ctx).Err(); err != nil {
		return e, fault("start the embedded server", err)
	}
	if e.disk != nil {
		if err := e.disk.restore(ctx, e.client, e.clock()); err != nil {
			return e, err
		}
		if err := e.rotate(ctx); err != nil {
			return e, err
		}
	}
	if o.Embedded.Listen != "" {
		if err := e.listen(o.Embedded.Listen); err != nil {
			return e, err
		}
	}
	background := context.WithoutCancel(ctx)
	ticks, stop := context.WithCancel(background)
	muts, stopMuts := context.WithCancel(background)
	e.stop, e.stopMuts, e.done = stop, stopMuts, muts.Done()
	e.jobs.Go(func() { e.age(ticks) })
	if e.disk != nil {
		every := o.Embedded.SnapshotEvery
		if every <= 0 {
			every = 30 * time.Second
		}
		e.jobs.Go(func() { e.snapshots(ticks, every) })
		e.mutations.Go(func() { e.mutateAll(muts) })
	}
	return e, nil
}

// listen lets other processes of this machine use the server.
func (e *embedded) listen(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen for other processes: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("listen for other processes: %s is not a loopback address, and the embedded server knows no passwords", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for other processes: %w", err)
	}
	e.listener = l
	e.log.Info("other processes can use the embedded store", "url", "redis://"+l.Addr().String())
	e.jobs.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			e.server.Server().ServeConn(newRoomy(conn))
		}
	})
	return nil
}

// age lets keys age by the clock.
func (e *embedded) age(ctx context.Context) {
	last := e.clock()
	for sleep(ctx, tickEvery) {
		now := e.clock()
		if e.pinned {
			e.server.SetTime(now)
		}
		if d := now.Sub(last); d > 0 {
			e.server.FastForward(d)
		}
		last = now
	}
}

// snapshots takes a snapshot at every period, and at once when the journal cannot be written.
func (e *embedded) snapshots(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-e.again:
			if !sleep(ctx, time.Second) {
				return
			}
		}
		if err := e.snapshot(ctx); err != nil && ctx.Err() == nil {
			e.log.Error("the embedded store cannot be written", "error", err)
		}
	}
}

// snapshot has the goroutine of the mutations take one and waits for it.
func (e *embedded) snapshot(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case e.rotations <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-e.done:
		return errors.New("the store is closed")
	}
}

// mutate makes a mutation and returns when it is in the journal.
func (e *embedded) mutate(ctx context.Context, sc *script, args []any) (any, error) {
	m := &mutation{script: sc, args: args, answer: make(chan error, 1)}
	select {
	case e.requests <- m:
	case <-ctx.Done():
		return nil, fault(sc.name, context.Cause(ctx))
	case <-e.done:
		return nil, fmt.Errorf("%s: %w: the store is closed", sc.name, instrumentation.ErrNotReady)
	}
	select {
	case err := <-m.answer:
		return m.reply, err
	case <-ctx.Done():
		return nil, fault(sc.name, context.Cause(ctx))
	case <-e.done:
		return nil, fmt.Errorf("%s: %w: the store is closed", sc.name, instrumentation.ErrNotReady)
	}
}

// mutateAll makes mutations, in batches that share one sync of the journal, until ctx ends.
func (e *embedded) mutateAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-e.rotations:
			answer <- e.rotate(ctx)
		case m := <-e.requests:
			batch := []*mutation{m}
			for more := true; more && len(batch) < maxBatch; {
				select {
				case m := <-e.requests:
					batch = append(batch, m)
				default:
					more = false
				}
			}
			e.makeAll(ctx, batch)
		}
	}
}

// makeAll runs the scripts of a batch, writes those that changed something to the journal, and answers them all.
func (e *embedded) makeAll(ctx context.Context, batch []*mutation) {
	var frames []byte
	var made []*mutation
	for _, m := range batch {
		if e.disk.broken {
			m.answer <- fmt.Errorf("%s: %w: the journal cannot be written", m.script.name, instrumentation.ErrNotReady)
			continue
		}
		m.args[0] = e.clock().UnixMilli()
		run, cancel := context.WithTimeout(ctx, 10*time.Second)
		reply, err := m.script.run.Run(run, e.client, []string{record}, m.args...).Result()
		cancel()
		if err != nil {
			m.answer <- fault(m.script.name, err)
			continue
		}
		m.reply = reply
		if text(at(reply, 0)) != "OK" {
			m.answer <- nil // nothing was changed
			continue
		}
		en := entry{seq: number(at(reply, 1)), name: m.script.name}
		for _, a := range m.args {
			en.args = append(en.args, argText(a))
		}
		frames = append(frames, en.frame()...)
		made = append(made, m)
	}
	var err error
	if len(made) > 0 {
		err = e.disk.append(frames)
	}
	for _, m := range made {
		if err != nil {
			m.answer <- fmt.Errorf("%s: %w: %w", m.script.name, instrumentation.ErrNotDurable, err)
		} else {
			m.answer <- nil
		}
	}
	if err != nil {
		// What was made is in the server and not in the journal; a snapshot makes both agree again.
		e.log.Error("the journal of the embedded store cannot be written; mutations are refused until a snapshot can", "error", err)
		select {
		case e.again <- struct{}{}:
		default:
		}
	}
}

// argText is an argument as it goes over the wire.
func argText(a any) string {
	switch v := a.(type) {
	case string:
		return v
	case int:
		return itoa(v)
	case int64:
		return itoa(v)
	}
	return fmt.Sprint(a)
}

// rotate takes a snapshot if anything has changed, and begins a new journal. No mutation is made meanwhile, so each is in
// the snapshot or in the new journal.
func (e *embedded) rotate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := time.Now()
	p, err := takePicture(ctx, e.client.WithTimeout(time.Minute), e.clock())
	if err != nil {
		return err
	}
	if took := time.Since(began); took > time.Second {
		e.log.Warn("a snapshot has held the embedded store for long: it has more than it is made for; use a Redis server",
			"took", took.Round(time.Millisecond), "keys", len(p.Keys))
	}
	return e.disk.rotate(p)
}

// close takes the last snapshot and ends everything.
func (e *embedded) close() error {
	var err error
	e.stop()
	if e.listener != nil {
		err = e.listener.Close()
	}
	e.jobs.Wait()
	if e.disk != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, e.snapshot(ctx))
	}
	e.stopMuts()
	e.mutations.Wait()
	if err = errors.Join(err, e.release()); err != nil {
		return fmt.Errorf("close the embedded store: %w", err)
	}
	return nil
}

// release gives back what was opened.
func (e *embedded) release() error {
	var err error
	if e.client != nil {
		err = e.client.Close()
	}
	e.server.Close()
	if e.disk != nil {
		err = errors.Join(err, e.disk.close())
	}
	return err
}
