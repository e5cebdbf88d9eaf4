package procfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"iapi/catalog"
)

// The columns of a process, in the order of catalog.ProcessColumns.
const (
	colPID = iota
	colPPID
	colExecname
	colPexecname
	colPsargs
	colRSS
	colVsize
	colThreads
	colState
	colUID
	colCPU
	colCgroup
	colModel
	columns
)

// nsPerTick is what /proc/<pid>/stat counts CPU time in: 1/100 s on every Linux.
const nsPerTick = 10_000_000

// maxPsargs bounds the arguments, as psinfo does on illumos; maxCgroup bounds the path of a cgroup, which may be very deep.
const (
	maxPsargs = 80
	maxCgroup = 255
)

// processTable reads /proc for all probes together; one reading serves all that may have one of its age.
type processTable struct {
	proc   string
	psinfo bool // the records are those of illumos

	mu      sync.Mutex
	read    bool
	at      int64 // of the last reading, in ns of a monotonic clock
	tick    uint64
	reader  reader
	byPID   map[int]*process
	list    []*process
	members map[*membership]bool
	has     wants // what the last reading has read
}

// all reports whether everything that is wanted is there.
func (has wants) all(w wants) bool {
	return (has.psargs || !w.psargs) && (has.uid || !w.uid) && (has.cgroup || !w.cgroup) && (has.model || !w.model)
}

// wants says which files are read besides stat, which costs as much again each.
type wants struct{ psargs, uid, cgroup, model bool }

// process is one process of the last reading.
type process struct {
	pid   int
	dir   string
	files struct{ stat, cmdline, cgroup, auxv, psinfo string }
	tick  uint64
	id    [16]byte // pid and start time, which nobody else ever has
	ppid  int
	text  []byte
	ends  [columns]int // of each column in text
	cols  [columns][]byte
	paths []byte // the cgroups it is in, one a line
}

// membership is what one probe takes from the table.
type membership struct {
	wants  wants
	slots  [columns]int // a column's place in a row, or -1
	row    [][]byte
	byPath map[string]*source // zones by their cgroup; the host by ""
}

// join adds a probe that reads the given columns, by zone or not.
func (t *processTable) join(slots map[string]int, byZone bool) (*membership, error) {
	m := &membership{row: make([][]byte, len(slots)), byPath: map[string]*source{}}
	known := 0
	for i, name := range catalog.ProcessColumns {
		slot, used := slots[name]
		if !used {
			slot = -1
		} else {
			known++
		}
		m.slots[i] = slot
	}
	if known != len(slots) {
		return nil, errors.New("a column is none of a process")
	}
	m.wants.psargs, m.wants.uid, m.wants.model = m.slots[colPsargs] >= 0, m.slots[colUID] >= 0, m.slots[colModel] >= 0
	m.wants.cgroup = byZone || m.slots[colCgroup] >= 0
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.members == nil {
		t.members, t.byPID = map[*membership]bool{}, map[int]*process{}
	}
	t.members[m] = true
	return m, nil
}

// leave takes a probe away. Without any the table forgets what it has read.
func (t *processTable) leave(m *membership) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.members, m)
	if len(t.members) == 0 {
		clear(t.byPID)
		t.list, t.read = nil, false
	}
}

// each gives every process to the source that it belongs to, from a reading that is at most maxAge old.
func (t *processTable) each(now func() int64, maxAge time.Duration, m *membership) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A reading a little too old is none the worse, while one at every other tick would be: half a second is forgiven.
	fresh := t.read && maxAge > 0 && time.Duration(now()-t.at) < maxAge-min(maxAge/2, 500*time.Millisecond)
	if !fresh || !t.has.all(m.wants) {
		if err := t.scan(now); err != nil {
			return err
		}
	}
	for _, p := range t.list {
		s := m.byPath[""]
		if s == nil {
			s = m.sourceOf(p.paths)
		}
		if s == nil {
			continue
		}
		for i, slot := range m.slots {
			if slot >= 0 {
				m.row[slot] = p.cols[i]
			}
		}
		s.Row(0, m.row, p.id[:], t.at)
	}
	return nil
}

