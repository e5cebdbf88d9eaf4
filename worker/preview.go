package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/placement"
)

var _ instrumentation.Previewer = (*Worker)(nil)

// Preview implements instrumentation.Previewer: it asks the inventory by the same query and evaluates by the same matcher
// as a create, and changes nothing. It needs no Run. It never answers from a part of the inventory: an error wraps
// instrumentation.ErrNotReady when the inventory could not be read whole.
func (w *Worker) Preview(ctx context.Context, owner uuid.UUID, scope instrumentation.Scope, metric string) (instrumentation.Preview, error) {
	asOf, err := w.Store.Now(ctx)
	if err != nil {
		return instrumentation.Preview{}, fmt.Errorf("preview: %w", err)
	}
	p := instrumentation.Preview{AsOf: asOf}
	hosts, err := w.CNAPI.Hosts(ctx)
	if err != nil {
		return p, fmt.Errorf("preview: %w: %w", instrumentation.ErrNotReady, err)
	}
	byID := make(map[uuid.UUID]*inventory.Host, len(hosts))
	for i := range hosts {
		byID[hosts[i].UUID] = &hosts[i]
	}
	m := placement.Compile(scope, owner)
	on := map[uuid.UUID]bool{}
	if m.Zones() {
		err = w.ask(ctx, placement.Needs(scope, owner), func(_ time.Time, page []inventory.VM) error {
			for i := range page {
				if m.Match(&page[i], byID[page[i].Host]) {
					p.VMs = append(p.VMs, page[i])
					on[page[i].Host] = true
				}
			}
			return nil
		})
	} else {
		for i := range hosts {
			if m.MatchHost(&hosts[i]) {
				on[hosts[i].UUID] = true
			}
		}
	}
	if err != nil {
		return p, fmt.Errorf("preview: %w: %w", instrumentation.ErrNotReady, err)
	}
	slices.SortFunc(p.VMs, func(a, b inventory.VM) int { return slices.Compare(a.UUID[:], b.UUID[:]) })
	for _, id := range sortedKeys(on) {
		h := inventory.Host{UUID: id}
		if known := byID[id]; known != nil {
			h = *known
		}
		p.Hosts = append(p.Hosts, h)
	}
	p.Problems, err = w.foresee(ctx, p, metric)
	return p, err
}

// foresee tells what would keep sources from running.
func (w *Worker) foresee(ctx context.Context, p instrumentation.Preview, metric string) ([]instrumentation.Problem, error) {
	ids := make([]uuid.UUID, len(p.Hosts))
	for i, h := range p.Hosts {
		ids[i] = h.UUID
	}
	known, err := w.fleet(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("preview: %w", err)
	}
	var def *catalog.Metric
	if metric != "" {
		def, _ = w.Catalog.Metric(metric)
	}
	found := map[string]*instrumentation.Problem{}
	var texts []string
	kind := make(map[uuid.UUID]*instrumentation.Problem, len(p.Hosts))
	for _, h := range p.Hosts {
		var agent *instrumentation.AgentInfo
		if host := known[h.UUID]; host != nil {
			agent = host.Agent
		}
		status, text := expected(agent, def)
		if text == "" {
			continue
		}
		if found[text] == nil {
			found[text] = &instrumentation.Problem{Status: status, Message: text}
			texts = append(texts, text)
		}
		kind[h.UUID] = found[text]
		if len(p.VMs) == 0 {
			found[text].Sources++
		}
	}
	for _, vm := range p.VMs {
		if problem := kind[vm.Host]; problem != nil {
			if problem.Sources == 0 {
				problem.ExampleVM = vm.UUID
			}
			problem.Sources++
		}
	}
	slices.Sort(texts)
	var out []instrumentation.Problem
	for _, text := range texts {
		out = append(out, *found[text])
	}
	return out, nil
}

// expected says what would keep a host's sources from running, "" for nothing.
func expected(a *instrumentation.AgentInfo, def *catalog.Metric) (instrumentation.Status, string) {
	switch {
	case a == nil:
		return instrumentation.StatusOffline, "No agent has ever reported from the host."
	case def != nil && len(a.Capabilities) > 0 && !slices.ContainsFunc(def.Collectors, func(c string) bool {
		return slices.ContainsFunc(a.Capabilities, func(have string) bool { return strings.EqualFold(have, c) })
	}):
		return instrumentation.StatusUnsupported, "The agent of the host has no collector for the metric."
	case !a.Online:
		return instrumentation.StatusOffline, "The agent of the host cannot be reached at present."
	}
	return "", ""
}
