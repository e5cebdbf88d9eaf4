package dtrace

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const quarantineFile = "tracing-quarantine.json"

// quarantine remembers which definitions are not to be run again for a while. With a directory it survives a restart.
type quarantine struct {
	path string // "" without a directory
	term time.Duration

	mu  sync.Mutex
	all map[string]sentence
}

type sentence struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

func openQuarantine(dir string, term time.Duration) (*quarantine, error) {
	q := &quarantine{term: term, all: map[string]sentence{}}
	if dir == "" {
		return q, nil
	}
	q.path = filepath.Join(dir, quarantineFile)
	text, err := os.ReadFile(q.path)
	if errors.Is(err, fs.ErrNotExist) {
		return q, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the quarantine: %w", err)
	}
	if err := json.Unmarshal(text, &q.all); err != nil {
		return nil, fmt.Errorf("read the quarantine in %s: %w", q.path, err)
	}
	return q, nil
}

// held tells whether, until when and why a definition is in quarantine.
func (q *quarantine) held(digest string) (until time.Time, reason string, held bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, found := q.all[digest]
	return s.Until, s.Reason, found && time.Now().Before(s.Until)
}

func (q *quarantine) put(digest, reason string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all[digest] = sentence{Until: time.Now().Add(q.term).UTC(), Reason: reason}
	return q.save()
}

func (q *quarantine) release(digest string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.all, digest)
	return q.save()
}

// save writes the file anew, without those that are over; the caller holds the lock.
func (q *quarantine) save() error {
	now := time.Now()
	for digest, s := range q.all {
		if now.After(s.Until) {
			delete(q.all, digest)
		}
	}
	if q.path == "" {
		return nil
	}
	text, err := json.Marshal(q.all)
	if err != nil {
		return fmt.Errorf("keep the quarantine: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(q.path), quarantineFile+"-*")
	if err != nil {
		return fmt.Errorf("keep the quarantine: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), q.path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it may have been renamed
		return fmt.Errorf("keep the quarantine: %w", err)
	}
	return nil
}
