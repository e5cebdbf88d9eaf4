package vmapitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"
)

// Fleet is what a datacenter has.
type Fleet struct {
	Hosts []Host `json:"hosts"`
	VMs   []VM   `json:"vms"`
}

// LoadFleet reads a fleet from a JSON file.
func LoadFleet(path string) (Fleet, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Fleet{}, fmt.Errorf("loading a fleet: %w", err)
	}
	f, err := ParseFleet(text)
	if err != nil {
		return Fleet{}, fmt.Errorf("loading a fleet from %s: %w", path, err)
	}
	return f, nil
}

// ParseFleet reads {"hosts":[…],"vms":[…]}, in CNAPI's and VMAPI's names. It refuses unknown keys, uuids that appear
// twice and VMs on hosts that the fleet does not have; errors name the entry and the field.
func ParseFleet(text []byte) (Fleet, error) {
	var raw struct {
		Hosts []json.RawMessage `json:"hosts"`
		VMs   []json.RawMessage `json:"vms"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&raw); err != nil {
		return Fleet{}, fmt.Errorf("fleet: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Fleet{}, errors.New("fleet: there is text after the object")
	}
	var f Fleet
	hosts := make(map[uuid.UUID]int, len(raw.Hosts))
	for i, entry := range raw.Hosts {
		var h Host
		if err := apply(&h, hostFields, entry); err != nil {
			return Fleet{}, fmt.Errorf("hosts[%d]: %w", i, err)
		}
		if err := h.normalize(); err != nil {
			return Fleet{}, fmt.Errorf("hosts[%d]: %w", i, err)
		}
		if first, ok := hosts[h.UUID]; ok {
			return Fleet{}, fmt.Errorf("hosts[%d]: uuid: %s is also that of hosts[%d]", i, h.UUID, first)
		}
		hosts[h.UUID] = i
		f.Hosts = append(f.Hosts, h)
	}
	vms := make(map[uuid.UUID]int, len(raw.VMs))
	for i, entry := range raw.VMs {
		var v VM
		if err := apply(&v, vmFields, entry); err != nil {
			return Fleet{}, fmt.Errorf("vms[%d]: %w", i, err)
		}
		if err := v.normalize(); err != nil {
			return Fleet{}, fmt.Errorf("vms[%d]: %w", i, err)
		}
		if first, ok := vms[v.UUID]; ok {
			return Fleet{}, fmt.Errorf("vms[%d]: uuid: %s is also that of vms[%d]", i, v.UUID, first)
		}
		if _, ok := hosts[v.Host]; v.Host != uuid.Nil && !ok {
			return Fleet{}, fmt.Errorf("vms[%d]: server_uuid: the fleet has no host %s", i, v.Host)
		}
		vms[v.UUID] = i
		f.VMs = append(f.VMs, v)
	}
	return f, nil
}
