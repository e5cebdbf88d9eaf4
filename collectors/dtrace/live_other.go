//go:build !linux

package dtrace

import (
	"errors"
	"log/slog"
	"time"
)

// A D program keeps its own time and has its zones in its text; nothing of it is changed from outside.

var started = time.Now()

func sinceBoot() time.Duration { return time.Since(started) }

func wallOffset() time.Duration { return 0 }

func meterPrograms(*slog.Logger) func() { return func() {} }

type liveMaps struct{}

var errNoMap = errors.New("programs have no maps here")

func (*liveMaps) open(string, int) error           { return errNoMap }
func (*liveMaps) close()                           {}
func (*liveMaps) set(string, uint64, uint64) error { return errNoMap }
func (*liveMaps) put(string, uint64) error         { return errNoMap }
func (*liveMaps) remove(string, uint64) error      { return errNoMap }

// cost is not known here: DTrace itself drops what would take too much.
func cost(string, int) (time.Duration, error) {
	return 0, errors.New("what a tracer costs is not known here")
}
