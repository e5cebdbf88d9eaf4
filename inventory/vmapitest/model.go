package vmapitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// VM is a machine as the simulator keeps it. What the real VMAPI stores besides is answered with its default.
type VM struct {
	UUID      uuid.UUID
	Owner     uuid.UUID // Nil: null; such VMs exist
	Host      uuid.UUID // Nil: null, as while provisioning
	Alias     string
	State     string // "": running
	ZoneState string // "": running for a running VM, else installed
	Brand     string // "": lx
	Tags      map[string]any
	Image     uuid.UUID
	Billing   uuid.UUID
	RAM       int // MiB; 0: null
	Quota     int // GiB; 0: null
	CPUCap    int // percent; 0: null
	Docker    *bool
	Created   time.Time // zero: the clock's time of the first Put
	Modified  time.Time // zero: the clock's time when anything differs
	Destroyed time.Time // zero: null
}

// Host is a compute node as the simulator keeps it.
type Host struct {
	UUID       uuid.UUID
	Hostname   string
	Status     string // "": running
	Datacenter string // "": the server's
	Rack       string
	NotSetUp   bool
	Headnode   bool
	Reserved   bool
	Reservoir  bool
	RAM        int // MiB
	Traits     map[string]any
}

// field is one key of the JSON form of a T: how it is read and when and how it is written.
type field[T any] struct {
	name string
	set  func(*T, json.RawMessage) error
	get  func(*T) any // nil: not set
}

var vmFields = []field[VM]{
	{"uuid", func(v *VM, r json.RawMessage) error { return setUUID(&v.UUID, r) }, func(v *VM) any { return orNil(v.UUID) }},
	{"owner_uuid", func(v *VM, r json.RawMessage) error { return setUUID(&v.Owner, r) }, func(v *VM) any { return orNil(v.Owner) }},
	{"server_uuid", func(v *VM, r json.RawMessage) error { return setUUID(&v.Host, r) }, func(v *VM) any { return orNil(v.Host) }},
	{"alias", func(v *VM, r json.RawMessage) error { return set(&v.Alias, r) }, func(v *VM) any { return orNil(v.Alias) }},
	{"state", func(v *VM, r json.RawMessage) error { return setOneOf(&v.State, r, vmStates) }, func(v *VM) any { return orNil(v.State) }},
	{"zone_state", func(v *VM, r json.RawMessage) error { return set(&v.ZoneState, r) }, func(v *VM) any { return orNil(v.ZoneState) }},
	{"brand", func(v *VM, r json.RawMessage) error { return setOneOf(&v.Brand, r, brands) }, func(v *VM) any { return orNil(v.Brand) }},
	{"tags", setTags, func(v *VM) any { return orNilMap(v.Tags) }},
	{"image_uuid", func(v *VM, r json.RawMessage) error { return setUUID(&v.Image, r) }, func(v *VM) any { return orNil(v.Image) }},
	{"billing_id", func(v *VM, r json.RawMessage) error { return setUUID(&v.Billing, r) }, func(v *VM) any { return orNil(v.Billing) }},
	{"ram", func(v *VM, r json.RawMessage) error { return setCount(&v.RAM, r) }, func(v *VM) any { return orNil(v.RAM) }},
	{"quota", func(v *VM, r json.RawMessage) error { return setCount(&v.Quota, r) }, func(v *VM) any { return orNil(v.Quota) }},
	{"cpu_cap", func(v *VM, r json.RawMessage) error { return setCount(&v.CPUCap, r) }, func(v *VM) any { return orNil(v.CPUCap) }},
	{"docker", func(v *VM, r json.RawMessage) error { return set(&v.Docker, r) }, func(v *VM) any { return orNil(v.Docker) }},
	{"create_timestamp", func(v *VM, r json.RawMessage) error { return set(&v.Created, r) }, func(v *VM) any { return orNil(v.Created) }},
	{"last_modified", func(v *VM, r json.RawMessage) error { return set(&v.Modified, r) }, func(v *VM) any { return orNil(v.Modified) }},
	{"destroyed", func(v *VM, r json.RawMessage) error { return set(&v.Destroyed, r) }, func(v *VM) any { return orNil(v.Destroyed) }},
}

var hostFields = []field[Host]{
	{"uuid", func(h *Host, r json.RawMessage) error { return setUUID(&h.UUID, r) }, func(h *Host) any { return orNil(h.UUID) }},
	{"hostname", func(h *Host, r json.RawMessage) error { return set(&h.Hostname, r) }, func(h *Host) any { return orNil(h.Hostname) }},
	{"status", func(h *Host, r json.RawMessage) error { return setOneOf(&h.Status, r, hostStatuses) }, func(h *Host) any { return orNil(h.Status) }},
	{"datacenter", func(h *Host, r json.RawMessage) error { return set(&h.Datacenter, r) }, func(h *Host) any { return orNil(h.Datacenter) }},
	{"rack_identifier", func(h *Host, r json.RawMessage) error { return set(&h.Rack, r) }, func(h *Host) any { return orNil(h.Rack) }},
	{"setup", func(h *Host, r json.RawMessage) error {
		setup := true
		err := set(&setup, r)
		h.NotSetUp = !setup
		return err
	}, func(h *Host) any {
		if h.NotSetUp {
			return false
		}
		return nil
	}},
	{"headnode", func(h *Host, r json.RawMessage) error { return set(&h.Headnode, r) }, func(h *Host) any { return orNil(h.Headnode) }},
	{"reserved", func(h *Host, r json.RawMessage) error { return set(&h.Reserved, r) }, func(h *Host) any { return orNil(h.Reserved) }},
	{"reservoir", func(h *Host, r json.RawMessage) error { return set(&h.Reservoir, r) }, func(h *Host) any { return orNil(h.Reservoir) }},
	{"ram", func(h *Host, r json.RawMessage) error { return setCount(&h.RAM, r) }, func(h *Host) any { return orNil(h.RAM) }},
	{"traits", func(h *Host, r json.RawMessage) error { h.Traits = nil; return set(&h.Traits, r) }, func(h *Host) any { return orNilMap(h.Traits) }},
}

