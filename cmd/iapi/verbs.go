package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

type getCmd struct {
	clientFlags
	ID string `arg:"" help:"The instrumentation's id."`
}

// get fetches one instrumentation; an unknown id is an error with its own exit code.
func (c *client) get(ctx context.Context, id string) (instrumentationView, error) {
	var data struct {
		Instrumentation *instrumentationView `json:"instrumentation"`
	}
	if err := c.do(ctx, getDocument, map[string]any{"id": id}, &data); err != nil {
		return instrumentationView{}, err
	}
	if data.Instrumentation == nil {
		return instrumentationView{}, &exitError{code: exitNotFound, err: fmt.Errorf("there is no instrumentation %q", id)}
	}
	return *data.Instrumentation, nil
}

func (c getCmd) Run(ctx context.Context, s streams) error {
	i, err := c.client().get(ctx, c.ID)
	if err != nil {
		return err
	}
	return c.print(s.out, i, func(w io.Writer) {
		t := newTable(w)
		t.row("id", i.ID)
		t.row("name", orDash(i.name()))
		t.row("state", i.State)
		running, others, _ := strings.Cut(i.Coverage.String(), ",")
		t.row("coverage", strings.TrimSuffix(running+" running,"+others, ","))
		t.row("metric", i.Metric.Name+" ("+i.Metric.Unit+")")
		t.row("by", orDash(i.by()))
		if i.Predicate != nil {
			t.row("where", i.Predicate.Text)
		}
		t.row("scope", i.Scope.Text)
		owner := "the operators"
		if i.Owner != nil {
			owner = *i.Owner
		}
		t.row("owner", owner)
		for _, target := range i.Targets {
			t.row("target", target.String())
		}
		for _, tag := range i.Tags {
			t.row("tag", tag.Key+"="+tag.Value)
		}
		t.row("granularity", (time.Duration(i.GranularitySeconds) * time.Second).String())
		t.row("revision", strconv.Itoa(i.Revision))
		t.row("created", i.CreatedAt.Format(time.RFC3339)+" ("+age(i.CreatedAt)+" ago)")
		if i.ExpiresAt != nil {
			t.row("expires", i.ExpiresAt.Format(time.RFC3339)+" (in "+time.Until(*i.ExpiresAt).Round(time.Second).String()+")")
		}
		t.flush()
		printProblems(w, i.Problems)
	})
}

func printProblems(w io.Writer, problems []problemView) {
	if len(problems) == 0 {
		return
	}
	fmt.Fprintln(w, "\nProblems:")
	t := newTable(w)
	for _, p := range problems {
		example := ""
		if p.ExampleVM != nil {
			example = "for example zone " + *p.ExampleVM
		}
		t.row("  "+p.Status, fmt.Sprintf("%d source(s)", p.Sources), p.Message, example)
	}
	t.flush()
}

func deref(s *string) string {
	if s == nil || *s == "" {
		return "-"
	}
	return *s
}

type refreshCmd struct {
	clientFlags
	ID  string `arg:"" optional:"" help:"The instrumentation's id."`
	All bool   `help:"Compare everything with the inventory."`
}

func (c refreshCmd) Run(ctx context.Context, s streams) error {
	switch {
	case c.All == (c.ID != ""):
		return usageError("give an id, or --all")
	case c.All:
		var data struct {
			Result struct {
				UserErrors []userError `json:"userErrors"`
			} `json:"refreshAll"`
		}
		if err := c.client().do(ctx, refreshAllDocument, nil, &data); err != nil {
			return err
		}
		return refusal(data.Result.UserErrors)
	default:
		var data struct {
			Result struct {
				UserErrors []userError `json:"userErrors"`
			} `json:"refreshInstrumentation"`
		}
		if err := c.client().do(ctx, refreshDocument, map[string]any{"input": map[string]any{"id": c.ID}}, &data); err != nil {
			return err
		}
		return refusal(data.Result.UserErrors)
	}
}

type deleteCmd struct {
	clientFlags
	ID []string `arg:"" help:"Ids of instrumentations."`
}

func (c deleteCmd) Run(ctx context.Context, s streams) error {
	cl := c.client()
	for _, id := range c.ID {
		var data struct {
			Result struct {
				DeletedID  *string     `json:"deletedId"`
				UserErrors []userError `json:"userErrors"`
			} `json:"deleteInstrumentation"`
		}
		if err := cl.do(ctx, deleteDocument, map[string]any{"input": map[string]any{"id": id}}, &data); err != nil {
			return err
		}
		if err := refusal(data.Result.UserErrors); err != nil {
			return err
		}
		fmt.Fprintln(s.out, id)
	}
	return nil
}

type explainCmd struct {
	clientFlags
	ID   string `arg:"" help:"The instrumentation's id."`
	Host string `help:"Why on this host (operators)." placeholder:"UUID" xor:"place" required:""`
	VM   string `name:"vm" help:"Why in this zone." placeholder:"UUID" xor:"place" required:""`
}

func (c explainCmd) Run(ctx context.Context, s streams) error {
	variables := map[string]any{"id": c.ID}
	if c.Host != "" {
		variables["host"] = c.Host
	}
	if c.VM != "" {
		variables["vm"] = c.VM
	}
	var data struct {
		Explanation struct {
			Placed bool `json:"placed"`
			Causes []struct {
				Code    string `json:"code"`
				Message string `json:"message"`
			} `json:"causes"`
		} `json:"explainPlacement"`
	}
	if err := c.client().do(ctx, explainDocument, variables, &data); err != nil {
		return err
	}
	return c.print(s.out, data.Explanation, func(w io.Writer) {
		if data.Explanation.Placed {
			fmt.Fprintln(w, "It is placed there.")
		} else {
			fmt.Fprintln(w, "It is not placed there.")
		}
		t := newTable(w)
		for _, cause := range data.Explanation.Causes {
			t.row("  "+cause.Code, cause.Message)
		}
		t.flush()
	})
}
