//go:build !linux

package agent

import "time"

var started = time.Now()

// boottime counts from the start of the process by the monotonic clock: these platforms tell no time since boot
// through the standard library, and so what is left to live does not survive a restart of the agent there.
func boottime() time.Duration { return time.Since(started) }

// bootID is different in each process, so that times since boot are never compared between two.
func bootID() string { return started.Format(time.RFC3339Nano) }
