package zone

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// monitored gives the name of the LXC container in a cgroup that is called id. Where there is a cgroup of the container's
// name already, left behind or another's, LXC puts a number after the name. The monitor, the parent of the container's
// first process, has it without: its title is "[lxc monitor] <directory> <name>", or its arguments are those of lxc-start. A
// parent within a container is not believed, for who is in there can call itself what it likes.
func monitored(proc, id string, c Cgroups) string {
	i := strings.LastIndexByte(id, '-')
	if i < 0 || !isNumber(id[i+1:]) {
		return id
	}
	first, _ := initProcess(proc, c)
	monitor := parentOf(proc, first)
	title, err := readBounded(filepath.Join(proc, strconv.Itoa(monitor), "cmdline"))
	if err != nil || len(namespacePIDs(proc, monitor)) != 1 {
		return id
	}
	words := strings.FieldsFunc(string(title), func(c rune) bool { return c == 0 || c == ' ' || c == '=' })
	names := func(name string) bool { return slices.Contains(words, name) || slices.Contains(words, "-n"+name) }
	if name := id[:i]; names(name) && !names(id) {
		return name
	}
	return id
}
