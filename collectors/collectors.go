// Package collectors measures on one host what instrumentations ask for: it turns a definition, a predicate and
// decompositions into samples. New gives the Collector of this machine, which picks for each request the cheapest
// variant of the definition that works here and has all fields asked for.
package collectors

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/kstat"
	"iapi/collectors/procfs"
	"iapi/collectors/zfs"
	"iapi/collectors/zone"
)

// The types that are shared with the engines; see package collect.
type (
	Request     = collect.Request
	Collector   = collect.Collector
	Probe       = collect.Probe
	Result      = collect.Result
	Sample      = collect.Sample
	ZoneFailure = collect.ZoneFailure
	Error       = collect.Error
	Code        = collect.Code
	Engine      = collect.Engine
	Zones       = collect.Zones
)

// The codes of refusals.
const (
	Unsupported = collect.Unsupported
	Denied      = collect.Denied
	OverBudget  = collect.OverBudget
	Failed      = collect.Failed
)

// Options says what this machine is. The zero Options, with Zones and Hostname, are right for a real one.
type Options struct {
	Proc   string // default /proc
	Sys    string // default /sys
	Cgroup string // default /sys/fs/cgroup

	Zones    Zones // nil: this host has no zones
	HostID   uuid.UUID
	Hostname string // the value of the builtin field hostname; default the kernel's

	// Allowed are the collectors that this host's policy allows, as Collectors names them. Nil: all.
	Allowed []string

	// Tracer opens the variants that trace. Nil: they are unsupported on this host.
	Tracer Tracer

	Logger *slog.Logger
}

// Tracer is an Engine that traces, where the host lets it.
type Tracer interface {
	Engine
	// Ready says what keeps this host from tracing and what to do about it, nil for nothing, and the version of its bpftrace.
	Ready(ctx context.Context) (bpftrace string, refusal *Error)
}

// Registry is the Collector of one machine. It is safe for concurrent use.
type Registry struct {
	opts   Options
	log    *slog.Logger
	procfs *procfs.Engine
	zfs    *zfs.Engine
	kstat  *kstat.Engine

	mu       sync.Mutex
	platform catalog.Platform
	untraced *Error // why nothing can be traced here
	asOf     time.Time

	sharing shares
}

var _ Collector = (*Registry)(nil)

