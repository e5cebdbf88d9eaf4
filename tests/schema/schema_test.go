// Package schema_test keeps schema.graphql to its rules.
package schema_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheSchemaKeepsItsRules(t *testing.T) {
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
		"schema.graphql": "../../schema.graphql", "package.json": "package.json", "package-lock.json": "package-lock.json", "eslint.config.js": "eslint.config.js",
	} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), text, 0o600))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"},
		{"npm", "run", "lint"},
	} {
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
