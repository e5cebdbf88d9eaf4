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
	Host    uuidText `arg:"" optional:"" help:"Show this host."`
	Online  bool     `help:"Only hosts whose agent is online." xor:"online"`
	Offline bool     `help:"Only hosts whose agent is offline, or that have none." xor:"online"`
	Limit   bound    `default:"0" help:"At most this many; 0 for all."`
	After   string   `help:"Go on behind this cursor, which the page before it told." placeholder:"CURSOR"`
}

// Help is what "iapi fleet --help" adds.
func (fleetCmd) Help() string {
	return `"iapi hosts" is the same.

  iapi fleet
  iapi fleet --offline
  iapi fleet b0910f1d-bf8d-5599-b260-2852684a7e6b`
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
			Epoch      string `json:"epoch,omitempty"`
			Generation int64  `json:"generation"`
			Hash       string `json:"hash,omitempty"`
		} `json:"applied"`
		Capabilities []string `json:"capabilities"`
	} `json:"agent"`
}

// agent tells in one word how the agent is, when it was last heard of, and which generation it runs.
func (h hostView) agent() (state, seen, generation string) {
	state, seen, generation = "none", "-", "-"
	if h.Agent == nil {
		return
	}
	state = "offline"
	if h.Agent.Online {
		state = "online"
	}
	if h.Agent.LastSeenAt != nil {
		seen = age(*h.Agent.LastSeenAt) + " ago"
	}
	if h.Agent.Applied != nil {
		generation = strconv.FormatInt(h.Agent.Applied.Generation, 10)
	}
	return
}

func (h hostView) traits() string {
	traits := make([]string, 0, len(h.Traits))
	for _, t := range h.Traits {
		traits = append(traits, t.Key+"="+t.Value)
	}
	return orDash(strings.Join(traits, " "))
}

func (c fleetCmd) Run(ctx context.Context, s streams) error {
	if c.Host != "" {
		return c.one(ctx, s)
	}
	variables := map[string]any{}
	if c.Online || c.Offline {
		variables["online"] = c.Online
	}
	if c.After != "" {
		variables["after"] = c.After
	}
	all, more, err := pages[hostView](ctx, c.client(), fleetDocument, variables, int(c.Limit))
	if err != nil {
		return err
	}
	if more != "" {
		defer fmt.Fprintf(s.err, "There are more: --after %s goes on, --limit 0 shows all.\n", more)
	}
	return c.print(s.out, all, func(w io.Writer) {
		t := newTable(w, "HOST", "NAME", "AGENT", "LAST SEEN", "GENERATION", "TRAITS")
		for _, h := range all {
			state, seen, generation := h.agent()
			t.row(h.UUID, h.Name, state, seen, generation, h.traits())
		}
		t.flush()
	})
}

func (c fleetCmd) one(ctx context.Context, s streams) error {
	if c.Online || c.Offline || c.After != "" {
		return usageError("--online, --offline and --after go without a host")
	}
	var host *hostView
	if err := c.client().one(ctx, hostDocument, map[string]any{"uuid": c.Host}, &host); err != nil {
		return err
	}
	if host == nil {
		return &exitError{code: exitNotFound, err: fmt.Errorf("there is no host %s; \"iapi fleet\" lists them", c.Host)}
	}
	return c.print(s.out, host, func(w io.Writer) {
		state, seen, generation := host.agent()
		t := newTable(w)
		t.row("host", host.UUID)
		t.row("name", host.Name)
		t.row("traits", host.traits())
		t.row("agent", state)
		if host.Agent != nil {
			t.row("last seen", seen)
			t.row("version", host.Agent.Version)
			t.row("generation", generation)
			t.row("collectors", orDash(strings.Join(host.Agent.Capabilities, " ")))
		}
		t.flush()
	})
}

type joinCmd struct {
	clientFlags
	Host uuidText `arg:"" help:"The host's uuid."`
	TTL  seconds  `name:"ttl" default:"1h" help:"How long the token can be used."`
}

