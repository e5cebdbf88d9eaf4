package catalog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBundleIsTakenWholeAndNeverGoesBack(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	otherPublic, otherPrivate, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	keys := map[string]ed25519.PublicKey{"root": public}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c, err := New([]byte(sample), []byte(tracingSample))
	require.NoError(t, err)
	sign := func(c *Catalog, version int64) Bundle {
		b, err := SignBundle(c, version, now.Add(time.Hour), "root", private)
		require.NoError(t, err)
		return b
	}
	good := sign(c, 7)

	// A bundle travels as JSON.
	text, err := json.Marshal(good)
	require.NoError(t, err)
	var received Bundle
	require.NoError(t, json.Unmarshal(text, &received))
	got, manifest, refused, err := VerifyBundle(received, keys, now, Manifest{})
	require.NoError(t, err)
	require.Empty(t, refused)
	require.Len(t, got.Metrics(), 2)
	require.EqualValues(t, 7, manifest.Version)
	_, _, _, err = VerifyBundle(good, keys, now, manifest)
	require.NoError(t, err, "the same bundle again is fine")

	tampered := func(change func(*Bundle)) Bundle {
		b := good
		b.Documents = slices.Clone(good.Documents)
		change(&b)
		return b
	}
	foreign, err := New([]byte(strings.Replace(sample, "stat: sample", "stat: other", 1)))
	require.NoError(t, err)
	for name, test := range map[string]struct {
		bundle   Bundle
		now      time.Time
		previous Manifest
		want     error
	}{
		"unknown key":                  {tampered(func(b *Bundle) { b.KeyID = "other" }), now, Manifest{}, ErrUnknownKey},
		"signature of other":           {tampered(func(b *Bundle) { b.Signature = ed25519.Sign(otherPrivate, signed(b.Manifest)) }), now, Manifest{}, ErrBadSignature},
		"changed manifest":             {tampered(func(b *Bundle) { b.Manifest = bytes.Replace(b.Manifest, []byte(`:7,`), []byte(`:8,`), 1) }), now, Manifest{}, ErrBadSignature},
		"bare signature":               {tampered(func(b *Bundle) { b.Signature = ed25519.Sign(private, b.Manifest) }), now, Manifest{}, ErrBadSignature},
		"no signature":                 {tampered(func(b *Bundle) { b.Signature = nil }), now, Manifest{}, ErrBadSignature},
		"missing document":             {tampered(func(b *Bundle) { b.Documents = b.Documents[:1] }), now, Manifest{}, ErrMixed},
		"further document":             {tampered(func(b *Bundle) { b.Documents = append(b.Documents, []byte(sample)) }), now, Manifest{}, ErrMixed},
		"foreign document":             {tampered(func(b *Bundle) { b.Documents[0] = sign(foreign, 1).Documents[0] }), now, Manifest{}, ErrMixed},
		"exchanged":                    {tampered(func(b *Bundle) { slices.Reverse(b.Documents) }), now, Manifest{}, ErrMixed},
		"expired":                      {good, now.Add(time.Hour), Manifest{}, ErrExpired},
		"older bundle":                 {good, now, Manifest{Version: 8}, ErrRollback},
		"older definition":             {good, now, Manifest{Documents: []ManifestEntry{{Name: "test.sample", Version: 2}}}, ErrRollback},
		"same version, other document": {good, now, Manifest{Documents: []ManifestEntry{{Name: "test.sample", Version: 1, Digest: "x"}}}, ErrRollback},
	} {
		_, _, _, err := VerifyBundle(test.bundle, keys, test.now, test.previous)
		require.ErrorIs(t, err, test.want, name)
	}
	_, _, _, err = VerifyBundle(good, map[string]ed25519.PublicKey{"root": otherPublic}, now, Manifest{})
	require.ErrorIs(t, err, ErrBadSignature)
	_, _, _, err = VerifyBundle(good, map[string]ed25519.PublicKey{"root": nil}, now, Manifest{})
	require.ErrorIs(t, err, ErrBadSignature)
}

func TestDefinitionThatCannotBeReadDisablesOnlyItself(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	now := time.Now()
	c, err := New([]byte(sample), []byte(tracingSample))
	require.NoError(t, err)
	// A later version of the schema, as a newer control plane would sign it.
	later := *c.byName["test.tracing"]
	later.Document = bytes.Replace(later.Document, []byte("iapi.metric/1"), []byte("iapi.metric/9"), 1)
	later.Digest = Digest(later.Document)
	b, err := SignBundle(build([]*Definition{c.byName["test.sample"], &later}), 1, now.Add(time.Hour), "k", private)
	require.NoError(t, err)
	got, _, refused, err := VerifyBundle(b, map[string]ed25519.PublicKey{"k": public}, now, Manifest{})
	require.NoError(t, err)
	require.Len(t, got.Metrics(), 1)
	require.Len(t, refused, 1)
	require.ErrorContains(t, refused[0], "test.tracing")
}
