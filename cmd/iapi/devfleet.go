//go:build !illumos

package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/collectors/zone"
	"iapi/inventory/vmapitest"
)

// devOwner owns every container of the machine that "iapi dev" runs on.
var devOwner = uuid.MustParse("930896af-bf8c-48d4-885c-6573a94b1853")

// localFleet keeps the simulated inventory equal to this machine: the host, and its containers as its VMs.
type localFleet struct {
	host  uuid.UUID
	zones *zone.Resolver
	sim   *vmapitest.Server
	log   *slog.Logger
	seen  map[uuid.UUID]vmapitest.VM
}

// start puts the host and its present zones into the inventory.
func (f *localFleet) start(ctx context.Context) error {
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find this host's name: %w", err)
	}
	if err := f.sim.PutHost(vmapitest.Host{UUID: f.host, Hostname: name, Datacenter: "dev", Headnode: true,
		Traits: map[string]any{"os": runtime.GOOS, "arch": runtime.GOARCH}}); err != nil {
		return fmt.Errorf("put this host into the inventory: %w", err)
	}
	f.seen = make(map[uuid.UUID]vmapitest.VM)
	return f.update(ctx)
}

// run follows the zones of this machine until ctx ends.
func (f *localFleet) run(ctx context.Context) error {
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		err := f.update(ctx)
		if err != nil && !failing {
			f.log.Warn("this machine's containers cannot be listed; the last list stays", "error", err)
		}
		failing = err != nil
	}
}

func (f *localFleet) update(ctx context.Context) error {
	zones, err := f.zones.List(ctx)
	if err != nil {
		return fmt.Errorf("list this machine's containers: %w", err)
	}
	present := make(map[uuid.UUID]bool, len(zones))
	for _, z := range zones {
		present[z.UUID] = true
		vm := vmapitest.VM{UUID: z.UUID, Owner: devOwner, Host: f.host, Alias: vmAlias(z), State: z.State, Tags: make(map[string]any, len(z.Tags))}
		for k, v := range z.Tags {
			vm.Tags[k] = v
		}
		old, known := f.seen[z.UUID]
		if known && old.State == vm.State && old.Alias == vm.Alias && maps.Equal(old.Tags, vm.Tags) {
			continue
		}
		if err := f.sim.Put(vm); err != nil {
			f.log.Warn("a container cannot be shown as a VM", "container", z.ID, "error", err)
		}
		f.seen[z.UUID] = vm
	}
	for id := range f.seen {
		if present[id] {
			continue
		}
		if err := f.sim.Destroy(id); err != nil {
			return fmt.Errorf("take a container out of the inventory: %w", err)
		}
		delete(f.seen, id)
	}
	return nil
}

// vmAlias makes a container's name into what VMAPI takes for an alias.
func vmAlias(z zone.Zone) string {
	alias := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		}
		return '-'
	}, strings.TrimPrefix(z.Alias, "/"))
	return strings.TrimLeft(alias, "_.-")
}
