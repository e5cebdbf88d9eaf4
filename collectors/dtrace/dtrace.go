// Package dtrace measures by tracing: with bpftrace on Linux, with DTrace on illumos. Package program compiles what is
// asked into a tracer's program, package output reads what that prints; this package runs the programs and watches over
// them.
//
// What is measured comes first. A program ends by itself when its time is over, dies with this process, and is stopped,
// and its definition quarantined for its owner, when it costs more than its budget or prints too much. Equal wishes of one owner
// share a program, and one owner has at most half of what a host runs, so that nobody keeps the others from tracing. The zones
// that a program is kept to are in a map of its own, which is kept up to date while it runs. A program that has died is not
// started again: its probes tell why.
package dtrace

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	"iapi/collectors/dtrace/program"
	"iapi/measure"
)

// Options says where an Engine runs. The zero Options, with Zones, are right for a real machine.
type Options struct {
	Zones    collect.Zones // nil: this host has no zones
	Hostname string        // the value of the builtin field hostname; default the kernel's
	Dir      string        // keeps the quarantine; default: it is forgotten when the Engine is closed

	MaxPrograms int           // tracing programs at a time, of one tenant at most half of them, and one is kept for operators; default 8
	Window      time.Duration // over which the cost of a program is measured; default 10 s
	OutputLimit int64         // bytes that a program may print each second, but for a burst of some seconds; default 8 MiB
	Quarantine  time.Duration // for which a definition that went over its budget is refused to its owner; default 24 h

	StartTimeout time.Duration // from the start of a tracer to its first event; default 30 s
	StopTimeout  time.Duration // before a tracer that does not end is killed; default 500 ms

	Bpftrace string // the tracers; default those of the system. On illumos it is DTrace, elsewhere bpftrace
	DTrace   string
	Proc     string // default /proc
	Sys      string // default /sys

	Wall func() time.Time // the wall clock, which may be set at any time; default the kernel's

	Logger *slog.Logger
}

// Engine implements collect.Engine for the variants that trace. It is safe for concurrent use.
type Engine struct {
	opts       Options
	log        *slog.Logger
	devices    program.Devices
	quarantine *quarantine
	stats      func() // ends what New began
	rarely     int64  // seconds of an interval of a program that is above its budget

	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	closed   bool
	programs map[string]*running // by what they are for; those that have died are not here
	alive    map[uuid.UUID]int   // tracers that run or start, by owner; Nil for operators
	started  int                 // tracers that were ever to be started
}

var _ collect.Engine = (*Engine)(nil)

// wallOffset is what is added to the time since boot to give the time since 1970.
func (e *Engine) wallOffset() time.Duration {
	if e.opts.Wall == nil {
		return wallOffset()
	}
	return time.Duration(e.opts.Wall().UnixNano()) - sinceBoot()
}

// firstWhence is a number that no lseek of a program has in earnest.
const firstWhence = 0x1a91_0000

// New makes an Engine, which must be closed.
func New(o Options) (*Engine, error) {
	o.MaxPrograms = cmp.Or(o.MaxPrograms, 8)
	o.Window = cmp.Or(o.Window, 10*time.Second)
	o.OutputLimit = cmp.Or(o.OutputLimit, 8<<20)
	o.Quarantine = cmp.Or(o.Quarantine, 24*time.Hour)
	o.StartTimeout = cmp.Or(o.StartTimeout, 30*time.Second)
	o.StopTimeout = cmp.Or(o.StopTimeout, 500*time.Millisecond)
	o.Proc, o.Sys = cmp.Or(o.Proc, "/proc"), cmp.Or(o.Sys, "/sys")
	if o.Hostname == "" {
		o.Hostname, _ = os.Hostname() // without a name the field is empty, which is the truth
	}
	if runtime.GOOS == "illumos" {
		o.DTrace = cmp.Or(o.DTrace, collect.Command("dtrace"))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	q, err := openQuarantine(o.Dir, o.Quarantine, o.Logger)
	if err != nil {
		return nil, fmt.Errorf("open the tracing engine: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		opts: o, log: o.Logger, devices: devices{o.Sys}, quarantine: q, stop: cancel, done: make(chan struct{}),
		programs: map[string]*running{}, alive: map[uuid.UUID]int{}, stats: meterPrograms(o.Logger), rarely: 10,
	}
	go e.supervise(ctx)
	return e, nil
}

// Close ends all programs and waits until they are gone. Probes that are still open then fail.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		<-e.done
		return nil
	}
	e.closed = true
	all := e.list()
	e.mu.Unlock()
	e.stop()
	<-e.done
	var errs []error
	for _, r := range all {
		<-r.ready
		errs = append(errs, e.end(r, collect.Errorf(collect.Failed, "the agent has ended tracing")))
	}
	e.stats()
	return errors.Join(errs...)
}

