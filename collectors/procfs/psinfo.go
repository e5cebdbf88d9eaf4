package procfs

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"time"
)

// Where /proc/PID/psinfo of illumos has what it tells of a process: psinfo_t of sys/procfs.h, as programs of 64 bits on x86 are
// given it. Sizes are in KiB, times are seconds and nanoseconds, and texts end at their first zero.
const (
	psinfoThreads  = 4
	psinfoPID      = 8
	psinfoPPID     = 12
	psinfoUID      = 24
	psinfoSize     = 48
	psinfoRSS      = 56
	psinfoStart    = 88
	psinfoTime     = 104
	psinfoName     = 136 // of 16 bytes
	psinfoArgs     = 152 // of 80
	psinfoModel    = 256 // 1: 32 bits, 2: 64, 0: a zombie, which has none
	psinfoContract = 280
	psinfoState    = 288 + 26 // in the lwpsinfo_t of one of its threads
	psinfoBytes    = 288 + 128
)

// parsePsinfo reads the binary record of a process of illumos. It gives all columns.
func (p *process) parsePsinfo(b []byte) bool {
	if len(b) != psinfoBytes {
		return false
	}
	long := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	number := func(column, at int) {
		p.text = strconv.AppendUint(p.text, uint64(binary.LittleEndian.Uint32(b[at:])), 10)
		p.ends[column] = len(p.text)
	}
	amount := func(column int, n uint64) {
		p.text = strconv.AppendUint(p.text, n, 10)
		p.ends[column] = len(p.text)
	}
	nanoseconds := func(at int) uint64 { return long(at)*uint64(time.Second) + long(at+8) }
	name, _, _ := bytes.Cut(b[psinfoName:psinfoArgs], []byte{0})
	args, _, _ := bytes.Cut(b[psinfoArgs:psinfoArgs+maxPsargs], []byte{0})
	if len(args) == 0 {
		args = name // as of a process of the kernel
	}
	p.ppid = int(binary.LittleEndian.Uint32(b[psinfoPPID:]))
	binary.BigEndian.PutUint64(p.id[:8], uint64(p.pid))
	binary.BigEndian.PutUint64(p.id[8:], nanoseconds(psinfoStart))

	p.text = p.text[:0] // in the order of statOrder
	number(colPID, psinfoPID)
	p.add(colExecname, name)
	p.add(colState, bytes.Trim(b[psinfoState:psinfoState+1], "\x00"))
	number(colPPID, psinfoPPID)
	number(colThreads, psinfoThreads)
	amount(colVsize, long(psinfoSize)<<10)
	amount(colRSS, long(psinfoRSS)<<10)
	amount(colCPU, nanoseconds(psinfoTime))
	number(colUID, psinfoUID)
	p.add(colPsargs, args)
	number(colCgroup, psinfoContract)
	p.cut()
	switch b[psinfoModel] {
	case 1:
		p.cols[colModel] = model32
	case 2:
		p.cols[colModel] = model64
	default:
		p.cols[colModel] = modelUnknown
	}
	return true
}
