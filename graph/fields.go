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

// Coverage reads that of all instrumentations of a list together.
func (r *instrumentationResolver) Coverage(ctx context.Context, objs []*model.Instrumentation) ([]*instrumentation.Coverage, error) {
	records := make([]instrumentation.Instrumentation, len(objs))
	for i, o := range objs {
		records[i] = o.Record
	}
	found, err := r.rules.CoverageOf(ctx, caller(ctx), records)
	if err != nil {
		return nil, err
	}
	out := make([]*instrumentation.Coverage, len(found))
	for i := range found {
		out[i] = &found[i]
	}
	return out, nil
}

// Problems costs one call for each instrumentation; it is dear in complexity for that.
func (r *instrumentationResolver) Problems(ctx context.Context, objs []*model.Instrumentation) ([][]model.PlacementProblem, error) {
	out := make([][]model.PlacementProblem, len(objs))
	for i, o := range objs {
		found, err := r.rules.Problems(ctx, caller(ctx), o.Record.ID)
		if err != nil {
			return nil, err
		}
		out[i] = model.NewProblems(found)
	}
	return out, nil
}

func (r *instrumentationResolver) Vms(ctx context.Context, obj *model.Instrumentation, first *int, after *string) (*model.VMPlacementConnection, error) {
	p, err := pageOf(byVM, first, nil, after, nil)
	if err != nil {
		return nil, err
	}
	found, err := r.rules.VMs(ctx, caller(ctx), obj.Record.ID, p)
	if err != nil {
		return nil, err
	}
	out := &model.VMPlacementConnection{
		Edges: make([]model.VMPlacementEdge, len(found.Items)), Nodes: make([]model.VM, len(found.Items)), Of: obj.Record.ID,
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
	found, err := r.rules.Hosts(ctx, caller(ctx), obj.Record.ID, p)
	if err != nil || found == nil {
		return nil, err
	}
	out := &model.HostPlacementConnection{
		Edges: make([]model.HostPlacementEdge, len(found.Items)), Nodes: make([]model.Host, len(found.Items)), Of: obj.Record.ID,
	}
	for i, h := range found.Items {
		out.Nodes[i] = model.Host{Node: h.Host}
		out.Edges[i] = model.HostPlacementEdge{
			Cursor: cursor(byHost, h.Host.UUID.String()), Node: out.Nodes[i], Vms: append([]uuid.UUID{}, h.VMs...),
			Status: model.PlacementStatus(h.Status), Message: optional(h.Message), Since: h.Since,
		}
	}
	out.PageInfo = pageInfo(out.Edges, found.Next, found.Previous, func(e model.HostPlacementEdge) string { return e.Cursor })
	return out, nil
}

// Agent reads what is known of the agents of all hosts of a list together, where the list did not come with that.
func (r *hostResolver) Agent(ctx context.Context, objs []*model.Host) ([]*model.Agent, error) {
	out := make([]*model.Agent, len(objs))
	var unread []uuid.UUID
	var places []int
	for i, o := range objs {
		if o.Fleet != nil {
			out[i] = model.NewAgent(o.Fleet.Agent)
			continue
		}
		unread, places = append(unread, o.Node.UUID), append(places, i)
	}
	if len(unread) == 0 {
		return out, nil
	}
	found, err := r.rules.Agents(ctx, caller(ctx), unread...)
	if err != nil {
		return nil, err
	}
	for n, i := range places {
		out[i] = model.NewAgent(found[n])
	}
	return out, nil
}

// The totals are counted only when they are asked for.

func (r *instrumentationListResolver) TotalCount(ctx context.Context, obj *model.InstrumentationConnection) (int, error) {
	return r.rules.Count(ctx, caller(ctx), obj.Filter)
}

func (r *vmPlacementListResolver) TotalCount(ctx context.Context, obj *model.VMPlacementConnection) (int, error) {
	_, vms, err := r.rules.CountPlaces(ctx, caller(ctx), obj.Of)
	return vms, err
}

func (r *hostPlacementListResolver) TotalCount(ctx context.Context, obj *model.HostPlacementConnection) (int, error) {
	hosts, _, err := r.rules.CountPlaces(ctx, caller(ctx), obj.Of)
	return hosts, err
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
	nodes := make([]model.Host, len(items))
	for i, h := range items {
		nodes[i] = model.Host{Node: h}
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
