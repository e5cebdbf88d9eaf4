package peer

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler"
	"github.com/99designs/gqlgen/graphql/handler/lru"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/google/uuid"
	"github.com/vektah/gqlparser/v2/ast"

	"iapi/assignment"
	"iapi/tests/load/peer/graph"
)

// stock is gqlgen with its own websocket transport, and a channel of one for each subscription in which the newest wins.
type stock struct {
	mu          sync.Mutex
	generations map[uuid.UUID]int
	slots       map[uuid.UUID]chan graph.AssignmentEvent
}

func newStock(hosts []uuid.UUID) *stock {
	s := &stock{generations: make(map[uuid.UUID]int, len(hosts)), slots: make(map[uuid.UUID]chan graph.AssignmentEvent, len(hosts))}
	for _, h := range hosts {
		s.generations[h] = 1
	}
	return s
}

func (s *stock) schema() graphql.ExecutableSchema {
	return graph.NewExecutableSchema(graph.Config{Resolvers: s})
}

func (s *stock) handler() http.Handler {
	server := handler.New(s.schema())
	server.AddTransport(transport.Websocket{})
	server.SetQueryCache(lru.New[*ast.QueryDocument](1000))
	return server
}

// Query implements graph.ResolverRoot.
func (s *stock) Query() graph.QueryResolver { return query{} }

// Subscription implements graph.ResolverRoot.
func (s *stock) Subscription() graph.SubscriptionResolver { return s }

type query struct{}

func (query) Ready(context.Context) (bool, error) { return true, nil }

// Assignments implements graph.SubscriptionResolver.
func (s *stock) Assignments(ctx context.Context, host, _ uuid.UUID, known *graph.AssignmentVersionInput) (<-chan graph.AssignmentEvent, error) {
	slot := make(chan graph.AssignmentEvent, 1)
	s.mu.Lock()
	s.slots[host] = slot
	current := s.generations[host]
	s.mu.Unlock()
	if known != nil && known.Generation == current {
		slot <- graph.AssignmentBookmark{Version: &graph.AssignmentVersion{Epoch: known.Epoch, Generation: current, Hash: known.Hash}}
	} else {
		slot <- object(host, current)
	}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.slots[host] == slot {
			delete(s.slots, host)
		}
		close(slot)
	})
	return slot, nil
}

// publish implements server. Nothing is put into a slot that is being closed, for both happen under the lock.
func (s *stock) publish(hosts []uuid.UUID) {
	for _, host := range hosts {
		s.mu.Lock()
		s.generations[host]++
		event := object(host, s.generations[host])
		if slot := s.slots[host]; slot != nil {
			select {
			case <-slot:
			default:
			}
			slot <- event
		}
		s.mu.Unlock()
	}
}

// object is a document as gqlgen resolves it.
func object(host uuid.UUID, generation int) graph.AssignmentEvent {
	d := document(host, generation)
	a := &graph.Assignment{
		Host: host, SentAt: time.Now(), Instrumentations: make([]*graph.AssignedInstrumentation, len(d.Instrumentations)),
		Version: &graph.AssignmentVersion{Epoch: firstEpoch, Generation: generation, Hash: strconv.Itoa(generation)},
	}
	for i, item := range d.Instrumentations {
		a.Instrumentations[i] = &graph.AssignedInstrumentation{
			ID: item.ID, Revision: item.Revision, Owner: item.Owner, Metric: item.Metric, DefinitionDigest: item.DefinitionDigest,
			Decompositions: item.Decompositions, WholeHost: item.WholeHost, Vms: vmsOf(item.VMs), Targets: targetsOf(item.Targets),
			GranularitySeconds: item.Granularity, ExpiresAt: item.ExpiresAt,
		}
	}
	return a
}

func vmsOf(vms []assignment.VM) []*graph.AssignedVM {
	out := make([]*graph.AssignedVM, len(vms))
	for i, vm := range vms {
		out[i] = &graph.AssignedVM{UUID: vm.UUID, Owner: vm.Owner}
	}
	return out
}

func targetsOf(targets []assignment.Target) []*graph.AssignedTarget {
	out := make([]*graph.AssignedTarget, len(targets))
	for i, t := range targets {
		out[i] = &graph.AssignedTarget{Kind: t.Kind, Address: t.Address, Prefix: t.Prefix, Transport: t.Transport}
	}
	return out
}
