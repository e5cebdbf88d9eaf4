package catalog

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestABundleFileIsTakenOverAndKept(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	f := BundleFile{Path: filepath.Join(t.TempDir(), "b.json"), Dir: t.TempDir(), Keys: Keys{KeyID(public): public}}
	base, err := New([]byte(strings.Replace(sample, "version: 1", "version: 5", 1)))
	require.NoError(t, err)
	write := func(version int64, key ed25519.PrivateKey, documents ...string) {
		var all [][]byte
		for _, d := range documents {
			all = append(all, []byte(d))
		}
		c, err := New(all...)
		require.NoError(t, err)
		b, err := SignBundle(c, version, now.Add(time.Hour), KeyID(public), key)
		require.NoError(t, err)
		require.NoError(t, WriteBundle(f.Path, b))
	}
	sampleVersion := func(n string) string { return strings.Replace(sample, "version: 1", "version: "+n, 1) }
	versionOf := func(c *Catalog) int {
		d, ok := c.DefinitionOf("test.sample")
		require.True(t, ok)
		return d.Version
	}

	_, _, err = f.Load(base, now)
	require.ErrorIs(t, err, os.ErrNotExist, "without a file and an earlier bundle there is none")

	write(3, private, sampleVersion("4"), tracingSample)
	c, loaded, err := f.Load(base, now)
	require.NoError(t, err)
	require.EqualValues(t, 3, loaded.Version)
	require.Equal(t, 5, versionOf(c), "the newer one that came with the program stays")
	_, ok := c.Metric("test.tracing")
	require.True(t, ok)

	write(4, private, sampleVersion("7"), tracingSample)
	c, loaded, err = f.Load(base, now)
	require.NoError(t, err)
	require.Empty(t, loaded.Refused)
	require.Equal(t, 7, versionOf(c))

	keeps := func(want error, at time.Time) {
		t.Helper()
		c, loaded, err := f.Load(base, at)
		require.NoError(t, err)
		require.True(t, loaded.Kept)
		require.Len(t, loaded.Refused, 1)
		require.ErrorIs(t, loaded.Refused[0], want)
		require.EqualValues(t, 4, loaded.Version)
		require.Equal(t, 7, versionOf(c))
	}
	write(3, private, sampleVersion("8"))
	keeps(ErrRollback, now)
	write(5, private, sampleVersion("6"))
	keeps(ErrRollback, now)
	_, foreign, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	write(9, foreign, sampleVersion("9"))
	keeps(ErrBadSignature, now)
	write(9, private, sampleVersion("9"))
	keeps(ErrExpired, now.Add(2*time.Hour))
	for _, damaged := range []string{"", "{", `{"manifest": 5}`, strings.Repeat(" ", maxBundleBytes+1)} {
		require.NoError(t, os.WriteFile(f.Path, []byte(damaged), 0o600))
		_, loaded, err := f.Load(base, now)
		require.NoError(t, err)
		require.True(t, loaded.Kept, "%.10q", damaged)
		require.Len(t, loaded.Refused, 1)
	}
	require.NoError(t, os.Remove(f.Path))
	keeps(os.ErrNotExist, now)

	// A metric that a bundle has left out comes back no older.
	write(6, private, tracingSample)
	_, loaded, err = f.Load(base, now)
	require.NoError(t, err)
	require.False(t, loaded.Kept)
	write(7, private, sampleVersion("6"), tracingSample)
	_, loaded, err = f.Load(base, now)
	require.NoError(t, err)
	require.True(t, loaded.Kept)
	require.ErrorIs(t, loaded.Refused[0], ErrRollback)

	// With a new key in place of the old one a good bundle is taken, and nothing goes back.
	renewed, fresh, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	f.Keys = Keys{KeyID(renewed): renewed}
	_, _, err = f.Load(base, now)
	require.ErrorIs(t, err, ErrUnknownKey)
	public = renewed
	write(8, fresh, sampleVersion("6"), tracingSample)
	_, _, err = f.Load(base, now)
	require.ErrorIs(t, err, ErrRollback)
	write(8, fresh, sampleVersion("8"), tracingSample)
	c, loaded, err = f.Load(base, now)
	require.NoError(t, err)
	require.False(t, loaded.Kept)
	require.Len(t, loaded.Refused, 1, "the last one is not used")
	require.ErrorIs(t, loaded.Refused[0], ErrUnknownKey)
	require.Equal(t, 8, versionOf(c))
	_, loaded, err = f.Load(base, now)
	require.NoError(t, err)
	require.Empty(t, loaded.Refused)

	// What is kept is not believed because it is there.
	require.NoError(t, os.Remove(f.Path))
	text, err := os.ReadFile(f.kept())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.kept(), []byte(strings.Replace(string(text), `"signature": "`, `"signature": "AAAA`, 1)), 0o600))
	_, _, err = f.Load(base, now)
	require.ErrorIs(t, err, ErrBadSignature)
}
