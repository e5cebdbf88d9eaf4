package dtrace

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
)

// embedded reads what comes with IAPI once.
var embedded = sync.OnceValues(catalog.Embedded)

// definition is one of those that come with IAPI, after replacing texts in pairs.
func definition(t testing.TB, name string, replace ...string) *catalog.Definition {
	t.Helper()
	all, err := embedded()
	require.NoError(t, err)
	d, found := all.DefinitionOf(name)
	require.True(t, found, name)
	d, err = catalog.Parse([]byte(strings.NewReplacer(replace...).Replace(string(d.Document))))
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
