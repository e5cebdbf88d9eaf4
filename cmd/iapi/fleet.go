package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

type fleetCmd struct {
	clientFlags
	Online  bool `help:"Only hosts whose agent is online." xor:"online"`
	Offline bool `help:"Only hosts whose agent is offline, or that have none." xor:"online"`
}

type hostView struct {
	UUID   string `json:"uuid"`
	Name   string `json:"name"`
	Traits []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"traits"`
	Agent *struct {
		Version    string     `json:"version"`
		Online     bool       `json:"online"`
		LastSeenAt *time.Time `json:"lastSeenAt"`
		Applied    *struct {
			Generation int64 `json:"generation"`
		} `json:"applied"`
		Capabilities []string `json:"capabilities"`
	} `json:"agent"`
}

func (c fleetCmd) Run(ctx context.Context, s streams) error {
	variables := map[string]any{"first": 500}
	if c.Online || c.Offline {
		variables["online"] = c.Online
	}
	all := []hostView{}
	for {
		var data struct {
			Page struct {
				Nodes    []hostView `json:"nodes"`
				PageInfo struct {
					HasNextPage bool    `json:"hasNextPage"`
					EndCursor   *string `json:"endCursor"`
				} `json:"pageInfo"`
			} `json:"hosts"`
		}
		if err := c.client().do(ctx, fleetDocument, variables, &data); err != nil {
			return err
		}
		all = append(all, data.Page.Nodes...)
		if !data.Page.PageInfo.HasNextPage || data.Page.PageInfo.EndCursor == nil {
			break
		}
		variables["after"] = *data.Page.PageInfo.EndCursor
	}
	return c.print(s.out, all, func(w io.Writer) {
		t := newTable(w, "HOST", "NAME", "AGENT", "LAST SEEN", "GENERATION", "TRAITS")
		for _, h := range all {
			agent, seen, generation := "none", "-", "-"
			if h.Agent != nil {
				agent = "offline"
				if h.Agent.Online {
					agent = "online"
				}
				if h.Agent.LastSeenAt != nil {
					seen = age(*h.Agent.LastSeenAt) + " ago"
				}
				if h.Agent.Applied != nil {
					generation = strconv.FormatInt(h.Agent.Applied.Generation, 10)
				}
			}
			traits := make([]string, 0, len(h.Traits))
			for _, tr := range h.Traits {
				traits = append(traits, tr.Key+"="+tr.Value)
			}
			t.row(h.UUID, h.Name, agent, seen, generation, orDash(strings.Join(traits, " ")))
		}
		t.flush()
	})
}

type joinCmd struct {
	clientFlags
	Host string        `arg:"" help:"The host's uuid."`
	TTL  time.Duration `name:"ttl" default:"1h" help:"How long the token can be used."`
}

func (c joinCmd) Run(ctx context.Context, s streams) error {
	seconds, err := wholeSeconds("ttl", c.TTL)
	if err != nil {
		return err
	}
	var data struct {
		Result struct {
			Token      *string     `json:"token"`
			UserErrors []userError `json:"userErrors"`
		} `json:"createJoinToken"`
	}
	if err := c.client().do(ctx, joinDocument, map[string]any{"input": map[string]any{"host": c.Host, "ttlSeconds": seconds}}, &data); err != nil {
		return err
	}
	if err := refusal(data.Result.UserErrors); err != nil {
		return err
	}
	return c.print(s.out, data.Result, func(w io.Writer) { fmt.Fprintln(w, deref(data.Result.Token)) })
}
