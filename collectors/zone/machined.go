package zone

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// machine is what systemd-machined says of a machine registered with it: libvirt's VMs and nspawn's containers.
type machine struct {
	name   string
	unit   string // the scope or service whose cgroup is the machine's
	id     uuid.UUID
	leader int
	vm     bool
}

// machines reads machined's records, by unit. Root is usually /run/systemd/machines; a missing one has no machines.
func machines(root string) (map[string]machine, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the registered machines: %w", err)
	}
	all := map[string]machine{}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue // "unit:…" entries are links to the machines' own records
		}
		text, err := readBounded(filepath.Join(root, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the registered machine: %w", err)
		}
		if m, ok := parseMachine(text); ok {
			all[m.unit] = m
		}
	}
	return all, nil
}

// parseMachine reads one record of KEY=value lines; false if it names no unit.
func parseMachine(text []byte) (machine, bool) {
	var m machine
	for line := range bytes.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), "=")
		if !ok {
			continue
		}
		switch key {
		case "NAME":
			m.name = value
		case "SCOPE", "UNIT":
			m.unit = strings.ReplaceAll(value, `\\`, `\`) // the file escapes the backslashes of unit names
		case "ID":
			if id, err := uuid.Parse(value); err == nil {
				m.id = id
			}
		case "LEADER":
			if pid, err := strconv.Atoi(value); err == nil && pid > 0 {
				m.leader = pid
			}
		case "CLASS":
			m.vm = value == "vm"
		}
	}
	if m.unit == "" || strings.ContainsRune(m.unit, '/') {
		return machine{}, false
	}
	return m, true
}