var versionPattern = regexp.MustCompile(`v?([0-9]+\.[0-9]+(\.[0-9]+)?)`)

// Ready says what keeps this host from tracing and what to do about it, nil for nothing, and the version of its bpftrace,
// where it has one. It asks anew each time.
func (e *Engine) Ready(ctx context.Context) (bpftrace string, refusal *collect.Error) {
	if runtime.GOOS == "illumos" {
		if e.opts.DTrace == "" {
			return "", collect.Errorf(collect.Unsupported, "there is no dtrace command; an agent traces from the global zone only")
		}
		return "", nil
	}
	path := e.bpftrace()
	switch {
	case path == "":
		return "", collect.Errorf(collect.Unsupported, "bpftrace is not installed: install the package bpftrace")
	case os.Geteuid() != 0:
		return "", collect.Errorf(collect.Denied, "tracing is for root only: run the agent as root")
	}
	if !e.exists("kernel/tracing/events") && !e.exists("kernel/debug/tracing/events") {
		return "", collect.Errorf(collect.Unsupported, "tracefs is not mounted: run mount -t tracefs tracefs /sys/kernel/tracing")
	}
	version, err := e.BpftraceVersion(ctx)
	if err != nil {
		return "", collect.Refusal(err)
	}
	return version, nil
}

func (e *Engine) exists(path string) bool {
	_, err := os.Stat(filepath.Join(e.opts.Sys, path))
	return err == nil
}

// bpftrace is the tracer on Linux, which may be installed while the agent runs; "" for none.
func (e *Engine) bpftrace() string { return cmp.Or(e.opts.Bpftrace, collect.Command("bpftrace")) }

// BpftraceVersion is the version of the bpftrace that the Engine runs, "" if there is none.
func (e *Engine) BpftraceVersion(ctx context.Context) (string, error) {
	path := e.bpftrace()
	if path == "" {
		return "", nil
	}
	text, err := collect.Output(ctx, 10*time.Second, 4<<10, path, "--version")
	if err != nil {
		return "", fmt.Errorf("ask bpftrace for its version: %w", err)
	}
	match := versionPattern.FindSubmatch(text)
	if match == nil {
		return "", fmt.Errorf("ask bpftrace for its version: %q has none", strings.TrimSpace(string(text)))
	}
	return string(match[1]), nil
}

// Open implements collect.Engine. It returns when the program measures.
func (e *Engine) Open(ctx context.Context, r collect.Request, v *catalog.Variant) (collect.Probe, error) {
	name := r.Definition.Metric.Name
	switch {
	case v.Scope == catalog.ScopeNone && (!r.WholeHost || r.Owner != uuid.Nil):
		return nil, collect.Errorf(collect.Denied, "%s is traced in whatever runs at the moment: only operators may, on whole hosts", name)
	case r.WholeHost && r.Owner != uuid.Nil:
		return nil, collect.Errorf(collect.Denied, "only operators trace a whole host")
	case v.Source.Bpftrace != nil && (runtime.GOOS == "illumos" || e.bpftrace() == ""):
		return nil, collect.Errorf(collect.Unsupported, "bpftrace is not installed")
	case v.Source.DTrace != nil && e.opts.DTrace == "":
		return nil, collect.Errorf(collect.Unsupported, "dtrace is not available")
	}
	of, err := convict(r.Definition, v, r.Owner)
	if err != nil {
		return nil, collect.Refusal(err)
	}
	if until, reason, held := e.quarantine.held(of); held {
		return nil, collect.Errorf(collect.OverBudget, "the definition of %s is in quarantine until %s: %s", name, until.UTC().Format(time.RFC3339), reason)
	}
	if err := e.checkArguments(v); err != nil {
		return nil, err
	}
	p := &probe{engine: e, request: r, variant: v, convict: of}
	p.setZones(r.Zones)
	run, err := e.acquire(ctx, p)
	if err != nil {
		return nil, collect.Refusal(err)
	}
	p.mu.Lock()
	p.run = run
	p.mu.Unlock()
	return p, nil
}

