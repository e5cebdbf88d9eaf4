package zone

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
)

const maxBundle = 4 << 20

// bundle is what the OCI runtime configuration of a container says that matters here.
type bundle struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
}

// foreign are prefixes of the annotations that runtimes set for themselves.
var foreign = []string{"io.kubernetes.", "io.containerd.", "nerdctl/"}

// annotations are those that kubelets have set by containerd's CRI plugin, and the tags that they become.
var annotations = map[string]string{
	"io.kubernetes.cri.container-type":    "container-type",
	"io.kubernetes.cri.container-name":    "container",
	"io.kubernetes.cri.sandbox-name":      "pod-name",
	"io.kubernetes.cri.sandbox-namespace": "namespace",
	"io.kubernetes.cri.sandbox-uid":       "pod",
	"nerdctl/name":                        "name",
}

// bundles reads what containerd's tasks run from the directory of their bundles: root/<namespace>/<id>/config.json. It
// needs no client of containerd's and sees all namespaces, but Docker's own, for Docker lists these itself.
func bundles(root string) ([]listed, error) {
	files, err := filepath.Glob(filepath.Join(escapeGlob(root), "*", "*", "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read containerd's bundles: %w", err)
	}
	var all []listed
	for _, file := range files {
		dir := filepath.Dir(file)
		namespace := filepath.Base(filepath.Dir(dir))
		if namespace == "moby" {
			continue
		}
		text, err := readFile(file, maxBundle)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the task has ended
		}
		var l listed
		if err == nil {
			l, err = parseBundle(text, namespace, filepath.Base(dir))
		}
		if err != nil {
			return nil, fmt.Errorf("read containerd's bundle %s: %w", file, err)
		}
		all = append(all, l)
	}
	return all, nil
}

func parseBundle(text []byte, namespace, id string) (listed, error) {
	var b bundle
	if err := json.Unmarshal(text, &b); err != nil {
		return listed{}, err
	}
	l := listed{runtime: "containerd", id: id, tags: map[string]string{}}
	if namespace == "k8s.io" {
		l.runtime = "kubernetes"
	}
	if isContainerID(id) {
		l.uuid = uuid.NewSHA1(Namespace, []byte(id))
	} else {
		l.uuid = uuid.NewSHA1(Namespace, []byte("containerd:"+namespace+":"+id))
	}
	if l.runtime == "containerd" { // its clients keep a container's labels here
		for key, value := range b.Annotations {
			if !slices.ContainsFunc(foreign, func(prefix string) bool { return strings.HasPrefix(key, prefix) }) {
				l.tags[key] = value
			}
		}
	}
	for key, tag := range annotations { // what the runtime says goes before what a label says
		if value := b.Annotations[key]; value != "" {
			l.tags[tag] = value
		}
	}
	var labels map[string]string // nerdctl's are JSON in one annotation
	if json.Unmarshal([]byte(b.Annotations["nerdctl/labels"]), &labels) == nil {
		maps.Copy(l.tags, labels)
	}
	l.alias = cmp.Or(l.tags["container"], l.tags["name"], alias(mark{id: id}))

	// A path as it is, or slice:prefix:name for systemd, of which the scope's name alone tells enough.
	switch parts := strings.Split(b.Linux.CgroupsPath, ":"); {
	case len(parts) == 3 && parts[2] != "":
		l.cgroup = strings.TrimPrefix(parts[1]+"-"+parts[2], "-") + ".scope"
	case strings.HasPrefix(b.Linux.CgroupsPath, "/"):
		if l.cgroup = path.Clean(b.Linux.CgroupsPath); l.cgroup == "/" {
			l.cgroup = ""
		}
	}
	l.stopped = l.cgroup != "" // until its cgroup is seen: the bundle is there before, and after
	return l, nil
}

// readFile reads a file of at most max bytes.
func readFile(file string, max int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(text)) > max {
		return nil, fmt.Errorf("more than %d bytes", max)
	}
	return text, err
}

// escapeGlob makes a path match itself only.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
