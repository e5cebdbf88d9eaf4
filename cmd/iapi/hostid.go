package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"iapi/collectors/zone"
)

// hostID is this host's uuid: the one kept in the directory, else one made from the machine's own id, which is then kept.
func hostID(dir string) (uuid.UUID, error) {
	path := filepath.Join(dir, "host")
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		id, err := uuid.Parse(strings.TrimSpace(string(raw)))
		if err != nil {
			return uuid.Nil, fmt.Errorf("read this host's uuid: %s does not hold one: %w", path, err)
		}
		return id, nil
	case !errors.Is(err, fs.ErrNotExist):
		return uuid.Nil, fmt.Errorf("read this host's uuid: %w", err)
	}
	id := uuid.New()
	if machine, err := os.ReadFile("/etc/machine-id"); err == nil && len(strings.TrimSpace(string(machine))) == 32 {
		id = uuid.NewSHA1(zone.Namespace, []byte("machine:"+strings.TrimSpace(string(machine))))
	}
	if err := os.WriteFile(path, []byte(id.String()+"\n"), 0o600); err != nil {
		return uuid.Nil, fmt.Errorf("keep this host's uuid: %w", err)
	}
	return id, nil
}
