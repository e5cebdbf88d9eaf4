package zone

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// container is what the Docker API says of one container. Podman's socket speaks the same.
type container struct {
	ID     string            `json:"Id"`
	Names  []string          `json:"Names"`
	Labels map[string]string `json:"Labels"`
	State  string            `json:"State"`
}

// containers asks the Docker API for all containers, stopped ones included.
func containers(ctx context.Context, socket string) ([]listed, error) {
	body, err := ask(ctx, socket, "/containers/json?all=1")
	if err != nil {
		return nil, err
	}
	return parseContainers(body, runtimeOf(socket))
}

func parseContainers(body []byte, runtime string) ([]listed, error) {
	var list []container
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("decode what %s lists: %w", runtime, err)
	}
	var all []listed
	for _, c := range list {
		if !isContainerID(c.ID) {
			return nil, fmt.Errorf("decode what %s lists: the Id %.80q is not 64 hex digits", runtime, c.ID)
		}
		l := listed{uuid: uuid.NewSHA1(Namespace, []byte(c.ID)), runtime: runtime, id: c.ID, alias: c.ID[:12], tags: c.Labels}
		if len(c.Names) > 0 {
			l.alias = strings.TrimPrefix(c.Names[0], "/")
		}
		switch c.State {
		case "running", "paused", "restarting":
		default:
			l.stopped = true
		}
		all = append(all, l)
	}
	return all, nil
}

// runtimeOf names the runtime that a socket belongs to.
func runtimeOf(socket string) string {
	if strings.Contains(filepath.Base(socket), "podman") {
		return "podman"
	}
	return "docker"
}
