package main

import (
	"context"
	"io"
	"strings"
)

type listCmd struct {
	clientFlags
	Owner  string   `help:"Only this account's." placeholder:"UUID"`
	Metric string   `help:"Only of this metric."`
	State  []string `help:"Only in this state: created, enabled, updating, degraded, paused, expired or deleting. Again: or."`
	Tag    []string `sep:"none" help:"Only with this tag. Again: and." placeholder:"KEY=VALUE"`
	VM     string   `name:"vm" help:"Only those that now cover this zone." placeholder:"UUID"`
	Host   string   `help:"Only those that are now on this host (operators)." placeholder:"UUID"`
	Text   string   `help:"Only with this in the name."`
	Limit  int      `default:"50" help:"At most this many; 0 for all."`
}

func (c listCmd) filter() (map[string]any, error) {
	filter := map[string]any{}
	for key, value := range map[string]string{"owner": c.Owner, "metric": c.Metric, "vm": c.VM, "host": c.Host, "text": c.Text} {
		if value != "" {
			filter[key] = value
		}
	}
	if len(c.State) > 0 {
		states := make([]string, 0, len(c.State))
		for _, s := range c.State {
			states = append(states, strings.ToUpper(s))
		}
		filter["state"] = states
	}
	tags, err := tagInputs("tag", c.Tag)
	if err != nil {
		return nil, err
	}
	if tags != nil {
		filter["tags"] = tags
	}
	return filter, nil
}

func (c listCmd) Run(ctx context.Context, s streams) error {
	if c.Limit < 0 {
		return usageError("--limit %d: want 0 or more", c.Limit)
	}
	filter, err := c.filter()
	if err != nil {
		return err
	}
	all, err := listAll(ctx, c.client(), filter, c.Limit)
	if err != nil {
		return err
	}
	return c.print(s.out, all, func(w io.Writer) {
		t := newTable(w, "ID", "STATE", "RUNNING", "METRIC", "BY", "SCOPE", "NAME", "AGE")
		for _, i := range all {
			t.row(i.ID, i.State, i.Coverage.String(), i.Metric.Name, orDash(i.by()), i.Scope.Text, orDash(i.name()), age(i.CreatedAt))
		}
		t.flush()
	})
}

// listAll pages through what a filter selects, up to a limit; 0: all.
func listAll(ctx context.Context, cl *client, filter map[string]any, limit int) ([]instrumentationView, error) {
	all := []instrumentationView{}
	variables := map[string]any{"filter": filter}
	for {
		first := 500
		if limit > 0 {
			first = min(first, limit-len(all))
		}
		variables["first"] = first
		var data struct {
			Page struct {
				Nodes    []instrumentationView `json:"nodes"`
				PageInfo struct {
					HasNextPage bool    `json:"hasNextPage"`
					EndCursor   *string `json:"endCursor"`
				} `json:"pageInfo"`
			} `json:"instrumentations"`
		}
		if err := cl.do(ctx, listDocument, variables, &data); err != nil {
			return nil, err
		}
		all = append(all, data.Page.Nodes...)
		if !data.Page.PageInfo.HasNextPage || data.Page.PageInfo.EndCursor == nil || (limit > 0 && len(all) >= limit) {
			return all, nil
		}
		variables["after"] = *data.Page.PageInfo.EndCursor
	}
}
