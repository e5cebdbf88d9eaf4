package graph

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"iapi/graph/model"
	"iapi/identity"
	"iapi/instrumentation"
)

func (q *queryResolver) self() *resolver { return (*resolver)(q) }

func (q *queryResolver) Metrics(ctx context.Context, module *string, collector *model.CollectorKind) ([]model.Metric, error) {
	kind := ""
	if collector != nil {
		kind = string(*collector)
	}
	found, err := q.rules.Metrics(ctx, caller(ctx), value(module), kind)
	if err != nil {
		return nil, err
	}
	out := make([]model.Metric, len(found))
	for i, m := range found {
		out[i] = model.Metric{Of: m}
	}
	return out, nil
}

func (q *queryResolver) Metric(ctx context.Context, name string) (*model.Metric, error) {
	found, err := q.rules.Metric(ctx, caller(ctx), name)
	if err != nil || found == nil {
		return nil, err
	}
	return &model.Metric{Of: found}, nil
}

func (q *queryResolver) MetricDefinition(ctx context.Context, digest string) (*model.MetricDefinition, error) {
	found, err := q.rules.Definition(ctx, caller(ctx), digest)
	if err != nil || found == nil {
		return nil, err
	}
	return definitionOf(found), nil
}

func (q *queryResolver) Instrumentation(ctx context.Context, id string) (*model.Instrumentation, error) {
	found, err := q.rules.Get(ctx, caller(ctx), instrumentation.ID(id))
	if err != nil {
		return nil, err
	}
	return q.self().view(ctx).one(ctx, found[0])
}

func (q *queryResolver) Instrumentations(
	ctx context.Context, first *int, after *string, last *int, before *string, filter *model.InstrumentationFilter,
) (*model.InstrumentationConnection, error) {
	p, err := pageOf(byInstrumentation, first, last, after, before)
	if err != nil {
		return nil, err
	}
	f := filterOf(filter)
	found, err := q.rules.List(ctx, caller(ctx), f, p)
	if err != nil {
		return nil, err
	}
	v := q.self().view(ctx)
	out := &model.InstrumentationConnection{
		Edges: make([]model.InstrumentationEdge, len(found.Items)), Nodes: make([]model.Instrumentation, len(found.Items)), Filter: f,
	}
	for i, rec := range found.Items {
		if out.Nodes[i], err = v.instrumentation(ctx, rec); err != nil {
			return nil, err
		}
		out.Edges[i] = model.InstrumentationEdge{Cursor: cursor(byInstrumentation, string(rec.ID)), Node: out.Nodes[i]}
	}
	out.PageInfo = pageInfo(out.Edges, found.Next, found.Previous, func(e model.InstrumentationEdge) string { return e.Cursor })
	return out, nil
}

func (q *queryResolver) PreviewScope(ctx context.Context, scope model.RawObject, metric *string, owner *uuid.UUID) (*model.ScopePreview, error) {
	in := instrumentation.PreviewInput{Metric: value(metric), Owner: owner}
	in.Scope, in.Mistakes = instrumentation.ScopeFrom(scope)
	found, err := q.rules.Preview(ctx, caller(ctx), in)
	if err != nil {
		return nil, err
	}
	return &model.ScopePreview{Of: found, ShowHosts: caller(ctx).Kind == identity.Operator}, nil
}

func (q *queryResolver) CheckCreate(ctx context.Context, input model.CreateInstrumentationInput) ([]model.UserError, error) {
	return split(q.rules.CheckCreate(ctx, caller(ctx), createInputOf(input)), "input")
}

func (q *queryResolver) CheckUpdate(ctx context.Context, input model.UpdateInstrumentationInput) ([]model.UserError, error) {
	return split(q.rules.CheckUpdate(ctx, caller(ctx), updateInputOf(input)), "input")
}

