package agent

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	d, err := openDisk(dir, rigHost)
	require.NoError(t, err)
	tr, err := newTrust(keys, nil, d, slog.New(slog.DiscardHandler))
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

// A bundle's definitions need no signature of their own, and what the program itself came with is older than they are.
func TestABundlesDefinitionsAreTrustedAndNotGoneBackFrom(t *testing.T) {
	embedded, err := catalog.Embedded()
	require.NoError(t, err)
	before, _ := embedded.DefinitionOf("cpu.usage")
	document := regexp.MustCompile(`(?m)^version: \d+$`).ReplaceAll(before.Document, []byte("version: 99"))
	own, err := embedded.With(document)
	require.NoError(t, err)
	d, err := openDisk("", rigHost)
	require.NoError(t, err)
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	tr, err := newTrust(catalog.Keys{catalog.KeyID(public): public}, own, d, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	after, _ := own.DefinitionOf("cpu.usage")
	require.NoError(t, tr.signed(catalog.Publication{Document: document}))
	denied(t, tr.signed(catalog.Publication{Document: before.Document}), "not signed")
	require.NoError(t, tr.signed(catalog.Sign(before.Document, private)))
	denied(t, tr.take(before), "does not go back")
	require.NoError(t, tr.take(after))
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

}

func TestASignatureIsKeptBesideItsDefinition(t *testing.T) {
	d, err := openDisk(t.TempDir(), rigHost)
	require.NoError(t, err)
	document := []byte("any document")
	digest := catalog.Digest(document)
	p := catalog.Publication{Document: document, Signature: []byte{1, 2}, KeyID: "k"}
	require.NoError(t, d.saveDefinition(digest, p))
	got, ok := d.definition(digest)
	require.True(t, ok)
	require.Equal(t, p, got)
}

func TestADamagedRecordOfVersionsIsMadeAnewFromWhatIsKept(t *testing.T) {
	embedded, err := catalog.Embedded()
	require.NoError(t, err)
	usage, _ := embedded.DefinitionOf("cpu.usage")
	numbered := func(n int, text string) *catalog.Definition {
		document := regexp.MustCompile(`(?m)^version: \d+$`).ReplaceAll(usage.Document, fmt.Appendf(nil, "version: %d", n))
		d, err := catalog.Parse(append(document, text...))
		require.NoError(t, err)
		return d
	}
	dir := t.TempDir()
	tr := trustIn(t, dir, nil)
	for _, d := range []*catalog.Definition{numbered(5, ""), numbered(7, ""), numbered(6, "")} {
		require.NoError(t, tr.disk.saveDefinition(d.Digest, catalog.Publication{Document: d.Document}))
	}
	require.NoError(t, tr.take(numbered(7, "")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "definitions", strings.Repeat("0", 64)+".yaml"), []byte("damaged"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, versionsFile), []byte("{"), 0o600))

	var log bytes.Buffer
	d, err := openDisk(dir, rigHost)
	require.NoError(t, err)
	tr, err = newTrust(catalog.Keys{}, embedded, d, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err, "a damaged file keeps no agent from measuring")
	require.Equal(t, 1, strings.Count(log.String(), "\n"), "it is told in one sentence: %s", log.String())
	require.Contains(t, log.String(), "damaged")
	denied(t, tr.take(numbered(6, "")), "does not go back")
	denied(t, tr.take(numbered(7, "# another\n")), "another version 7")
	require.NoError(t, tr.take(numbered(7, "")))
	aside, err := os.ReadFile(filepath.Join(dir, versionsFile+".damaged"))
	require.NoError(t, err)
	require.Equal(t, "{", string(aside))

	tr = trustIn(t, dir, catalog.Keys{})
	denied(t, tr.take(numbered(6, "")), "does not go back") // in the next life too
}
