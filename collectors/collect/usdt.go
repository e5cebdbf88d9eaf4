package collect

import (
	"debug/elf"
	"strings"
)

// HasUSDT reports whether a program on this machine has a probe of its own, named as bpftrace does:
// path:provider:name. Its notes say so; that the file exists is not enough.
func HasUSDT(probe string) bool {
	parts := strings.Split(probe, ":")
	if len(parts) != 3 {
		return false
	}
	file, err := elf.Open(parts[0])
	if err != nil {
		return false
	}
	defer file.Close()
	section := file.Section(".note.stapsdt")
	if section == nil || section.Size > maxNotes {
		return false
	}
	notes, err := section.Data()
	return err == nil && strings.Contains(string(notes), parts[1]+"\x00"+parts[2]+"\x00")
}

const maxNotes = 16 << 20 // of the notes of one program
