package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/catalog"
)

// disk is what an agent keeps between its lives: the last good assignment with what is left to live of each
// instrumentation, and the definitions that it has fetched. Without a directory nothing is kept.
type disk struct {
	dir  string
	host uuid.UUID // whose it is
}

// saved is the last good assignment as it lies on disk.
type saved struct {
	Host      uuid.UUID                `json:"host"`
	Version   assignment.Version       `json:"version"`
	Items     []assignment.Item        `json:"items"`
	Boot      string                   `json:"boot"`      // the boot that Deadlines count from
	Deadlines map[string]time.Duration `json:"deadlines"` // by instrumentation, since that boot
	SavedAt   time.Time                `json:"savedAt"`   // by the wall clock, for people
}

func openDisk(dir string, host uuid.UUID) (disk, error) {
	if dir == "" {
		return disk{host: host}, nil
	}
	if err := os.MkdirAll(filepath.Join(dir, "definitions"), 0o700); err != nil {
		return disk{}, fmt.Errorf("make the agent's directory: %w", err)
	}
	return disk{dir: dir, host: host}, nil
}

func (d disk) load() (saved, bool, error) {
	if d.dir == "" {
		return saved{}, false, nil
	}
	raw, err := os.ReadFile(d.assignmentPath())
	if errors.Is(err, fs.ErrNotExist) {
		return saved{}, false, nil
	}
	if err != nil {
		return saved{}, false, fmt.Errorf("read the saved assignment: %w", err)
	}
	s, err := parseSaved(raw)
	if err == nil && s.Host != d.host {
		err = fmt.Errorf("the saved assignment is that of host %s, and this is host %s", s.Host, d.host)
	}
	return s, err == nil, err
}

func (d disk) save(s saved) error {
	if d.dir == "" {
		return nil
	}
	s.Host = d.host
	raw, err := s.text()
	if err != nil {
		return err
	}
	return writeFile(d.assignmentPath(), raw)
}

func (d disk) assignmentPath() string { return filepath.Join(d.dir, "assignment.json") }

// text is what is written: a checksum in a line of its own, for what is damaged and can still be read would run as the
// version that it says it is, and then what follows.
func (s saved) text() ([]byte, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the assignment: %w", err)
	}
	return append([]byte(checksum(raw)+"\n"), raw...), nil
}

func parseSaved(text []byte) (s saved, err error) {
	if bytes.HasPrefix(text, []byte{'{'}) {
		return saved{}, errors.New("the saved assignment has no checksum, so it was written by an earlier version of the agent, or is damaged")
	}
	sum, raw, found := bytes.Cut(text, []byte{'\n'})
	if !found || string(sum) != checksum(raw) {
		return saved{}, errors.New("the saved assignment is damaged")
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return saved{}, fmt.Errorf("decode the saved assignment: %w", err)
	}
	if err := s.Version.Validate(); err != nil {
		return saved{}, fmt.Errorf("the saved assignment: %w", err)
	}
	return s, nil
}

func checksum(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

var digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (d disk) definition(digest string) (catalog.Publication, bool) {
	var p catalog.Publication
	if d.dir == "" || !digestForm.MatchString(digest) {
		return p, false
	}
	raw, err := os.ReadFile(d.definitionPath(digest))
	if err != nil || verify(raw, digest) != nil {
		return p, false // a missing or damaged one is fetched again
	}
	p.Document = raw
	d.loadSignature(digest, &p)
	return p, true
}

func (d disk) saveDefinition(digest string, p catalog.Publication) error {
	if d.dir == "" {
		return nil
	}
	if err := d.saveSignature(digest, p); err != nil {
		return err
	}
	return writeFile(d.definitionPath(digest), p.Document)
}

func (d disk) definitionPath(digest string) string {
	return filepath.Join(d.dir, "definitions", digest+".yaml")
}

// verify makes sure that a document is the one that its digest names.
func verify(document []byte, digest string) error {
	if checksum(document) != digest {
		return fmt.Errorf("the definition's bytes do not have the digest %.12s…", digest)
	}
	return nil
}

// writeFile replaces a file so that a crash leaves the old or the new one whole, and the new one once it has returned.
func writeFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// syncDir makes the names in a directory last: without it, a crash of the machine can bring an older file back.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) { // a file system that has no such thing
		err = nil
	}
	return errors.Join(err, d.Close())
}
