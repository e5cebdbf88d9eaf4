// Package kstat measures the counters of illumos's kernel. On illumos it reads them through libkstat, without cgo, and
// elsewhere, or where libkstat does not open, as the command kstat prints them; both ways give the same rows. One read
// serves all probes that select the same counters at the same moment.
package kstat

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/internal/rows"
)

// Bounds of one run of the command, and for how long it serves other probes.
const (
	timeout   = 10 * time.Second
	maxOutput = 32 << 20
	sharedFor = 500 * time.Millisecond
	maxShared = 64 // selections that are remembered
)

// Options says who knows the zones.
type Options struct {
	Zones    collect.Zones
	Hostname string
	Command  func(name string) string // where a command is, "" for nowhere; default collect.Command
	Logger   *slog.Logger
}

// source reads the kstats that are selected, ordered by module, instance and name.
type source interface {
	read(ctx context.Context, of selection) ([]record, error)
}

// selection names kstats exactly. What is empty is any.
type selection struct{ module, instance, name, class string }

// part is one name of a selection, with the flag of the command kstat for it.
type part struct{ flag, value string }

func (s selection) parts() [4]part {
	return [4]part{{"-m", s.module}, {"-i", s.instance}, {"-n", s.name}, {"-c", s.class}}
}

// Engine opens probes for the source "kstat". It is safe for concurrent use.
type Engine struct {
	opts    Options
	command source
	open    func() (calls, error) // opens libkstat

	mu      sync.Mutex
	shared  map[selection]*run
	probes  int      // that are open
	library *library // for as long as there are probes; nil if it does not open
	told    bool     // that it does not
}

// run is one read, or one under way.
type run struct {
	done    chan struct{}
	at      time.Time
	records []record
	err     error
}

// New makes an Engine.
func New(o Options) *Engine {
	if o.Command == nil {
		o.Command = collect.Command
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Engine{opts: o, command: command{o.Command}, open: openLibkstat, shared: map[selection]*run{}}
}

// Open makes a probe for a variant whose source is kstat.
func (e *Engine) Open(_ context.Context, r collect.Request, v *catalog.Variant) (collect.Probe, error) {
	f := &feed{engine: e}
	var tables []rows.Table
	for _, k := range v.Source.Kstat {
		if !r.WholeHost && k.InstanceFrom == "" {
			return nil, collect.Errorf(collect.Failed, "open %s: the definition does not say whose a kstat is", r.ID)
		}
		of := selection{module: k.Module, instance: k.Instance, name: k.Name, class: k.Class}
		for _, s := range of.parts() {
			if strings.ContainsAny(s.value, "/*?[]{}\\") {
				return nil, collect.Errorf(collect.Failed, "open %s: %q is a pattern; a kstat is selected by exact names", r.ID, s.value)
			}
		}
		f.selections = append(f.selections, of)
		f.owner = append(f.owner, k.InstanceFrom)
		tables = append(tables, rows.Table{Table: k.Table})
	}
	plan, err := rows.Compile(r, tables, rows.NoDevices{})
	if err != nil {
		return nil, err
	}
	for i := range tables {
		f.slots = append(f.slots, plan.Slots(i))
		f.rows = append(f.rows, make([][]byte, len(f.slots[i])))
	}
	e.begin()
	return rows.NewProbe(r, plan, e.opts.Zones, e.opts.Hostname, f), nil
}

// begin counts a probe. The first one opens libkstat.
func (e *Engine) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.probes++; e.probes > 1 {
		return
	}
	l, err := startLibrary(e.open)
	if err != nil && !errors.Is(err, errNoLibrary) && !e.told {
		e.told = true
		e.opts.Logger.Warn("libkstat does not open: kstats are read by the command kstat", "error", err)
	}
	e.library = l
}

// end is for each begin. The last probe closes libkstat.
func (e *Engine) end() {
	e.mu.Lock()
	var last *library
	if e.probes--; e.probes == 0 {
		last, e.library = e.library, nil
	}
	e.mu.Unlock()
	if last != nil {
		last.close()
	}
}

// read gives what one selection matches, from a run that may have been another probe's.
func (e *Engine) read(ctx context.Context, of selection) ([]record, error) {
	e.mu.Lock()
	r := e.shared[of]
	if r != nil {
		select {
		case <-r.done:
			if r.err != nil || time.Since(r.at) > sharedFor {
				r = nil
			}
		default: // under way
		}
	}
	mine := r == nil
	if mine {
		if len(e.shared) >= maxShared {
			clear(e.shared)
		}
		r = &run{done: make(chan struct{})}
		e.shared[of] = r
	}
	e.mu.Unlock()
	if mine {
		r.records, r.err = e.run(ctx, of)
		r.at = time.Now()
		close(r.done)
	}
	select {
	case <-r.done:
		return r.records, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run reads through libkstat. Kstats with layouts of their own are left to the command, which comes with the kernel and
// knows them.
func (e *Engine) run(ctx context.Context, of selection) ([]record, error) {
	e.mu.Lock()
	l := e.library
	e.mu.Unlock()
	if l != nil {
		records, err := l.read(ctx, of)
		if !errors.Is(err, errLayout) {
			return records, err
		}
	}
	return e.command.read(ctx, of)
}

// record is one kstat: its names and its statistics.
type record struct {
	id     []byte // module:instance:name
	names  [3][]byte
	values map[string][]byte
	at     int64 // its snaptime in ns
}

// isRead tells whether there is more of a kstat than what is known before it is read.
func (r *record) isRead() bool {
	for name := range r.values {
		if name != "class" && name != "crtime" && name != "snaptime" {
			return true
		}
	}
	return false
}

// column gives one of a kstat's names, or a statistic; nil if it has none of that name.
func (r *record) column(name string) []byte {
	switch name {
	case "module":
		return r.names[0]
	case "instance":
		return r.names[1]
	case "name":
		return r.names[2]
	}
	return r.values[name]
}

// feed gives the kstats of a variant to one probe.
type feed struct {
	engine     *Engine
	selections []selection // by table
	owner      []string
	slots      []map[string]int
	rows       [][][]byte
}

// Read implements rows.Feed.
func (f *feed) Read(ctx context.Context, row func(int, [][]byte, []byte, int64, uuid.UUID)) error {
	for i, of := range f.selections {
		records, err := f.engine.read(ctx, of)
		if err != nil {
			return err
		}
		for k := range records {
			r := &records[k]
			for column, slot := range f.slots[i] {
				f.rows[i][slot] = r.column(column)
			}
			row(i, f.rows[i], r.id, r.at, zoneOf(r, f.owner[i]))
		}
	}
	return nil
}

// Close implements rows.Feed.
func (f *feed) Close() { f.engine.end() }

// zoneOf tells whose a kstat is by the column that names the zone. The kernel cuts a zone's name in a kstat's name, but
// not in the statistic zonename.
func zoneOf(r *record, column string) uuid.UUID {
	if column == "" {
		return uuid.Nil
	}
	id, err := uuid.ParseBytes(r.column(column))
	if err != nil {
		return uuid.Nil
	}
	return id
}
