package catalog

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bundle is a set of documents that was signed as one, so that documents of different sets cannot be mixed. It holds
// the manifest's exact bytes, because those are signed.
type Bundle struct {
	KeyID     string   `json:"keyId"`
	Manifest  []byte   `json:"manifest"`
	Signature []byte   `json:"signature"` // Ed25519 over signedPrefix and Manifest
	Documents [][]byte `json:"documents"` // in the manifest's order
}

// Manifest is what is signed: which documents there are, and until when.
type Manifest struct {
	Version   int64           `json:"version"` // grows with each bundle
	Expires   time.Time       `json:"expires"`
	Documents []ManifestEntry `json:"documents"` // sorted by name
}

// ManifestEntry is one document of a bundle.
type ManifestEntry struct {
	Name    string `json:"name"` // of the metric
	Version int    `json:"version"`
	Digest  string `json:"digest"`
}

// Errors of VerifyBundle, and the first two of Keys.Verify, for errors.Is.
var (
	ErrUnknownKey   = errors.New("it is signed with an unknown key")
	ErrBadSignature = errors.New("the signature does not hold")
	ErrExpired      = errors.New("the bundle has expired")
	ErrRollback     = errors.New("the bundle is older than the one before")
	ErrMixed        = errors.New("the bundle's documents are not those of its manifest")
)

// signedPrefix keeps a signature for a bundle from being one for anything else.
const signedPrefix = "iapi.bundle/1\n"

// SignBundle makes a bundle of all definitions of the catalog.
func SignBundle(c *Catalog, version int64, expires time.Time, keyID string, key ed25519.PrivateKey) (Bundle, error) {
	manifest := Manifest{Version: version, Expires: expires.UTC()}
	b := Bundle{KeyID: keyID}
	for _, m := range c.metrics {
		d := c.byName[m.Name]
		manifest.Documents = append(manifest.Documents, ManifestEntry{Name: m.Name, Version: d.Version, Digest: d.Digest})
		b.Documents = append(b.Documents, d.Document)
	}
	var err error
	if b.Manifest, err = json.Marshal(manifest); err != nil {
		return Bundle{}, fmt.Errorf("encode the manifest: %w", err)
	}
	b.Signature = ed25519.Sign(key, signed(b.Manifest))
	return b, nil
}

func signed(manifest []byte) []byte { return slices.Concat([]byte(signedPrefix), manifest) }

// VerifyBundle checks a bundle and returns its catalog. previous is the manifest of the bundle in use, zero for none:
// neither the bundle's version nor that of any of its definitions goes back, and one version means one document. A
// definition that cannot be read disables only itself: it is left out, and returned among the errors of refused.
func VerifyBundle(b Bundle, keys map[string]ed25519.PublicKey, now time.Time, previous Manifest) (c *Catalog, m Manifest, refused []error, err error) {
	key, ok := keys[b.KeyID]
	switch {
	case !ok:
		return nil, m, nil, fmt.Errorf("%w: %q", ErrUnknownKey, b.KeyID)
	case len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed(b.Manifest), b.Signature):
		return nil, m, nil, ErrBadSignature
	}
	if err := json.Unmarshal(b.Manifest, &m); err != nil {
		return nil, m, nil, fmt.Errorf("read the manifest: %w", err)
	}
	if !now.Before(m.Expires) {
		return nil, m, nil, fmt.Errorf("%w on %s", ErrExpired, m.Expires.Format(time.RFC3339))
	}
	if err := m.follows(previous); err != nil {
		return nil, m, nil, err
	}
	if len(b.Documents) != len(m.Documents) {
		return nil, m, nil, fmt.Errorf("%w: %d for %d", ErrMixed, len(b.Documents), len(m.Documents))
	}
	for i, entry := range m.Documents {
		if Digest(b.Documents[i]) != entry.Digest {
			return nil, m, nil, fmt.Errorf("%w: %s", ErrMixed, entry.Name)
		}
	}
	var definitions []*Definition
	seen := make(map[string]bool)
	for i, entry := range m.Documents {
		d, err := Parse(b.Documents[i])
		switch {
		case err != nil:
			refused = append(refused, fmt.Errorf("%s: %w", entry.Name, err))
			continue
		case d.Metric.Name != entry.Name || d.Version != entry.Version || seen[entry.Name]:
			return nil, m, nil, fmt.Errorf("%w: %s version %d stands for %s version %d", ErrMixed, entry.Name, entry.Version, d.Metric.Name, d.Version)
		}
		seen[entry.Name] = true
		definitions = append(definitions, d)
	}
	return build(definitions), m, refused, nil
}

// follows checks that nothing goes back.
func (m Manifest) follows(previous Manifest) error {
	if m.Version < previous.Version {
		return fmt.Errorf("%w: version %d after %d", ErrRollback, m.Version, previous.Version)
	}
	before := make(map[string]ManifestEntry, len(previous.Documents))
	for _, entry := range previous.Documents {
		before[entry.Name] = entry
	}
	for _, entry := range m.Documents {
		old, ok := before[entry.Name]
		if ok && (entry.Version < old.Version || entry.Version == old.Version && entry.Digest != old.Digest) {
			return fmt.Errorf("%w: %s version %d after %d", ErrRollback, entry.Name, entry.Version, old.Version)
		}
	}
	return nil
}
