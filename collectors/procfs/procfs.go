// Package procfs measures what the kernel tells in files: those of /proc, /sys and the cgroups, and the table of
// processes. What is read and how it becomes values is said by definitions; this package has the machinery.
//
// Paths come from definitions and from the zone resolver's own record of a zone, never from anybody else. Files are
// opened for reading only and up to a size.
package procfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/internal/rows"
)

// Options says where the files are and who knows the zones.
type Options struct {
	Proc     string // default /proc
	Sys      string // default /sys
	Cgroup   string // default /sys/fs/cgroup
	Zones    collect.Zones
	Hostname string // the value of the builtin field hostname
	Psinfo   bool   // processes are told of as on illumos; always so there
}

// Engine opens probes for the sources "file" and "process". It is safe for concurrent use.
type Engine struct {
	opts      Options
	processes processTable
	files     files
	devices   devices
	now       func() int64 // ns of a monotonic clock
}

// New makes an Engine.
func New(o Options) *Engine {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Sys == "" {
		o.Sys = "/sys"
	}
	if o.Cgroup == "" {
		o.Cgroup = "/sys/fs/cgroup"
	}
	start := time.Now()
	e := &Engine{opts: o, devices: devices{sys: o.Sys}, now: func() int64 { return int64(time.Since(start)) }}
	e.processes.proc, e.processes.psinfo = o.Proc, o.Psinfo || runtime.GOOS == "illumos"
	return e
}

// Open makes a probe for a variant whose source is file or process.
func (e *Engine) Open(_ context.Context, r collect.Request, v *catalog.Variant) (collect.Probe, error) {
	p := &probe{engine: e, request: r, scope: v.Scope, sources: map[uuid.UUID]*source{}}
	var tables []rows.Table
	switch {
	case v.Source.Process != nil:
		tables = append(tables, rows.Table{Table: v.Source.Process.Table})
	default:
		for _, f := range v.Source.File {
			t := rows.Table{Table: f.Table}
			if f.Parser == catalog.ParseNestedKeyed {
				t.Identity = append(t.Identity, "key")
			}
			if f.Parser == catalog.ParseTable && len(f.Columns) > 0 && f.Columns[0] != "_" {
				t.Identity = append(t.Identity, f.Columns[0])
			}
			for n := range wildcards(f.Paths) {
				t.Identity = append(t.Identity, fmt.Sprintf("path.%d", n+1))
			}
			tables = append(tables, t)
		}
	}
	var err error
	if p.plan, err = rows.Compile(r, tables, &e.devices); err != nil {
		return nil, err
	}
	if source := v.Source.Process; source != nil {
		p.process, err = e.processes.join(p.plan.Slots(0), !r.WholeHost)
		if err != nil {
			return nil, collect.Errorf(collect.Failed, "compile variant %s of %s: %w", v.ID, r.Definition.Metric.Name, err)
		}
		p.refresh = time.Duration(source.Refresh) * time.Second
	}
	for i, f := range v.Source.File {
		for _, path := range f.Paths {
			if err := checkPath(path); err != nil {
				return nil, collect.Errorf(collect.Failed, "compile variant %s of %s: %w", v.ID, r.Definition.Metric.Name, err)
			}
		}
		p.files = append(p.files, file{
			paths:  f.Paths,
			parser: newParser(format{f.Parser, f.Columns, f.Skip, f.Separators}, p.plan.Slots(i)),
		})
	}
	if r.WholeHost {
		p.add(uuid.Nil)
	} else {
		p.setZones(r.Zones)
	}
	return p, nil
}

// devices answers from /sys what definitions ask of block devices. What was found is remembered: a device keeps its
// nature and its name for as long as it is there.
type devices struct {
	sys       string
	mu        sync.Mutex
	names     map[string]string
	partition map[string]bool
}

// maxDevices bounds what is remembered; beyond it the memory starts anew.
const maxDevices = 4096

// IsPartition reports whether a block device is a part of another.
func (d *devices) IsPartition(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if is, known := d.partition[name]; known {
		return is
	}
	if name != filepath.Base(name) {
		return false
	}
	_, err := os.Lstat(filepath.Join(d.sys, "class/block", name, "partition"))
	if d.partition == nil || len(d.partition) >= maxDevices {
		d.partition = map[string]bool{}
	}
	d.partition[name] = err == nil
	return err == nil
}

// Name turns 8:0 into sda.
func (d *devices) Name(majorMinor string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name, known := d.names[majorMinor]; known {
		return name, true
	}
	if majorMinor != filepath.Base(majorMinor) {
		return "", false
	}
	link, err := os.Readlink(filepath.Join(d.sys, "dev/block", majorMinor))
	if err != nil {
		return "", false
	}
	if d.names == nil || len(d.names) >= maxDevices {
		d.names = map[string]string{}
	}
	d.names[majorMinor] = filepath.Base(link)
	return d.names[majorMinor], true
}
