// Package zfs measures datasets and pools by the commands zfs and zpool. One run of a command serves all probes for as
// long as the definition allows, with the columns that any of them needs.
package zfs

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/internal/rows"
)

// Bounds of one run.
const (
	timeout   = 20 * time.Second
	maxOutput = 32 << 20
)

// columnsOf is what may be asked of each command. There are no others.
var columnsOf = map[string][]string{
	"zfs": {
		"available", "logicalused", "quota", "referenced", "refquota", "refreservation", "reservation", "used",
		"usedbychildren", "usedbydataset", "usedbysnapshots", "volsize",
	},
	"zpool": {"allocated", "capacity", "fragmentation", "free", "freeing", "size"},
}

// Options says who knows the zones.
type Options struct {
	Zones    collect.Zones
	Hostname string
	Command  func(name string) string // where a command is, "" for nowhere; default collect.Command
}

// Engine opens probes for the source "zfs". It is safe for concurrent use.
type Engine struct {
	opts     Options
	now      func() int64
	commands map[string]*command
}

// New makes an Engine.
func New(o Options) *Engine {
	if o.Command == nil {
		o.Command = collect.Command
	}
	start := time.Now()
	e := &Engine{opts: o, now: func() int64 { return int64(time.Since(start)) }, commands: map[string]*command{}}
	for name := range columnsOf {
		e.commands[name] = &command{name: name, turn: make(chan struct{}, 1), wanted: map[string]int{}}
	}
	return e
}

// Open makes a probe for a variant whose source is zfs.
func (e *Engine) Open(_ context.Context, r collect.Request, v *catalog.Variant) (collect.Probe, error) {
	source := v.Source.ZFS
	c := e.commands[source.Command]
	if c == nil {
		return nil, collect.Errorf(collect.Failed, "open %s: %q is neither zfs nor zpool", r.ID, source.Command)
	}
	for _, column := range source.Columns {
		if !slices.Contains(columnsOf[c.name], column) {
			return nil, collect.Errorf(collect.Failed, "open %s: %s is not asked for the column %q", r.ID, c.name, column)
		}
	}
	if !r.WholeHost && v.Scope != catalog.ScopeDataset {
		return nil, collect.Errorf(collect.Unsupported, "open %s: %s cannot be kept to zones", r.ID, c.name)
	}
	plan, err := rows.Compile(r, []rows.Table{{Table: source.Table, Identity: []string{"name"}}}, rows.NoDevices{})
	if err != nil {
		return nil, err
	}
	f := &feed{engine: e, command: c, columns: source.Columns, slots: plan.Slots(0), maxAge: time.Duration(source.Refresh) * time.Second}
	f.row = make([][]byte, len(f.slots))
	for column := range f.slots {
		if column != "name" && !slices.Contains(source.Columns, column) {
			return nil, collect.Errorf(collect.Failed, "open %s: the definition uses the column %q and does not ask for it", r.ID, column)
		}
	}
	c.want(source.Columns, 1)
	return rows.NewProbe(r, plan, e.opts.Zones, e.opts.Hostname, f), nil
}

// command is zfs or zpool, with its last output.
type command struct {
	name string
	turn chan struct{} // held by who runs the command, so that others wait for the same output
	last output        // guarded by turn

	mu     sync.Mutex
	wanted map[string]int // how many probes want a column
}

// output is never changed once it is there.
type output struct {
	columns []string
	lines   [][][]byte
	at      int64
}

func (c *command) want(columns []string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, column := range columns {
		if c.wanted[column] += n; c.wanted[column] == 0 {
			delete(c.wanted, column)
		}
	}
}

// read gives an output that is at most maxAge old and has the columns, and runs the command if there is none.
func (e *Engine) read(ctx context.Context, c *command, columns []string, maxAge time.Duration) (output, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return output{}, ctx.Err()
	}
	missing := slices.ContainsFunc(columns, func(column string) bool { return !slices.Contains(c.last.columns, column) })
	if !missing && time.Duration(e.now()-c.last.at) < maxAge {
		return c.last, nil
	}
	path := e.opts.Command(c.name)
	if path == "" {
		return output{}, collect.Errorf(collect.Unsupported, "%s is not installed", c.name)
	}
	c.mu.Lock()
	all := append([]string{"name"}, slices.Sorted(maps.Keys(c.wanted))...)
	c.mu.Unlock()
	text, err := collect.Output(ctx, timeout, maxOutput, path, "list", "-Hp", "-o", strings.Join(all, ","))
	if err != nil {
		return output{}, err
	}
	lines, err := parse(text, len(all))
	if err != nil {
		return output{}, fmt.Errorf("read the output of %s: %w", c.name, err)
	}
	c.last = output{columns: all, lines: lines, at: e.now()}
	return c.last, nil
}

// parse reads lines of columns with tabs between them.
func parse(text []byte, columns int) ([][][]byte, error) {
	var lines [][][]byte
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			continue
		}
		words := bytes.Split(line, []byte("\t"))
		if len(words) != columns {
			return nil, fmt.Errorf("a line has %d columns instead of %d", len(words), columns)
		}
		lines = append(lines, words)
	}
	return lines, nil
}

// feed gives a command's lines to one probe.
type feed struct {
	engine  *Engine
	command *command
	columns []string
	slots   map[string]int
	maxAge  time.Duration
	row     [][]byte
}

// Read implements rows.Feed.
func (f *feed) Read(ctx context.Context, row func(int, [][]byte, []byte, int64, uuid.UUID)) error {
	out, err := f.engine.read(ctx, f.command, f.columns, f.maxAge)
	if err != nil {
		return err
	}
	for _, line := range out.lines {
		clear(f.row)
		for i, column := range out.columns {
			// A - is no value, but may be a name.
			if slot, used := f.slots[column]; used && (column == "name" || string(line[i]) != "-") {
				f.row[slot] = line[i]
			}
		}
		row(0, f.row, line[0], out.at, zoneOf(line[0]))
	}
	return nil
}

// Close implements rows.Feed.
func (f *feed) Close() { f.command.want(f.columns, -1) }

// zoneOf tells whose a dataset is: <pool>/<uuid of the zone> and all below it.
func zoneOf(name []byte) uuid.UUID {
	_, rest, found := bytes.Cut(name, []byte("/"))
	if !found {
		return uuid.Nil
	}
	own, _, _ := bytes.Cut(rest, []byte("/"))
	if len(own) != 36 {
		return uuid.Nil
	}
	id, err := uuid.ParseBytes(own)
	if err != nil {
		return uuid.Nil
	}
	return id
}