// New makes the Collector of this machine.
func New(o Options) *Registry {
	o.Proc, o.Sys = cmp.Or(o.Proc, "/proc"), cmp.Or(o.Sys, "/sys")
	o.Cgroup = cmp.Or(o.Cgroup, "/sys/fs/cgroup")
	if o.Hostname == "" {
		o.Hostname, _ = os.Hostname() // without a name the field is empty, which is the truth
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Registry{
		opts: o, log: o.Logger.With("host", o.HostID),
		procfs: procfs.New(procfs.Options{
			Proc: o.Proc, Sys: o.Sys, Cgroup: o.Cgroup, Zones: o.Zones, Hostname: o.Hostname,
		}),
		zfs:   zfs.New(zfs.Options{Zones: o.Zones, Hostname: o.Hostname}),
		kstat: kstat.New(kstat.Options{Zones: o.Zones, Hostname: o.Hostname, Logger: o.Logger}),
	}
}

// Open implements Collector. Unsupported says for each variant of the definition why it will not do.
func (r *Registry) Open(ctx context.Context, q Request) (Probe, error) {
	if q.Definition == nil {
		return nil, collect.Errorf(Failed, "open %s: it has no definition", q.ID)
	}
	place := catalog.Zone
	if q.WholeHost {
		place = catalog.Host
		if q.Owner != uuid.Nil {
			return nil, collect.Errorf(Denied, "open %s: only operators measure a whole host", q.ID)
		}
	}
	if err := checkFields(q); err != nil {
		return nil, err
	}
	v, err := r.choose(ctx, q.Definition, place, q.Fields())
	if err != nil {
		return nil, err
	}
	p, err := r.open(ctx, q, v)
	if err != nil {
		return nil, collect.Refusal(err)
	}
	r.log.Debug("a probe was opened", "instrumentation", q.ID, "metric", q.Definition.Metric.Name, "variant", v.ID)
	return p, nil
}

// checkFields refuses what only operators may ask for. The control plane has checked it before; both must agree for
// anything of a host to reach a tenant.
func checkFields(q Request) error {
	m := &q.Definition.Metric
	if q.Owner != uuid.Nil && !m.Tenant {
		return collect.Errorf(Denied, "open %s: %s is for operators", q.ID, m.Name)
	}
	for _, name := range q.Fields() {
		f, found := m.Field(name)
		if !found {
			return collect.Errorf(Unsupported, "open %s: %s has no field %q", q.ID, m.Name, name)
		}
		if f.Operator && q.Owner != uuid.Nil {
			return collect.Errorf(Denied, "open %s: the field %s is for operators", q.ID, name)
		}
	}
	if errs := q.Predicate.Check(m.FieldTypes(q.Owner == uuid.Nil)); len(errs) > 0 {
		return collect.Errorf(Failed, "open %s: %w", q.ID, errs[0])
	}
	return nil
}

// open opens a probe of a variant, or joins one. A tracer shares its programs by itself, between wishes of any granularity.
func (r *Registry) open(ctx context.Context, q Request, v *catalog.Variant) (Probe, error) {
	engine := r.engine(v)
	if v.Tracing() {
		return engine.Open(ctx, q, v)
	}
	return r.sharing.open(ctx, engine, q, v)
}

// choose picks the cheapest variant that will do; among equals the first.
func (r *Registry) choose(ctx context.Context, d *catalog.Definition, place catalog.Place, fields []string) (*catalog.Variant, error) {
	platform, untraced := r.machine(ctx)
	byCost := make([]int, len(d.Variants))
	for i := range byCost {
		byCost[i] = i
	}
	slices.SortStableFunc(byCost, func(a, b int) int { return cmp.Compare(d.Variants[a].Cost, d.Variants[b].Cost) })
	var reasons, elsewhere []string
	denied := false // there is a way, and only what this host allows is against it
	for _, i := range byCost {
		v := &d.Variants[i]
		only := *d
		only.Variants = d.Variants[i : i+1]
		_, err := only.Select(platform, place, fields)
		isHere := len(v.When.OS) == 0 || slices.Contains(v.When.OS, platform.OS)
		switch {
		case untraced != nil && isHere && v.Tracing() && r.allows(v) && gives(d, v, place, fields):
			denied = denied || untraced.Code == Denied
			reasons = append(reasons, v.ID+": "+untraced.Message)
		case err != nil:
			_, reason, _ := strings.Cut(err.Error(), catalog.ErrUnsupported.Error()+": ")
			if v.When.Bpftrace != "" && platform.Bpftrace != "" && strings.HasSuffix(reason, "bpftrace "+v.When.Bpftrace) {
				reason += ", and has " + platform.Bpftrace + ": install a newer one"
			}
			if isHere {
				reasons = append(reasons, v.ID+": "+reason)
			} else {
				elsewhere = append(elsewhere, v.ID+": "+reason)
			}
		case place == catalog.Zone && v.Scope == catalog.ScopeNone:
			reasons = append(reasons, v.ID+": it cannot be kept to zones")
		case !r.allows(v):
			denied = true
			reasons = append(reasons, v.ID+": the policy of this host does not allow "+strings.ToLower(v.Collector()))
		default:
			return v, nil
		}
	}
	reasons = append(reasons, elsewhere...) // what can be done here comes first
	if len(reasons) == 0 {
		reasons = append(reasons, "the definition has no variant")
	}
	code := Unsupported
	if denied {
		code = Denied
	}
	return nil, collect.Errorf(code, "%s cannot be measured here: %s", d.Metric.Name, strings.Join(reasons, "; "))
}

// gives reports whether a variant measures a place with all fields, on a machine that has what it needs.
func gives(d *catalog.Definition, v *catalog.Variant, place catalog.Place, fields []string) bool {
	only, able := *d, *v
	able.When = catalog.When{}
	only.Variants = []catalog.Variant{able}
	_, err := only.Select(catalog.Platform{}, place, fields)
	return err == nil
}

func (r *Registry) engine(v *catalog.Variant) Engine {
	switch {
	case v.Tracing():
		return r.opts.Tracer
	case v.Source.ZFS != nil:
		return r.zfs
	case v.Source.Kstat != nil:
		return r.kstat
	}
	return r.procfs
}

// platformAge is for how long what this machine can do is believed: programs and files come and go, kernels do not.
const platformAge = time.Minute

// machine says what this machine can do, and why it cannot trace if it cannot.
func (r *Registry) machine(ctx context.Context) (catalog.Platform, *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asOf.IsZero() && time.Since(r.asOf) < platformAge {
		return r.platform, r.untraced
	}
	r.asOf = time.Now()
	bpftrace := ""
	r.untraced = collect.Errorf(Unsupported, "tracing is not available on this host")
	if r.opts.Tracer != nil {
		bpftrace, r.untraced = r.opts.Tracer.Ready(ctx)
	}
	if ctx.Err() != nil {
		r.asOf = time.Time{} // what was asked in vain is asked again
	}
	r.platform = catalog.Platform{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Bpftrace: bpftrace,
		Kernel: r.kernel(), File: r.hasFile, Command: hasCommand, Tracepoint: r.hasTracepoint,
		USDT: collect.HasUSDT,
	}
	layout, err := zone.ReadLayout(r.opts.Cgroup)
	if err != nil {
		r.log.Warn("the cgroups of this machine cannot be read", "error", err)
	}
	r.platform.Cgroup = string(layout.Mode)
	return r.platform, r.untraced
}

func (r *Registry) kernel() string {
	text, err := os.ReadFile(filepath.Join(r.opts.Proc, "sys/kernel/osrelease"))
	if err != nil {
		return "" // unknown: no range of versions holds
	}
	return strings.TrimSpace(string(text))
}

// hasFile looks for a file that a definition asks for, below the roots of these Options.
func (r *Registry) hasFile(path string) bool {
	if filepath.Clean(path) != path {
		return false
	}
	for _, root := range []struct{ prefix, dir string }{{"/sys/fs/cgroup/", r.opts.Cgroup}, {"/proc/", r.opts.Proc}, {"/sys/", r.opts.Sys}} {
		if rest, found := strings.CutPrefix(path, root.prefix); found {
			return isThere(filepath.Join(root.dir, rest))
		}
	}
	return isThere(path)
}

var tracepointName = regexp.MustCompile(`^[A-Za-z0-9_]+:[A-Za-z0-9_]+$`)

func (r *Registry) hasTracepoint(name string) bool {
	if !tracepointName.MatchString(name) {
		return false
	}
	path := filepath.Join("events", strings.Replace(name, ":", "/", 1), "id")
	return isThere(filepath.Join(r.opts.Sys, "kernel/tracing", path)) || isThere(filepath.Join(r.opts.Sys, "kernel/debug/tracing", path))
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// hasCommand looks for a program where systems keep theirs, whatever the environment's PATH is.
func hasCommand(name string) bool { return collect.Command(name) != "" }
