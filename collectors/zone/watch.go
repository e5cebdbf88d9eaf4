package zone

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// maxWatches bounds what is watched; changes elsewhere are seen at the next interval.
	maxWatches = 4096
	// settle is how long a container's start is waited out: its cgroups come one by one.
	settle = 50 * time.Millisecond
)

// watcher tells when a cgroup comes or goes. Where the kernel cannot watch, it never tells.
type watcher struct {
	inotify *fsnotify.Watcher // nil: this machine cannot
	paths   map[string]bool
}

func newWatcher() *watcher {
	w, err := fsnotify.NewBufferedWatcher(256)
	if err != nil {
		return &watcher{}
	}
	return &watcher{inotify: w, paths: map[string]bool{}}
}

// follow makes these directories and files what is watched, and reports whether some are that were not: what has happened
// there since they were looked into was not seen.
func (w *watcher) follow(paths []string) (added bool) {
	if w.inotify == nil {
		return false
	}
	want := make(map[string]bool, len(paths))
	for _, path := range paths[:min(len(paths), maxWatches)] {
		want[path] = true
		if !w.paths[path] && w.inotify.Add(path) == nil {
			w.paths[path] = true
			added = true
		}
	}
	for path := range w.paths {
		if !want[path] {
			_ = w.inotify.Remove(path) // what has gone is watched no more in any case
			delete(w.paths, path)
		}
	}
	return added
}

// changed is what the watcher sends on; nil where it cannot watch.
func (w *watcher) changed() (<-chan fsnotify.Event, <-chan error) {
	if w.inotify == nil {
		return nil, nil
	}
	return w.inotify.Events, w.inotify.Errors
}

// matters reports whether an event is of a cgroup that came or went, or of a zone that became empty or ceased to be, and
// forgets what has gone.
func (w *watcher) matters(e fsnotify.Event) bool {
	if e.Has(fsnotify.Remove) {
		delete(w.paths, e.Name)
	}
	if e.Has(fsnotify.Write) {
		return filepath.Base(e.Name) == eventsFile && w.paths[e.Name]
	}
	return e.Has(fsnotify.Create) || e.Has(fsnotify.Remove)
}

// lost reports whether events were lost, so that it is best to look.
func lost(err error) bool { return errors.Is(err, fsnotify.ErrEventOverflow) }

func (w *watcher) close() {
	if w.inotify != nil {
		_ = w.inotify.Close()
	}
}