var (
	vmStates     = []string{"running", "stopped", "provisioning", "incomplete", "failed", "destroyed"}
	brands       = []string{"bhyve", "joyent", "joyent-minimal", "kvm", "lx"}
	hostStatuses = []string{"running", "unknown", "rebooting"}
)

// apply sets the fields of a JSON object, in the order of the table, and leaves the others. Its errors name the field.
func apply[T any](to *T, table []field[T], object json.RawMessage) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(object, &given); err != nil || given == nil {
		return errors.New("not a JSON object")
	}
	for _, f := range table {
		raw, ok := given[f.name]
		if !ok {
			continue
		}
		if err := f.set(to, raw); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		delete(given, f.name)
	}
	if len(given) > 0 {
		unknown := make([]string, 0, len(given))
		for name := range given {
			unknown = append(unknown, name)
		}
		slices.Sort(unknown)
		return fmt.Errorf("%s: unknown key", unknown[0])
	}
	return nil
}

// render writes the fields that are set, in the order of the table.
func render[T any](from *T, table []field[T]) ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for _, f := range table {
		value := f.get(from)
		if value == nil {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		fmt.Fprintf(&out, "%q:%s", f.name, text)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// UnmarshalJSON sets the fields that the object names, by VMAPI's names, and refuses others.
func (v *VM) UnmarshalJSON(b []byte) error { return apply(v, vmFields, b) }

// MarshalJSON writes the fields that are set, by VMAPI's names.
func (v VM) MarshalJSON() ([]byte, error) { return render(&v, vmFields) }

// UnmarshalJSON sets the fields that the object names, by CNAPI's names, and refuses others.
func (h *Host) UnmarshalJSON(b []byte) error { return apply(h, hostFields, b) }

// MarshalJSON writes the fields that are set, by CNAPI's names.
func (h Host) MarshalJSON() ([]byte, error) { return render(&h, hostFields) }

// normalize checks a VM and fills in its defaults. Errors name the field.
func (v *VM) normalize() error {
	if v.UUID == uuid.Nil {
		return errors.New("uuid: missing")
	}
	v.State = or(v.State, "running")
	v.Brand = or(v.Brand, "lx")
	if v.ZoneState == "" {
		v.ZoneState = "installed"
		if v.State == "running" {
			v.ZoneState = "running"
		}
	}
	if err := oneOf("state", v.State, vmStates); err != nil {
		return err
	}
	if err := oneOf("brand", v.Brand, brands); err != nil {
		return err
	}
	if v.RAM < 0 || v.Quota < 0 || v.CPUCap < 0 {
		return errors.New("ram, quota and cpu_cap: cannot be negative")
	}
	if err := checkTags(v.Tags); err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	return nil
}

// normalize checks a host and fills in its defaults. Errors name the field.
func (h *Host) normalize() error {
	if h.UUID == uuid.Nil {
		return errors.New("uuid: missing")
	}
	if h.Hostname == "" {
		return errors.New("hostname: missing")
	}
	h.Status = or(h.Status, "running")
	return oneOf("status", h.Status, hostStatuses)
}

func oneOf(name, value string, among []string) error {
	if !slices.Contains(among, value) {
		return fmt.Errorf("%s: %q is none of %s", name, value, strings.Join(among, ", "))
	}
	return nil
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func orNil[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

func orNilMap(m map[string]any) any {
	if len(m) == 0 {
		return nil
	}
	return m
}

func set[T any](to *T, raw json.RawMessage) error {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("%s is not of the right type", raw)
	}
	*to = v
	return nil
}

func setCount(to *int, raw json.RawMessage) error {
	if err := set(to, raw); err != nil {
		return err
	}
	if *to < 0 {
		return fmt.Errorf("%s is negative", raw)
	}
	return nil
}

func setOneOf(to *string, raw json.RawMessage, among []string) error {
	if err := set(to, raw); err != nil {
		return err
	}
	if *to != "" && !slices.Contains(among, *to) {
		return fmt.Errorf("%q is none of %s", *to, strings.Join(among, ", "))
	}
	return nil
}

// setUUID reads a uuid in its usual form, in either case, or null.
func setUUID(to *uuid.UUID, raw json.RawMessage) error {
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("%s is not a uuid", raw)
	}
	if text == nil {
		*to = uuid.Nil
		return nil
	}
	id, err := uuid.Parse(*text)
	if err != nil || len(*text) != 36 {
		return fmt.Errorf("%q is not a uuid", *text)
	}
	*to = id
	return nil
}

func setTags(v *VM, raw json.RawMessage) error {
	v.Tags = nil
	if err := set(&v.Tags, raw); err != nil {
		return err
	}
	return checkTags(v.Tags)
}
