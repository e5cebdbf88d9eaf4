package main

import (
	"context"
	"fmt"
	"io"
	"maps"
)

type placesCmd struct {
	clientFlags
	ID    string `arg:"" help:"The instrumentation's id."`
	Limit bound  `default:"50" help:"At most this many zones, and this many hosts; 0 for all."`
}

// Help is what "iapi places --help" adds.
func (placesCmd) Help() string {
	return `Tenants see zones only.

  iapi places i-06h07ecrugrq8e2nechg
  iapi places i-06h07ecrugrq8e2nechg --limit 0 -o json`
}

// placedVM is a zone of an instrumentation.
type placedVM struct {
	Node struct {
		UUID  string  `json:"uuid"`
		Alias *string `json:"alias"`
		Owner *string `json:"owner"`
		Host  *string `json:"host"`
		State string  `json:"state"`
	} `json:"node"`
	Status  string  `json:"status"`
	Message *string `json:"message"`
}

// placedHost is a host of an instrumentation.
type placedHost struct {
	Node struct {
		UUID string `json:"uuid"`
		Name string `json:"name"`
	} `json:"node"`
	VMs     []string `json:"vms"`
	Status  string   `json:"status"`
	Message *string  `json:"message"`
}

type placesView struct {
	VMs   []placedVM   `json:"vms"`
	Hosts []placedHost `json:"hosts"`
}

func (c placesCmd) Run(ctx context.Context, s streams) error {
	cl := c.client()
	variables := map[string]any{"id": c.ID}
	vms, moreVMs, err := places[placedVM](ctx, cl, c.ID, placedVMsDocument, variables, int(c.Limit))
	if err != nil {
		return err
	}
	hosts, moreHosts, err := places[placedHost](ctx, cl, c.ID, placedHostsDocument, variables, int(c.Limit))
	if err != nil {
		return err
	}
	if moreVMs || moreHosts {
		defer fmt.Fprintln(s.err, "There are more: --limit 0 shows all.")
	}
	return c.print(s.out, placesView{VMs: vms, Hosts: hosts}, func(w io.Writer) {
		if len(vms) > 0 {
			t := newTable(w, "ZONE", "STATUS", "ALIAS", "HOST", "WHY")
			for _, p := range vms {
				t.row(p.Node.UUID, p.Status, deref(p.Node.Alias), deref(p.Node.Host), deref(p.Message))
			}
			t.flush()
		}
		if len(vms) > 0 && len(hosts) > 0 {
			fmt.Fprintln(w)
		}
		if len(hosts) > 0 {
			t := newTable(w, "HOST", "STATUS", "NAME", "WHAT", "WHY")
			for _, p := range hosts {
				what := "the whole host"
				if len(p.VMs) > 0 {
					what = fmt.Sprintf("%d zone(s)", len(p.VMs))
				}
				t.row(p.Node.UUID, p.Status, p.Node.Name, what, deref(p.Message))
			}
			t.flush()
		}
		if len(vms)+len(hosts) == 0 {
			fmt.Fprintln(w, "It covers nothing now.")
		}
	})
}

// places reads the places of an instrumentation, page by page, up to a limit; 0: all. A caller who may not see them has none.
func places[T any](ctx context.Context, c *client, id, document string, variables map[string]any, limit int) (all []T, more bool, err error) {
	variables = maps.Clone(variables)
	all = []T{}
	for {
		variables["first"] = 500
		if limit > 0 {
			variables["first"] = min(500, limit-len(all))
		}
		var found *struct {
			Places *struct {
				Edges    []T `json:"edges"`
				PageInfo struct {
					HasNextPage bool    `json:"hasNextPage"`
					EndCursor   *string `json:"endCursor"`
				} `json:"pageInfo"`
			} `json:"places"`
		}
		if err := c.one(ctx, document, variables, &found); err != nil {
			return nil, false, err
		}
		if found == nil {
			return nil, false, noInstrumentation(id)
		}
		if found.Places == nil {
			return all, false, nil
		}
		all = append(all, found.Places.Edges...)
		info := found.Places.PageInfo
		if !info.HasNextPage || info.EndCursor == nil {
			return all, false, nil
		}
		if limit > 0 && len(all) >= limit {
			return all, true, nil
		}
		variables["after"] = *info.EndCursor
	}
}
