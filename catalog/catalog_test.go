package catalog

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"iapi/measure"
)

// embeddedOnce reads what comes with IAPI once; a Catalog does not change.
var embeddedOnce = sync.OnceValues(Embedded)

func embeddedCatalog(t testing.TB) *Catalog {
	t.Helper()
	c, err := embeddedOnce()
	require.NoError(t, err)
	return c
}

func TestEmbeddedDefinitionsAreFitForUse(t *testing.T) {
	c := embeddedCatalog(t)
	require.NotEmpty(t, c.Metrics())
	for i, m := range c.Metrics() {
		if i > 0 {
			require.Less(t, c.Metrics()[i-1].Name, m.Name)
		}
		d, ok := c.DefinitionOf(m.Name)
		require.True(t, ok)
		require.Equal(t, Digest(d.Document), m.Digest)
		byDigest, ok := c.Definition(m.Digest)
		require.True(t, ok)
		require.Same(t, d, byDigest)
		require.NotEmpty(t, m.Collectors, m.Name)
		host, ok := m.Field(BuiltinHost)
		require.True(t, ok && host.Operator, "%s: tenants never see names of hosts", m.Name)
		for _, f := range m.Fields {
			require.Equal(t, f.Arity == Numeric, f.Buckets != nil, "%s.%s", m.Name, f.Name)
		}
	}
}

func TestEmbeddedFileNamesAreTheMetrics(t *testing.T) {
	names, err := filepath.Glob("definitions/*.yaml")
	require.NoError(t, err)
	c := embeddedCatalog(t)
	require.Len(t, c.Metrics(), len(names))
	for _, name := range names {
		_, ok := c.Metric(strings.TrimSuffix(filepath.Base(name), ".yaml"))
		require.True(t, ok, name)
	}
}

// Each zone variant reads only what belongs to the zone; that is what tenants' isolation rests on.
func TestVariantsForTenantsReadOnlyFilesOfZones(t *testing.T) {
	for _, m := range embeddedCatalog(t).Metrics() {
		d, _ := embeddedCatalog(t).DefinitionOf(m.Name)
		for _, v := range d.Variants {
			if len(v.Places) == 1 && v.Places[0] == Host {
				require.Equal(t, ScopeNone, v.Scope)
				continue
			}
			require.NotEqual(t, ScopeNone, v.Scope, "%s %s", m.Name, v.ID)
			for _, f := range v.Source.File {
				for _, path := range f.Paths {
					require.True(t, strings.HasPrefix(path, "{instance.cgroup") || strings.HasPrefix(path, "/proc/{instance.pid}/net/"), path)
				}
			}
		}
	}
}

func TestTracingAlwaysHasAnEnd(t *testing.T) {
	c := embeddedCatalog(t)
	traced := 0
	for _, m := range c.Metrics() {
		d, _ := c.DefinitionOf(m.Name)
		if !slices.ContainsFunc(d.Variants, func(v Variant) bool { return v.Tracing() }) {
			require.Zero(t, m.MaxTTL, m.Name)
			continue
		}
		traced++
		require.NotZero(t, m.MaxTTL, m.Name)
		require.Contains(t, m.Collectors, "DTRACE")
	}
	require.Greater(t, traced, 10)
	m, ok := c.Metric("disk.physio_ops")
	require.True(t, ok)
	require.False(t, m.NeedsTracing("disk", "optype"))
	require.True(t, m.NeedsTracing("latency"))
}

func TestMetricSaysWhatTheDocumentSays(t *testing.T) {
	m, ok := embeddedCatalog(t).Metric("cpu.usage")
	require.True(t, ok)
	require.Equal(t, "cpu", m.Module)
	require.Equal(t, "usage", m.Stat)
	require.Equal(t, "aggregated CPU usage", m.Label)
	require.Equal(t, Point, m.Interval)
	require.Equal(t, "percent of 1 CPU", m.Unit)
	require.Equal(t, []string{"KSTAT", "PROCFS"}, m.Collectors)
	require.True(t, m.Tenant)
	require.False(t, m.Tracing)
	require.Zero(t, m.MaxTTL)
	var names []string
	for _, f := range m.Fields {
		names = append(names, f.Name)
	}
	require.Equal(t, []string{"hostname", "zonename", "cpumode"}, names, "the document's order")

	m, _ = embeddedCatalog(t).Metric("unix.processes")
	rss, _ := m.Field("rss")
	require.Equal(t, Numeric, rss.Arity)
	require.Equal(t, "bytes", rss.Unit)
	low, high := rss.Buckets.Bucket(53_950)
	require.Equal(t, [2]int64{53_000, 53_999}, [2]int64{low, high})
}

