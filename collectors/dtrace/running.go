package dtrace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/collectors/dtrace/output"
	"iapi/collectors/dtrace/program"
)

// running is a program that runs for one or more probes.
type running struct {
	engine     *Engine
	key        string
	definition *catalog.Definition
	convict    string    // what is quarantined when it costs too much
	owner      uuid.UUID // whose wishes it serves; Nil for operators'
	compiled   *program.Program
	whence     int // what a program in D is told its end by; see program.Remote
	begun      time.Time
	ready      chan struct{} // closed when it measures, or has failed
	over       chan struct{} // closed when its tracer is gone, or never was
	abandoned  chan struct{} // closed when nobody waits for its start any more

	flow  *flow    // of the tracer's output
	proc  *process // after ready; nil if it never ran
	maps  liveMaps
	usage usage // belongs to the supervisor

	scoping sync.Mutex // one push to the program's maps at a time; guards what is in the kernel
	scope   map[uint64]uint64

	mu      sync.Mutex
	err     *collect.Error
	probes  map[*probe]struct{}
	numbers map[uuid.UUID]uint64 // of zones in the scope map; never given twice
	zones   []uuid.UUID          // by number - 1
	refused map[uuid.UUID]bool   // zones for whose cgroups the scope map has no room
	latest  int64                // the second of the last interval
	heard   time.Time            // when it came
	notice  string               // what its probes tell while it measures
	every   int64                // seconds of an interval
	changed chan struct{}        // closed, and made anew, with each interval and at the end
}

func newRunning(e *Engine, key string, of *probe, compiled *program.Program) *running {
	return &running{
		engine: e, key: key, definition: of.request.Definition, convict: of.convict, owner: of.request.Owner, compiled: compiled, begun: time.Now(),
		ready: make(chan struct{}), over: make(chan struct{}), abandoned: make(chan struct{}), scope: map[uint64]uint64{},
		probes: map[*probe]struct{}{}, numbers: map[uuid.UUID]uint64{}, changed: make(chan struct{}), flow: newFlow(e.opts.OutputLimit), every: 1,
	}
}

func (r *running) metric() string { return r.definition.Metric.Name }
func (r *running) digest() string { return r.definition.Digest }

// joinable reports whether another probe may still use the program.
func (r *running) joinable() bool { return r.failure() == nil }

func (r *running) add(p *probe) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probes[p] = struct{}{}
}

// remove reports whether the probe was the last one, and was there.
func (r *running) remove(p *probe) (last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.probes[p]; !there {
		return false
	}
	delete(r.probes, p)
	return len(r.probes) == 0
}

// fail says why the program gives no more. The first reason stands.
func (r *running) fail(why *collect.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = why
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// failure is an untyped nil when there is none.
func (r *running) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		return nil
	}
	return r.err
}

// launch starts the tracer and waits for its first sign.
func (r *running) launch() error {
	end := r.ending()
	remote := program.Remote{Left: end - sinceBoot(), PID: os.Getpid(), Whence: r.whence}
	file, err := writeProgram(r.compiled.Text(program.Clock{Offset: r.engine.wallOffset(), End: end, Remote: remote}))
	if err != nil {
		r.engine.gone(r)
		close(r.over)
		return err
	}
	defer os.Remove(file) // the tracer has read it, or never will
	started := make(chan struct{})
	var once sync.Once
	handler := output.Handler{
		Keys: r.compiled.KeyParts(), Stacks: r.compiled.StackParts(), Text: r.compiled.EndsInText(), Started: func() { once.Do(func() { close(started) }) }, Interval: r.deliver,
	}
	path, args, env := r.engine.bpftrace(), []string{"-B", "line", "-f", "json", file}, r.compiled.Environment()
	read := func(stream io.Reader) error { return output.Bpftrace(stream, handler) }
	if r.compiled.Language == program.D {
		path, args, env = r.engine.opts.DTrace, []string{"-q", "-Z", "-s", file}, nil
		read = func(stream io.Reader) error { return output.D(stream, handler) }
	}
	proc, err := launchProcess(path, args, env, r.flow, read)
	if err != nil {
		r.engine.gone(r)
		close(r.over)
		return err
	}
	r.proc = proc
	if err := r.await(proc, started); err != nil {
		if r.flow.isOver() { // whatever else followed from it
			err = r.flooded()
		}
		r.fail(collect.Refusal(err)) // before the tracer's end is the reason
		ended := proc.end(0)
		r.watch()
		return errors.Join(err, ended)
	}
	go r.watch()
	r.usage.begin(r.engine.opts.Proc, proc.pid)
	return nil
}

// await returns when the tracer measures.
func (r *running) await(proc *process, started <-chan struct{}) error {
	timer := time.NewTimer(r.engine.opts.StartTimeout)
	defer timer.Stop()
	select {
	case <-started:
	case <-proc.done:
		return startError(proc)
	case <-r.flow.over:
		return r.flooded()
	case <-timer.C:
		return collect.Errorf(collect.Failed, "the tracer did not start within %s: %s", r.engine.opts.StartTimeout, proc.says)
	case <-r.abandoned:
		return collect.Errorf(collect.Failed, "nobody waits for the tracer")
	}
	if r.compiled.Language == program.Bpftrace {
		if err := r.maps.open(r.engine.opts.Proc, proc.pid); err != nil {
			return collect.Errorf(collect.Failed, "find the maps of the tracing program: %w", err)
		}
	}
	return nil
}

// flooded says that the tracer has printed too much.
func (r *running) flooded() *collect.Error {
	return collect.Errorf(collect.OverBudget, "tracing %s printed more than %d bytes a second, which is the most", r.metric(), r.flow.rate)
}

