package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

type previewCmd struct {
	clientFlags
	scopeFlags
	Metric string `arg:"" optional:"" help:"Also tell where this metric cannot be measured, and give a token that binds a create of it."`
	Show   int    `default:"20" help:"Show this many zones and this many hosts, 0 to 500."`
}

// Help is what "iapi preview --help" adds.
func (previewCmd) Help() string {
	return `Nothing is changed. With a metric, the token that it ends with binds a create of that metric to what it has shown.

  iapi preview --vm-tag role=web
  iapi preview cpu.usage --all --owner 930896af-bf8c-48d4-885c-6573a94b1853
  iapi preview --host-tag os=linux --show 100 -o json`
}

func (c previewCmd) Run(ctx context.Context, s streams) error {
	scope, err := c.scopeFlags.input()
	if err != nil {
		return err
	}
	if c.Show < 0 || c.Show > 500 {
		return usageError("--show %d: want 0 to 500", c.Show)
	}
	variables := map[string]any{"scope": scope, "first": c.Show}
	if c.Metric != "" {
		variables["metric"] = c.Metric
	}
	if c.Owner != "" {
		variables["owner"] = c.Owner
	}
	var p struct {
		VMCount   int  `json:"vmCount"`
		HostCount *int `json:"hostCount"`
		VMs       struct {
			Nodes []struct {
				UUID  string  `json:"uuid"`
				Alias *string `json:"alias"`
				State string  `json:"state"`
				Owner *string `json:"owner"`
				Host  *string `json:"host"`
			} `json:"nodes"`
		} `json:"vms"`
		Hosts *struct {
			Nodes []struct {
				UUID string `json:"uuid"`
				Name string `json:"name"`
			} `json:"nodes"`
		} `json:"hosts"`
		Problems      []problemView `json:"problems"`
		InventoryAsOf time.Time     `json:"inventoryAsOf"`
		Token         string        `json:"token,omitempty"`
	}
	if err := c.client().one(ctx, previewDocument, variables, &p); err != nil {
		return err
	}
	if c.Metric == "" {
		p.Token = "" // it binds no create
	}
	return c.print(s.out, p, func(w io.Writer) {
		fmt.Fprintf(w, "%d zone(s)", p.VMCount)
		if p.HostCount != nil {
			fmt.Fprintf(w, " on %d host(s)", *p.HostCount)
		}
		fmt.Fprintf(w, ", as the inventory was at %s\n", p.InventoryAsOf.Format(time.RFC3339))
		if len(p.VMs.Nodes) > 0 {
			fmt.Fprintln(w)
			t := newTable(w, "ZONE", "ALIAS", "STATE", "OWNER", "HOST")
			for _, vm := range p.VMs.Nodes {
				t.row(vm.UUID, deref(vm.Alias), vm.State, deref(vm.Owner), deref(vm.Host))
			}
			t.flush()
		}
		if p.Hosts != nil && len(p.Hosts.Nodes) > 0 {
			fmt.Fprintln(w)
			t := newTable(w, "HOST", "NAME")
			for _, h := range p.Hosts.Nodes {
				t.row(h.UUID, h.Name)
			}
			t.flush()
		}
		printProblems(w, p.Problems)
		if p.Token == "" {
			fmt.Fprintln(w, "\nWith a metric, a token would follow that binds a create of it to exactly this.")
			return
		}
		fmt.Fprintf(w, "\nTo create exactly this within ten minutes: --preview-token %s\n", p.Token)
	})
}