func TestPredicatesAreCheckedAgainstTheFieldsThatACallerMayUse(t *testing.T) {
	m, _ := embeddedCatalog(t).Metric("unix.processes")
	check := func(text string, operator bool) []measure.PredicateCode {
		p, err := measure.ParsePredicate([]byte(text))
		require.NoError(t, err)
		var codes []measure.PredicateCode
		for _, issue := range p.Check(m.FieldTypes(operator)) {
			codes = append(codes, issue.Code)
		}
		return codes
	}
	require.Empty(t, check(`{"and":[{"eq":["execname","mysqld"]},{"gt":["rss",1000]}]}`, false))
	require.Empty(t, check(`{"eq":["hostname","h1"]}`, true))
	require.Equal(t, []measure.PredicateCode{measure.UnknownField}, check(`{"eq":["hostname","h1"]}`, false))
	require.Equal(t, []measure.PredicateCode{measure.TypeMismatch}, check(`{"eq":["pid","012"]}`, false))
	m, _ = embeddedCatalog(t).Metric("cpu.usage")
	require.Equal(t, []measure.PredicateCode{measure.TypeMismatch}, check(`{"eq":["cpumode","idle"]}`, false))
}

func TestSchemaTakesEveryEmbeddedDefinitionAndRefusesBrokenOnes(t *testing.T) {
	text, err := os.ReadFile("definition.schema.json")
	require.NoError(t, err)
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("definition.schema.json", resource))
	schema, err := compiler.Compile("definition.schema.json")
	require.NoError(t, err)
	validate := func(document []byte) error {
		var v any
		require.NoError(t, yaml.Unmarshal(document, &v))
		plain, err := json.Marshal(v)
		require.NoError(t, err)
		instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(plain))
		require.NoError(t, err)
		return schema.Validate(instance)
	}
	documents := [][]byte{[]byte(sample), []byte(tracingSample)}
	for _, m := range embeddedCatalog(t).Metrics() {
		d, _ := embeddedCatalog(t).DefinitionOf(m.Name)
		documents = append(documents, d.Document)
	}
	for _, document := range documents {
		require.NoError(t, validate(document), "%s", document)
	}
	refused := 0
	for _, broken := range brokenDocuments {
		document, changed := broken.document()
		require.True(t, changed, broken.name)
		if broken.schema {
			require.Error(t, validate(document), broken.name)
			refused++
		}
	}
	require.Greater(t, refused, 70)
}

func TestDigestIsOfTheExactBytes(t *testing.T) {
	d, err := Parse([]byte(sample))
	require.NoError(t, err)
	again, err := Parse([]byte(sample))
	require.NoError(t, err)
	require.Equal(t, d.Digest, again.Digest)
	require.Equal(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", Digest([]byte("abc")))
	other, err := Parse([]byte(sample + "\n"))
	require.NoError(t, err)
	require.NotEqual(t, d.Digest, other.Digest, "one byte more is another document")

	text := []byte(sample)
	d, err = Parse(text)
	require.NoError(t, err)
	text[0] = 'X'
	require.Equal(t, sample, string(d.Document), "a definition keeps its own bytes")
}

func TestWithPublishesAndNeverGoesBack(t *testing.T) {
	base, err := New([]byte(sample))
	require.NoError(t, err)
	v3 := []byte(strings.Replace(sample, "version: 1", "version: 3", 1))
	v2 := []byte(strings.Replace(sample, "version: 1", "version: 2", 1))

	newer, err := base.With(v3)
	require.NoError(t, err)
	d, _ := newer.DefinitionOf("test.sample")
	require.Equal(t, 3, d.Version)
	d, _ = base.DefinitionOf("test.sample")
	require.Equal(t, 1, d.Version, "the first catalog stays as it was")

	_, err = newer.With(v2)
	require.ErrorContains(t, err, "version 2 does not follow 3")
	_, err = newer.With(append(v3, '\n'))
	require.ErrorContains(t, err, "version 3 does not follow 3", "one version is one document")
	same, err := newer.With(v3)
	require.NoError(t, err)
	require.Same(t, newer, same)

	without := newer.Without("test.sample")
	_, ok := without.Metric("test.sample")
	require.False(t, ok)
	_, ok = newer.Metric("test.sample")
	require.True(t, ok)

	_, err = New([]byte(sample), v2)
	require.ErrorContains(t, err, "defined twice")
	_, err = newer.With([]byte("schema: nonsense"))
	require.Error(t, err)
}