func (q *queryResolver) ExplainPlacement(ctx context.Context, id string, host, vm *uuid.UUID) (*model.PlacementExplanation, error) {
	found, err := q.rules.Explain(ctx, caller(ctx), instrumentation.ID(id), value(host), value(vm))
	if err != nil {
		return nil, err
	}
	out := &model.PlacementExplanation{Placed: found.Placed, Causes: make([]model.PlacementCause, len(found.Causes))}
	for i, c := range found.Causes {
		out.Causes[i] = model.PlacementCause{Code: c.Code, Message: c.Message}
	}
	return out, nil
}

func (q *queryResolver) Limits(ctx context.Context, owner *uuid.UUID) (*model.Limits, error) {
	l, err := q.rules.Limits(ctx, caller(ctx), owner)
	if err != nil {
		return nil, err
	}
	p := l.Policy
	return &model.Limits{
		Instrumentations: l.Instrumentations, InstrumentationsUsed: l.InstrumentationsUsed,
		TracingInstrumentations: l.TracingInstrumentations, TracingInstrumentationsUsed: l.TracingInstrumentationsUsed,
		NameBytes: p.NameBytes, Tags: p.Tags, TagKeyBytes: p.TagKeyBytes, TagValueBytes: p.TagValueBytes, Targets: p.Targets,
		ScopeDepth: p.ScopeDepth, ScopeTerms: p.ScopeLeaves, ScopeUuids: p.ScopeUUIDs, ScopeValues: p.ScopeValues,
		ScopeTextBytes: p.ScopeTextBytes, PredicateDepth: p.PredicateDepth, PredicateComparisons: p.PredicateLeaves,
		DiscreteDecompositions: p.DiscreteDecompositions, GranularitySeconds: p.GranularitySeconds,
		DefaultTracingTTLSeconds: int(p.TracingTTL / time.Second), MaxTracingTTLSeconds: int(p.MaxTracingTTL / time.Second),
		MaxTTLSeconds: int(p.MaxTTL / time.Second), JoinTokenTTLSeconds: int(p.JoinTokenTTL / time.Second),
	}, nil
}

func (q *queryResolver) Hosts(ctx context.Context, first *int, after *string, online *bool) (*model.HostConnection, error) {
	p, err := pageOf(byHost, first, nil, after, nil)
	if err != nil {
		return nil, err
	}
	found, err := q.rules.Fleet(ctx, caller(ctx), online, p)
	if err != nil {
		return nil, err
	}
	nodes := make([]model.Host, len(found.Items))
	for i, h := range found.Items {
		nodes[i] = model.Host{Node: h.Host, Fleet: &h}
	}
	out := hostPage(nodes, found.Next, found.Previous)
	out.Online = online
	return out, nil
}

func (q *queryResolver) Host(ctx context.Context, id uuid.UUID) (*model.Host, error) {
	found, err := q.rules.Hosts(ctx, caller(ctx), id)
	if err != nil || found[0] == nil {
		return nil, err
	}
	return &model.Host{Node: found[0].Host, Fleet: found[0]}, nil
}

func (q *queryResolver) Guards(ctx context.Context) ([]model.Guard, error) {
	found, err := q.rules.Guards(ctx, caller(ctx))
	if err != nil {
		return nil, err
	}
	out := make([]model.Guard, len(found))
	for i, g := range found {
		out[i] = model.Guard{ID: g.ID, Reason: g.Reason, WouldRemove: g.WouldRemove, Since: g.Since}
	}
	return out, nil
}

func (q *queryResolver) AuditLog(ctx context.Context, first *int, after *string) (*model.AuditEntryConnection, error) {
	p, err := pageOf(byEntry, first, nil, after, nil)
	if err != nil {
		return nil, err
	}
	found, err := q.rules.Audit(ctx, caller(ctx), p.After, p.First)
	if err != nil {
		return nil, err
	}
	out := &model.AuditEntryConnection{Edges: make([]model.AuditEntryEdge, len(found)), Nodes: make([]model.AuditEntry, len(found))}
	for i, e := range found {
		out.Nodes[i] = model.NewAuditEntry(e)
		out.Edges[i] = model.AuditEntryEdge{Cursor: cursor(byEntry, e.ID), Node: out.Nodes[i]}
	}
	// A full page may be the last: then the next one is empty.
	out.PageInfo = pageInfo(out.Edges, len(found) == p.First, p.After != "", func(e model.AuditEntryEdge) string { return e.Cursor })
	return out, nil
}

