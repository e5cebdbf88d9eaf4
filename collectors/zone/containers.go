package zone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of a question to a container runtime.
const (
	containersTimeout = 5 * time.Second
	maxContainersBody = 32 << 20
)

// container is what the Docker API says of one container. Podman's socket speaks the same.
type container struct {
	ID     string            `json:"Id"`
	Names  []string          `json:"Names"`
	Labels map[string]string `json:"Labels"`
	State  string            `json:"State"`
}

func (c container) alias() string {
	if len(c.Names) > 0 {
		return strings.TrimPrefix(c.Names[0], "/")
	}
	return c.ID[:min(len(c.ID), 12)]
}

// stopped reports whether the runtime says that nothing of the container runs.
func (c container) stopped() bool {
	switch c.State {
	case "running", "paused", "restarting":
		return false
	}
	return true
}

// containers asks the runtime behind a unix socket for all its containers, stopped ones included.
func containers(ctx context.Context, socket string) ([]container, error) {
	ctx, cancel := context.WithTimeout(ctx, containersTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://runtime/containers/json?all=1", nil)
	if err != nil {
		return nil, fmt.Errorf("ask the container runtime: %w", err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the container runtime: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the container runtime at %s: it answered %s", socket, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxContainersBody+1))
	if err != nil {
		return nil, fmt.Errorf("read the container runtime's answer: %w", err)
	}
	if len(body) > maxContainersBody {
		return nil, fmt.Errorf("read the container runtime's answer: more than %d bytes", maxContainersBody)
	}
	return parseContainers(body)
}

func parseContainers(body []byte) ([]container, error) {
	var list []container
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("decode the container runtime's answer: %w", err)
	}
	for _, c := range list {
		if !isContainerID(c.ID) {
			return nil, errors.New("decode the container runtime's answer: an Id is not 64 hex digits")
		}
	}
	return list, nil
}

// runtimeOf names the runtime that a socket belongs to.
func runtimeOf(socket string) string {
	if strings.Contains(filepath.Base(socket), "podman") {
		return "podman"
	}
	return "docker"
}
