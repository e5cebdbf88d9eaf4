package dtrace

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// guest is a virtual machine with one processor and two pages of memory, in real mode: it writes to a port some times, and
// then halts some times, each until an interrupt wakes it.
type guest struct {
	t      testing.TB
	files  []int // of the virtual machine and its processor
	memory []byte
	run    []byte // what the kernel tells of the last exit
}

// Requests to KVM, and exits that it leaves to its program, by linux/kvm.h for amd64.
const (
	kvmCreateVM   = 0xae01
	kvmRunSize    = 0xae04
	kvmCreateVCPU = 0xae41
	kvmSetMemory  = 0x4020ae46
	kvmRun        = 0xae80
	kvmSetRegs    = 0x4090ae82
	kvmGetSregs   = 0x8138ae83
	kvmSetSregs   = 0x4138ae84
	kvmInterrupt  = 0x4004ae86

	exitIO, exitHalt = 2, 5

	guestVector = 0x20
	guestStart  = 0x1000
	guestStack  = 0x0800
)

// newGuest returns nil where this machine runs no virtual ones: no CI can install that.
func newGuest(t testing.TB) *guest {
	t.Helper()
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Logf("this machine runs no virtual machines (/dev/kvm: %v): the programs of vm.exits and vm.irqs are compiled and checked, and not run", err)
		return nil
	}
	defer unix.Close(kvm)
	g := &guest{t: t}
	vm := g.ask(kvm, kvmCreateVM, 0)
	g.files = append(g.files, vm)
	t.Cleanup(g.close)
	g.memory, err = unix.Mmap(-1, 0, 0x2000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	region := struct {
		slot, flags             uint32
		at, size, userspaceAddr uint64
	}{size: 0x2000, userspaceAddr: uint64(uintptr(unsafe.Pointer(&g.memory[0])))}
	g.ask(vm, kvmSetMemory, uintptr(unsafe.Pointer(&region)))
	cpu := g.ask(vm, kvmCreateVCPU, 0)
	g.files = append(g.files, cpu)
	g.run, err = unix.Mmap(cpu, 0, g.ask(kvm, kvmRunSize, 0), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(t, err)
	return g
}

func (g *guest) close() {
	for _, memory := range [][]byte{g.run, g.memory} {
		if memory != nil {
			_ = unix.Munmap(memory)
		}
	}
	for _, fd := range g.files {
		_ = unix.Close(fd)
	}
}

func (g *guest) ask(fd int, request, argument uintptr) int {
	g.t.Helper()
	for {
		n, _, err := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
		if err == unix.EINTR { // the runtime of Go sends signals to its threads
			continue
		}
		require.Zero(g.t, err, "%#x: %v", request, err)
		return int(n)
	}
}

// do has the guest write to a port and halt as often. It writes to it once more when it is done.
func (g *guest) do(writes, halts uint16) {
	g.t.Helper()
	code := []byte{0x50, 0x58, 0xba, 0x10, 0x00, 0xb9, 0, 0} // push ax; pop ax; mov dx, 0x10; mov cx, writes
	binary.LittleEndian.PutUint16(code[6:], writes)
	code = append(code, 0xee, 0x49, 0x75, 0xfc, 0xb9, 0, 0) // l: out dx, al; dec cx; jnz l; mov cx, halts
	binary.LittleEndian.PutUint16(code[13:], halts)
	code = append(code, 0xfb, 0xf4, 0x49, 0x75, 0xfc, 0xfa, 0xee, 0xf4) // sti; m: hlt; dec cx; jnz m; cli; out dx, al; hlt
	copy(g.memory[guestStart:], code)
	g.memory[guestStart+0x100] = 0xcf // iret
	binary.LittleEndian.PutUint32(g.memory[4*guestVector:], guestStart+0x100)

	cpu := g.files[1]
	var sregs [312]byte
	g.ask(cpu, kvmGetSregs, uintptr(unsafe.Pointer(&sregs)))
	binary.LittleEndian.PutUint64(sregs[0:], 0) // the code segment begins at 0
	binary.LittleEndian.PutUint16(sregs[12:], 0)
	g.ask(cpu, kvmSetSregs, uintptr(unsafe.Pointer(&sregs)))
	regs := [18]uint64{6: guestStack, 16: guestStart, 17: 2}
	g.ask(cpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs)))
	for left := int(writes) + 1; left > 0; {
		g.ask(cpu, kvmRun, 0)
		switch reason := binary.LittleEndian.Uint32(g.run[8:]); reason {
		case exitIO:
			left--
		case exitHalt:
			vector := uint32(guestVector)
			g.ask(cpu, kvmInterrupt, uintptr(unsafe.Pointer(&vector)))
		default:
			require.Fail(g.t, "the guest has ended", "exit %d", reason)
		}
	}
}

// The kernel takes the programs, and what a guest is left for is counted exactly, and each interrupt that it is given.
func TestExitsAndInterruptsOfAGuest(t *testing.T) {
	needTracer(t)
	g := newGuest(t)
	if g == nil {
		return
	}
	e := newEngine(t, Options{})
	mine := fmt.Sprintf(`{"eq":["irqvector","%d"]}`, guestVector)
	exits := chosen(t, e, wish(definition(t, "vm.exits"), `{"or":[{"eq":["vleavereason","io"]},{"eq":["vleavereason","halt"]}]}`, "vleavereason", "vcpuid"))
	all := chosen(t, e, wish(definition(t, "vm.exits"), `{}`))
	irqs := chosen(t, e, wish(definition(t, "vm.irqs"), mine, "irqvector", "subsecond"))
	const writes, halts = 1000, 200
	g.do(writes, halts)
	left, given := drained(t, exits), drained(t, irqs)
	// A KVM without the help of a processor, such as one within a virtual machine, has no exits that these probes see; that
	// the kernel has taken the programs is then all that can be shown.
	if drained(t, all).sums[""] == 0 {
		t.Log("the processor does not leave guests here: the programs were loaded, and had nothing to count")
		return
	}
	require.Equal(t, map[string]float64{"io|0": writes + 1, "halt|0": halts}, left.sums)
	// What interrupts the giving of an interrupt has it given again.
	require.InDelta(t, halts, given.sums[strconv.Itoa(guestVector)], halts/10)
	require.GreaterOrEqual(t, given.sums[strconv.Itoa(guestVector)], float64(halts))
	require.NotEmpty(t, given.buckets)
}
