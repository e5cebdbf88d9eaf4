package kstat

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/collectors/collect"
	"iapi/collectors/zone"
)

// machine is a libkstat whose memory is here. Addresses are where pieces of it begin.
type machine struct {
	t       *testing.T
	pieces  map[uintptr][]byte
	kstats  []*kstatHere
	updated func() error // may change the kstats
	closed  chan struct{}
}

// kstatHere is a kstat of a machine.
type kstatHere struct {
	at     uintptr
	header header
	data   []byte // what it has once it is read
	errs   []error
	reads  int
}

func newMachine(t *testing.T, text []byte) *machine {
	m := &machine{t: t, pieces: map[uintptr][]byte{}, closed: make(chan struct{})}
	m.set(text)
	return m
}

// set gives the machine the kstats of a text, the last first.
func (m *machine) set(text []byte) {
	records, err := parse(text)
	require.NoError(m.t, err)
	m.kstats = nil
	for i, r := range slices.Backward(records) {
		at := uintptr(0x10000 * (i + 1))
		h, data := kernel(m.t, r, uint64(at)+0x8000)
		m.kstats = append(m.kstats, &kstatHere{at: at, header: h, data: data})
	}
	m.link()
}

// link makes the chain. A kstat has no data until it is read.
func (m *machine) link() {
	clear(m.pieces)
	for i, k := range m.kstats {
		h := k.header
		h.data, h.snapped = 0, 0
		if i+1 < len(m.kstats) {
			h.next = uint64(m.kstats[i+1].at)
		}
		m.pieces[k.at] = headerBytes(h)
	}
}

func (m *machine) open() (calls, error) { return m, nil }

func (m *machine) update() error {
	if m.updated != nil {
		return m.updated()
	}
	return nil
}

func (m *machine) chain() uintptr {
	if len(m.kstats) == 0 {
		return 0
	}
	return m.kstats[0].at
}

func (m *machine) read(at uintptr) error {
	for _, k := range m.kstats {
		if k.at != at {
			continue
		}
		k.reads++
		if len(k.errs) > 0 {
			err := k.errs[0]
			k.errs = k.errs[1:]
			if err != nil {
				return err
			}
		}
		h := k.header
		h.next = u64(m.pieces[at], 8)
		m.pieces[at], m.pieces[uintptr(h.data)] = headerBytes(h), k.data
		return nil
	}
	return syscall.EFAULT
}

func (m *machine) copy(into []byte, from uintptr) {
	require.LessOrEqual(m.t, len(into), len(m.pieces[from]), "memory at %x that is not there", from)
	copy(into, m.pieces[from])
}

func (m *machine) close() error { close(m.closed); return nil }

func (m *machine) start() *library {
	l, err := startLibrary(m.open)
	require.NoError(m.t, err)
	m.t.Cleanup(l.close)
	return l
}

func sample(t *testing.T, name string) []byte {
	text, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	return text
}

func TestLibkstatGivesWhatTheCommandPrints(t *testing.T) {
	for _, text := range files(t) {
		want, err := parse(text)
		require.NoError(t, err)
		got, err := newMachine(t, text).start().read(t.Context(), selection{})
		require.NoError(t, err)
		require.Equal(t, want, got, "in the same order, too")
	}
}

func TestOnlyTheSelectedKstatsAreRead(t *testing.T) {
	m := newMachine(t, sample(t, "smartos.txt"))
	l := m.start()
	for of, want := range map[selection][]string{
		{module: "link", class: "net"}:                    {"link:0:e1000g0", "link:0:z24_net0", "link:0:z26_net0", "link:0:z26_net1"},
		{module: "zfs", instance: "0", name: "arcstats"}:  {"zfs:0:arcstats"},
		{instance: "14"}:                                  {"zone_vfs:14:319cb666-4797-4387-83ed-56d865", "zones:14:319cb666-4797-4387-83ed-56d865"},
		{module: "tcp", name: "tcp", class: "mib2"}:       {"tcp:5:tcp"},
		{module: "tcp", name: "tcp", class: "misc"}:       nil,
		{module: "zfs", instance: "00", name: "arcstats"}: nil,
		{module: "memory_cap", class: "zone_memory_cap"}:  {"memory_cap:4:b55cf19c-4898-4bd1-9169-b89b47"},
	} {
		for _, k := range m.kstats {
			k.reads = 0
		}
		records, err := l.read(t.Context(), of)
		require.NoError(t, err)
		var ids []string
		for _, r := range records {
			ids = append(ids, string(r.id))
		}
		require.Equal(t, want, ids)
		reads := 0
		for _, k := range m.kstats {
			reads += k.reads
		}
		require.Equal(t, len(want), reads)
	}
}

func TestKstatsComeAndGo(t *testing.T) {
	m := newMachine(t, sample(t, "disk.first.txt"))
	l := m.start()
	read := func() []record {
		records, err := l.read(t.Context(), selection{class: "disk"})
		require.NoError(t, err)
		return records
	}
	require.Len(t, read(), 3)
	later, err := parse(sample(t, "disk.later.txt"))
	require.NoError(t, err)
	m.updated = func() error { m.set(sample(t, "disk.later.txt")); return nil }
	require.Equal(t, later, read(), "the chain is brought up to date for each reading")
	m.updated = func() error {
		m.kstats = m.kstats[:1]
		m.link()
		return nil
	}
	require.Len(t, read(), 1)
	m.updated = func() error { m.kstats = nil; return nil }
	require.Empty(t, read())
}

