package zone

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	zoneadmTimeout = 10 * time.Second
	maxZoneadm     = 8 << 20
)

// zoneadm runs `zoneadm list -cp`, which lists the zones of a SmartOS machine, one a line.
func zoneadm(ctx context.Context, command string) ([]Zone, error) {
	ctx, cancel := context.WithTimeout(ctx, zoneadmTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, "list", "-cp")
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=/usr/bin:/usr/sbin:/bin:/sbin", "LC_ALL=C"}
	out := limitedBuffer{left: maxZoneadm}
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("list the zones: %w", err)
	}
	return parseZoneadm(out.Bytes())
}

// parseZoneadm reads lines of zoneid:zonename:state:zonepath:uuid:brand:ip-type. The global zone is left out. On
// SmartOS the zone's name is the VM's uuid; elsewhere the uuid column is used.
func parseZoneadm(text []byte) ([]Zone, error) {
	var zones []Zone
	for line := range bytes.Lines(text) {
		line = bytes.TrimRight(line, "\n")
		if len(line) == 0 {
			continue
		}
		cols := splitEscaped(string(line))
		if len(cols) < 6 {
			return nil, fmt.Errorf("list the zones: %q has %d columns, at least 6 were expected", line, len(cols))
		}
		name, state := cols[1], cols[2]
		if name == "global" {
			continue
		}
		id, err := uuid.Parse(name)
		if err != nil {
			if id, err = uuid.Parse(cols[4]); err != nil {
				continue // configured but never installed: nothing that could be measured
			}
		}
		z := Zone{UUID: id, ID: name, Alias: name, Runtime: "smartos", State: Stopped, Tags: map[string]string{"brand": cols[5]}}
		if state == "running" || state == "shutting_down" {
			z.State = Running
		}
		zones = append(zones, z)
	}
	return zones, nil
}

// splitEscaped splits at colons; a backslash takes the next character literally.
func splitEscaped(line string) []string {
	var cols []string
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
		case line[i] == ':':
			cols = append(cols, b.String())
			b.Reset()
		default:
			b.WriteByte(line[i])
		}
	}
	return append(cols, b.String())
}

// limitedBuffer refuses more output than it has room for, which ends the command that writes it.
type limitedBuffer struct {
	bytes.Buffer
	left int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("more than %d bytes of output", maxZoneadm)
	}
	return b.Buffer.Write(p)
}
