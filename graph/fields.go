package graph

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"iapi/graph/model"
	"iapi/instrumentation"
	"iapi/inventory"
)

// What follows reads for all instrumentations of a list together.

func (r *instrumentationResolver) Coverage(ctx context.Context, obj *model.Instrumentation) (*instrumentation.Coverage, error) {
	found, err := model.Ask(obj.List, obj.At, "coverage", func(of []instrumentation.Instrumentation) ([]instrumentation.Coverage, error) {
		return r.rules.CoverageOf(ctx, caller(ctx), of)
	})
	return &found, err
}

func (r *instrumentationResolver) Problems(ctx context.Context, obj *model.Instrumentation) ([]model.PlacementProblem, error) {
	found, err := model.Ask(obj.List, obj.At, "problems", func(of []instrumentation.Instrumentation) ([][]instrumentation.Problem, error) {
		return r.rules.ProblemsOf(ctx, caller(ctx), of)
	})
	return model.NewProblems(found), err
}

// placesKey is what a page of places is asked by.
type placesKey struct {
	kind byte
	page instrumentation.Page
}

func (r *instrumentationResolver) Vms(ctx context.Context, obj *model.Instrumentation, first *int, after *string) (*model.VMPlacementConnection, error) {
	p, err := pageOf(byVM, first, nil, after, nil)
	if err != nil {
		return nil, err
	}
	found, err := model.Ask(obj.List, obj.At, placesKey{byVM, p},
		func(of []instrumentation.Instrumentation) ([]instrumentation.Found[instrumentation.VMPlacement], error) {
			return r.rules.VMsOf(ctx, caller(ctx), of, p)
		})
	if err != nil {
		return nil, err
	}
	out := &model.VMPlacementConnection{
		Edges: make([]model.VMPlacementEdge, len(found.Items)), Nodes: make([]model.VM, len(found.Items)), TotalCount: found.Total,
	}
	for i, v := range found.Items {
		out.Nodes[i] = model.VM{Machine: v.VM}
		out.Edges[i] = model.VMPlacementEdge{
			Cursor: cursor(byVM, v.VM.UUID.String()), Node: out.Nodes[i],
			Status: model.PlacementStatus(v.Status), Message: optional(v.Message),
		}
	}
	out.PageInfo = pageInfo(out.Edges, found.Next, found.Previous, func(e model.VMPlacementEdge) string { return e.Cursor })
	return out, nil
}

func (r *instrumentationResolver) Hosts(ctx context.Context, obj *model.Instrumentation, first *int, after *string) (*model.HostPlacementConnection, error) {
	p, err := pageOf(byHost, first, nil, after, nil)
	if err != nil {
		return nil, err
	}
	found, err := model.Ask(obj.List, obj.At, placesKey{byHost, p},
		func(of []instrumentation.Instrumentation) ([]*instrumentation.Found[instrumentation.HostPlacement], error) {
			return r.rules.HostsOf(ctx, caller(ctx), of, p)
		})
	if err != nil || found == nil {
		return nil, err
	}
	out := &model.HostPlacementConnection{
		Edges: make([]model.HostPlacementEdge, len(found.Items)), Nodes: make([]model.Host, len(found.Items)), TotalCount: found.Total,
	}
	for i, h := range found.Items {
		out.Nodes[i] = model.Host{Node: h.Host, Fleet: &instrumentation.FleetHost{Host: h.Host, Agent: h.Agent}}
		out.Edges[i] = model.HostPlacementEdge{
			Cursor: cursor(byHost, h.Host.UUID.String()), Node: out.Nodes[i], Vms: append([]uuid.UUID{}, h.VMs...),
			Status: model.PlacementStatus(h.Status), Message: optional(h.Message), Since: h.Since,
		}
	}
	out.PageInfo = pageInfo(out.Edges, found.Next, found.Previous, func(e model.HostPlacementEdge) string { return e.Cursor })
	return out, nil
}

// Agent reads what is known of the agents of all hosts of a list together, where the list did not come with that.
func (r *hostResolver) Agent(ctx context.Context, obj *model.Host) (*model.Agent, error) {
	if obj.Fleet != nil {
		return model.NewAgent(obj.Fleet.Agent), nil
	}
	found, err := model.Ask(obj.List, obj.At, "agent", func(of []inventory.Host) ([]*instrumentation.FleetHost, error) {
		ids := make([]uuid.UUID, len(of))
		for i, h := range of {
			ids[i] = h.UUID
		}
		return r.rules.Hosts(ctx, caller(ctx), ids...)
	})
	if err != nil || found == nil {
		return nil, err
	}
	return model.NewAgent(found.Agent), nil
}

