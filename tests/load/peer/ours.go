package peer

import (
	"context"
	"net/http"
	"sync"

	"github.com/99designs/gqlgen/graphql/executor"
	"github.com/google/uuid"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/graph/ws"
	"iapi/identity"
)

// ours is IAPI's feed and its websockets, over documents in memory: what the peer is compared with, and no more.
type ours struct {
	memory  *memory
	hub     *delivery.Hub
	sockets *ws.Server
}

func newOurs(hosts []uuid.UUID) *ours {
	m := &memory{documents: make(map[uuid.UUID]assignment.Stored, len(hosts)), wake: make(chan struct{}, 1)}
	for _, h := range hosts {
		m.commit(h)
	}
	hub := delivery.New(m, delivery.Options{})
	return &ours{memory: m, hub: hub, sockets: ws.New(ws.Options{
		Executor: executor.New(newStock(nil).schema()), Authenticator: anybody{}, Feed: hub,
		Present: func(_ context.Context, err error) *gqlerror.Error { return gqlerror.Wrap(err) },
	})}
}

// run feeds the subscriptions until ctx ends.
func (o *ours) run(ctx context.Context) {
	_ = o.hub.Run(ctx) // ends with ctx's error
}

func (o *ours) handler() http.Handler { return o.sockets }

func (o *ours) publish(hosts []uuid.UUID) {
	for _, h := range hosts {
		o.memory.announce(h, o.memory.commit(h))
	}
}

type anybody struct{}

func (anybody) Authenticate(*http.Request) (identity.Caller, error) {
	return identity.Caller{ID: "load", Kind: identity.Agent}, nil
}

// memory is a delivery.Source that forgets what it is told and loses nothing of what it has.
type memory struct {
	wake chan struct{} // capacity 1; there is one watcher

	mu        sync.Mutex
	documents map[uuid.UUID]assignment.Stored
	changes   []delivery.Change
}

func (m *memory) commit(host uuid.UUID) assignment.Version {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.documents[host]
	d.Host = host
	d.Version.Epoch = firstEpoch
	d.Version.Generation++
	d.Body, d.Version.Hash = assignment.Encode(document(host, int(d.Version.Generation)))
	m.documents[host] = d
	return d.Version
}

func (m *memory) announce(host uuid.UUID, v assignment.Version) {
	m.mu.Lock()
	m.changes = append(m.changes, delivery.Change{Host: host, Version: v})
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *memory) Documents(_ context.Context, hosts ...uuid.UUID) ([]assignment.Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]assignment.Stored, len(hosts))
	for i, h := range hosts {
		out[i] = m.documents[h]
	}
	return out, nil
}

func (m *memory) Versions(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]assignment.Version, len(hosts))
	for i, h := range hosts {
		out[i] = m.documents[h].Version
	}
	return out, nil
}

func (m *memory) Rebase(_ context.Context, host uuid.UUID, _ assignment.Version) (assignment.Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.documents[host].Version, nil // never goes back
}

func (m *memory) WatchDocuments(ctx context.Context, fn func([]delivery.Change, bool)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		}
		m.mu.Lock()
		changes := m.changes
		m.changes = nil
		m.mu.Unlock()
		fn(changes, false)
	}
}

func (*memory) Part(uuid.UUID) (part, of int) { return 0, 1 }

func (m *memory) BeginSession(_ context.Context, host, session uuid.UUID, _ int64) (int64, error) {
	m.mu.Lock()
	m.changes = append(m.changes, delivery.Change{Host: host, Kind: delivery.Superseded, Session: session})
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return 0, nil // it counts none, so that none can be lost
}

func (m *memory) Sessions(_ context.Context, hosts ...uuid.UUID) ([]delivery.Session, error) {
	return make([]delivery.Session, len(hosts)), nil // none is remembered
}

func (m *memory) Knows(_ context.Context, host uuid.UUID) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.documents[host]
	return known, nil
}

func (m *memory) Touch(context.Context, ...uuid.UUID) ([]uuid.UUID, error) { return nil, nil }

func (m *memory) ReportBatch(_ context.Context, reports []delivery.Report) ([]delivery.ReportResult, error) {
	out := make([]delivery.ReportResult, len(reports))
	for i := range out {
		out[i].Accepted = true
	}
	return out, nil
}
