package agent

import (
	"crypto/ed25519"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/collectors/collect"
)

func denied(t *testing.T, err error, text string) {
	t.Helper()
	var refusal *collect.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, collect.Denied, refusal.Code)
	require.Contains(t, refusal.Message, text)
}

func trustIn(t *testing.T, dir string, keys catalog.Keys) *trust {
	t.Helper()
	d, err := openDisk(dir)
	require.NoError(t, err)
	tr, err := newTrust(keys, d, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return tr
}

func TestOnlyTrustedKeysAndOwnDefinitionsAreRun(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, other, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	document := []byte("any document")
	tr := trustIn(t, "", catalog.Keys{catalog.KeyID(public): public})
	require.NoError(t, tr.signed(catalog.Sign(document, private)))
	denied(t, tr.signed(catalog.Publication{Document: document}), "not signed")
	denied(t, tr.signed(catalog.Sign(document, other)), "unknown key")
	forged := catalog.Sign(document, other)
	forged.KeyID = catalog.KeyID(public)
	denied(t, tr.signed(forged), "does not hold")
	own, err := catalog.Embedded()
	require.NoError(t, err)
	d, _ := own.DefinitionOf("cpu.usage")
	require.NoError(t, tr.signed(catalog.Publication{Document: d.Document}), "it came with the program")

	require.NoError(t, trustIn(t, "", nil).signed(catalog.Publication{Document: document}), "without keys the API is trusted")
}

func TestAnAgentNeverGoesBackInVersion(t *testing.T) {
	version := func(n int, digest string) *catalog.Definition {
		return &catalog.Definition{Metric: catalog.Metric{Name: "test.uptime"}, Version: n, Digest: digest}
	}
	dir := t.TempDir()
	tr := trustIn(t, dir, nil)
	require.NoError(t, tr.take(version(2, "b")))
	require.NoError(t, tr.take(version(2, "b")))
	denied(t, tr.take(version(1, "a")), "does not go back")
	require.NoError(t, tr.take(version(3, "c")))

	tr = trustIn(t, dir, catalog.Keys{})
	denied(t, tr.take(version(2, "b")), "does not go back") // another life of the agent
	denied(t, tr.take(version(3, "x")), "another version 3")
	require.NoError(t, tr.take(version(4, "d")))

	require.NoError(t, os.WriteFile(filepath.Join(dir, versionsFile), []byte("{"), 0o600))
	_, err := newTrust(nil, tr.disk, tr.log)
	require.Error(t, err, "to begin anew would be to go back")
}

func TestASignatureIsKeptBesideItsDefinition(t *testing.T) {
	d, err := openDisk(t.TempDir())
	require.NoError(t, err)
	document := []byte("any document")
	digest := catalog.Digest(document)
	p := catalog.Publication{Document: document, Signature: []byte{1, 2}, KeyID: "k"}
	require.NoError(t, d.saveDefinition(digest, p))
	got, ok := d.definition(digest)
	require.True(t, ok)
	require.Equal(t, p, got)
}