func (q *queryResolver) Assignment(ctx context.Context, host uuid.UUID) (*model.Assignment, error) {
	doc, err := q.feed.current(ctx, host)
	if err != nil {
		return nil, err
	}
	return newAssignment(doc, q.clock())
}

func (q *queryResolver) Node(ctx context.Context, id string) (model.Node, error) {
	found, err := q.Nodes(ctx, []string{id})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (q *queryResolver) Nodes(ctx context.Context, ids []string) ([]model.Node, error) {
	if len(ids) > instrumentation.MaxPage {
		return nil, badRequest("at most %d ids", instrumentation.MaxPage)
	}
	out := make([]model.Node, len(ids))
	byKind := make(map[string][]int) // the places in ids, by the prefix
	keys := make([][]byte, len(ids))
	for i, id := range ids {
		prefix, key, err := model.ParseGlobalID(id)
		if err != nil {
			continue // there is nothing of that id
		}
		keys[i] = key
		byKind[prefix] = append(byKind[prefix], i)
	}
	for prefix, at := range byKind {
		if err := loaders[prefix](ctx, q, keys, at, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// loaders fill the places of one kind of node. What does not exist for the caller stays nil.
var loaders = map[string]func(ctx context.Context, q *queryResolver, keys [][]byte, at []int, out []model.Node) error{
	model.InstrumentationPrefix: loadInstrumentations,
	model.MetricPrefix:          loadMetrics,
	model.VMPrefix:              loadVMs,
	model.HostPrefix:            loadHosts,
}

func loadInstrumentations(ctx context.Context, q *queryResolver, keys [][]byte, at []int, out []model.Node) error {
	ids := make([]instrumentation.ID, len(at))
	for n, i := range at {
		ids[n] = instrumentation.ID(keys[i])
	}
	found, err := q.rules.Get(ctx, caller(ctx), ids...)
	if err != nil {
		return err
	}
	v := q.self().view(ctx)
	for n, i := range at {
		one, err := v.one(ctx, found[n])
		if err != nil {
			return err
		}
		if one != nil {
			out[i] = *one
		}
	}
	return nil
}

func loadMetrics(ctx context.Context, q *queryResolver, keys [][]byte, at []int, out []model.Node) error {
	for _, i := range at {
		found, err := q.rules.Metric(ctx, caller(ctx), string(keys[i]))
		if err != nil {
			return err
		}
		if found != nil {
			out[i] = model.Metric{Of: found}
		}
	}
	return nil
}

func loadVMs(ctx context.Context, q *queryResolver, keys [][]byte, at []int, out []model.Node) error {
	found, err := q.rules.Machines(ctx, caller(ctx), uuids(keys, at)...)
	if err != nil {
		return err
	}
	for n, i := range at {
		if found[n] != nil {
			out[i] = model.VM{Machine: *found[n]}
		}
	}
	return nil
}

func loadHosts(ctx context.Context, q *queryResolver, keys [][]byte, at []int, out []model.Node) error {
	found, err := q.rules.Hosts(ctx, caller(ctx), uuids(keys, at)...)
	if errors.Is(err, instrumentation.ErrForbidden) {
		return nil // hosts do not exist for others than operators
	}
	if err != nil {
		return err
	}
	for n, i := range at {
		if found[n] != nil {
			out[i] = model.Host{Node: found[n].Host, Fleet: found[n]}
		}
	}
	return nil
}

// uuids returns the keys at some places.
func uuids(keys [][]byte, at []int) []uuid.UUID {
	out := make([]uuid.UUID, len(at))
	for n, i := range at {
		out[n] = uuid.UUID(keys[i])
	}
	return out
}

// value is what a pointer points at, zero for nil.
func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
