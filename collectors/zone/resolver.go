package zone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Options says where a Resolver looks. The zero Options are right for a real machine.
type Options struct {
	Proc    string   // default /proc
	Cgroup  string   // default /sys/fs/cgroup
	Run     string   // where machined, containerd and libvirt keep what runs; default /run
	Sockets []string // of container runtimes that speak the Docker API; nil: Docker's and Podman's own
	LXD     []string // sockets of LXD and Incus; nil: where these put them
	Units   []string // patterns of systemd services that are zones, as path.Match has them: "postgresql*.service"; nil: none
	Static  string   // a file of zones named by the operator: {"<uuid>": {"cgroup": "/…", "owner": "<uuid>"}}
	Zoneadm string   // the zoneadm command; default on illumos /usr/sbin/zoneadm, elsewhere none

	Host     uuid.UUID            // makes names unique that are unique on one host only
	Owner    func(Zone) uuid.UUID // who owns a zone; nil: only the static file knows owners
	Interval time.Duration        // how often Run looks again when no cgroup comes or goes; default 5 s
	Logger   *slog.Logger         // default: none
}

// Resolver knows the zones of this machine as of its last Refresh. It is safe for concurrent use.
type Resolver struct {
	opts Options
	log  *slog.Logger

	sources []source
	current atomic.Pointer[snapshot]

	refresh sync.Mutex          // one Refresh at a time; guards what follows
	listed  map[string][]listed // the last good answer of each source
	static  map[uuid.UUID]static
	watched []string // where cgroups may come and go, and what tells that a zone became empty or ceased to be
	failing string   // the text of the last error logged
}

// snapshot is never changed once it is published.
type snapshot struct {
	byID map[uuid.UUID]Zone
	list []Zone // sorted by uuid
}

// New makes a Resolver that knows no zone yet: call Refresh, or Run, before Lookup. List refreshes by itself.
func New(o Options) (*Resolver, error) {
	o.Proc = cmp.Or(o.Proc, "/proc")
	o.Cgroup = cmp.Or(o.Cgroup, "/sys/fs/cgroup")
	o.Run = cmp.Or(o.Run, "/run")
	if o.Sockets == nil {
		o.Sockets = []string{"/run/docker.sock", "/run/podman/podman.sock"}
	}
	if o.LXD == nil {
		o.LXD = []string{"/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket", "/var/lib/incus/unix.socket"}
	}
	for _, pattern := range o.Units {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("open the zone resolver: the pattern %q of systemd services: %w", pattern, err)
		}
	}
	if o.Zoneadm == "" && runtime.GOOS == "illumos" {
		o.Zoneadm = "/usr/sbin/zoneadm"
	}
	if o.Interval == 0 {
		o.Interval = 5 * time.Second
	}
	if o.Interval < 0 {
		return nil, fmt.Errorf("open the zone resolver: interval %s is negative", o.Interval)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Resolver{opts: o, log: o.Logger, sources: sources(o), listed: map[string][]listed{}}, nil
}

// List gives all zones, sorted by uuid, as of the last Refresh; the first call refreshes.
func (r *Resolver) List(ctx context.Context) ([]Zone, error) {
	if r.current.Load() == nil {
		if err := r.Refresh(ctx); err != nil && r.current.Load() == nil {
			return nil, err
		}
	}
	return slices.Clone(r.current.Load().list), nil
}

// Lookup finds a zone in memory.
func (r *Resolver) Lookup(id uuid.UUID) (Zone, bool) {
	s := r.current.Load()
	if s == nil {
		return Zone{}, false
	}
	z, ok := s.byID[id]
	return z, ok
}

// Run refreshes when a cgroup comes or goes and at every interval, until ctx ends, and then returns nil. Errors are logged
// when they change.
func (r *Resolver) Run(ctx context.Context) error {
	tick := time.NewTicker(r.opts.Interval)
	defer tick.Stop()
	watch := newWatcher()
	defer watch.close()
	events, failures := watch.changed()
	for {
		if err := r.Refresh(ctx); ctx.Err() == nil {
			r.report(err)
		}
		var settled <-chan time.Time
		if watch.follow(r.watches()) {
			settled = time.After(settle)
		}
		for look := false; !look; {
			select {
			case <-ctx.Done():
				return nil
			case e := <-events:
				if watch.matters(e) && settled == nil {
					settled = time.After(settle)
				}
			case err := <-failures:
				look = lost(err)
			case <-settled:
				look = true
			case <-tick.C:
				look = true
			}
		}
	}
}

