package vmapitest

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
)

// Put writes VMs whole, as a PUT of each to VMAPI would, and publishes the changes. Putting a VM in state destroyed is
// its destruction. Errors name the VM and the field; what stands before a bad one is written.
func (s *Server) Put(vms ...VM) error {
	for _, v := range vms {
		if err := v.normalize(); err != nil {
			return fmt.Errorf("VM %s: %w", v.UUID, err)
		}
		s.mu.Lock()
		s.write(v, putSingle)
		s.mu.Unlock()
	}
	return nil
}

// Load adds a fleet as if it had always been there: nothing is published.
func (s *Server) Load(f Fleet) error {
	for _, h := range f.Hosts {
		if err := s.PutHost(h); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range f.VMs {
		if err := v.normalize(); err != nil {
			return fmt.Errorf("VM %s: %w", v.UUID, err)
		}
		s.write(v, putSilent)
	}
	return nil
}

// Destroy destroys a VM by a single PUT: the message says destroyed but not state.
func (s *Server) Destroy(id uuid.UUID) error {
	return s.change(id, putSingle, func(v *VM) { v.State = "destroyed" })
}

// DestroyInBulk destroys a VM as a host does at start-up: the message says state but not destroyed, and the VM's
// destroyed stays null for ever.
func (s *Server) DestroyInBulk(id uuid.UUID) error {
	return s.change(id, putBulkDestroy, func(v *VM) { v.State, v.ZoneState = "destroyed", "destroyed" })
}

// SetTags replaces a VM's tags.
func (s *Server) SetTags(id uuid.UUID, tags map[string]any) error {
	if err := checkTags(tags); err != nil {
		return fmt.Errorf("VM %s: tags: %w", id, err)
	}
	return s.change(id, putSingle, func(v *VM) { v.Tags = tags })
}

// SetState sets a VM's state.
func (s *Server) SetState(id uuid.UUID, state string) error {
	if !slices.Contains(vmStates, state) {
		return fmt.Errorf("VM %s: state: %q is unknown", id, state)
	}
	return s.change(id, putSingle, func(v *VM) {
		v.State, v.ZoneState = state, "installed"
		if state == "running" {
			v.ZoneState = state
		}
	})
}

// Move moves a VM to another host, Nil for none. The message looks like a creation.
func (s *Server) Move(id, host uuid.UUID) error {
	return s.change(id, putAnew, func(v *VM) { v.Host = host })
}

// SetOwner gives a VM to another owner. The message looks like a creation.
func (s *Server) SetOwner(id, owner uuid.UUID) error {
	return s.change(id, putAnew, func(v *VM) { v.Owner = owner })
}

// Remove makes a VM unknown, as do_not_inventory does. Nothing is published.
func (s *Server) Remove(id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.table.remove(id) {
		return fmt.Errorf("VM %s: %w", id, inventory.ErrNotFound)
	}
	return nil
}

// VM returns a VM as it reads back.
func (s *Server) VM(id uuid.UUID) (VM, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.table.byID[id]
	if r == nil {
		return VM{}, false
	}
	return r.vm(), true
}

// VMs returns every VM that the simulator knows as IAPI sees it, by ascending uuid: what a perfect list would give.
func (s *Server) VMs() []inventory.VM {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := s.table.all.settled()
	vms := make([]inventory.VM, len(rows))
	for i, r := range rows {
		vms[i] = inventory.VM{UUID: r.id, Owner: r.owner, Alias: r.alias, State: s.overlaid(r).state, Host: r.host}
		for key, value := range columnTags(r.tags.text) {
			if vms[i].Tags == nil {
				vms[i].Tags = make(map[string]string)
			}
			vms[i].Tags[key] = fmt.Sprint(value)
		}
	}
	return vms
}

// PutHost adds hosts or replaces them. CNAPI has no changefeed.
func (s *Server) PutHost(hosts ...Host) error {
	for _, h := range hosts {
		if err := h.normalize(); err != nil {
			return fmt.Errorf("host %s: %w", h.UUID, err)
		}
		h.Datacenter = or(h.Datacenter, s.opts.Datacenter)
		s.mu.Lock()
		s.hosts[h.UUID] = h
		s.mu.Unlock()
	}
	return nil
}

// Host returns a host.
func (s *Server) Host(id uuid.UUID) (Host, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.hosts[id]
	return h, ok
}

// RemoveHost makes a host unknown. Its VMs keep naming it.
func (s *Server) RemoveHost(id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.hosts[id]; !ok {
		return fmt.Errorf("host %s: %w", id, inventory.ErrNotFound)
	}
	delete(s.hosts, id)
	return nil
}

func (s *Server) change(id uuid.UUID, how put, with func(*VM)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.table.byID[id]
	if r == nil {
		return fmt.Errorf("VM %s: %w", id, inventory.ErrNotFound)
	}
	v := r.vm()
	v.Modified = time.Time{}
	with(&v)
	s.write(v, how)
	return nil
}

// put is a way of writing, which decides what the message says.
type put int

const (
	putSingle      put = iota // what differs
	putBulkDestroy            // what differs, without a time of destruction
	putAnew                   // everything, as for a creation
	putSilent                 // nothing is published
)

// write stores a normalised VM and publishes the difference. The caller locks.
func (s *Server) write(v VM, how put) {
	now := s.opts.Clock().UnixMilli()
	old := s.table.byID[v.UUID]
	r := &record{
		id: v.UUID, owner: v.Owner, host: v.Host, alias: v.Alias, state: v.State,
		tags: s.table.sharedTags(tagColumn(v.Tags)), created: timeMS(v.Created), modified: timeMS(v.Modified),
		destroyed: timeMS(v.Destroyed), writtenAt: now,
	}
	kind := shape{
		zoneState: v.ZoneState, brand: v.Brand, image: v.Image, billing: v.Billing, ram: v.RAM, quota: v.Quota, cpuCap: v.CPUCap,
	}
	if v.Docker != nil {
		kind.docker = -1
		if *v.Docker {
			kind.docker = 1
		}
	}
	r.shape = s.table.sharedShape(kind)
	if r.created == 0 {
		r.created = now
		if old != nil {
			r.created = old.created
		}
	}
	destroying := r.state == "destroyed" && (old == nil || old.state != "destroyed")
	if destroying && how != putBulkDestroy && r.destroyed == 0 {
		r.destroyed = now
	}
	if old != nil && old.owner != r.owner && how == putSingle {
		how = putAnew // the old record is looked up by the new owner, and not found
	}
	if r.modified == 0 {
		r.modified = now
		if old != nil {
			if r.modified = old.modified; len(differences(old, r)) > 0 {
				r.modified = now
			}
		}
	}
	s.table.put(r)
	if how == putSilent {
		return
	}
	before := old
	if how == putAnew {
		before = nil
	}
	subs := differences(before, r)
	if destroying && old != nil && how == putSingle {
		subs = slices.DeleteFunc(subs, func(sub string) bool { return sub == "state" || sub == "last_modified" })
	}
	s.feed.add(r, subs, now)
}

// differences are the top-level fields in which two records differ, tags once for each key; all that are set when there
// was nothing before.
func differences(old, new *record) []string {
	created := old == nil
	if created {
		old = &record{shape: &shape{}, tags: noTags}
	}
	var subs []string
	note := func(name string, differs bool) {
		if differs {
			subs = append(subs, name)
		}
	}
	a, b := old.shape, new.shape
	note("alias", old.alias != new.alias)
	note("billing_id", a.billing != b.billing)
	note("brand", a.brand != b.brand)
	note("cpu_cap", a.cpuCap != b.cpuCap)
	note("create_timestamp", old.created != new.created)
	note("docker", a.docker != b.docker)
	note("image_uuid", a.image != b.image)
	note("last_modified", old.modified != new.modified)
	note("max_physical_memory", a.ram != b.ram)
	note("owner_uuid", old.owner != new.owner)
	note("quota", a.quota != b.quota)
	note("ram", a.ram != b.ram)
	note("server_uuid", old.host != new.host)
	note("state", old.state != new.state)
	note("zone_state", a.zoneState != b.zoneState)
	note("destroyed", old.destroyed != new.destroyed)
	if old.tags.text == new.tags.text {
		return subs
	}
	if created {
		return append(subs, "tags")
	}
	was, is := columnTags(old.tags.text), columnTags(new.tags.text)
	for key, value := range is {
		before, had := was[key]
		note("tags", !had || before != value)
	}
	for key := range was {
		_, has := is[key]
		note("tags", !has)
	}
	return subs
}