// These totals are counted only when they are asked for.

func (r *instrumentationListResolver) TotalCount(ctx context.Context, obj *model.InstrumentationConnection) (int, error) {
	return r.rules.Count(ctx, caller(ctx), obj.Filter)
}

func (r *hostListResolver) TotalCount(ctx context.Context, obj *model.HostConnection) (int, error) {
	if obj.Total != nil {
		return *obj.Total, nil
	}
	return r.rules.FleetSize(ctx, caller(ctx), obj.Online)
}

func (r *metricResolver) Definition(ctx context.Context, obj *model.Metric) (*model.MetricDefinition, error) {
	found, err := r.rules.Definition(ctx, caller(ctx), obj.Of.Digest)
	if err != nil {
		return nil, err
	}
	if found == nil { // the metric is gone, and only its name is left
		return &model.MetricDefinition{Digest: obj.Of.Digest}, nil
	}
	return definitionOf(found), nil
}

// A preview is in memory, sorted by uuid. Pages are cut out of it.

func (r *previewResolver) Vms(_ context.Context, obj *model.ScopePreview, first *int, after *string) (*model.VMConnection, error) {
	items, next, previous, err := cut(obj.Of.VMs, byVM, first, after, func(v inventory.VM) uuid.UUID { return v.UUID })
	if err != nil {
		return nil, err
	}
	out := &model.VMConnection{Edges: make([]model.VMEdge, len(items)), Nodes: make([]model.VM, len(items)), TotalCount: len(obj.Of.VMs)}
	for i, v := range items {
		out.Nodes[i] = model.VM{Machine: v}
		out.Edges[i] = model.VMEdge{Cursor: cursor(byVM, v.UUID.String()), Node: out.Nodes[i]}
	}
	out.PageInfo = pageInfo(out.Edges, next, previous, func(e model.VMEdge) string { return e.Cursor })
	return out, nil
}

func (r *previewResolver) Hosts(_ context.Context, obj *model.ScopePreview, first *int, after *string) (*model.HostConnection, error) {
	if !obj.ShowHosts {
		return nil, nil
	}
	items, next, previous, err := cut(obj.Of.Hosts, byHost, first, after, func(h inventory.Host) uuid.UUID { return h.UUID })
	if err != nil {
		return nil, err
	}
	nodes, list := make([]model.Host, len(items)), &model.List[inventory.Host]{Items: items}
	for i, h := range items {
		nodes[i] = model.Host{Node: h, List: list, At: i}
	}
	out := hostPage(nodes, next, previous)
	total := len(obj.Of.Hosts)
	out.Total = &total
	return out, nil
}

func cut[T any](all []T, kind byte, first *int, after *string, key func(T) uuid.UUID) (items []T, next, previous bool, err error) {
	p, err := pageOf(kind, first, nil, after, nil)
	if err != nil {
		return nil, false, false, err
	}
	start := 0
	if p.After != "" {
		id, err := uuid.Parse(p.After)
		if err != nil {
			return nil, false, false, badRequest("this is no cursor of this list: %q", strings.ToValidUTF8(*after, "?"))
		}
		at, found := slices.BinarySearchFunc(all, id, func(t T, id uuid.UUID) int {
			k := key(t)
			return bytes.Compare(k[:], id[:])
		})
		if start = at; found {
			start++
		}
	}
	end := min(start+p.First, len(all))
	return all[start:end], end < len(all), start > 0, nil
}

func hostPage(nodes []model.Host, next, previous bool) *model.HostConnection {
	out := &model.HostConnection{Nodes: nodes, Edges: make([]model.HostEdge, len(nodes))}
	for i, n := range nodes {
		out.Edges[i] = model.HostEdge{Cursor: cursor(byHost, n.Node.UUID.String()), Node: n}
	}
	out.PageInfo = pageInfo(out.Edges, next, previous, func(e model.HostEdge) string { return e.Cursor })
	return out
}

// optional is nil for no text.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
