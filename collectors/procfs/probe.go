package procfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/internal/rows"
	"iapi/collectors/zone"
)

// probe measures one request, by files or by the table of processes.
type probe struct {
	engine  *Engine
	request collect.Request
	scope   catalog.ScopeRule
	plan    *rows.Plan
	files   []file
	process *membership
	refresh time.Duration // how old a reading of the processes may be

	sources map[uuid.UUID]*source
	order   []*source
	result  collect.Result
	primed  bool
	closed  atomic.Bool

	interval time.Time // the end of the one that is being measured
}

// file is one of the files of a variant.
type file struct {
	paths  []string
	parser *parser
}

// source is the whole host, or a zone of the request.
type source struct {
	*rows.Source
	id     uuid.UUID
	zone   zone.Zone  // as it was when the paths were made
	paths  [][]string // by file
	reason string     // why a file has no path
	index  int        // of the table that is being read
	at     int64
	active bool
}

// row implements sink.
func (s *source) row(cols [][]byte) { s.Row(s.index, cols, nil, s.at) }

// SetZones implements collect.Probe.
func (p *probe) SetZones(_ context.Context, zones []uuid.UUID) error {
	if p.request.WholeHost {
		return collect.Errorf(collect.Failed, "set the zones of %s: it measures the whole host", p.request.ID)
	}
	p.setZones(zones)
	return nil
}

func (p *probe) setZones(zones []uuid.UUID) {
	wanted := make(map[uuid.UUID]bool, len(zones))
	for _, id := range zones {
		wanted[id] = id != uuid.Nil // which would be the whole host
	}
	p.order = slices.DeleteFunc(p.order, func(s *source) bool {
		if !wanted[s.id] {
			delete(p.sources, s.id)
		}
		return !wanted[s.id]
	})
	for _, id := range zones {
		if wanted[id] && p.sources[id] == nil {
			p.add(id)
		}
	}
}

func (p *probe) add(id uuid.UUID) {
	s := &source{Source: p.plan.NewSource(id, p.engine.opts.Hostname), id: id}
	p.sources[id] = s
	p.order = append(p.order, s)
}

// Close implements collect.Probe.
func (p *probe) Close() error {
	if !p.closed.Swap(true) && p.process != nil {
		p.engine.processes.leave(p.process)
	}
	return nil
}

// Collect implements collect.Probe.
func (p *probe) Collect(ctx context.Context, at time.Time) (collect.Result, error) {
	if p.closed.Load() {
		return collect.Result{}, collect.Errorf(collect.Failed, "collect %s: the probe is closed", p.request.ID)
	}
	p.result.Samples, p.result.Failures, p.result.Primed = p.result.Samples[:0], p.result.Failures[:0], !p.primed
	p.interval = at
	if err := p.collect(ctx); err != nil {
		return collect.Result{}, err
	}
	if !p.primed {
		p.result.Samples = p.result.Samples[:0]
		p.primed = true
	}
	return p.result, nil
}

func (p *probe) collect(ctx context.Context) error {
	if p.process != nil {
		return p.collectProcesses()
	}
	for _, s := range p.order {
		if err := ctx.Err(); err != nil {
			return collect.Errorf(collect.Failed, "collect %s: %w", p.request.ID, err)
		}
		err := p.prepare(s)
		if err == nil && s.active {
			err = p.collectFiles(s)
		}
		if err := p.fail(s, err); err != nil {
			return err
		}
	}
	return nil
}

// fail notes why a source gave nothing. One zone's failure is only its own; the host's is the probe's.
func (p *probe) fail(s *source, err error) error {
	if err == nil {
		return nil
	}
	refusal := collect.Refusal(err)
	if s.id == uuid.Nil {
		return refusal
	}
	p.result.Failures = append(p.result.Failures, collect.ZoneFailure{Zone: s.id, Code: refusal.Code, Message: refusal.Message})
	return nil
}

// prepare looks a zone up and works out its paths, if they are not those of the last time. A zone that does not run is
// not active, which is no failure.
func (p *probe) prepare(s *source) error {
	s.active = true
	if s.id != uuid.Nil {
		s.active = false
		z, err := p.request.Lookup(p.engine.opts.Zones, s.id)
		if err != nil || !z.IsRunning() {
			s.Forget()
			return err
		}
		if s.paths == nil || !sameZone(&s.zone, &z) {
			s.zone, s.paths = z, nil
		}
		s.active = true
	}
	if s.paths != nil || p.process != nil {
		return nil
	}
	s.paths, s.reason = make([][]string, len(p.files)), ""
	for i, f := range p.files {
		for _, path := range f.paths {
			full, reason := p.engine.resolve(path, &s.zone)
			if full != "" {
				s.paths[i] = append(s.paths[i], full)
			} else {
				s.reason = reason
			}
		}
	}
	return nil
}

func sameZone(a, b *zone.Zone) bool {
	return a.InitPID == b.InitPID && a.InitTime == b.InitTime && a.Cgroups.Unified == b.Cgroups.Unified && a.Cgroups.Path == b.Cgroups.Path &&
		len(a.Cgroups.V1) == len(b.Cgroups.V1)
}