func (r *Resolver) watches() []string {
	r.refresh.Lock()
	defer r.refresh.Unlock()
	return r.watched
}

func (r *Resolver) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	r.refresh.Lock()
	changed := text != r.failing
	r.failing = text
	r.refresh.Unlock()
	switch {
	case !changed:
	case err != nil:
		r.log.Warn("not all zones of this machine could be read; what was known of them is kept", "error", err)
	default:
		r.log.Info("all zones of this machine can be read again")
	}
}

// Refresh looks again. Where a source does not answer, what it said last is kept, and the error tells; when the cgroup
// trees themselves cannot be read nothing changes.
func (r *Resolver) Refresh(ctx context.Context) error {
	r.refresh.Lock()
	defer r.refresh.Unlock()
	var problems []error

	for _, from := range r.sources {
		list, err := from.list(ctx)
		switch {
		case err == nil:
			r.listed[from.name] = list
		case absent(err) && r.listed[from.name] == nil: // this machine does not have that runtime
		default:
			problems = append(problems, err)
		}
	}
	if r.opts.Static != "" {
		all, err := readStatic(r.opts.Static)
		if err != nil {
			problems = append(problems, err)
		} else {
			r.static = all
		}
	}
	var zones []Zone
	if r.opts.Zoneadm != "" {
		list, err := zoneadm(ctx, r.opts.Zoneadm)
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
		zones = list
	}
	registered, err := machines(filepath.Join(r.opts.Run, "systemd/machines"))
	if err != nil {
		return errors.Join(append(problems, err)...)
	}
	found, err := r.cgroups(registered)
	if err != nil {
		return errors.Join(append(problems, err)...)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.publish(append(zones, r.merge(found, registered)...))
	return errors.Join(problems...)
}

// cgroups walks the trees. A cgroup is the top of a zone if the operator says so, if machined does, if it is named as
// runtimes name them, or if a runtime lists it.
func (r *Resolver) cgroups(registered map[string]machine) (map[string]*cgroupZone, error) {
	layout, err := ReadLayout(r.opts.Cgroup)
	if err != nil {
		return nil, err
	}
	statics := map[string]bool{}
	for _, s := range r.static {
		statics[s.Cgroup] = true
	}
	lists := indexOf(r.listed)
	found, dirs, err := walk(layout, func(rel string) (mark, bool) {
		if statics[rel] {
			return mark{runtime: "static"}, true
		}
		name := path.Base(rel)
		if m, ok := registered[name]; ok {
			kind := "nspawn"
			if m.vm {
				kind = "libvirt"
			}
			return mark{runtime: kind, id: m.name, local: true}, true
		}
		if m, ok := recognize(rel); ok {
			m.uuid = lists.name(m).uuid
			return m, true
		}
		if l, ok := lists.find(rel); ok {
			return l.mark(), true
		}
		if r.isUnit(rel) {
			return mark{runtime: "systemd", id: name, local: true}, true
		}
		return mark{}, false
	})
	r.watched = dirs
	// In their order, so that those for whom there is no room to be watched are the same ones each time.
	for _, rel := range slices.Sorted(maps.Keys(found)) {
		f := found[rel]
		if f.cgroups.Unified != "" {
			r.watched = append(r.watched, filepath.Join(f.cgroups.Unified, eventsFile))
		}
		if f.runtime == "lxc" && f.local {
			f.id = monitored(r.opts.Proc, f.id, f.cgroups)
			f.uuid = lists.name(f.mark).uuid
		}
	}
	return found, err
}

// isUnit reports whether a cgroup is that of a system service which the operator calls a zone. Slices alone are above it:
// what else looks like a service was made by a user, or in a container.
func (r *Resolver) isUnit(rel string) bool {
	for dir := path.Dir(rel); dir != "/"; dir = path.Dir(dir) {
		if !strings.HasSuffix(dir, ".slice") || dir == "/user.slice" {
			return false
		}
	}
	return slices.ContainsFunc(r.opts.Units, func(pattern string) bool {
		ok, _ := path.Match(pattern, path.Base(rel)) // New has checked the pattern
		return ok
	})
}

// merge makes zones of what the cgroup trees show and of what the runtimes and the operator say.
func (r *Resolver) merge(found map[string]*cgroupZone, registered map[string]machine) []Zone {
	zones := map[uuid.UUID]Zone{}
	for _, from := range slices.Sorted(maps.Keys(r.listed)) {
		for _, l := range r.listed[from] {
			zones[l.uuid] = l.zone()
		}
	}
	for id, s := range r.static {
		zones[id] = Zone{UUID: id, Owner: s.Owner, ID: s.Cgroup, Alias: cmp.Or(s.Alias, id.String()), Runtime: "static", State: Stopped}
	}
	byPath := make(map[string]uuid.UUID, len(r.static))
	for id, s := range r.static {
		byPath[s.Cgroup] = id
	}
	for _, rel := range slices.SortedFunc(maps.Keys(found), trusted) {
		f := found[rel]
		id, own := byPath[rel]
		m, machined := registered[path.Base(rel)]
		switch {
		case own:
		case machined && m.vm && m.id != uuid.Nil: // a container's would be its /etc/machine-id, which is its own to write
			id = m.id
		case f.uuid != uuid.Nil:
			id = f.uuid
		case f.local:
			id = uuid.NewSHA1(Namespace, []byte(f.runtime+":"+r.opts.Host.String()+":"+f.id))
		default:
			id = uuid.NewSHA1(Namespace, []byte(f.id))
		}
		z, ok := zones[id]
		if ok && !z.Cgroups.IsZero() && (z.IsRunning() || users(rel) > users(z.Cgroups.Path)) {
			continue // a second cgroup of the same name proves nothing, unless the first was only left behind
		}
		if !ok {
			z = Zone{UUID: id, ID: f.id, Alias: alias(f.mark), Runtime: f.runtime}
		}
		if f.pod != "" && z.Tags["pod"] == "" {
			if z.Tags = maps.Clone(z.Tags); z.Tags == nil {
				z.Tags = map[string]string{}
			}
			z.Tags["pod"] = f.pod
		}
		z.State, z.Cgroups = Running, f.cgroups
		z.InitPID, z.InitTime = r.init(z, m.leader)
		if z.InitPID == 0 && isEmpty(z.Cgroups.Unified) {
			z.State = Stopped
		}
		zones[id] = z
	}
	return slices.Collect(maps.Values(zones))
}

// trusted orders cgroups so that those which users may have made themselves come last.
func trusted(a, b string) int {
	return cmp.Or(cmp.Compare(users(a), users(b)), strings.Compare(a, b))
}

func users(rel string) int {
	if strings.HasPrefix(rel, "/user.slice/") {
		return 1
	}
	return 0
}

// init finds a zone's first process: machined knows its leader. Else the one that was known is kept while it lives.
func (r *Resolver) init(z Zone, leader int) (int, uint64) {
	if leader != 0 {
		if start := StartTime(r.opts.Proc, leader); start != 0 {
			return leader, start
		}
	}
	if old, ok := r.Lookup(z.UUID); ok && old.InitPID != 0 && old.Cgroups.Path == z.Cgroups.Path {
		if start := StartTime(r.opts.Proc, old.InitPID); start != 0 && start == old.InitTime {
			return old.InitPID, old.InitTime
		}
	}
	return initProcess(r.opts.Proc, z.Cgroups)
}

func alias(m mark) string {
	if isContainerID(m.id) {
		return m.id[:12]
	}
	return m.id
}

func (r *Resolver) publish(zones []Zone) {
	s := &snapshot{byID: make(map[uuid.UUID]Zone, len(zones)), list: zones}
	for i, z := range zones {
		if z.Owner == uuid.Nil && r.opts.Owner != nil {
			zones[i].Owner = r.opts.Owner(z)
		}
		s.byID[z.UUID] = zones[i]
	}
	slices.SortFunc(s.list, func(a, b Zone) int { return strings.Compare(string(a.UUID[:]), string(b.UUID[:])) })
	r.current.Store(s)
}
