// Package store keeps everything in Redis: every key, every script and every index is here (asynq's own keys aside), and
// nothing outside knows a key's name.
//
// There are two families of keys, and nothing spans them. Keys with the tag {i} have the records of instrumentations, their
// search indexes, idempotency keys, quotas, the audit stream, guards, leases and credentials; a mutation is one script
// there. Keys with the tags {h00} to {h15}, chosen by the hash of a host or VM, have facts, documents, status, dirty hosts
// and the stream of changed documents; a change of a host is one script there. So the package works on a single server,
// behind Sentinel and on a Cluster, and on the embedded server, which knows less than Redis does: only commands that both
// it and Redis 6.2 know are used.
//
// # Size
//
// A VM's facts take about 600 bytes on Redis 7 with an alias and three tags, a third of it the hint that tells its host;
// TestBytesPerVM prints the figure. A place (an instrumentation in a zone) takes 16 bytes of its host's list.
//
// # Errors
//
// When the server cannot be reached or cannot answer yet, errors wrap instrumentation.ErrNotReady. It never means "empty".
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
	"iapi/internal/batch"
)

// Errors of the store beside those of instrumentation, for errors.Is.
var (
	// ErrNoDocument: no document was ever committed for the host. It never means that there is nothing to run.
	ErrNoDocument = errors.New("the host has no document yet")
	// ErrClaimLost: the lease of a claim has lapsed or was given back, so its holder must drop the work.
	ErrClaimLost = errors.New("the claim is lost")
	// ErrToken: the token is unknown, used, lapsed or revoked.
	ErrToken = errors.New("the token is not valid")
	// ErrDamaged: the embedded store has snapshots, and none of them can be read. They were kept aside.
	ErrDamaged = errors.New("the store's snapshot is damaged")
	// ErrLocked: another process uses the directory of the embedded store.
	ErrLocked = errors.New("the data directory is in use by another process")
)

// Options say where the store is. One of URL and Embedded must be set.
type Options struct {
	// URL is redis://[user:password@]host:port[/db] or rediss:// for one server, the same with several hosts separated by
	// commas for a Cluster, and redis+sentinel://[user:password@]host:port,host:port/master[/db] for Sentinel
	// (rediss+sentinel:// with TLS).
	URL      string
	Embedded *Embedded
	Logger   *slog.Logger // default: none
	// Clock is the embedded server's clock; default time.Now. A real server has its own.
	Clock func() time.Time
	// Timeout bounds every call of the store; default 5 s.
	Timeout time.Duration
	// OfflineAfter is how long after its last contact an agent is offline; default 90 s: longer than it takes an agent to notice
	// that its connection is dead (session.Options.Silence) and to be let in again (the minute of delivery.Admission).
	OfflineAfter time.Duration
	// Replicas is how many replicas must confirm a mutation before it is answered, else ErrNotDurable. Default (0): one if
	// the server has any when the store is opened. Below zero: none.
	Replicas int
	// AuditEntries is how many entries the audit log keeps at least; default 100,000. Older ones leave it, some at a time.
	AuditEntries int
	// Pool is the most connections to each server; default 10 for each processor, at least 20.
	Pool int
}

// Embedded makes the store an in-process server: good for a laptop, some hundred agents and a few thousand instrumentations.
// A snapshot holds it for about a tenth of a second for each thousand.
type Embedded struct {
	// Dir has the snapshots and the journal; "" keeps everything in memory only.
	Dir string
	// Listen is a loopback address on which other processes can use the server too; "": none. What they write is durable
	// with the next snapshot, not before.
	Listen string
	// SnapshotEvery is the time between snapshots when something has changed; default 30 s.
	SnapshotEvery time.Duration
}

// maxTogether bounds how many questions that come at the same time are asked in one round trip.
const maxTogether = 256

// Store is a connection to the store. It is safe for concurrent use.
type Store struct {
	client   redis.UniversalClient
	readers  redis.UniversalClient // for reads that block; see connect
	opts     Options
	log      *slog.Logger
	embedded *embedded               // nil on a real server
	replicas int                     // that must confirm a mutation
	ceiling  atomic.Int64            // what ceilingOf returned last
	reading  atomic.Pointer[reading] // of the server's clock; see Time

	waker *waker

	// What agents ask for one by one, and thousands of them at the same time when they come back.
	sessions [shards]*batch.Batcher[part, beginning] // by Part
	tokens   *batch.Batcher[string, string]

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	jobs sync.WaitGroup // the goroutines that Close waits for
}

// Open connects, or starts the embedded server and restores what it kept. It fails if the server cannot be reached.
func Open(ctx context.Context, o Options) (*Store, error) {
	if (o.URL == "") == (o.Embedded == nil) {
		return nil, errors.New("open the store: one of URL and Embedded must be given")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.OfflineAfter <= 0 {
		o.OfflineAfter = 90 * time.Second
	}
	if o.AuditEntries <= 0 {
		o.AuditEntries = 100_000
	}
	redirectLog(o.Logger)
	s := &Store{opts: o, log: o.Logger, waker: newWaker()}
	s.ceiling.Store(noCeiling)
	for i := range s.sessions {
		s.sessions[i] = batch.New(maxTogether, 1, o.Timeout, s.beginSessions)
	}
	s.tokens = batch.New(maxTogether, 1, o.Timeout, s.tokenHosts)
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.open(ctx); err != nil {
		s.stop()
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if s.opts.Embedded == nil {
		var err error
		if s.client, s.readers, err = connect(s.opts); err != nil {
			return err
		}
		if err = s.check(ctx); err == nil {
			err = s.beginTime(ctx)
		}
		if err != nil {
			return errors.Join(err, s.client.Close(), s.readers.Close())
		}
		return nil
	}
	e, err := startEmbedded(ctx, s.opts)
	if err != nil {
		return err
	}
	s.embedded, s.client, s.readers = e, e.client, e.client
	if s.opts.Embedded.Dir == "" {
		return nil
	}
	// Documents are as old as the snapshot, records as new as the last answer: every host is compared anew.
	hosts, err := s.HostIDs(ctx)
	if err == nil {
		err = s.MarkHosts(ctx, false, hosts...)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mark the restored hosts: %w", err), s.embedded.close())
	}
	return nil
}

// Client returns the connection that everybody in the process shares. The store closes it.
func (s *Store) Client() redis.UniversalClient { return s.client }

// Close ends the store's goroutines and waits for them, writes the embedded server's snapshot, and closes the connection.
func (s *Store) Close() error {
	s.stop()
	s.jobs.Wait()
	if s.embedded != nil {
		return s.embedded.close()
	}
	if err := errors.Join(s.client.Close(), s.readers.Close()); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}

// Ready reports whether the store can be used now; its error wraps instrumentation.ErrNotReady otherwise.
func (s *Store) Ready(ctx context.Context) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("%w: %w", instrumentation.ErrNotReady, err)
	}
	return nil
}

// Now returns the time by which reads of the inventory are ordered, to a microsecond: the store's clock, but always later than
// before, also when that clock was set back.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	reply, err := s.do(ctx, nowScript, record)
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMicro(number(reply)).UTC(), nil
}

// clock returns the store's clock as it is.
func (s *Store) clock(ctx context.Context) (time.Time, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return askTime(ctx, s.client)
}

// bound gives a call its deadline.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.opts.Timeout)
}