// sourceOf finds the zone that one of a process's cgroups is in.
func (m *membership) sourceOf(paths []byte) *source {
	for len(paths) > 0 {
		var path []byte
		path, paths = cutLine(paths)
		for len(path) > 0 {
			if s := m.byPath[string(path)]; s != nil {
				return s
			}
			path = path[:max(0, bytes.LastIndexByte(path, '/'))]
		}
	}
	return nil
}

// scan reads all processes. One that ends meanwhile is left out.
func (t *processTable) scan(now func() int64) error {
	t.has = wants{}
	for m := range t.members {
		t.has.psargs = t.has.psargs || m.wants.psargs
		t.has.uid = t.has.uid || m.wants.uid
		t.has.cgroup = t.has.cgroup || m.wants.cgroup
		t.has.model = t.has.model || m.wants.model
	}
	dir, err := os.Open(t.proc)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return err
	}
	t.tick++
	t.list = t.list[:0]
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p := t.byPID[pid]
		if p == nil {
			p = &process{pid: pid, dir: filepath.Join(t.proc, name)}
			p.files.stat, p.files.cmdline, p.files.cgroup, p.files.auxv = p.dir+"/stat", p.dir+"/cmdline", p.dir+"/cgroup", p.dir+"/auxv"
			p.files.psinfo = p.dir + "/psinfo"
		}
		if err := t.readProcess(p); err != nil {
			if isGone(err) {
				continue
			}
			return err
		}
		p.tick = t.tick
		t.byPID[pid] = p
		t.list = append(t.list, p)
	}
	for pid, p := range t.byPID {
		if p.tick != t.tick {
			delete(t.byPID, pid)
		}
	}
	for _, p := range t.list {
		p.cols[colPexecname] = nil
		if parent := t.byPID[p.ppid]; parent != nil {
			p.cols[colPexecname] = parent.cols[colExecname]
		}
	}
	t.at, t.read = now(), true
	return nil
}

func (t *processTable) readProcess(p *process) error {
	if t.psinfo {
		record, err := t.reader.read(p.files.psinfo)
		if err == nil && !p.parsePsinfo(record) {
			err = fmt.Errorf("%s is not as the kernel writes it", p.files.psinfo)
		}
		return err
	}
	stat, err := t.reader.read(p.files.stat)
	if err != nil {
		return err
	}
	if !p.parseStat(stat) {
		return fmt.Errorf("%s is not as the kernel writes it", p.files.stat)
	}
	if t.has.uid {
		var st syscall.Stat_t
		if err := syscall.Stat(p.dir, &st); err != nil {
			return err
		}
		p.text = strconv.AppendUint(p.text, uint64(st.Uid), 10)
	}
	p.ends[colUID] = len(p.text)
	if t.has.psargs {
		args, err := t.reader.read(p.files.cmdline)
		if err != nil {
			return err
		}
		p.appendArgs(args)
	}
	p.ends[colPsargs] = len(p.text)
	if t.has.cgroup {
		text, err := t.reader.read(p.files.cgroup)
		if err != nil {
			return err
		}
		p.parseCgroups(text)
	}
	p.ends[colCgroup] = len(p.text)
	p.cut()
	if t.has.model {
		auxv, err := t.reader.read(p.files.auxv)
		if p.cols[colModel], err = modelOf(auxv, err); err != nil {
			return err
		}
	}
	return nil
}

var model32, model64, modelUnknown = []byte("32"), []byte("64"), []byte("unknown")

