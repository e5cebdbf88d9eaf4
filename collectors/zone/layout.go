package zone

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Mode says which cgroup hierarchies a machine has.
type Mode string

// The modes. None is a machine without cgroups, such as SmartOS.
const (
	None   Mode = ""
	V1     Mode = "v1"
	V2     Mode = "v2"
	Hybrid Mode = "hybrid" // controllers in v1 trees, and a v2 tree beside them
)

// Layout says where a machine's cgroup trees are.
type Layout struct {
	Mode    Mode
	Unified string            // the root of the v2 tree, "" in mode v1
	V1      map[string]string // the root of each v1 controller's tree
}

// ReadLayout finds the cgroup trees below root, which is usually /sys/fs/cgroup. A missing root is mode None.
func ReadLayout(root string) (Layout, error) {
	if exists(filepath.Join(root, "cgroup.controllers")) {
		return Layout{Mode: V2, Unified: root}, nil
	}
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return Layout{}, nil
	}
	if err != nil {
		return Layout{}, fmt.Errorf("read the cgroup trees: %w", err)
	}
	l := Layout{V1: map[string]string{}}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		switch {
		case !e.IsDir(): // "cpu" is often a link to "cpu,cpuacct", which is seen itself
		case exists(filepath.Join(dir, "cgroup.controllers")):
			l.Unified = dir
		case exists(filepath.Join(dir, "cgroup.procs")):
			for controller := range strings.SplitSeq(e.Name(), ",") {
				l.V1[controller] = dir
			}
		}
	}
	switch {
	case len(l.V1) > 0 && l.Unified != "":
		l.Mode = Hybrid
	case len(l.V1) > 0:
		l.Mode = V1
	case l.Unified != "":
		l.Mode = V2
	}
	return l, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
