package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxBundleBytes bounds a bundle's file: 256 documents of the greatest size, in base64.
const maxBundleBytes = 24 << 20

// BundleFile is a bundle that an operator put on this machine, and where this machine keeps the last one that was good.
type BundleFile struct {
	Path string // JSON of a Bundle, as WriteBundle writes it
	Dir  string // keeps the last good one, and the newest version of each metric, so that nothing goes back after a restart
	Keys Keys   // of which one must have signed it
}

// LoadedBundle tells which bundle is in use.
type LoadedBundle struct {
	Version int64
	Expires time.Time
	// Kept is true when the file was refused and the last good bundle is used in its place, however old that is: a machine
	// does not lose its metrics by a bad file.
	Kept    bool
	Refused []error // why the file, the last bundle, or single definitions are not used; for the log
}

// Load returns base with the definitions of the bundle over it: of each metric the one with the higher version. It fails
// when the file is refused and no good bundle came before. The error of a refusal wraps one of those of VerifyBundle.
//
// The last bundle is not believed because it is there: one whose key is trusted no more is not used. Its versions count all the
// same, so that after a change of keys nothing goes back either.
func (f BundleFile) Load(base *Catalog, now time.Time) (*Catalog, LoadedBundle, error) {
	var loaded LoadedBundle
	kept, err := readBundle(f.kept())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, loaded, err
	}
	var before Manifest
	var last *Catalog
	var unusable error
	if kept != nil {
		if last, before, loaded.Refused, unusable = f.last(*kept, now); unusable != nil {
			last, unusable = nil, fmt.Errorf("check the bundle that was used last: %w", unusable)
		}
	}
	seen, err := f.seen()
	if err != nil {
		return nil, loaded, err
	}
	c, manifest, refused, err := f.fresh(now, before.and(seen))
	switch {
	case err == nil:
		loaded.Refused = refused
		if unusable != nil {
			loaded.Refused = append(loaded.Refused, unusable)
		}
	case last == nil:
		return nil, loaded, errors.Join(err, unusable)
	default:
		c, manifest, loaded.Kept = last, before, true
		loaded.Refused = append(loaded.Refused, err)
	}
	loaded.Version, loaded.Expires = manifest.Version, manifest.Expires
	return base.over(c), loaded, nil
}

func (f BundleFile) kept() string { return filepath.Join(f.Dir, "bundle.json") }

// last checks the bundle that was used last. Only its time may have passed since. It gives the manifest, if it can be read, also
// with an error.
func (f BundleFile) last(b Bundle, now time.Time) (*Catalog, Manifest, []error, error) {
	var m Manifest
	if err := json.Unmarshal(b.Manifest, &m); err != nil {
		return nil, Manifest{}, nil, fmt.Errorf("read the manifest: %w", err)
	}
	if !now.Before(m.Expires) {
		now = m.Expires.Add(-time.Second)
	}
	c, _, refused, err := VerifyBundle(b, f.Keys, now, Manifest{})
	return c, m, refused, err
}

func (f BundleFile) seenPath() string { return filepath.Join(f.Dir, "bundle-versions.json") }

// seen gives the newest version of each metric that was in any bundle, for one that a bundle has left out may come again.
func (f BundleFile) seen() (Manifest, error) {
	var m Manifest
	text, err := os.ReadFile(f.seenPath())
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("read which definitions came in bundles: %w", err)
	}
	return m, nil
}

// and is both manifests as one: of each metric the entry with the higher version.
func (m Manifest) and(other Manifest) Manifest {
	newest := make(map[string]ManifestEntry, len(m.Documents))
	for _, entry := range slices.Concat(other.Documents, m.Documents) {
		if old, ok := newest[entry.Name]; !ok || entry.Version >= old.Version {
			newest[entry.Name] = entry
		}
	}
	all := Manifest{Version: max(m.Version, other.Version), Expires: m.Expires}
	for _, name := range slices.Sorted(maps.Keys(newest)) {
		all.Documents = append(all.Documents, newest[name])
	}
	return all
}

// fresh reads the file, checks it and keeps it.
func (f BundleFile) fresh(now time.Time, previous Manifest) (*Catalog, Manifest, []error, error) {
	b, err := readBundle(f.Path)
	if err != nil {
		return nil, Manifest{}, nil, err
	}
	c, m, refused, err := VerifyBundle(*b, f.Keys, now, previous)
	if err != nil {
		return nil, m, nil, fmt.Errorf("check the bundle %s: %w", f.Path, err)
	}
	// Without these the next start could go back.
	if err := writeJSON(f.seenPath(), m.and(previous)); err != nil {
		return nil, m, nil, fmt.Errorf("keep which definitions came in bundles: %w", err)
	}
	if err := WriteBundle(f.kept(), *b); err != nil {
		return nil, m, nil, err
	}
	return c, m, refused, nil
}

// over returns a catalog with the definitions of both, of each metric the one with the higher version.
func (c *Catalog) over(more *Catalog) *Catalog {
	definitions := make([]*Definition, 0, len(c.metrics))
	for _, m := range c.metrics {
		d := c.byName[m.Name]
		if other, both := more.byName[m.Name]; both && other.Version > d.Version {
			d = other
		}
		definitions = append(definitions, d)
	}
	for _, m := range more.metrics {
		if _, both := c.byName[m.Name]; !both {
			definitions = append(definitions, more.byName[m.Name])
		}
	}
	slices.SortFunc(definitions, func(a, b *Definition) int { return strings.Compare(a.Metric.Name, b.Metric.Name) })
	return build(definitions)
}

func readBundle(path string) (*Bundle, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	if info.Size() > maxBundleBytes {
		return nil, fmt.Errorf("read the bundle %s: it is larger than %d bytes", path, maxBundleBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	b := new(Bundle)
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("read the bundle %s: %w", path, err)
	}
	return b, nil
}

// ReadManifest reads the manifest of a bundle's file, without asking who has signed it: it is for making the next one.
func ReadManifest(path string) (Manifest, error) {
	var m Manifest
	b, err := readBundle(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b.Manifest, &m); err != nil {
		return m, fmt.Errorf("read the manifest of %s: %w", path, err)
	}
	return m, nil
}

// WriteBundle writes a bundle's file, whole or not at all.
func WriteBundle(path string, b Bundle) error {
	if err := writeJSON(path, b); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}

// writeJSON writes a file, whole or not at all.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".bundle-*")
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	if err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}