// Help is what "iapi join --help" adds.
func (joinCmd) Help() string {
	return `The token holds once, and for that host only: "iapi agent --host UUID --join-token TOKEN" trades it for a credential.

  iapi join b0910f1d-bf8d-5599-b260-2852684a7e6b --ttl 10m`
}

func (c joinCmd) Run(ctx context.Context, s streams) error {
	var made struct {
		Token string `json:"token"`
	}
	input := map[string]any{"host": c.Host, "ttlSeconds": c.TTL.count()}
	if err := c.client().one(ctx, joinDocument, map[string]any{"input": input}, &made); err != nil {
		return err
	}
	return c.print(s.out, made, func(w io.Writer) { fmt.Fprintln(w, made.Token) })
}

type revokeCmd struct {
	clientFlags
	Host uuidText `arg:"" help:"The host's uuid."`
}

// Help is what "iapi revoke --help" adds.
func (revokeCmd) Help() string {
	return `Its connection ends at once; "iapi join" lets it in again.

  iapi revoke b0910f1d-bf8d-5599-b260-2852684a7e6b`
}

func (c revokeCmd) Run(ctx context.Context, s streams) error {
	return c.accept(ctx, s, revokeDocument, map[string]any{"host": c.Host}, "The agent of "+string(c.Host)+" has no credential any more.")
}

type stopTracingCmd struct {
	clientFlags
	Host       []uuidText `sep:"none" help:"On this host. Again: there too." placeholder:"UUID" xor:"where" required:""`
	Everywhere bool       `help:"On all hosts." xor:"where" required:""`
	Reason     string     `required:"" help:"Why, for the audit log." placeholder:"TEXT"`
}

// Help is what "iapi stop-tracing --help" adds.
func (stopTracingCmd) Help() string {
	return `What has stopped stays stopped until it is created anew. Statistics that need no tracing go on.

  iapi stop-tracing --everywhere --reason "load is too high"
  iapi stop-tracing --host b0910f1d-bf8d-5599-b260-2852684a7e6b --reason "maintenance"`
}

func (c stopTracingCmd) Run(ctx context.Context, s streams) error {
	input := map[string]any{"reason": c.Reason}
	if c.Everywhere {
		input["everywhere"] = true
	} else {
		input["hosts"] = c.Host
	}
	return c.accept(ctx, s, stopTracingDocument, map[string]any{"input": input}, "Tracing is being stopped.")
}

type guardsCmd struct{ clientFlags }

// Help is what "iapi guards --help" adds.
func (guardsCmd) Help() string {
	return `A sweep that would remove more than a share of all VMs, hosts or placements waits here until somebody has looked at the inventory.
"iapi confirm ID" lets it go on; if the inventory comes back, the guard goes by itself.

  iapi guards`
}

func (c guardsCmd) Run(ctx context.Context, s streams) error {
	guards := []struct {
		ID          string    `json:"id"`
		Reason      string    `json:"reason"`
		WouldRemove int       `json:"wouldRemove"`
		Since       time.Time `json:"since"`
	}{}
	if err := c.client().one(ctx, guardsDocument, nil, &guards); err != nil {
		return err
	}
	return c.print(s.out, guards, func(w io.Writer) {
		if len(guards) == 0 {
			fmt.Fprintln(w, "Nothing waits.")
			return
		}
		t := newTable(w, "GUARD", "WOULD REMOVE", "SINCE", "REASON")
		for _, g := range guards {
			t.row(g.ID, strconv.Itoa(g.WouldRemove), age(g.Since)+" ago", g.Reason)
		}
		t.flush()
	})
}

type confirmCmd struct {
	clientFlags
	ID string `arg:"" help:"The guard; \"iapi guards\" lists them."`
}

// Help is what "iapi confirm --help" adds.
func (confirmCmd) Help() string { return `  iapi confirm sweep-vms` }

func (c confirmCmd) Run(ctx context.Context, s streams) error {
	return c.accept(ctx, s, confirmDocument, map[string]any{"id": c.ID}, "The sweep goes on.")
}
