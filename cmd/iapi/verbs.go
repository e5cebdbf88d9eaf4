package main

import (
	"cmp"
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

// Help is what "iapi get --help" adds.
func (getCmd) Help() string {
	return `  iapi get i-06h07ecrugrq8e2nechg
  iapi get i-06h07ecrugrq8e2nechg -o json`
}

// get fetches one instrumentation; an unknown id is an error with its own exit code.
func (c *client) get(ctx context.Context, id string) (instrumentationView, error) {
	var found *instrumentationView
	if err := c.one(ctx, getDocument, map[string]any{"id": id}, &found); err != nil {
		return instrumentationView{}, err
	}
	if found == nil {
		return instrumentationView{}, noInstrumentation(id)
	}
	return *found, nil
}

func noInstrumentation(id string) error {
	return &exitError{code: exitNotFound, err: fmt.Errorf("there is no instrumentation %q; \"iapi list\" lists them", id)}
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
		t.row("coverage", i.Coverage.sentence())
		t.row("metric", i.Metric.String())
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
		t.row("granularity", shortDuration(time.Duration(i.GranularitySeconds)*time.Second))
		t.row("revision", strconv.Itoa(i.Revision))
		t.row("created", i.CreatedAt.Format(time.RFC3339)+" ("+age(i.CreatedAt)+" ago)")
		if i.ExpiresAt != nil {
			t.row("expires", i.ExpiresAt.Format(time.RFC3339)+" ("+until(*i.ExpiresAt)+")")
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
	ID  []string `arg:"" optional:"" help:"Ids of instrumentations."`
	All bool     `help:"Compare everything with the inventory."`
}

// Help is what "iapi refresh --help" adds.
func (refreshCmd) Help() string {
	return `Nothing needs it when all is well: the inventory is followed, and compared from time to time.

  iapi refresh i-06h07ecrugrq8e2nechg
  iapi refresh --all`
}

func (c refreshCmd) Run(ctx context.Context, s streams) error {
	switch {
	case c.All == (len(c.ID) > 0):
		return usageError("give an id, or --all")
	case c.All:
		return c.accept(ctx, s, refreshAllDocument, nil, "Everything is being compared with the inventory.")
	default:
		return c.mutateEach(ctx, s, refreshDocument, c.ID)
	}
}

// accept runs a mutation that something else will do, and says so.
func (f clientFlags) accept(ctx context.Context, s streams, document string, variables map[string]any, done string) error {
	var accepted struct {
		Accepted bool `json:"accepted"`
	}
	if err := f.client().one(ctx, document, variables, &accepted); err != nil {
		return err
	}
	if !accepted.Accepted {
		return &exitError{code: exitFailed, err: fmt.Errorf("the API did not accept it")}
	}
	return f.print(s.out, accepted, func(w io.Writer) { fmt.Fprintln(w, done) })
}

type deleteCmd struct {
	clientFlags
	filterFlags
	ID     []string `arg:"" optional:"" help:"Ids of instrumentations."`
	Expect bound    `default:"0" help:"With a filter: how many it must match; refused if there are more or fewer." placeholder:"NUMBER"`
}

// Help is what "iapi delete --help" adds.
func (deleteCmd) Help() string {
	return `Deletes by id, or all that a filter matches. "iapi list --count" with the same filter tells how many these are.

  iapi delete i-06h07ecrugrq8e2nechg
  iapi delete --tag team=core --metric cpu.usage --expect 3`
}

func (c deleteCmd) Run(ctx context.Context, s streams) error {
	filter, err := c.filter()
	switch {
	case err != nil:
		return err
	case (len(c.ID) > 0) == (len(filter) > 0):
		return usageError("give ids, or a filter such as --tag with --expect")
	case len(c.ID) > 0 && c.Expect > 0:
		return usageError("--expect goes with a filter")
	case len(c.ID) > 0:
		cl := c.client()
		return c.each(s, c.ID, func(id string) (any, error) {
			var gone struct {
				DeletedID string `json:"deletedId"`
			}
			err := cl.one(ctx, deleteDocument, map[string]any{"input": map[string]any{"id": id}}, &gone)
			return gone, err
		})
	case c.Expect == 0:
		return usageError("--expect is missing: how many must match? \"iapi list --count\" with the same filter tells")
	}
	var data struct {
		Result struct {
			DeletedCount int         `json:"deletedCount"`
			DeletedIDs   []string    `json:"deletedIds"`
			UserErrors   []userError `json:"userErrors"`
		} `json:"deleteInstrumentations"`
	}
	input := map[string]any{"filter": filter, "expectedCount": c.Expect}
	if err := c.client().do(ctx, deleteAllDocument, map[string]any{"input": input}, &data); err != nil {
		return err
	}
	refused, gone := refusal(data.Result.UserErrors), data.Result
	if refused != nil && gone.DeletedCount == 0 {
		return refused
	}
	shown := struct {
		DeletedCount int      `json:"deletedCount"`
		DeletedIDs   []string `json:"deletedIds"`
	}{gone.DeletedCount, gone.DeletedIDs}
	err = c.print(s.out, shown, func(w io.Writer) { fmt.Fprintf(w, "%d deleted\n", gone.DeletedCount) })
	return cmp.Or(refused, err)
}

type explainCmd struct {
	clientFlags
	ID   string   `arg:"" help:"The instrumentation's id."`
	Host uuidText `help:"Why on this host (operators)." placeholder:"UUID" xor:"place" required:""`
	VM   uuidText `name:"vm" help:"Why in this zone." placeholder:"UUID" xor:"place" required:""`
}

// Help is what "iapi explain --help" adds.
func (explainCmd) Help() string {
	return `The deciding cause comes first.

  iapi explain i-06h07ecrugrq8e2nechg --host b0910f1d-bf8d-5599-b260-2852684a7e6b
  iapi explain i-06h07ecrugrq8e2nechg --vm 7d0ef4ac-4e4f-4a3c-8d0e-2f6ff0c0f3a1`
}

func (c explainCmd) Run(ctx context.Context, s streams) error {
	variables := map[string]any{"id": c.ID}
	if c.Host != "" {
		variables["host"] = c.Host
	}
	if c.VM != "" {
		variables["vm"] = c.VM
	}
	var explanation struct {
		Placed bool `json:"placed"`
		Causes []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"causes"`
	}
	if err := c.client().one(ctx, explainDocument, variables, &explanation); err != nil {
		if exitCode(err) == exitNotFound {
			return noInstrumentation(c.ID)
		}
		return err
	}
	return c.print(s.out, explanation, func(w io.Writer) {
		if explanation.Placed {
			fmt.Fprintln(w, "It is placed there.")
		} else {
			fmt.Fprintln(w, "It is not placed there.")
		}
		t := newTable(w)
		for _, cause := range explanation.Causes {
			t.row("  "+cause.Code, cause.Message)
		}
		t.flush()
	})
}

type limitsCmd struct {
	clientFlags
	Owner uuidText `help:"Of this account. Without: your own; for operators: the operators' own." placeholder:"UUID"`
}

// Help is what "iapi limits --help" adds.
func (limitsCmd) Help() string {
	return `  iapi limits
  iapi limits --owner 930896af-bf8c-48d4-885c-6573a94b1853`
}

func (c limitsCmd) Run(ctx context.Context, s streams) error {
	variables := map[string]any{}
	if c.Owner != "" {
		variables["owner"] = c.Owner
	}
	var limits limitsView
	if err := c.client().one(ctx, limitsDocument, variables, &limits); err != nil {
		return err
	}
	return c.print(s.out, limits, func(w io.Writer) {
		t := newTable(w, "WHAT", "USED", "LIMIT")
		for _, l := range limits.lines() {
			t.row(l...)
		}
		t.flush()
	})
}

type notifyCmd struct {
	clientFlags
	VM        uuidText `arg:"" name:"vm" help:"The VM's uuid."`
	Kind      string   `enum:"provisioned,deprovisioned,tags-updated,moved,other" default:"other" help:"What has happened: ${enum}."`
	RequestID string   `name:"request-id" help:"The workflow's own id, for the audit log." placeholder:"TEXT"`
}

// Help is what "iapi notify --help" adds.
func (notifyCmd) Help() string {
	return `A hint: IAPI asks the inventory what is true. Without it the changefeed or the next sweep finds out.

  iapi notify 7d0ef4ac-4e4f-4a3c-8d0e-2f6ff0c0f3a1 --kind tags-updated`
}

func (c notifyCmd) Run(ctx context.Context, s streams) error {
	input := map[string]any{"vm": c.VM, "kind": strings.ToUpper(strings.ReplaceAll(c.Kind, "-", "_"))}
	if c.RequestID != "" {
		input["requestId"] = c.RequestID
	}
	return c.accept(ctx, s, notifyDocument, map[string]any{"input": input}, "The inventory is being asked.")
}
