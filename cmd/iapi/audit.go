package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

type auditCmd struct {
	clientFlags
	Limit bound  `default:"50" help:"At most this many; 0 for all that is kept."`
	After string `help:"Go on behind this cursor, which the page before it told." placeholder:"CURSOR"`
}

type auditView struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	Caller  string    `json:"caller"`
	Kind    string    `json:"kind"`
	Owner   *string   `json:"owner"`
	Action  string    `json:"action"`
	Subject string    `json:"subject"`
	Detail  *string   `json:"detail"`
	Result  string    `json:"result"`
}

// Help is what "iapi audit --help" adds.
func (auditCmd) Help() string {
	return `Every mutation is there, also those that were refused.

  iapi audit
  iapi audit --limit 0 -o json`
}

func (c auditCmd) Run(ctx context.Context, s streams) error {
	variables := map[string]any{}
	if c.After != "" {
		variables["after"] = c.After
	}
	all, more, err := pages[auditView](ctx, c.client(), auditDocument, variables, int(c.Limit))
	if err != nil {
		return err
	}
	if more != "" {
		defer fmt.Fprintf(s.err, "There are more: --after %s goes on, --limit 0 shows all.\n", more)
	}
	return c.print(s.out, all, func(w io.Writer) {
		t := newTable(w, "AT", "CALLER", "ACTION", "SUBJECT", "OWNER", "RESULT", "DETAIL")
		for _, e := range all {
			t.row(e.At.Format(time.RFC3339), e.Caller, e.Action, orDash(e.Subject), deref(e.Owner), e.Result, deref(e.Detail))
		}
		t.flush()
	})
}
