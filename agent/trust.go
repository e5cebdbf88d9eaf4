package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"iapi/catalog"
	"iapi/collectors/collect"
)

// trust decides which definitions an agent runs. Whoever can change one can have this host trace, so an operator may
// trust only some keys. Whatever is trusted, an agent never goes back to an older version of a metric's definition, for
// that may be one whose mistake was mended.
type trust struct {
	keys catalog.Keys     // nil: the API is trusted, it has authenticated itself
	own  *catalog.Catalog // came with this program or in a bundle, and is trusted as it is; nil without keys, when all is
	disk disk
	log  *slog.Logger

	mu   sync.Mutex
	seen map[string]seenVersion // by metric
}

// seenVersion is the newest definition of a metric that this host has run.
type seenVersion struct {
	Version int    `json:"version"`
	Digest  string `json:"digest"`
}

func newTrust(keys catalog.Keys, own *catalog.Catalog, d disk, log *slog.Logger) (*trust, error) {
	t := &trust{keys: keys, own: own, disk: d, log: log}
	var err error
	if keys != nil && own == nil {
		if t.own, err = catalog.Embedded(); err != nil {
			return nil, fmt.Errorf("read the definitions that come with the agent: %w", err)
		}
	}
	t.seen, err = d.versions()
	if errors.Is(err, errVersionsDamaged) {
		t.seen, err = t.rebuild(err)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// rebuild finds out from the definitions that this host has kept which versions it has run, for the record of that is
// damaged, and puts the record aside. What is guaranteed is the same as before: every definition is kept on disk before it
// is run, and none is ever removed, so no metric goes back to an older version than it had. Of two definitions with the
// same version nobody knows which one was run: the first that comes is taken.
func (t *trust) rebuild(damage error) (map[string]seenVersion, error) {
	seen := make(map[string]seenVersion)
	kept, err := filepath.Glob(filepath.Join(t.disk.dir, "definitions", "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("find the definitions that this host has kept: %w", err)
	}
	for _, path := range kept {
		digest := strings.TrimSuffix(filepath.Base(path), ".yaml")
		p, ok := t.disk.definition(digest)
		if !ok {
			continue
		}
		d, err := catalog.Parse(p.Document)
		if err != nil {
			continue // it cannot have been run
		}
		switch have := seen[d.Metric.Name]; {
		case d.Version > have.Version:
			seen[d.Metric.Name] = seenVersion{Version: d.Version, Digest: digest}
		case d.Version == have.Version:
			seen[d.Metric.Name] = seenVersion{Version: d.Version}
		}
	}
	path := filepath.Join(t.disk.dir, versionsFile)
	if err := os.Rename(path, path+".damaged"); err != nil {
		return nil, fmt.Errorf("put the damaged record of definitions aside: %w", err)
	}
	if err := t.disk.saveVersions(seen); err != nil {
		return nil, err
	}
	t.log.Warn("the record of which definitions this host has run is damaged; it was put aside and made anew from those that are kept",
		"file", path+".damaged", "metrics", len(seen), "error", damage)
	return seen, nil
}

// signed says why the signature of a definition is not enough, nil if it is.
func (t *trust) signed(p catalog.Publication) error {
	if t.keys == nil {
		return nil
	}
	if _, ok := t.own.Definition(catalog.Digest(p.Document)); ok {
		return nil
	}
	if err := t.keys.Verify(p); err != nil {
		return collect.Errorf(collect.Denied, "this host trusts only definitions that are signed by one of its %d key(s): %w", len(t.keys), err)
	}
	return nil
}

// take notes that a definition is about to be run, or says why it must not be.
func (t *trust) take(d *catalog.Definition) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := d.Metric.Name
	have := t.seen[name]
	if t.keys != nil {
		if own, ok := t.own.DefinitionOf(name); ok && d.Version < own.Version {
			return collect.Errorf(collect.Denied, "this host has version %d of the definition of %s and does not go back to version %d", own.Version, name, d.Version)
		}
	}
	switch {
	case d.Digest == have.Digest:
		return nil
	case d.Version < have.Version:
		return collect.Errorf(collect.Denied, "this host has run version %d of the definition of %s and does not go back to version %d; publish a later one",
			have.Version, name, d.Version)
	case d.Version == have.Version && have.Digest != "" && t.keys != nil:
		return collect.Errorf(collect.Denied, "this host knows another version %d of the definition of %s; publish a later one", d.Version, name)
	}
	t.seen[name] = seenVersion{Version: d.Version, Digest: d.Digest}
	if err := t.disk.saveVersions(t.seen); err != nil {
		t.log.Warn("which definitions were run could not be kept on disk", "error", err)
	}
	return nil
}

const versionsFile = "versions.json"

var errVersionsDamaged = errors.New("it is damaged")

// versions reads which definitions this host has run. What cannot be read is an error: to begin anew would be to go back.
func (d disk) versions() (map[string]seenVersion, error) {
	seen := make(map[string]seenVersion)
	if d.dir == "" {
		return seen, nil
	}
	path := filepath.Join(d.dir, versionsFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the versions of definitions that this host has run: %w", err)
	}
	if err := json.Unmarshal(raw, &seen); err != nil {
		return nil, fmt.Errorf("decode the versions of definitions that this host has run (%s): %w: %w", path, errVersionsDamaged, err)
	}
	return seen, nil
}

func (d disk) saveVersions(seen map[string]seenVersion) error {
	if d.dir == "" {
		return nil
	}
	raw, err := json.Marshal(seen)
	if err != nil {
		return fmt.Errorf("encode the versions of definitions: %w", err)
	}
	return writeFile(filepath.Join(d.dir, versionsFile), raw)
}

// signature is how a definition's signature lies on disk, beside its document.
type signature struct {
	KeyID     string `json:"keyId"`
	Signature []byte `json:"signature"`
}

// loadSignature adds the signature to a definition that was read from disk. One that cannot be read is as if there were none.
func (d disk) loadSignature(digest string, p *catalog.Publication) {
	var s signature
	raw, err := os.ReadFile(d.signaturePath(digest))
	if err == nil && json.Unmarshal(raw, &s) == nil {
		p.Signature, p.KeyID = s.Signature, s.KeyID
	}
}

func (d disk) saveSignature(digest string, p catalog.Publication) error {
	if len(p.Signature) == 0 {
		return nil
	}
	raw, err := json.Marshal(signature{KeyID: p.KeyID, Signature: p.Signature})
	if err != nil {
		return fmt.Errorf("encode the signature: %w", err)
	}
	return writeFile(d.signaturePath(digest), raw)
}

func (d disk) signaturePath(digest string) string {
	return filepath.Join(d.dir, "definitions", digest+".sig")
}
