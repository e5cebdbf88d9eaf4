package main

import (
	"context"
	"fmt"
	"io"
)

// filterFlags select instrumentations: all of them must hold.
type filterFlags struct {
	Owner  uuidText    `help:"Only this account's." placeholder:"UUID" group:"filter"`
	Metric string      `help:"Only of this metric." group:"filter"`
	State  []stateName `help:"Only in this state: created, enabled, updating, degraded, paused, expired or deleting. Again: or." placeholder:"STATE" group:"filter"`
	Tag    []string    `sep:"none" help:"Only with this tag. Again: and." placeholder:"KEY=VALUE" group:"filter"`
	VM     uuidText    `name:"vm" help:"Only those that now cover this zone." placeholder:"UUID" group:"filter"`
	Host   uuidText    `help:"Only those that are now on this host (operators)." placeholder:"UUID" group:"filter"`
	Text   string      `help:"Only with this in the name." group:"filter"`
}

// filter makes an InstrumentationFilter.
func (c filterFlags) filter() (map[string]any, error) {
	filter := map[string]any{}
	for key, value := range map[string]string{
		"owner": string(c.Owner), "metric": c.Metric, "vm": string(c.VM), "host": string(c.Host), "text": c.Text,
	} {
		if value != "" {
			filter[key] = value
		}
	}
	if len(c.State) > 0 {
		filter["state"] = c.State
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

type listCmd struct {
	clientFlags
	filterFlags
	Limit bound  `default:"50" help:"At most this many; 0 for all."`
	After string `help:"Go on behind this cursor, which the page before it told." placeholder:"CURSOR"`
	Count bool   `help:"Only tell how many there are."`
}

// Help is what "iapi list --help" adds.
func (listCmd) Help() string {
	return `Where there are more, the last line says how to go on; it goes to the standard error.

  iapi list
  iapi list --state degraded --state updating
  iapi list --owner 930896af-bf8c-48d4-885c-6573a94b1853 --tag team=core --metric cpu.usage
  iapi list --text web --limit 0 -o json
  iapi list --host b0910f1d-bf8d-5599-b260-2852684a7e6b --count`
}

func (c listCmd) Run(ctx context.Context, s streams) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	cl := c.client()
	if c.Count {
		var list struct {
			TotalCount int `json:"totalCount"`
		}
		if err := cl.one(ctx, countDocument, map[string]any{"filter": filter}, &list); err != nil {
			return err
		}
		return c.print(s.out, list, func(w io.Writer) { fmt.Fprintln(w, list.TotalCount) })
	}
	variables := map[string]any{"filter": filter}
	if c.After != "" {
		variables["after"] = c.After
	}
	all, more, err := pages[instrumentationView](ctx, cl, listDocument, variables, int(c.Limit))
	if err != nil {
		return err
	}
	if more != "" {
		defer fmt.Fprintf(s.err, "There are more: --after %s goes on, --limit 0 shows all.\n", more)
	}
	return c.print(s.out, all, func(w io.Writer) {
		t := newTable(w, "ID", "STATE", "RUNNING", "METRIC", "BY", "SCOPE", "NAME", "AGE")
		for _, i := range all {
			t.row(i.ID, i.State, i.Coverage.String(), i.Metric.Name, orDash(i.by()), i.Scope.Text, orDash(i.name()), age(i.CreatedAt))
		}
		t.flush()
	})
}
