package zone

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// instance is what LXD's API, and Incus', says of one instance.
type instance struct {
	Name    string            `json:"name"`
	Project string            `json:"project"`
	Type    string            `json:"type"`
	Status  string            `json:"status"`
	Config  map[string]string `json:"config"`
}

// instances asks LXD or Incus for all containers, stopped ones included. Their virtual machines have no cgroup of their
// own and are left out.
func instances(ctx context.Context, socket string) ([]listed, error) {
	body, err := ask(ctx, socket, "/1.0/instances?recursion=1&all-projects=true")
	if err != nil {
		return nil, err
	}
	return parseInstances(body)
}

func parseInstances(body []byte) ([]listed, error) {
	var answer struct {
		Metadata []instance `json:"metadata"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("decode what LXD lists: %w", err)
	}
	var all []listed
	for _, i := range answer.Metadata {
		id, err := uuid.Parse(i.Config["volatile.uuid"])
		if err != nil || i.Type != "container" {
			continue // an instance gets its uuid when it first starts
		}
		l := listed{uuid: id, runtime: "lxc", id: i.Name, alias: i.Name, tags: map[string]string{}}
		if i.Project != "" && i.Project != "default" {
			l.id = i.Project + "_" + i.Name // as its cgroup is called
			l.tags["project"] = i.Project
		}
		for key, value := range i.Config {
			if name, ok := strings.CutPrefix(key, "user."); ok {
				l.tags[name] = value
			}
		}
		switch i.Status {
		case "Running", "Frozen", "Freezing", "Thawed":
		default:
			l.stopped = true
		}
		all = append(all, l)
	}
	return all, nil
}
