// Package zone knows which zones this machine has: SmartOS zones, containers and virtual machines. On Linux a zone is
// known by its cgroup; its uuid is the runtime's own, or made from the runtime's id (see Namespace). A Resolver looks
// again when a cgroup comes or goes, and at intervals, and answers look-ups from memory.
//
// An owner is never taken from what a zone can write itself: labels, hostname and files are only tags and names.
package zone

import (
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Namespace is the UUIDv5 namespace of zones whose runtime has no uuid for them. The name is the 64 hex digits of a
// container's id (docker, podman, containerd, CRI-O), or "containerd:<namespace>:<id>" where the id is another text; where a
// runtime's names are unique on one host only (LXC, Proxmox, nspawn, systemd's services) it is
// "<runtime>:<uuid of the host>:<name>". LXD's, Incus' and libvirt's own uuids are taken as they are. It never changes.
var Namespace = uuid.MustParse("9d5d1b43-6a0e-5c2f-8f67-1f2d3c9a7b60")

// The states of a zone.
const (
	Running = "running"
	Stopped = "stopped" // known to its runtime, and not running now
)

// Zone is what is known of one zone of this machine.
type Zone struct {
	UUID     uuid.UUID
	Owner    uuid.UUID         // Nil: this machine does not know it
	ID       string            // the runtime's own name of it, for example the container's id
	Alias    string            // a name for people; never a key
	Runtime  string            // docker, podman, kubernetes, containerd, lxc, libvirt, nspawn, proxmox, machined, systemd, static, smartos
	State    string            // Running or Stopped
	Tags     map[string]string // labels by the runtime, as plain text
	Cgroups  Cgroups           // none on SmartOS, nor when stopped, unless they were left behind
	InitPID  int               // its first process; 0 when stopped or not found
	InitTime uint64            // the start time of InitPID in ticks since boot, which tells a reused pid apart
}

// IsRunning reports whether the zone runs now.
func (z Zone) IsRunning() bool { return z.State == Running }

// Cgroups is where a zone's cgroups are, as absolute paths.
type Cgroups struct {
	Unified string            // in the v2 tree, "" if there is none
	V1      map[string]string // by v1 controller, for example "memory"
	IDs     []uint64          // the v2 cgroup ids (inode numbers) of the zone's whole subtree, sorted
	Path    string            // relative to every tree, for example "/docker/4f…"
}

// IsZero reports whether the zone has no cgroup.
func (c Cgroups) IsZero() bool { return c.Unified == "" && len(c.V1) == 0 }

// Holds reports whether a cgroup path, as /proc/<pid>/cgroup tells it, is the zone's own or below it.
func (c Cgroups) Holds(path string) bool {
	return c.Path != "" && strings.HasPrefix(path, c.Path) && (len(path) == len(c.Path) || path[len(c.Path)] == '/')
}

// dirs lists the zone's directories, the v2 one first, the others by controller.
func (c Cgroups) dirs() []string {
	var all []string
	if c.Unified != "" {
		all = append(all, c.Unified)
	}
	for _, controller := range slices.Sorted(maps.Keys(c.V1)) {
		all = append(all, c.V1[controller])
	}
	return all
}

// FixedOwner gives every zone the same owner; it is what a single person's machine uses.
func FixedOwner(owner uuid.UUID) func(Zone) uuid.UUID {
	return func(Zone) uuid.UUID { return owner }
}
