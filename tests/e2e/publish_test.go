package e2e

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// uptime is a definition that no program comes with.
func uptime(version, factor int) string {
	return fmt.Sprintf(`schema: iapi.metric/1
metric: {module: test, stat: uptime}
version: %d
label: time since boot
kind: point
value: {unit: seconds}
visibility: operator
fields:
  hostname: {builtin: host, label: host name, visibility: operator}
variants:
  - id: linux-uptime
    cost: 1
    places: [host]
    scope: none
    when: {os: [linux]}
    source:
      file:
        - paths: [/proc/uptime]
          parser: table
          columns: [up]
          rows:
            - value: {scale: {of: up, mul: %d}}
`, version, factor)
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "definition.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// writePEM writes one PEM block to a file.
func writePEM(t testing.TB, dir, name, kind string, raw []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600))
	return path
}

// lint runs the checker, which needs no server.
func lint(t testing.TB, path string) (code int, out string) {
	t.Helper()
	cmd := exec.Command(binary, "metrics", "lint", path)
	raw, _ := cmd.Output() // the exit code says it
	return cmd.ProcessState.ExitCode(), string(raw)
}

// A metric that nobody knew when the service was started is published and measured, is changed under what measures it, and
// is retired; nothing is restarted.
func TestAPublishedMetricIsMeasuredWithoutARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	a := d.api()
	code, _, errs := a.try("create", "test.uptime", "--every-host")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "UNKNOWN_METRIC")

	code, out := lint(t, writeFile(t, uptime(0, 1)))
	require.Equal(t, 1, code)
	require.Contains(t, out, "version: it starts at 1")
	code, _, errs = a.try("metrics", "publish", writeFile(t, uptime(0, 1)))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "INVALID_DEFINITION")

	require.Equal(t, "test.uptime\n", a.run("metrics", "publish", writeFile(t, uptime(1, 1))))
	require.Contains(t, a.run("metrics", "test.uptime"), "time since boot")
	id := a.create("test.uptime", "--every-host")
	a.becomes(id, "ENABLED")
	sd := startStatsd(t)
	kept := a.create("test.uptime", "--every-host", "--target", "statsd://"+sd.address)
	for _, e := range a.watch(id, "2s") {
		require.Less(t, e.value(t), 1e9)
	}

	published := time.Now()
	a.run("metrics", "publish", writeFile(t, uptime(2, 1_000_000_000)))
	require.True(t, wait(patience, func() bool {
		for _, e := range a.watch(id, "3s") {
			if e.value(t) > 1e9 {
				return true
			}
		}
		return false
	}), "the host takes the new version")
	t.Logf("the new version was measured %.1f s after it was published", time.Since(published).Seconds())
	code, _, errs = a.try("metrics", "publish", writeFile(t, uptime(1, 1)))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "greater than 2")

	a.run("metrics", "retire", "test.uptime")
	code, _, errs = a.try("create", "test.uptime", "--every-host")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "UNKNOWN_METRIC")
	require.NotEmpty(t, a.watch(id, "2s"), "what measures it goes on")

	d.kill()
	d = startDev(t, dir)
	a = d.api()
	code, _, _ = a.try("metrics", "test.uptime")
	require.Equal(t, 4, code, "it is still retired")
	a.becomes(kept, "ENABLED")
	code, _, errs = a.try("metrics", "publish", writeFile(t, uptime(1, 1)))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "greater than 2", "and its last version is known")
	a.run("metrics", "publish", writeFile(t, uptime(2, 1_000_000_000)))
	require.Contains(t, a.run("metrics", "test.uptime"), "time since boot", "published again, it is offered again")
}

// A host that trusts only some keys runs nothing else.
func TestAHostThatTrustsKeysRunsOnlyWhatTheySigned(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, other, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	dir := t.TempDir()
	raw, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	trusted := writePEM(t, dir, "trusted.pem", "PUBLIC KEY", raw)
	keyFile := func(name string, key ed25519.PrivateKey) string {
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		return writePEM(t, dir, name, "PRIVATE KEY", raw)
	}
	key, wrong := keyFile("key.pem", private), keyFile("other.pem", other)

	home, bundle := t.TempDir(), filepath.Join(dir, "bundle.json")
	d := startDev(t, home, "--collectors", "procfs")
	a := d.api()
	target := "statsd://" + startStatsd(t).address // which is still there after a restart
	own := a.create("cpu.loadavg1", "--every-host", "--target", target)
	a.run("metrics", "publish", writeFile(t, uptime(1, 1)))
	id := a.create("test.uptime", "--every-host", "--target", target)
	a.becomes(id, "ENABLED") // nobody's signature is wanted
	d.stop()

	definition := writeFile(t, strings.Replace(uptime(1, 1), "stat: uptime", "stat: bundled", 1))
	out, err := exec.Command(binary, "metrics", "bundle", bundle, definition, "--key", key).CombinedOutput()
	require.NoError(t, err, string(out))
	trusting := []string{"--trusted-key", trusted, "--bundle", bundle, "--collectors", "procfs"}
	d = startDev(t, home, trusting...)
	a = d.api()
	a.becomes(own, "ENABLED") // it came with the agent
	a.becomes(id, "DEGRADED")
	require.Contains(t, a.run("get", id), "DENIED")
	require.Contains(t, a.run("get", id), "not signed")
	bundled := a.create("test.bundled", "--every-host", "--target", target)
	a.becomes(bundled, "ENABLED") // it came in the bundle

	for text, args := range map[string][]string{"must be signed": nil, "none of the keys": {"--key", wrong}} {
		code, _, errs := a.try(append([]string{"metrics", "publish", writeFile(t, uptime(2, 1))}, args...)...)
		require.Equal(t, 1, code)
		require.Contains(t, errs, "INVALID_DEFINITION")
		require.Contains(t, errs, text)
	}
	a.run("metrics", "publish", "--key", key, writeFile(t, uptime(2, 1)))
	a.becomes(id, "ENABLED")
	d.stop()

	require.NoError(t, os.WriteFile(bundle, []byte(`{"keyId": "damaged`), 0o600))
	d = startDev(t, home, trusting...)
	d.api().becomes(bundled, "ENABLED")
	require.Contains(t, d.output(), "is not taken")
}
