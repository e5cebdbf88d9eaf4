package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
)

// signer makes a pair of keys, as files.
func signer(t *testing.T, dir, name string) (private, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	write := func(name, kind string, raw []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600))
		return path
	}
	raw, err := x509.MarshalPKCS8PrivateKey(priv)
	require.NoError(t, err)
	private = write(name+".key", "PRIVATE KEY", raw)
	raw, err = x509.MarshalPKIXPublicKey(pub)
	require.NoError(t, err)
	return private, write(name+".pub", "PUBLIC KEY", raw)
}

// sign writes a bundle that holds for some time.
func sign(t *testing.T, keyFile, path, definition string, holds time.Duration) {
	t.Helper()
	key, err := privateKey(keyFile)
	require.NoError(t, err)
	document, err := os.ReadFile(definition)
	require.NoError(t, err)
	c, err := catalog.New(document)
	require.NoError(t, err)
	b, err := catalog.SignBundle(c, 9, time.Now().Add(holds), catalog.KeyID(key.Public().(ed25519.PublicKey)), key)
	require.NoError(t, err)
	require.NoError(t, catalog.WriteBundle(path, b))
}

// What the verb writes the flags take, and nothing of it goes back.
func TestABundleIsWrittenAndTaken(t *testing.T) {
	dir := t.TempDir()
	key, trusted := signer(t, dir, "ours")
	foreign, _ := signer(t, dir, "foreign")
	own, err := catalog.Embedded()
	require.NoError(t, err)
	usage, _ := own.DefinitionOf("cpu.usage")
	define := func(version string) string {
		path := filepath.Join(dir, "usage-"+version+".yaml")
		require.NoError(t, os.WriteFile(path, regexp.MustCompile(`(?m)^version: \d+$`).ReplaceAll(usage.Document, []byte("version: "+version)), 0o600))
		return path
	}
	bundle, kept := filepath.Join(dir, "bundle.json"), filepath.Join(dir, "kept")
	flags := trustFlags{TrustedKey: trusted, Bundle: bundle}
	write := func(args ...string) (code int, out, errs string) {
		return runCLI(t, "", append([]string{"metrics", "bundle", bundle}, args...)...)
	}
	var said bytes.Buffer
	takes := func(version int) {
		t.Helper()
		c, keys, err := flags.catalog(kept, slog.New(slog.NewTextHandler(&said, nil)))
		require.NoError(t, err)
		require.Len(t, keys, 1)
		d, ok := c.DefinitionOf("cpu.usage")
		require.True(t, ok)
		require.Equal(t, version, d.Version)
		_, ok = c.Metric("syscall.syscalls")
		require.True(t, ok, "the program's own are there too")
	}

	_, _, err = flags.catalog(kept, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "--bundle", "there is none yet")
	code, out, errs := write("--key", key, define("98"))
	require.Zero(t, code, errs)
	require.Contains(t, out, "bundle 1 of 1 definition(s)")
	takes(98)
	code, out, _ = write("--key", key, define("99"))
	require.Zero(t, code)
	require.Contains(t, out, "bundle 2 ")
	takes(99)

	code, _, errs = write("--key", key, define("97"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "older than the one before")
	code, _, errs = write("--key", key, define("99"), "--number", "1")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "version 1 after 2")
	code, out, _ = write("--key", key, filepath.Join(dir, "ours.pub"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "ours.pub: ")
	code, _, errs = write("--key", trusted, define("100"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--key")
	code = 0
	takes(99)
	require.Empty(t, regexp.MustCompile(`(?m)^.*level=WARN.*$`).FindString(said.String()))

	for why, spoil := range map[string]func(){
		"signed with an unknown key": func() { code, _, _ = write("--key", foreign, define("100"), "--number", "3") },
		"older than the one before":  func() { code, _, _ = write("--key", key, define("100"), "--number", "1") },
		"the bundle has expired":     func() { sign(t, key, bundle, define("100"), -time.Second) },
		"unexpected end of JSON":     func() { require.NoError(t, os.WriteFile(bundle, []byte("{"), 0o600)) },
		"no such file or directory":  func() {},
	} {
		require.NoError(t, os.RemoveAll(bundle))
		said.Reset()
		spoil()
		require.Zero(t, code)
		takes(99)
		require.Contains(t, said.String(), "is not taken", why)
		require.Contains(t, said.String(), why)
	}
	sign(t, key, bundle, define("100"), time.Hour)
	takes(100)

	_, err = trustFlags{Bundle: bundle}.keys()
	require.ErrorContains(t, err, "--bundle needs --trusted-key")
}
