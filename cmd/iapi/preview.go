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
	Metric string `arg:"" optional:"" help:"Also tell where this metric cannot be measured."`
	Show   int    `default:"20" help:"Show this many zones and hosts."`
}

func (c previewCmd) Run(ctx context.Context, s streams) error {
	scope, err := c.scopeFlags.input()
	if err != nil {
		return err
	}
	variables := map[string]any{"scope": scope, "first": c.Show}
	if c.Metric != "" {
		variables["metric"] = c.Metric
	}
	if c.Owner != "" {
		variables["owner"] = c.Owner
	}
	var data struct {
		Preview struct {
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
			Token         string        `json:"token"`
		} `json:"previewScope"`
	}
	if err := c.client().do(ctx, previewDocument, variables, &data); err != nil {
		return err
	}
	p := data.Preview
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
		fmt.Fprintf(w, "\nTo create exactly this within ten minutes: --preview-token %s\n", p.Token)
	})
}
