package zone

import (
	"path"
	"strings"

	"github.com/google/uuid"
)

// mark is what a cgroup's name tells of the zone in it.
type mark struct {
	runtime string
	id      string    // the container's id, or its name
	local   bool      // id is unique on this host only
	pod     string    // the kubernetes pod's uid
	number  string    // that libvirt gives a machine while it runs
	uuid    uuid.UUID // the runtime's own; Nil: made from the id
}

// scopes are the prefixes that systemd's cgroup driver gives to a container's scope, before its 64 hex digits.
var scopes = []struct{ prefix, runtime string }{
	{"docker-", "docker"},
	{"libpod-", "podman"},
	{"cri-containerd-", "kubernetes"},
	{"crio-", "kubernetes"},
	{"nerdctl-", "containerd"},
}

// recognize tells from its path in the cgroup tree whether a cgroup is the top of a zone. Names that a zone could
// choose itself are not trusted: whatever is below a zone's top belongs to it and is never asked.
func recognize(rel string) (mark, bool) {
	parent, name := path.Base(path.Dir(rel)), path.Base(rel)
	if scope, ok := strings.CutSuffix(name, ".scope"); ok {
		for _, s := range scopes {
			if id, ok := strings.CutPrefix(scope, s.prefix); ok && isContainerID(id) {
				return mark{runtime: s.runtime, id: id, pod: podOf(rel)}, true
			}
		}
		if id, ok := strings.CutPrefix(scope, "machine-"); ok && id != "" {
			id = unescapeUnit(id)
			if m, ok := guest(id); ok {
				return m, true
			}
			if parent == "machine.slice" {
				return mark{runtime: "machined", id: id, local: true}, true
			}
		}
		if parent == "qemu.slice" && isNumber(scope) {
			return mark{runtime: "proxmox", id: scope, local: true}, true
		}
		return mark{}, false
	}
	if isContainerID(name) {
		switch {
		case parent == "docker":
			return mark{runtime: "docker", id: name}, true
		case parent == "libpod_parent":
			return mark{runtime: "podman", id: name}, true
		case strings.HasPrefix(parent, "pod") && strings.HasPrefix(rel, "/kubepods"):
			return mark{runtime: "kubernetes", id: name, pod: strings.TrimPrefix(parent, "pod")}, true
		}
	}
	if id, ok := strings.CutPrefix(name, "libpod-"); ok && isContainerID(id) {
		return mark{runtime: "podman", id: id}, true
	}
	if id, ok := strings.CutSuffix(name, ".libvirt-qemu"); ok { // libvirt's own, where there is no systemd
		return guest(id)
	}
	if id, ok := strings.CutPrefix(name, "lxc.payload."); ok && id != "" {
		return mark{runtime: "lxc", id: id, local: true}, true
	}
	if rel == "/lxc/"+name {
		return mark{runtime: "lxc", id: name, local: true}, true
	}
	if id, ok := strings.CutPrefix(name, "systemd-nspawn@"); ok && parent == "machine.slice" {
		if id, ok := strings.CutSuffix(id, ".service"); ok && id != "" {
			return mark{runtime: "nspawn", id: unescapeUnit(id), local: true}, true
		}
	}
	return mark{}, false
}

// guest tells what libvirt calls a machine: qemu-<number>-<name>, of whose name the characters are left out that no host's
// name has, and all but the first few dozen.
func guest(id string) (mark, bool) {
	rest, ok := strings.CutPrefix(id, "qemu-")
	number, name, _ := strings.Cut(rest, "-")
	if !ok || !isNumber(number) {
		return mark{}, false
	}
	if name == "" {
		name = id
	}
	return mark{runtime: "libvirt", id: name, number: number, local: true}, true
}

// podOf finds the pod's uid in a path such as /kubepods.slice/kubepods-burstable-pod0a1b_….slice/….
func podOf(rel string) string {
	slice, ok := strings.CutSuffix(path.Base(path.Dir(rel)), ".slice")
	if !ok || !strings.HasPrefix(slice, "kubepods") {
		return ""
	}
	_, uid, ok := strings.Cut(slice, "-pod")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(uid, "_", "-")
}

// containerID finds the id in the name of a cgroup that recognize does not know: a runtime that lists the id vouches
// for it, wherever its cgroup was put.
func containerID(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".scope")
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name = name[i+1:]
	}
	return name, isContainerID(name)
}

func isContainerID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isNumber(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// unescapeUnit undoes the \xHH escapes of a systemd unit's name.
func unescapeUnit(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			hi, lo := hexDigit(s[i+2]), hexDigit(s[i+3])
			if hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
