package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"iapi/inventory/vmapitest"
)

type vmapiCmd struct {
	logging
	Listen      string `default:"127.0.0.1:8088" help:"Serve here." placeholder:"ADDR"`
	Fleet       string `type:"existingfile" help:"Begin with the VMs and hosts of this JSON file; without: none." placeholder:"FILE"`
	FeedLatency period `default:"2s" help:"How late the changefeed is; the real one looks every two seconds."`
}

// Help is what "iapi vmapi --help" adds.
func (vmapiCmd) Help() string {
	return vmapitest.ControlHelp + `

  iapi vmapi --fleet examples/fleet.json`
}

func (c vmapiCmd) Run(ctx context.Context, s streams) error {
	log := c.logger(s.err)
	sim := vmapitest.New(vmapitest.Options{Logger: log, FeedLatency: time.Duration(c.FeedLatency)})
	defer sim.Close()
	var fleet vmapitest.Fleet
	if c.Fleet != "" {
		var err error
		if fleet, err = vmapitest.LoadFleet(c.Fleet); err != nil {
			return usageError("--fleet: %w", err)
		}
		if err := sim.Load(fleet); err != nil {
			return usageError("--fleet: %w", err)
		}
	}
	l, err := listen("listen", c.Listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "VMAPI and CNAPI, simulated, at http://%s: %d VMs on %d hosts\n", l.Addr(), len(fleet.VMs), len(fleet.Hosts))
	return serve(ctx, l, &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 10 * time.Second}, func(context.Context) { sim.Close() })
}