// watch notes the end of the tracer, and ends one that prints too much.
func (r *running) watch() {
	select {
	case <-r.proc.done:
	case <-r.flow.over:
	}
	if r.flow.isOver() { // the end may be that nothing of it is read any more
		r.engine.condemn(r, r.flooded())
		if err := r.proc.end(r.engine.opts.StopTimeout); err != nil {
			r.engine.log.Error("a tracing program could not be stopped", "metric", r.metric(), "error", err)
		}
		<-r.proc.done
	}
	text := r.proc.says.String()
	switch err := r.proc.err; {
	case err != nil && text != "":
		r.fail(collect.Errorf(collect.Failed, "the tracer has died: %w: %s", err, text))
	case err != nil:
		r.fail(collect.Errorf(collect.Failed, "the tracer has died: %w", err))
	case text != "":
		r.fail(collect.Errorf(collect.Failed, "the tracer has ended: %s", text))
	default:
		r.fail(collect.Errorf(collect.Failed, "the tracer has ended, as it does when its time is over"))
	}
	r.engine.gone(r)
	close(r.over)
}

// lacking are words of tracers that miss something of this machine.
var lacking = []string{"not found", "no such file", "does not contain a field", "does not match any probes", "does not exist", "unknown struct"}

// startError tells what a tracer said that did not start.
func startError(p *process) *collect.Error {
	text := p.says.String()
	if text == "" {
		return collect.Errorf(collect.Failed, "the tracer ended at once: %v", p.err)
	}
	lower := strings.ToLower(text)
	for _, words := range lacking {
		if strings.Contains(lower, words) {
			return collect.Errorf(collect.Unsupported, "the tracer cannot run this program here: %s", text)
		}
	}
	return collect.Errorf(collect.Failed, "the tracer refused the program: %s", text)
}

// writeProgram keeps the text from other users: predicates are not for everybody, and so not for the process list.
func writeProgram(text string) (path string, err error) {
	f, err := os.CreateTemp("", "iapi-trace-*") // of mode 0600
	if err != nil {
		return "", fmt.Errorf("write the tracing program: %w", err)
	}
	_, err = f.WriteString(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return "", fmt.Errorf("write the tracing program: %w", err)
	}
	return f.Name(), nil
}

// stop ends the tracer and waits until it is gone.
func (r *running) stop(timeout time.Duration) error {
	if r.proc == nil {
		return nil
	}
	if err := r.proc.end(timeout); err != nil {
		return err
	}
	<-r.over
	r.maps.close()
	return nil
}

// endGrace is for how much longer than its probes a program lives: whoever holds a probe closes it in time, and the
// program's own end is for when nobody does.
const endGrace = 200 * time.Millisecond

// ending is when the program ends by itself, since boot: after the last of its probes.
func (r *running) ending() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var last time.Duration
	for p := range r.probes {
		last = max(last, p.ending())
	}
	return last + endGrace
}

// pushEnd tells the program when to end.
func (r *running) pushEnd() error {
	r.scoping.Lock() // so that of two the later one is told last
	defer r.scoping.Unlock()
	if r.compiled.Language == program.D {
		// That the call fails is its purpose: it does nothing but be seen by the program.
		_, _ = syscall.Seek(-1, int64(r.ending()-sinceBoot()), r.whence)
		return nil
	}
	return r.maps.put(program.EndMap, uint64(r.ending()))
}

// setNotice has the probes tell something while they measure; "" ends it.
func (r *running) setNotice(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notice = text
}

func (r *running) noticed() (notice string, every int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.notice, r.every
}

// setEvery has the program give out an interval every so many seconds. What it counts stays exact; what it costs to print
// and to read falls. A program in D cannot be told.
func (r *running) setEvery(seconds int64) error {
	if _, every := r.noticed(); every == seconds || r.compiled.Language == program.D {
		return nil
	}
	if err := r.maps.put(program.EveryMap, uint64(seconds)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.every = seconds
	return nil
}

// deliver takes an interval from the tracer's output and gives it to all probes.
func (r *running) deliver(i output.Interval) {
	s := &snapshot{second: i.Second, zones: make(map[uuid.UUID]*counts, len(i.Totals)), lost: i.Lost}
	for text, total := range i.Totals {
		if zone, name, known := r.zoneOf(text); known {
			s.zones[zone] = newCounts(r.compiled, name, total)
		}
	}
	for _, row := range i.Rows {
		if zone, name, known := r.zoneOf(row.Zone); known {
			if c := s.zones[zone]; c != nil { // a row without a total is no row of this program
				c.add(r.compiled, name, row)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.second < r.latest { // the wall clock has gone back, and time goes on from there
		for p := range r.probes {
			p.rewind(s.second)
		}
	}
	r.latest, r.heard = s.second, time.Now()
	for p := range r.probes {
		p.take(r, s)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// dropped is what DTrace said last of events that it has lost, "" for nothing. It ends with the program.
func (r *running) dropped() string {
	if r.compiled.Language != program.D || r.proc == nil {
		return ""
	}
	last := ""
	for line := range strings.Lines(r.proc.says.String()) {
		if strings.Contains(line, " drop") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// zoneOf reads the zone of a row: its number in a bpftrace program, its name in D. The whole host is 0, or nothing.
func (r *running) zoneOf(text string) (id uuid.UUID, name string, known bool) {
	if r.compiled.Whole() {
		return uuid.Nil, program.HostZone, text == "" || text == "0"
	}
	if r.compiled.Language == program.D {
		id, err := uuid.Parse(text)
		return id, id.String(), err == nil && id != uuid.Nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || n == 0 || n > uint64(len(r.zones)) {
		return uuid.Nil, "", false
	}
	id = r.zones[n-1]
	return id, id.String(), true
}
