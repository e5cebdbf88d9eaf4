// Busybody is always busy, half of it in the kernel, so that its stacks can be sampled. It ends by itself after a minute.
package main

import (
	"syscall"
	"time"
)

func main() {
	for began := time.Now(); time.Since(began) < time.Minute; {
		outer()
	}
}

//go:noinline
func outer() { inner() }

//go:noinline
func inner() {
	for range 100_000 {
		_, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
	}
}
