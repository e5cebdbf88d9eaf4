// Package kstat measures the counters of illumos's kernel, as the command kstat prints them. One run serves all probes
// that select the same counters at the same moment.
package kstat

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/internal/rows"
)

// Bounds of one run, and for how long it serves other probes.
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
}

// Engine opens probes for the source "kstat". It is safe for concurrent use.
type Engine struct {
	opts Options

	mu     sync.Mutex
	shared map[string]*run // by the selection
}

// run is one run of the command, or one under way.
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
	return &Engine{opts: o, shared: map[string]*run{}}
}

// Open makes a probe for a variant whose source is kstat.
func (e *Engine) Open(_ context.Context, r collect.Request, v *catalog.Variant) (collect.Probe, error) {
	f := &feed{engine: e}
	var tables []rows.Table
	for _, k := range v.Source.Kstat {
		if !r.WholeHost && k.InstanceFrom == "" {
			return nil, collect.Errorf(collect.Failed, "open %s: the definition does not say whose a kstat is", r.ID)
		}
		args := []string{"-p"}
		for _, s := range []struct{ flag, value string }{{"-m", k.Module}, {"-i", k.Instance}, {"-n", k.Name}, {"-c", k.Class}} {
			if strings.ContainsAny(s.value, "/*?[]{}\\") {
				return nil, collect.Errorf(collect.Failed, "open %s: %q is a pattern; a kstat is selected by exact names", r.ID, s.value)
			}
			if s.value != "" {
				args = append(args, s.flag, s.value)
			}
		}
		f.args = append(f.args, args)
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
	return rows.NewProbe(r, plan, e.opts.Zones, e.opts.Hostname, f), nil
}

// read gives what one selection matches, from a run that may have been another probe's.
func (e *Engine) read(ctx context.Context, args []string) ([]record, error) {
	key := strings.Join(args, " ")
	e.mu.Lock()
	r := e.shared[key]
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
		e.shared[key] = r
	}
	e.mu.Unlock()
	if mine {
		r.records, r.err = e.run(ctx, args)
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

func (e *Engine) run(ctx context.Context, args []string) ([]record, error) {
	path := e.opts.Command("kstat")
	if path == "" {
		return nil, collect.Errorf(collect.Unsupported, "kstat is not installed")
	}
	text, err := collect.Output(ctx, timeout, maxOutput, path, args...)
	if err != nil {
		return nil, err
	}
	return parse(text)
}

// record is one kstat: its names and its statistics.
type record struct {
	id     []byte // module:instance:name
	names  [3][]byte
	values map[string][]byte
	at     int64 // its snaptime in ns
}

// parse reads the lines "module:instance:name:statistic<tab>value" of kstat -p. The lines of one kstat follow each other.
func parse(text []byte) ([]record, error) {
	var records []record
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			continue
		}
		key, value, found := bytes.Cut(line, []byte("\t"))
		end := bytes.LastIndexByte(key, ':')
		if !found || end < 0 {
			return nil, fmt.Errorf("read the kstats: %q is not a statistic and its value", line[:min(len(line), 80)])
		}
		id, statistic := key[:end], key[end+1:]
		parts := bytes.SplitN(id, []byte(":"), 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("read the kstats: %q does not name a kstat", key[:min(len(key), 80)])
		}
		if len(records) == 0 || !bytes.Equal(records[len(records)-1].id, id) {
			records = append(records, record{id: id, names: [3][]byte(parts), values: map[string][]byte{}})
		}
		r := &records[len(records)-1]
		if string(statistic) == "snaptime" {
			seconds, err := strconv.ParseFloat(string(value), 64)
			if err != nil || !(seconds >= 0 && seconds < math.MaxInt64/1e9) {
				return nil, fmt.Errorf("read the kstats: the snaptime %q is no time", value[:min(len(value), 80)])
			}
			r.at = int64(seconds * 1e9)
		}
		if times[string(statistic)] {
			value = nanoseconds(value)
		}
		r.values[string(statistic)] = value
	}
	return records, nil
}

// times are the statistics of an I/O kstat that the kernel counts in ns and the command prints in seconds.
var times = map[string]bool{"rtime": true, "rlentime": true, "wtime": true, "wlentime": true}

// nanoseconds turns 12.000000345 into 12000000345, exactly. Other texts stay as they are.
func nanoseconds(text []byte) []byte {
	seconds, fraction, found := bytes.Cut(text, []byte("."))
	if !found || len(fraction) != 9 {
		return text
	}
	return slices.Concat(seconds, fraction)
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
	engine *Engine
	args   [][]string // by table
	owner  []string
	slots  []map[string]int
	rows   [][][]byte
}

// Read implements rows.Feed.
func (f *feed) Read(ctx context.Context, row func(int, [][]byte, []byte, int64, uuid.UUID)) error {
	for i, args := range f.args {
		records, err := f.engine.read(ctx, args)
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
func (f *feed) Close() {}

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
