package zone

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Bounds of a walk through a cgroup tree.
const (
	maxDepth   = 16
	maxCgroups = 200_000
)

// walker collects the zones of all trees of a layout, keyed by their path relative to each tree.
type walker struct {
	known func(rel string) (mark, bool) // which cgroups are tops of zones
	found map[string]*cgroupZone
	left  int
	dirs  []string // that were looked into, and in which cgroups may come and go
}

// cgroupZone is a zone as the cgroup trees show it.
type cgroupZone struct {
	mark
	cgroups Cgroups
}

// walk finds the zones in all trees, and tells which directories it looked into. It descends into no zone, but for the ids
// of its v2 subtree.
func walk(l Layout, known func(string) (mark, bool)) (found map[string]*cgroupZone, dirs []string, err error) {
	w := walker{known: known, found: map[string]*cgroupZone{}, left: maxCgroups}
	if l.Unified != "" {
		err := w.descend(l.Unified, "", 0, func(z *cgroupZone, dir string) error {
			if inner := filepath.Join(dir, "payload"); l.Mode == V2 && z.runtime == "nspawn" && exists(inner) {
				w.dirs = append(w.dirs, dir) // beside the container there is nspawn itself, which is the host's
				dir, z.cgroups.Path = inner, z.cgroups.Path+"/payload"
			}
			z.cgroups.Unified = dir
			err := w.ids(dir, &z.cgroups.IDs, 0)
			slices.Sort(z.cgroups.IDs)
			return err
		})
		if err != nil {
			return nil, w.dirs, err
		}
	}
	roots := map[string][]string{} // a tree may serve several controllers
	for controller, root := range l.V1 {
		roots[root] = append(roots[root], controller)
	}
	for root, controllers := range roots {
		err := w.descend(root, "", 0, func(z *cgroupZone, dir string) error {
			if z.cgroups.V1 == nil {
				z.cgroups.V1 = map[string]string{}
			}
			for _, c := range controllers {
				z.cgroups.V1[c] = dir
			}
			return nil
		})
		if err != nil {
			return nil, w.dirs, err
		}
	}
	return w.found, w.dirs, nil
}

func (w *walker) descend(root, rel string, depth int, seen func(*cgroupZone, string) error) error {
	dir := filepath.Join(root, rel)
	w.dirs = append(w.dirs, dir)
	names, err := subdirectories(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if w.left--; w.left < 0 {
			return fmt.Errorf("walk the cgroup tree %s: more than %d cgroups", root, maxCgroups)
		}
		child := rel + "/" + name
		if m, ok := w.known(child); ok {
			z := w.found[child]
			if z == nil {
				z = &cgroupZone{mark: m, cgroups: Cgroups{Path: child}}
				w.found[child] = z
			}
			if err := seen(z, filepath.Join(root, child)); err != nil {
				return err
			}
		} else if depth < maxDepth {
			if err := w.descend(root, child, depth+1, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// ids collects the inode numbers of dir and everything below it.
func (w *walker) ids(dir string, into *[]uint64, depth int) error {
	if w.left--; w.left < 0 {
		return fmt.Errorf("walk the cgroups of a zone: more than %d cgroups", maxCgroups)
	}
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a cgroup's id: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		*into = append(*into, st.Ino)
	}
	if depth >= maxDepth {
		return nil
	}
	w.dirs = append(w.dirs, dir)
	names, err := subdirectories(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.ids(filepath.Join(dir, name), into, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// subdirectories lists the directories in dir. A directory that has gone meanwhile has none. Links are not followed.
func subdirectories(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("walk the cgroup tree: %w", err)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
		return nil, fmt.Errorf("walk the cgroup tree: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