// collectFiles reads a source's files. A file that does not exist has no records; if no file exists the source cannot be
// measured, unless it is a zone that has just stopped.
func (p *probe) collectFiles(s *source) error {
	if p.scope == catalog.ScopeNetns && s.id != uuid.Nil {
		if err := p.checkNetns(&s.zone); err != nil {
			s.Forget()
			return err
		}
	}
	s.Begin()
	some := false
	var firstErr error
	for i := range p.files {
		found, err := p.readOne(s, i)
		some = some || found
		if err != nil && firstErr == nil {
			firstErr = err
		}
	}
	if !some && firstErr == nil {
		s.Forget()
		if s.id != uuid.Nil && !p.lives(&s.zone) {
			return nil
		}
		reason := s.reason
		if reason == "" {
			reason = "none of its files exists: " + strings.Join(slices.Concat(s.paths...), ", ")
		}
		return collect.Errorf(collect.Unsupported, "%s", reason)
	}
	var err error
	p.result.Samples, err = s.End(p.result.Samples)
	if firstErr == nil {
		firstErr = err
	}
	if firstErr != nil {
		return collect.Errorf(collect.Failed, "%w", firstErr)
	}
	return nil
}

// lives reports whether a running zone's cgroup or first process is still there.
func (p *probe) lives(z *zone.Zone) bool {
	if z.InitPID != 0 && zone.StartTime(p.engine.opts.Proc, z.InitPID) == z.InitTime {
		return true
	}
	if z.Cgroups.Unified != "" && exists(z.Cgroups.Unified) {
		return true
	}
	for _, dir := range z.Cgroups.V1 {
		if exists(dir) {
			return true
		}
	}
	return false
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readOne reads the first of a file's paths that exists.
func (p *probe) readOne(s *source, index int) (found bool, err error) {
	s.index = index
	for _, path := range s.paths[index] {
		if strings.Contains(path, "*") {
			matches, err := expand(path)
			if err != nil {
				return false, fmt.Errorf("find files: %w", err)
			}
			for _, m := range matches {
				ok, err := p.parse(s, m.path, p.files[index].parser.fix(m.parts))
				found = found || ok
				if err != nil {
					return found, err
				}
			}
		} else if found, err = p.parse(s, path, nil); err != nil {
			return found, err
		}
		if found {
			return true, nil
		}
	}
	return false, nil
}

func (p *probe) parse(s *source, path string, fixed func([][]byte)) (found bool, err error) {
	r := p.engine.files.read(path, p.interval, p.engine.now)
	defer r.mu.Unlock()
	if r.err != nil {
		if isGone(r.err) {
			return false, nil
		}
		return false, fmt.Errorf("read a file of the kernel: %w", r.err)
	}
	s.at = r.at
	p.files[s.index].parser.parse(r.text, fixed, s)
	return true, nil
}

// checkNetns makes sure that the files of the zone's first process tell of the zone's own network, and of no other. The
// host's network is that of this process, of which /proc/net tells.
func (p *probe) checkNetns(z *zone.Zone) error {
	proc := p.engine.opts.Proc
	if z.InitPID == 0 || zone.StartTime(proc, z.InitPID) != z.InitTime {
		if !p.lives(z) {
			return nil
		}
		return collect.Errorf(collect.Failed, "the zone's first process is not known")
	}
	own, err := os.Readlink(filepath.Join(proc, strconv.Itoa(z.InitPID), "ns/net"))
	if err != nil {
		return collect.Errorf(collect.Failed, "find the zone's network namespace: %w", err)
	}
	hosts, err := os.Readlink(filepath.Join(proc, "self/ns/net"))
	if err != nil {
		return collect.Errorf(collect.Failed, "find the host's network namespace: %w", err)
	}
	if own == hosts {
		return collect.Errorf(collect.Unsupported, "the zone shares the host's network namespace")
	}
	return nil
}

// collectProcesses gives each process to the source that it belongs to.
func (p *probe) collectProcesses() error {
	byPath := p.process.byPath
	clear(byPath)
	for _, s := range p.order {
		err := p.prepare(s)
		if err == nil && s.active {
			if s.id != uuid.Nil && s.zone.Cgroups.Path == "" {
				err = collect.Errorf(collect.Unsupported, "the zone has no cgroup")
				s.active = false
			} else {
				s.Begin()
				byPath[s.zone.Cgroups.Path] = s
			}
		}
		if err := p.fail(s, err); err != nil {
			return err
		}
	}
	if len(byPath) == 0 {
		return nil
	}
	maxAge := p.refresh
	if p.plan.Differential {
		maxAge = 0 // a difference needs a reading of its own
	}
	if err := p.engine.processes.each(p.engine.now, maxAge, p.process); err != nil {
		return collect.Errorf(collect.Failed, "read the processes: %w", err)
	}
	for _, s := range p.order {
		if !s.active {
			continue
		}
		var err error
		if p.result.Samples, err = s.End(p.result.Samples); err != nil {
			err = collect.Errorf(collect.Failed, "%w", err)
		}
		if err := p.fail(s, err); err != nil {
			return err
		}
	}
	return nil
}
