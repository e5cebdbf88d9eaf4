package kstat

import (
	"syscall"
	"unsafe"
)

// libkstat is linked without cgo, as package syscall links libc: the linker makes these imports entries of the program's
// dynamic table. It does so only for names that begin with libc_. The name of the library is that of its interface, which
// every illumos system has.

//go:cgo_import_dynamic libc_kstat_open kstat_open "libkstat.so.1"
//go:cgo_import_dynamic libc_kstat_close kstat_close "libkstat.so.1"
//go:cgo_import_dynamic libc_kstat_read kstat_read "libkstat.so.1"
//go:cgo_import_dynamic libc_kstat_chain_update kstat_chain_update "libkstat.so.1"

//go:linkname procKstatOpen libc_kstat_open
//go:linkname procKstatClose libc_kstat_close
//go:linkname procKstatRead libc_kstat_read
//go:linkname procKstatChainUpdate libc_kstat_chain_update

var procKstatOpen, procKstatClose, procKstatRead, procKstatChainUpdate uintptr

// sysvicall6 calls a function of C. It is package syscall's.
func sysvicall6(trap, nargs, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno)

// libkstat is a kstat_ctl_t *.
type libkstat uintptr

func openLibkstat() (calls, error) {
	ctl, _, errno := sysvicall6(uintptr(unsafe.Pointer(&procKstatOpen)), 0, 0, 0, 0, 0, 0, 0)
	if ctl == 0 {
		return nil, errno
	}
	return libkstat(ctl), nil
}

func (l libkstat) update() error {
	r, _, errno := sysvicall6(uintptr(unsafe.Pointer(&procKstatChainUpdate)), 1, uintptr(l), 0, 0, 0, 0, 0)
	return failed(r, errno)
}

func (l libkstat) read(kstat uintptr) error {
	r, _, errno := sysvicall6(uintptr(unsafe.Pointer(&procKstatRead)), 3, uintptr(l), kstat, 0, 0, 0, 0)
	return failed(r, errno)
}

func (l libkstat) close() error {
	r, _, errno := sysvicall6(uintptr(unsafe.Pointer(&procKstatClose)), 1, uintptr(l), 0, 0, 0, 0, 0)
	return failed(r, errno)
}

// chain reads the member kc_chain of <kstat.h>'s kstat_ctl_t, which comes after kc_chain_id and its padding.
func (l libkstat) chain() uintptr {
	var pointer [8]byte
	l.copy(pointer[:], uintptr(l)+8)
	return uintptr(u64(pointer[:], 0))
}

// copy reads C's memory, which Go's collector neither moves nor frees. The callers take addresses and sizes from libkstat
// itself, and nothing else uses libkstat meanwhile.
func (l libkstat) copy(into []byte, from uintptr) {
	copy(into, unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&from))), len(into)))
}

// failed gives the error of a call that returns an int, -1 if it failed. Only the lower half of the register is the int.
func failed(r uintptr, errno syscall.Errno) error {
	if int32(r) == -1 {
		return errno
	}
	return nil
}