// modelOf tells the bits of a process's addresses by what the kernel has told it at its start: pairs of a small number and a
// value that is none, each of the size of an address. A process without memory, such as the kernel's own threads, has
// none of this, and the kernel's addresses.
func modelOf(auxv []byte, err error) ([]byte, error) {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return modelUnknown, nil
	case err != nil && !isGone(err):
		return nil, err
	case err != nil || len(auxv) < 8:
		if strconv.IntSize == 32 {
			return model32, nil
		}
	case binary.NativeEndian.Uint64(auxv)>>32 != 0:
		return model32, nil
	}
	return model64, nil
}

// statOrder is the order in which the columns of a process are put into its text.
var statOrder = []int{colPID, colExecname, colState, colPPID, colThreads, colVsize, colRSS, colCPU, colUID, colPsargs, colCgroup}

// parseStat reads /proc/<pid>/stat: "1 (command) S 0 …". The command may hold anything, parentheses and spaces too.
func (p *process) parseStat(stat []byte) bool {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return false
	}
	var words [22][]byte
	rest := stat[end+1:]
	for i := range words {
		if words[i], rest = cutWord(rest, " \n"); len(words[i]) == 0 {
			return false
		}
	}
	start, isNumber := unsigned(words[19])
	ppid, isPID := unsigned(words[1])
	utime, isTime := unsigned(words[11])
	stime, isTime2 := unsigned(words[12])
	rss, isSize := unsigned(words[21])
	if !isNumber || !isPID || !isTime || !isTime2 || !isSize {
		return false
	}
	p.ppid = int(ppid)
	binary.BigEndian.PutUint64(p.id[:8], uint64(p.pid))
	binary.BigEndian.PutUint64(p.id[8:], start)

	p.text = strconv.AppendInt(p.text[:0], int64(p.pid), 10)
	p.ends[colPID] = len(p.text)
	p.add(colExecname, stat[open+1:end])
	p.add(colState, words[0])
	p.add(colPPID, words[1])
	p.add(colThreads, words[17])
	p.add(colVsize, words[20])
	p.text = strconv.AppendUint(p.text, rss*uint64(os.Getpagesize()), 10)
	p.ends[colRSS] = len(p.text)
	p.text = strconv.AppendUint(p.text, (utime+stime)*nsPerTick, 10)
	p.ends[colCPU] = len(p.text)
	return true
}

func (p *process) add(column int, text []byte) {
	p.text = append(p.text, text...)
	p.ends[column] = len(p.text)
}

// appendArgs joins the arguments with spaces. A process of the kernel has none and is known by its name.
func (p *process) appendArgs(args []byte) {
	args = bytes.TrimRight(args, "\x00")
	if len(args) == 0 {
		begin, end := p.ends[colPID], p.ends[colExecname]
		p.text = append(p.text, p.text[begin:end]...)
		return
	}
	for _, c := range args[:min(len(args), maxPsargs)] {
		if c == 0 {
			c = ' '
		}
		p.text = append(p.text, c)
	}
}

// cut finds the columns in the text, once it is complete.
func (p *process) cut() {
	begin := 0
	for _, column := range statOrder {
		end := p.ends[column]
		p.cols[column] = p.text[begin:end:end]
		begin = end
	}
}

// parseCgroups keeps the paths of /proc/<pid>/cgroup, each once, without the root. The last of them, which is that of the
// unified hierarchy where it has one, is what the process's cgroup is called.
func (p *process) parseCgroups(text []byte) {
	p.paths = p.paths[:0]
	var last []byte
	for len(text) > 0 {
		var line []byte
		line, text = cutLine(text)
		for range 2 { // number:controllers:path
			i := bytes.IndexByte(line, ':')
			if i < 0 {
				line = nil
				break
			}
			line = line[i+1:]
		}
		if len(line) > 1 && !bytes.Equal(line, last) {
			p.paths = append(append(p.paths, line...), '\n')
			last = line
		}
	}
	if last == nil {
		last = []byte("/")
	}
	p.text = append(p.text, last[:min(len(last), maxCgroup)]...)
}

func unsigned(text []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(text), 10, 64)
	return n, err == nil
}
