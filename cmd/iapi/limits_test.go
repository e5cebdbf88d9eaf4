//go:build !illumos

package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/measure"
)

// policyOf parses flags as "iapi api" gets them, and returns the policy.
func policyOf(t *testing.T, command string, args ...string) instrumentation.Policy {
	t.Helper()
	parser, err := newParser(t.TempDir())
	require.NoError(t, err)
	args = append([]string{command}, args...)
	if command == "api" {
		args = append(args, "--redis=redis://127.0.0.1:1", "--vmapi=http://127.0.0.1:1")
	}
	parsed, err := parser.Parse(args)
	require.NoError(t, err)
	var policy instrumentation.Policy
	switch c := parsed.Selected().Target.Interface().(type) {
	case apiCmd:
		policy, err = c.policy()
	case devCmd:
		policy, err = c.policy()
	default:
		require.Fail(t, "no policy", "%T", c)
	}
	require.NoError(t, err)
	return policy
}

func TestTheDefaultsOfTheLimitsAreThoseOfThePolicy(t *testing.T) {
	require.Equal(t, instrumentation.DefaultPolicy(), policyOf(t, "api"))
	dev := instrumentation.DefaultPolicy()
	dev.AllowPrivateTargets = true
	require.Equal(t, dev, policyOf(t, "dev"))
	dev.AllowPrivateTargets = false
	require.Equal(t, dev, policyOf(t, "dev", "--no-allow-private-targets"))
}

func TestEveryFieldOfThePolicyHasAFlag(t *testing.T) {
	flags := []string{
		"--max-instrumentations=2", "--max-tracing-instrumentations=2", "--max-operator-instrumentations=2", "--max-operator-tracing=2",
		"--max-name-bytes=2", "--max-tags=2", "--max-tag-key-bytes=2", "--max-tag-value-bytes=2", "--max-targets=2",
		"--max-scope-depth=2", "--max-scope-terms=2", "--max-scope-uuids=2", "--max-scope-values=2", "--max-scope-text-bytes=2",
		"--max-predicate-depth=2", "--max-predicate-leaves=2", "--max-decompositions=2", "--max-granularity=2s", "--tracing-ttl=2s",
		"--max-tracing-ttl=2s", "--max-ttl=2s", "--max-join-token-ttl=2s", "--allow-private-targets",
		"--default-target=statsd://127.0.0.1:8125/x",
	}
	for _, command := range []string{"api", "dev"} {
		got := reflect.ValueOf(policyOf(t, command, flags...))
		require.Equal(t, len(flags), got.NumField(), "a field of instrumentation.Policy has no flag, or this test does not know it")
		for i := range got.NumField() {
			name := got.Type().Field(i).Name
			switch v := got.Field(i).Interface().(type) {
			case int:
				require.Equal(t, 2, v, name)
			case time.Duration:
				require.Equal(t, 2*time.Second, v, name)
			case bool:
				require.True(t, v, name)
			case []measure.Target:
				require.Len(t, v, 1, name)
			default:
				require.Fail(t, "a field of another kind", name)
			}
		}
	}
}