// keyOf names what a program is for: wishes with equal keys share one. Zones are part of it only where the program's text
// has them.
func keyOf(p *probe, compiled *program.Program) (string, error) {
	r := p.request
	wish := struct {
		Definition, Variant string
		Predicate           measure.Predicate
		Decompositions      []string
		Owner               uuid.UUID
		Whole               bool
		Zones               []uuid.UUID
	}{r.Definition.Digest, p.variant.ID, r.Predicate.Canonical(), r.Decompositions, r.Owner, r.WholeHost, nil}
	if compiled.InText() {
		wish.Zones = p.allowed()
	}
	text, err := json.Marshal(wish)
	if err != nil {
		return "", fmt.Errorf("name the program: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// acquire gives the probe a program that measures, its own or one that is there already.
func (e *Engine) acquire(ctx context.Context, p *probe) (*running, error) {
	compiled, err := program.Compile(program.Wish{
		Definition: p.request.Definition, Variant: p.variant, Predicate: p.request.Predicate,
		Decompositions: p.request.Decompositions, Whole: p.request.WholeHost, Zones: p.allowed(),
		Hostname: e.opts.Hostname, Devices: e.devices, Threads: e.threads(),
	})
	if err != nil {
		return nil, err
	}
	key, err := keyOf(p, compiled)
	if err != nil {
		return nil, err
	}
	if p.ending() == 0 {
		p.setLifetime(p.request.Lifetime, compiled.Runtime)
	}
	r, start, err := e.join(key, p, compiled)
	if err != nil {
		return nil, err
	}
	if start {
		go e.start(r)
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		if err := e.abandon(r, p); err != nil {
			e.log.Warn("a tracing program did not end cleanly", "error", err)
		}
		return nil, collect.Errorf(collect.Failed, "start the tracer: %w", ctx.Err())
	}
	if err := r.failure(); err != nil {
		_ = e.release(r, p) // it has not started
		return nil, err
	}
	if !start {
		if err := r.pushEnd(); err != nil {
			e.log.Warn("a shared tracing program could not be given more time", "metric", r.metric(), "error", err)
		}
	}
	if err := r.pushScope(); err != nil {
		_ = e.release(r, p)
		return nil, collect.Errorf(collect.Failed, "keep the tracer to its zones: %w", err)
	}
	return r, nil
}

// threads is how many threads this machine has, 0 where it does not tell.
func (e *Engine) threads() int {
	text, err := os.ReadFile(filepath.Join(e.opts.Proc, "loadavg")) // such as 0.88 1.15 1.67 1/124 13965
	if err != nil {
		return 0
	}
	var running, all int
	if fields := strings.Fields(string(text)); len(fields) == 5 {
		_, _ = fmt.Sscanf(fields[3], "%d/%d", &running, &all) // what is not there stays 0
	}
	return all
}

// join adds the probe to the program of its key; start tells that it is to be started.
func (e *Engine) join(key string, p *probe, compiled *program.Program) (r *running, start bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, false, collect.Errorf(collect.Failed, "the agent has ended tracing")
	}
	if r = e.programs[key]; r != nil && r.joinable() {
		r.add(p)
		return r, false, nil
	}
	if err := e.room(p.request.Owner); err != nil {
		return nil, false, err
	}
	same, own := 0, 0
	for _, other := range e.programs {
		if other.digest() == p.request.Definition.Digest {
			same++
			if other.owner == p.request.Owner {
				own++
			}
		}
	}
	if limit := p.request.Definition.Limits.MaxConcurrent; limit > 0 && (same >= limit || p.request.Owner != uuid.Nil && own >= max(1, limit/2)) {
		return nil, false, collect.Errorf(collect.OverBudget, "%d programs trace %s on this host, %d of them of this owner, which is the most", same, p.request.Definition.Metric.Name, own)
	}
	r = newRunning(e, key, p, compiled)
	e.started++
	r.whence = firstWhence + e.started
	r.add(p)
	e.programs[key] = r
	e.alive[r.owner]++
	return r, true, nil
}

// room says why an owner may start no other program, nil if one may; the caller holds the lock.
func (e *Engine) room(owner uuid.UUID) error {
	all, most := 0, e.opts.MaxPrograms
	for _, n := range e.alive {
		all += n
	}
	tenants, own := all-e.alive[uuid.Nil], e.alive[owner]
	switch {
	case all >= most:
		return collect.Errorf(collect.OverBudget, "%d tracing programs run on this host, which is the most", all)
	case owner == uuid.Nil:
		return nil
	case own >= max(1, most/2):
		return collect.Errorf(collect.OverBudget, "%d tracing programs of this owner run on this host, which is the most for one", own)
	case tenants >= max(1, most-1):
		return collect.Errorf(collect.OverBudget, "%d tracing programs of tenants run on this host, which is the most: one is kept for operators", tenants)
	}
	return nil
}

// release takes a probe from its program, and ends a program that has none left.
func (e *Engine) release(r *running, p *probe) error {
	e.mu.Lock()
	last := r.remove(p)
	if last {
		e.forget(r)
	}
	e.mu.Unlock()
	if !last {
		if err := r.pushEnd(); err != nil && r.failure() == nil {
			return fmt.Errorf("tell a tracing program its new end: %w", err)
		}
		return nil
	}
	return e.end(r, collect.Errorf(collect.Failed, "the probe is closed"))
}

// abandon takes a probe from a program that still starts, and ends a program for which nobody else waits. When it returns,
// nothing is left of it.
func (e *Engine) abandon(r *running, p *probe) error {
	e.mu.Lock()
	last := r.remove(p)
	if last {
		e.forget(r)
		close(r.abandoned)
	}
	e.mu.Unlock()
	if !last {
		return nil
	}
	<-r.ready
	return e.end(r, collect.Errorf(collect.Failed, "nobody waits for the tracer"))
}

// forget makes room in the table; the caller holds the lock.
func (e *Engine) forget(r *running) {
	if e.programs[r.key] == r {
		delete(e.programs, r.key)
	}
}

// end stops a program and waits until it is gone. why is what its probes tell from then on.
func (e *Engine) end(r *running, why *collect.Error) error {
	e.mu.Lock()
	e.forget(r)
	e.mu.Unlock()
	r.fail(why)
	return r.stop(e.opts.StopTimeout)
}

// gone is called once for each tracer that has ended, or never began.
func (e *Engine) gone(r *running) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forget(r)
	if e.alive[r.owner]--; e.alive[r.owner] == 0 {
		delete(e.alive, r.owner)
	}
}

// list gives the programs; the caller holds the lock.
func (e *Engine) list() []*running {
	all := make([]*running, 0, len(e.programs))
	for _, r := range e.programs {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *running) int { return strings.Compare(a.key, b.key) })
	return all
}

// start runs the tracer of a new program and tells by its ready when it measures, or has failed.
func (e *Engine) start(r *running) {
	defer close(r.ready)
	if err := r.launch(); err != nil {
		r.fail(collect.Refusal(err))
		e.log.Warn("a tracing program did not start", "metric", r.metric(), "error", err)
		return
	}
	e.log.Info("a tracing program runs", "metric", r.metric(), "pid", r.proc.pid)
}