func TestFailuresOfLibkstat(t *testing.T) {
	m := newMachine(t, sample(t, "disk.first.txt"))
	l := m.start()
	first := func(errs ...error) ([]record, error) {
		m.kstats[0].errs = errs
		return l.read(t.Context(), selection{class: "disk"})
	}
	records, err := first(syscall.ENXIO)
	require.NoError(t, err)
	require.Len(t, records, 2, "what is gone is passed over")
	records, err = first(syscall.EIO)
	require.NoError(t, err)
	require.Len(t, records, 2, "and so is what its driver cannot tell")
	records, err = first(syscall.EINTR, syscall.EINTR)
	require.NoError(t, err)
	require.Len(t, records, 3, "what was interrupted is done again")
	_, err = first(slices.Repeat([]error{syscall.EINTR}, 100)...)
	require.ErrorIs(t, err, syscall.EINTR, "but not for ever")
	_, err = first(syscall.EACCES)
	require.ErrorIs(t, err, syscall.EACCES)

	m.kstats[0].errs = nil
	m.updated = func() error { return syscall.EBADF }
	_, err = first()
	require.ErrorIs(t, err, syscall.EBADF)
	m.updated = nil

	m.kstats[0].header.size = maxData + 1
	_, err = first()
	require.ErrorContains(t, err, "too much")
}

func TestTheHeadersOfKstatsAreNotKstats(t *testing.T) {
	m := newMachine(t, []byte("unix:0:kstat_types:raw\t0\nunix:0:kstat_types:crtime\t0\nunix:0:kstat_types:snaptime\t1\nunix:0:kstat_types:class\tkstat\n"))
	records, err := m.start().read(t.Context(), selection{})
	require.NoError(t, err)
	require.Empty(t, records)
}

func TestClosingALibraryEndsItsGoroutine(t *testing.T) {
	m := newMachine(t, sample(t, "disk.first.txt"))
	entered, leave := make(chan struct{}), make(chan struct{})
	m.updated = func() error { close(entered); <-leave; return nil }
	l := m.start()
	answered := make(chan error, 1)
	go func() {
		_, err := l.read(context.Background(), selection{class: "disk"})
		answered <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.read(ctx, selection{})
	require.ErrorIs(t, err, context.Canceled, "nobody waits for another's read for ever")
	closed := make(chan struct{})
	go func() { l.close(); close(closed) }()
	<-l.stop
	select {
	case <-m.closed:
		t.Fatal("libkstat was closed under a read")
	default:
	}
	close(leave)
	<-closed
	select {
	case <-m.closed:
	default:
		t.Fatal("close did not wait until libkstat was closed")
	}
	require.NoError(t, <-answered, "the read under way was not lost")
	_, err = l.read(t.Context(), selection{})
	require.ErrorIs(t, err, errClosed)
	l.close()
}

func TestProbesReadThroughLibkstat(t *testing.T) {
	m := newMachine(t, sample(t, "zones.first.txt"))
	e := New(Options{Command: func(string) string { return "" }, Zones: known{vm: {UUID: vm, State: zone.Running}}})
	e.open = m.open
	request := collect.Request{Zones: []uuid.UUID{vm}, Decompositions: []string{"cpumode"}}
	p := open(t, e, "cpu.usage", "illumos-zones", request)
	other := open(t, e, "cpu.waittime", "illumos-zones", collect.Request{Zones: []uuid.UUID{vm}})
	m.updated = func() error { m.set(sample(t, "zones.later.txt")); return nil }
	e.forget()
	r, err := p.Collect(t.Context(), time.Now())
	require.NoError(t, err)
	got := map[string]float64{}
	for _, s := range r.Samples {
		got[s.Fields[0].Value] = s.Value
	}
	require.Equal(t, map[string]float64{"user": 50, "kernel": 12.5}, got)
	require.NoError(t, other.Close())
	select {
	case <-m.closed:
		t.Fatal("libkstat was closed while there is a probe")
	default:
	}
	require.NoError(t, p.Close())
	select {
	case <-m.closed:
	default:
		t.Fatal("the last probe left libkstat open")
	}
}

func TestWithoutLibkstatTheCommandIsUsed(t *testing.T) {
	command, _ := fake(t)
	var log bytes.Buffer
	e := New(Options{Command: command, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	e.open = func() (calls, error) { return nil, syscall.EACCES }
	for range 3 {
		p := open(t, e, "disk.physio_ops", "illumos-disk", collect.Request{WholeHost: true})
		require.NoError(t, p.Close())
		e.forget()
	}
	require.Equal(t, 1, strings.Count(log.String(), "libkstat does not open"), log.String())
}

func TestWhatHasALayoutOfItsOwnIsLeftToTheCommand(t *testing.T) {
	command, _ := fake(t)
	m := newMachine(t, sample(t, "disk.first.txt"))
	m.kstats[1].header.kind = 0
	m.link()
	e := New(Options{Command: command})
	e.open = m.open
	e.begin()
	defer e.end()
	records, err := e.read(t.Context(), selection{class: "disk"})
	require.NoError(t, err)
	require.Len(t, records, 3)
	require.Equal(t, "ramdisk:1:ramdisk1", string(records[0].id))
}

func TestALibraryThatDoesNotOpenLeavesNothing(t *testing.T) {
	want := errors.New("no /dev/kstat")
	l, err := startLibrary(func() (calls, error) { return nil, want })
	require.Nil(t, l)
	require.ErrorIs(t, err, want)
}
