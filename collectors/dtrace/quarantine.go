package dtrace

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"iapi/catalog"
)

const quarantineFile = "tracing-quarantine.json"

// quarantine remembers which definitions are not to be run again for a while, and for whom. With a directory it survives a
// restart. What is held is named by convict.
type quarantine struct {
	path string // "" without a directory
	term time.Duration

	mu  sync.Mutex
	all map[string]sentence // by convict
}

type sentence struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// openQuarantine reads what was kept. A file that is damaged is put aside, and the quarantine begins empty: what costs too much
// is found out again within two windows, while an agent that did not start would measure nothing at all.
func openQuarantine(dir string, term time.Duration, log *slog.Logger) (*quarantine, error) {
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
	if damage := json.Unmarshal(text, &q.all); damage != nil || q.all == nil {
		q.all = map[string]sentence{}
		if err := os.Rename(q.path, q.path+".damaged"); err != nil {
			return nil, fmt.Errorf("put the damaged quarantine aside: %w", err)
		}
		log.Warn("the record of quarantined definitions is damaged; it was put aside, and none is in quarantine", "file", q.path+".damaged", "error", damage)
	}
	return q, nil
}

// convict names what a variant of a definition traces, and the budget that it has for that, in the hands of an owner. A metric's
// name, version and labels are no part of it: a definition that is published again under another name, or with a byte changed
// that traces nothing else, stays where it is, and one that was mended or may cost more is another.
func convict(d *catalog.Definition, v *catalog.Variant, owner uuid.UUID) (string, error) {
	text, err := json.Marshal(struct {
		Bpftrace, DTrace *catalog.TraceSource
		Scope            catalog.ScopeRule
		Budget           float64
	}{v.Source.Bpftrace, v.Source.DTrace, v.Scope, d.Limits.CPUBudget})
	if err != nil {
		return "", fmt.Errorf("name what %s traces: %w", d.Metric.Name, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]) + "/" + owner.String(), nil
}

// held tells whether, until when and why a convict is in quarantine.
func (q *quarantine) held(convict string) (until time.Time, reason string, held bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, found := q.all[convict]
	return s.Until, s.Reason, found && time.Now().Before(s.Until)
}

func (q *quarantine) put(convict, reason string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all[convict] = sentence{Until: time.Now().Add(q.term).UTC(), Reason: reason}
	return q.save()
}

// save writes the file anew, without those that are over; the caller holds the lock.
func (q *quarantine) save() error {
	now := time.Now()
	maps.DeleteFunc(q.all, func(_ string, s sentence) bool { return now.After(s.Until) })
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
