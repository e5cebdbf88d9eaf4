// Package inventory says what a VM and a host are to IAPI. The clients that ask VMAPI and CNAPI for them, and a
// simulator of both, are in the packages below it.
package inventory

import (
	"errors"
	"maps"

	"github.com/google/uuid"
)

// VM is what IAPI needs to know of a machine.
type VM struct {
	UUID  uuid.UUID         `json:"uuid"`
	Owner uuid.UUID         `json:"owner"` // Nil: the inventory names none
	Alias string            `json:"alias,omitempty"`
	State string            `json:"state"`
	Tags  map[string]string `json:"tags,omitempty"` // values by their JSON text, so that 5 and "5" are the same
	Host  uuid.UUID         `json:"host"`           // Nil while provisioning
}

// Placed reports whether the VM is somewhere: it has a host and is neither destroyed nor failed. A stopped VM is placed.
func (v VM) Placed() bool {
	return v.Host != uuid.Nil && v.State != "destroyed" && v.State != "failed"
}

// Equal reports whether nothing that IAPI knows of two VMs differs.
func (v VM) Equal(o VM) bool {
	return v.UUID == o.UUID && v.Owner == o.Owner && v.Alias == o.Alias && v.State == o.State && v.Host == o.Host &&
		maps.Equal(v.Tags, o.Tags)
}

// Host is what IAPI needs to know of a compute node.
type Host struct {
	UUID   uuid.UUID         `json:"uuid"`
	Name   string            `json:"name"`
	Traits map[string]string `json:"traits,omitempty"` // values by their JSON text
	Status string            `json:"status,omitempty"` // running, unknown or rebooting; never decides a placement
}

// Equal reports whether nothing that decides a placement, nor the name, differs.
func (h Host) Equal(o Host) bool {
	return h.UUID == o.UUID && h.Name == o.Name && maps.Equal(h.Traits, o.Traits)
}

// Errors of the inventory's clients, for errors.Is.
var (
	// ErrNotFound: the inventory says that there is no such VM or host. It has been known to lie.
	ErrNotFound = errors.New("not in the inventory")
	// ErrUnavailable: the inventory could not be asked or gave no usable answer; asking again may help.
	ErrUnavailable = errors.New("the inventory is unavailable")
)
