package zone

import (
	"context"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// listed is what a runtime says of one of its zones.
type listed struct {
	uuid    uuid.UUID
	runtime string
	id      string // the runtime's own name of it, as its cgroup tells it where recognize knows that
	alias   string
	tags    map[string]string
	stopped bool
	number  string // libvirt's, see mark
	cgroup  string // where the runtime says the cgroup is: a path from the tree's root, or a scope's name alone; or ""
}

// source is a runtime that can be asked for its zones. One that this machine does not have says so with an error for
// which absent holds.
type source struct {
	name string // unique
	list func(context.Context) ([]listed, error)
}

// sources are the runtimes that the options name.
func sources(o Options) []source {
	var all []source
	for _, socket := range o.Sockets {
		all = append(all, source{socket, func(ctx context.Context) ([]listed, error) { return containers(ctx, socket) }})
	}
	for _, socket := range o.LXD {
		all = append(all, source{socket, func(ctx context.Context) ([]listed, error) { return instances(ctx, socket) }})
	}
	tasks := filepath.Join(o.Run, "containerd/io.containerd.runtime.v2.task")
	all = append(all, source{tasks, func(context.Context) ([]listed, error) { return bundles(tasks) }})
	domains := filepath.Join(o.Run, "libvirt/qemu")
	return append(all, source{domains, func(context.Context) ([]listed, error) { return domainsOf(domains) }})
}

// index finds what the runtimes list by what a cgroup's name tells.
type index struct {
	byID     map[string]listed // runtime, slash, id
	byPath   map[string]listed
	byName   map[string]listed // the last element of a path
	byHex    map[string]listed // the 64 hex digits of a container's id
	byNumber map[string]listed // of a machine of libvirt's
}

func indexOf(all map[string][]listed) index {
	x := index{byID: map[string]listed{}, byPath: map[string]listed{}, byName: map[string]listed{},
		byHex: map[string]listed{}, byNumber: map[string]listed{}}
	for _, list := range all {
		for _, l := range list {
			x.byID[l.runtime+"/"+l.id] = l
			if isContainerID(l.id) {
				x.byHex[l.id] = l
			}
			if l.number != "" {
				x.byNumber[l.number] = l
			}
			switch {
			case strings.HasPrefix(l.cgroup, "/"):
				x.byPath[l.cgroup] = l
			case l.cgroup != "":
				x.byName[l.cgroup] = l
			}
		}
	}
	return x
}

// find gives the zone that a runtime vouches to have in a cgroup.
func (x index) find(rel string) (listed, bool) {
	if l, ok := x.byPath[rel]; ok {
		return l, true
	}
	name := path.Base(rel)
	if l, ok := x.byName[name]; ok {
		return l, true
	}
	if id, ok := containerID(name); ok {
		l, ok := x.byHex[id]
		return l, ok
	}
	return listed{}, false
}

// name gives the zone that a runtime has by the name or number which a cgroup's name tells. The name of a cgroup of
// libvirt's is what is left of the machine's own.
func (x index) name(m mark) listed {
	if l, ok := x.byNumber[m.number]; ok && (m.id == "qemu-"+m.number || strings.HasPrefix(plain(l.id), plain(m.id))) {
		return l
	}
	return x.byID[m.runtime+"/"+m.id]
}

// plain is what libvirt surely leaves of a name.
func plain(name string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return -1
	}, name)
}

func (l listed) mark() mark { return mark{runtime: l.runtime, id: l.id, uuid: l.uuid} }

func (l listed) zone() Zone {
	z := Zone{UUID: l.uuid, ID: l.id, Alias: l.alias, Runtime: l.runtime, State: Running, Tags: l.tags}
	if l.stopped {
		z.State = Stopped
	}
	return z
}
