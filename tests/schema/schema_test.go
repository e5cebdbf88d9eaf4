// Package schema_test keeps schema.graphql to its rules.
package schema_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// prepare makes a directory with the schema and the programs that judge it, for all of a test's parts.
func prepare(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", program)
			}
			t.Skipf("%s is not installed", program)
		}
	}
	dir := t.TempDir()
	for to, from := range map[string]string{
		"schema.graphql": "../../schema.graphql", "released.graphql": "released.graphql", "package.json": "package.json",
		"package-lock.json": "package-lock.json", "eslint.config.js": "eslint.config.js",
	} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), text, 0o600))
	}
	out, err := npm(t, dir, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
	require.NoError(t, err, "%s", out)
	return dir
}

func npm(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "npm", args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	return string(out), err
}

func TestTheSchema(t *testing.T) {
	dir := prepare(t)
	t.Run("keeps its rules", func(t *testing.T) {
		out, err := npm(t, dir, "run", "lint")
		require.NoError(t, err, "%s", out)
	})
	// released.graphql is the schema of the last release; a release puts its own there.
	t.Run("breaks nothing that was released", func(t *testing.T) {
		out, err := npm(t, dir, "run", "diff")
		require.NoError(t, err, "%s", out)
	})
	t.Run("would be caught breaking something", func(t *testing.T) {
		path := filepath.Join(dir, "schema.graphql")
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		broken := strings.Replace(string(text), "expectedRevision: Int", "expectedGeneration: Int", 1)
		require.NotEqual(t, string(text), broken)
		require.NoError(t, os.WriteFile(path, []byte(broken), 0o600))
		out, err := npm(t, dir, "run", "diff")
		require.Error(t, err)
		require.Contains(t, out, "expectedRevision")
	})
}
