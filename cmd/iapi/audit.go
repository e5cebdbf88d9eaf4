package main

import (
	"context"
	"io"
	"time"
)

type auditCmd struct {
	clientFlags
	Limit int `default:"50" help:"At most this many; 0 for all that is kept."`
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

func (c auditCmd) Run(ctx context.Context, s streams) error {
	if c.Limit < 0 {
		return usageError("--limit %d: want 0 or more", c.Limit)
	}
	cl := c.client()
	all := []auditView{}
	variables := map[string]any{}
	for {
		variables["first"] = 500
		if c.Limit > 0 {
			variables["first"] = min(500, c.Limit-len(all))
		}
		var data struct {
			Page struct {
				Nodes    []auditView `json:"nodes"`
				PageInfo struct {
					HasNextPage bool    `json:"hasNextPage"`
					EndCursor   *string `json:"endCursor"`
				} `json:"pageInfo"`
			} `json:"auditLog"`
		}
		if err := cl.do(ctx, auditDocument, variables, &data); err != nil {
			return err
		}
		all = append(all, data.Page.Nodes...)
		if !data.Page.PageInfo.HasNextPage || data.Page.PageInfo.EndCursor == nil || (c.Limit > 0 && len(all) >= c.Limit) {
			break
		}
		variables["after"] = *data.Page.PageInfo.EndCursor
	}
	return c.print(s.out, all, func(w io.Writer) {
		t := newTable(w, "AT", "CALLER", "ACTION", "SUBJECT", "OWNER", "RESULT", "DETAIL")
		for _, e := range all {
			t.row(e.At.Format(time.RFC3339), e.Caller, e.Action, orDash(e.Subject), deref(e.Owner), e.Result, deref(e.Detail))
		}
		t.flush()
	})
}
