package collect

import (
	"debug/elf"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// HasUSDT reports whether a program on this machine has a probe of its own, named as bpftrace does:
// path:provider:name. Its notes say so; that the file exists is not enough. A file that tells nothing within lookTime has no
// probes: its file system does not answer, and whoever waits here waits to measure.
func HasUSDT(probe string) bool {
	parts := strings.Split(probe, ":")
	if len(parts) != 3 {
		return false
	}
	found := make(chan bool, 1)
	go func() { found <- hasNote(parts[0], parts[1]+"\x00"+parts[2]+"\x00") }() // it ends when the file system answers
	timer := time.NewTimer(lookTime)
	defer timer.Stop()
	select {
	case has := <-found:
		return has
	case <-timer.C:
		return false
	}
}

// Bounds of looking for one probe.
const (
	lookTime = 5 * time.Second
	maxNotes = 16 << 20 // bytes
)

func hasNote(path, note string) bool {
	program, err := openRegular(path)
	if err != nil {
		return false
	}
	defer program.Close()
	file, err := elf.NewFile(program)
	if err != nil {
		return false
	}
	section := file.Section(".note.stapsdt")
	if section == nil || section.Size > maxNotes {
		return false
	}
	notes, err := io.ReadAll(io.LimitReader(section.Open(), maxNotes))
	return err == nil && strings.Contains(string(notes), note)
}

// openRegular opens a file that is one, and nothing that does something when it is opened, or waits.
func openRegular(path string) (*os.File, error) {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrInvalid}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() { // it is another one now
		f.Close()
		return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrInvalid}
	}
	return f, nil
}
