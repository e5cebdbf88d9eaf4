package model

import (
	"cmp"
	"slices"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
)

// VM is a machine as a caller sees it.
type VM struct{ Machine inventory.VM }

// IsNode marks it as a Node.
func (VM) IsNode() {}

// ID is the global id.
func (v VM) ID() string { return GlobalID(VMPrefix, v.Machine.UUID[:]) }

// UUID is the one in the inventory.
func (v VM) UUID() uuid.UUID { return v.Machine.UUID }

// Alias is nil for none.
func (v VM) Alias() *string { return text(v.Machine.Alias) }

// Owner is nil where the inventory names none.
func (v VM) Owner() *uuid.UUID { return id(v.Machine.Owner) }

// Host is nil for those who may not see it.
func (v VM) Host() *uuid.UUID { return id(v.Machine.Host) }

// State is the one in the inventory.
func (v VM) State() string { return v.Machine.State }

// Tags are sorted by key.
func (v VM) Tags() []instrumentation.Tag { return tags(v.Machine.Tags) }

// Host is a compute node.
type Host struct {
	Node  inventory.Host
	Fleet *instrumentation.FleetHost // with what is known of its agent; nil where that was not read yet
	List  *List[inventory.Host]      // where it was not: it, and what was read with it
	At    int                        // its place there
}

// IsNode marks it as a Node.
func (Host) IsNode() {}

// ID is the global id.
func (h Host) ID() string { return GlobalID(HostPrefix, h.Node.UUID[:]) }

// UUID is the one in the inventory.
func (h Host) UUID() uuid.UUID { return h.Node.UUID }

// Name is the host name.
func (h Host) Name() string { return h.Node.Name }

// Traits are sorted by key.
func (h Host) Traits() []instrumentation.Tag { return tags(h.Node.Traits) }

// VMConnection is a page of machines out of a list of which all are known.
type VMConnection struct {
	Edges      []VMEdge
	Nodes      []VM
	PageInfo   PageInfo
	TotalCount int
}

func tags(m map[string]string) []instrumentation.Tag {
	out := make([]instrumentation.Tag, 0, len(m))
	for k, v := range m {
		out = append(out, instrumentation.Tag{Key: k, Value: v})
	}
	slices.SortFunc(out, func(a, b instrumentation.Tag) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// NewAgent is nil where none has ever reported.
func NewAgent(a *instrumentation.AgentInfo) *Agent {
	if a == nil {
		return nil
	}
	out := &Agent{Version: a.Version, Online: a.Online, LastSeenAt: moment(a.LastSeen), Capabilities: a.Capabilities}
	if out.Capabilities == nil {
		out.Capabilities = []string{}
	}
	if a.Epoch != "" {
		out.Applied = &version{Epoch: a.Epoch, Generation: a.Generation, Hash: a.Hash}
	}
	return out
}
