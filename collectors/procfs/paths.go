package procfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"iapi/collectors/zone"
)

// Bounds of what is read.
const (
	maxFile    = 4 << 20 // bytes of one file
	maxMatches = 4096    // files of one path with wildcards
)

// The placeholders of a path.
const (
	cgroupOf = "{instance.cgroup}"
	v1Prefix = "{instance.cgroup." // and a controller
	pidOf    = "{instance.pid}"
)

// ofProcess are the files below /proc/{instance.pid} that may be read: those by which a zone cannot lead the reader out
// of /proc, as it could by root, cwd or fd.
var ofProcess = []string{"net", "stat", "statm", "status", "io", "schedstat", "cgroup", "limits"}

// checkPath refuses paths that lead anywhere else than into /proc, /sys and a zone's cgroups.
func checkPath(p string) error {
	if path.Clean(p) != p || slices.Contains(strings.Split(p, "/"), "..") {
		return fmt.Errorf("path %q is not clean", p)
	}
	if rest, found := strings.CutPrefix(p, "/proc/"+pidOf+"/"); found {
		name, _, _ := strings.Cut(rest, "/")
		if !slices.Contains(ofProcess, name) || strings.ContainsAny(rest, "{}") {
			return fmt.Errorf("path %q: a process's %s is not read", p, name)
		}
		return nil
	}
	rest := p
	switch {
	case strings.HasPrefix(p, cgroupOf+"/"):
		rest = p[len(cgroupOf):]
	case strings.HasPrefix(p, v1Prefix):
		_, after, _ := strings.Cut(p, "}")
		if !strings.HasPrefix(after, "/") {
			return fmt.Errorf("path %q names no file", p)
		}
		rest = after
	case strings.HasPrefix(p, "/proc/"), strings.HasPrefix(p, "/sys/"):
	default:
		return fmt.Errorf("path %q is outside /proc, /sys and the zone's cgroups", p)
	}
	if strings.ContainsAny(rest, "{}") {
		return fmt.Errorf("path %q has an unknown placeholder", p)
	}
	if strings.HasPrefix(p, "/proc/") {
		name, _, _ := strings.Cut(p[len("/proc/"):], "/")
		if name == "self" || name == "thread-self" || strings.ContainsAny(name, "*") || name != "" && name[0] >= '0' && name[0] <= '9' {
			return fmt.Errorf("path %q: only a zone's own process may be read", p)
		}
	}
	return nil
}

// resolve fills in a path for the host, or for a zone; "" and a reason if this zone does not have it.
func (e *Engine) resolve(p string, z *zone.Zone) (full, reason string) {
	switch {
	case strings.HasPrefix(p, cgroupOf):
		if z.Cgroups.Unified == "" {
			return "", "the zone has no cgroup in the unified hierarchy"
		}
		return z.Cgroups.Unified + p[len(cgroupOf):], ""
	case strings.HasPrefix(p, v1Prefix):
		controller, rest, _ := strings.Cut(p[len(v1Prefix):], "}")
		dir := z.Cgroups.V1[controller]
		if dir == "" {
			return "", "the zone has no cgroup of the controller " + controller
		}
		return dir + rest, ""
	case strings.HasPrefix(p, "/proc/"+pidOf):
		if z.InitPID == 0 {
			return "", "the zone has no process that is known"
		}
		return e.opts.Proc + "/" + strconv.Itoa(z.InitPID) + p[len("/proc/"+pidOf):], ""
	case strings.HasPrefix(p, "/sys/fs/cgroup/"):
		return e.opts.Cgroup + p[len("/sys/fs/cgroup"):], ""
	case strings.HasPrefix(p, "/sys/"):
		return e.opts.Sys + p[len("/sys"):], ""
	}
	return e.opts.Proc + p[len("/proc"):], ""
}

// wildcards counts the parts with a * in the path that has most of them.
func wildcards(paths []string) int {
	most := 0
	for _, p := range paths {
		most = max(most, strings.Count(p, "*"))
	}
	return most
}

// match is a file that a path with wildcards has found, and what each * stood for.
type match struct {
	path  string
	parts [][]byte
}

// expand finds the files of a path with wildcards, in order. Each * is within one part of the path.
func expand(pattern string) ([]match, error) {
	found := []match{{path: "/"}}
	for part := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		before, after, wild := strings.Cut(part, "*")
		var next []match
		for _, m := range found {
			if !wild {
				next = append(next, match{filepath.Join(m.path, part), m.parts})
				continue
			}
			entries, err := os.ReadDir(m.path)
			if err != nil {
				if isGone(err) || errors.Is(err, syscall.ENOTDIR) {
					continue
				}
				return nil, err
			}
			for _, e := range entries {
				name := e.Name()
				if len(name) < len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
					continue
				}
				if len(next) == maxMatches {
					return nil, fmt.Errorf("more than %d files match %s", maxMatches, pattern)
				}
				parts := append(slices.Clip(m.parts), []byte(name[len(before):len(name)-len(after)]))
				next = append(next, match{filepath.Join(m.path, name), parts})
			}
		}
		found = next
	}
	return found, nil
}

// isGone tells that what a path names does not exist, or went away while it was read.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENODEV)
}

// reader reads small files into one buffer, which each read overwrites.
type reader struct{ buf []byte }

// read gives a file's text. It follows no link in the last part of the path and never blocks on what is no file.
func (r *reader) read(name string) ([]byte, error) {
	fd, err := retry(func() (int, error) {
		return syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer syscall.Close(fd)
	if r.buf == nil {
		r.buf = make([]byte, 4096)
	}
	n := 0
	for {
		if n == len(r.buf) {
			if n >= maxFile {
				return nil, fmt.Errorf("read %s: more than %d bytes", name, maxFile)
			}
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		got, err := syscall.Read(fd, r.buf[n:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if got <= 0 {
			return r.buf[:n], nil
		}
		n += got
	}
}

func retry(open func() (int, error)) (int, error) {
	for {
		fd, err := open()
		if err != syscall.EINTR {
			return fd, err
		}
	}
}
