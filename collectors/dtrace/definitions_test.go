package dtrace

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
)

const definitionsDir = "testdata/definitions"

// definition reads one of the test definitions, as a metric's name.
func definition(t testing.TB, name string) *catalog.Definition {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(definitionsDir, name+".yaml"))
	require.NoError(t, err)
	d, err := catalog.Parse(text)
	require.NoError(t, err, name)
	return d
}

// variant finds the variant of a definition that traces in a language.
func variant(t testing.TB, d *catalog.Definition, bpftrace bool) *catalog.Variant {
	t.Helper()
	for i := range d.Variants {
		if v := &d.Variants[i]; v.Tracing() && (v.Source.Bpftrace != nil) == bpftrace {
			return v
		}
	}
	t.Fatalf("%s has no such variant", d.Metric.Name)
	return nil
}

func TestDefinitionsAreAccepted(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(definitionsDir, "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		_, err = catalog.Parse(text)
		require.NoError(t, err, file)
	}
}
