package kstat

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Bounds of what is believed of the kernel's chain.
const (
	maxKstats = 1 << 20
	maxData   = 16 << 20 // bytes of one kstat
)

// errNoLibrary says that this program has no libkstat, as on all systems but illumos.
var errNoLibrary = errors.New("there is no libkstat on this system")

// errClosed is the answer to who reads from a library that is closed.
var errClosed = errors.New("libkstat is closed")

// calls are the functions of an open libkstat, and the memory that it keeps kstats in. They are made one at a time, by the
// thread that opened it. Errors are syscall.Errno.
type calls interface {
	update() error                  // kstat_chain_update
	chain() uintptr                 // where the first kstat_t is, 0 for nowhere
	read(kstat uintptr) error       // kstat_read, which keeps the data in the kstat
	copy(into []byte, from uintptr) // copies memory of a kstat
	close() error
}

// library is the source that reads through libkstat. Its goroutine owns the library, which is for one thread only, from
// the time that it is opened until close.
type library struct {
	requests chan request
	stop     chan struct{}
	ended    chan struct{}
	once     sync.Once
}

type request struct {
	ctx   context.Context
	of    selection
	reply chan<- reply
}

type reply struct {
	records []record
	err     error
}

// startLibrary opens libkstat. What it gives must be closed.
func startLibrary(open func() (calls, error)) (*library, error) {
	l := &library{requests: make(chan request), stop: make(chan struct{}), ended: make(chan struct{})}
	opened := make(chan error, 1)
	go l.serve(open, opened)
	if err := <-opened; err != nil {
		<-l.ended
		return nil, err
	}
	return l, nil
}

func (l *library) serve(open func() (calls, error), opened chan<- error) {
	defer close(l.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := open()
	opened <- err
	if err != nil {
		return
	}
	defer c.close() // it only gives memory and a descriptor back
	for {
		select {
		case <-l.stop:
			return
		case r := <-l.requests:
			records, err := walk(r.ctx, c, r.of)
			r.reply <- reply{records, err}
		}
	}
}

// close ends the library and waits for the read that is under way.
func (l *library) close() {
	l.once.Do(func() { close(l.stop) })
	<-l.ended
}

// read implements source.
func (l *library) read(ctx context.Context, of selection) ([]record, error) {
	answer := make(chan reply, 1)
	select {
	case l.requests <- request{ctx, of, answer}:
	case <-l.ended:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case r := <-answer:
		return r.records, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// walk brings the chain up to date and reads the kstats of it that are selected, in the order of the command kstat.
func walk(ctx context.Context, c calls, of selection) ([]record, error) {
	if err := again(c.update); err != nil {
		return nil, fmt.Errorf("update the chain of kstats: %w", err)
	}
	var records []record
	var buffer [headerSize]byte
	at := c.chain()
	for range maxKstats {
		if at == 0 {
			slices.SortStableFunc(records, compare)
			return records, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.copy(buffer[:], at)
		h, err := decodeHeader(buffer[:])
		if err != nil {
			return nil, err
		}
		if of.matches(&h) {
			r, err := readOne(c, at, buffer[:])
			if err != nil {
				return nil, err
			}
			if r.isRead() {
				records = append(records, r)
			}
		}
		at = uintptr(h.next)
	}
	return nil, fmt.Errorf("the chain of kstats has more than %d", maxKstats)
}

// readOne reads a kstat, and gives an empty record for one that has nothing to say: it is gone since the chain was
// brought up to date, or its driver fails to tell. The command kstat passes over these too.
func readOne(c calls, at uintptr, buffer []byte) (record, error) {
	err := again(func() error { return c.read(at) })
	switch {
	case errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.EIO):
		return record{}, nil
	case err != nil:
		return record{}, fmt.Errorf("read a kstat: %w", err)
	}
	c.copy(buffer, at) // the size may have changed
	h, err := decodeHeader(buffer)
	if err != nil {
		return record{}, err
	}
	if h.size > maxData {
		return record{}, fmt.Errorf("the kstat %s:%d:%s has %d bytes, which is too much", h.module, h.instance, h.name, h.size)
	}
	var data []byte
	if h.data != 0 {
		data = make([]byte, h.size)
		c.copy(data, uintptr(h.data))
	}
	return decode(h, data)
}

// again makes a call until no signal interrupts it, a few times at most.
func again(call func() error) error {
	err := call()
	for range 9 {
		if !errors.Is(err, syscall.EINTR) {
			break
		}
		err = call()
	}
	return err
}

// matches reports whether a kstat is selected. The kstats about kstats are for libkstat alone.
func (s selection) matches(h *header) bool {
	return (s.module == "" || s.module == string(h.module)) &&
		(s.name == "" || s.name == string(h.name)) &&
		(s.class == "" || s.class == string(h.class)) &&
		(s.instance == "" || s.instance == strconv.Itoa(int(h.instance))) &&
		!strings.HasPrefix(string(h.name), "kstat_")
}

// compare orders kstats as the command kstat does.
func compare(a, b record) int {
	return cmp.Or(
		bytes.Compare(bytes.ToLower(a.names[0]), bytes.ToLower(b.names[0])),
		cmp.Compare(instance(a), instance(b)),
		bytes.Compare(bytes.ToLower(a.names[2]), bytes.ToLower(b.names[2])))
}

func instance(r record) int {
	n, _ := strconv.Atoi(string(r.names[1])) // it was made from a number
	return n
}
