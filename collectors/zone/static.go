package zone

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/google/uuid"
)

const maxStaticFile = 16 << 20

// static is a zone that the operator has named himself, for platforms whose cgroups are named by uuid already.
type static struct {
	Cgroup string    `json:"cgroup"` // relative to every tree, for example /machine/4f…
	Owner  uuid.UUID `json:"owner"`
	Alias  string    `json:"alias"`
}

// readStatic reads the file {"<uuid>": {"cgroup": "/…", "owner": "<uuid>", "alias": "…"}}.
func readStatic(file string) (map[uuid.UUID]static, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the static zones: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxStaticFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the static zones: %w", err)
	}
	if len(text) > maxStaticFile {
		return nil, fmt.Errorf("read the static zones: more than %d bytes", maxStaticFile)
	}
	all, err := parseStatic(text)
	if err != nil {
		return nil, fmt.Errorf("read the static zones in %s: %w", file, err)
	}
	return all, nil
}

func parseStatic(text []byte) (map[uuid.UUID]static, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var all map[uuid.UUID]static
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the object")
	}
	used := map[string]uuid.UUID{}
	for id, s := range all {
		if id == uuid.Nil {
			return nil, errors.New("the nil uuid is no zone")
		}
		if !strings.HasPrefix(s.Cgroup, "/") || path.Clean(s.Cgroup) != s.Cgroup || s.Cgroup == "/" {
			return nil, fmt.Errorf("cgroup of %s: %q is not a clean absolute path below the root", id, s.Cgroup)
		}
		if other, twice := used[s.Cgroup]; twice {
			return nil, fmt.Errorf("cgroup %s is given to both %s and %s", s.Cgroup, min(id.String(), other.String()), max(id.String(), other.String()))
		}
		used[s.Cgroup] = id
	}
	return all, nil
}
