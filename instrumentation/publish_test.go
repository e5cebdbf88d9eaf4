package instrumentation_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	in "iapi/instrumentation"
	it "iapi/instrumentation/instrumentationtest"
)

const uptime = `schema: iapi.metric/1
metric: {module: test, stat: uptime}
version: 1
label: time since boot
kind: point
value: {unit: seconds}
visibility: tenant
fields:
  hostname: {builtin: host, label: host name, visibility: operator}
  zonename: {builtin: zone, label: zone name}
variants:
  - id: linux-uptime
    cost: 1
    places: [zone]
    scope: instance-iterator
    when: {os: [linux]}
    source:
      file:
        - paths: ["{instance.cgroup}/cpu.stat"]
          parser: flatkeyed
          rows:
            - value: usage_usec
`

// shelf is a Publisher in memory.
type shelf struct {
	*catalog.Live
	mu   sync.Mutex
	now  catalog.Published
	race int // how many changes somebody else is faster with
}

func (s *shelf) PublishedRevision(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.Revision, nil
}

func (s *shelf) Published(context.Context) (catalog.Published, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, nil
}

func (s *shelf) change(expect string, d *catalog.Definition, retired bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.race > 0 {
		s.race--
		s.now.Revision = uuid.NewString()
	}
	if expect != s.now.Revision {
		return in.ErrRevision
	}
	next := catalog.Published{Revision: uuid.NewString(), Metrics: map[string]catalog.Standing{}, Definitions: map[string]catalog.Publication{}}
	for name, m := range s.now.Metrics {
		next.Metrics[name] = m
	}
	for digest, p := range s.now.Definitions {
		next.Definitions[digest] = p
	}
	next.Metrics[d.Metric.Name] = catalog.Standing{Digest: d.Digest, Version: d.Version, Retired: retired}
	next.Definitions[d.Digest] = catalog.Publication{Document: d.Document, Signature: d.Signature, KeyID: d.KeyID}
	s.now = next
	return nil
}

func (s *shelf) PublishMetric(_ context.Context, expect string, d *catalog.Definition, _ in.Audit) error {
	return s.change(expect, d, false)
}

func (s *shelf) RetireMetric(_ context.Context, expect string, d *catalog.Definition, _ in.Audit) error {
	return s.change(expect, d, true)
}

func publishingWorld(t *testing.T) (*it.World, *shelf) {
	t.Helper()
	own, err := catalog.Embedded()
	require.NoError(t, err)
	s := &shelf{}
	s.Live = catalog.NewLive(own, s, nil)
	return it.NewWorld(t, func(o *in.Options) { o.Catalog, o.Publisher = s, s }), s
}

func version(n string) in.PublishInput {
	return in.PublishInput{Document: strings.Replace(uptime, "version: 1", "version: "+n, 1)}
}

func TestAPublishedMetricCanBeAskedForAndItsVersionOnlyGrows(t *testing.T) {
	w, s := publishingWorld(t)
	wish := counter(func(c *in.CreateInput) { c.Metric = "test.uptime" })
	_, err := w.Create(t.Context(), it.Tenant(alice), wish)
	require.Equal(t, []string{"UNKNOWN_METRIC metric"}, mistakes(t, err))
	s.race = 2
	m, err := w.Publish(t.Context(), it.Operator(), version("2"))
	require.NoError(t, err, "somebody else was faster, twice")
	require.Equal(t, "test.uptime", m.Name)
	rec := create(t, w, it.Tenant(alice), wish)

	before := s.now
	_, err = w.Publish(t.Context(), it.Operator(), version("2"))
	require.NoError(t, err)
	require.Equal(t, before.Revision, s.now.Revision, "the same again changes nothing")
	other := version("2")
	other.Document += "# another\n"
	for _, bad := range []in.PublishInput{version("1"), other} {
		_, err = w.Publish(t.Context(), it.Operator(), bad)
		require.Equal(t, []string{"INVALID_DEFINITION document"}, mistakes(t, err))
	}
	signed := version("2")
	signed.Signature, signed.KeyID = base64.StdEncoding.EncodeToString(make([]byte, ed25519.SignatureSize)), "key"
	_, err = w.Publish(t.Context(), it.Operator(), signed)
	require.NoError(t, err)
	d, err := w.Definition(t.Context(), it.Operator(), m.Digest)
	require.NoError(t, err)
	require.Equal(t, "key", d.KeyID, "a signature can be added")

	_, err = w.Publish(t.Context(), it.Operator(), version("3"))
	require.NoError(t, err)
	d, err = w.Definition(t.Context(), it.Operator(), m.Digest)
	require.NoError(t, err)
	require.NotNil(t, d, "the old definition is served")

	require.NoError(t, w.Retire(t.Context(), it.Operator(), "test.uptime"))
	_, err = w.Create(t.Context(), it.Tenant(alice), wish)
	require.Equal(t, []string{"UNKNOWN_METRIC metric"}, mistakes(t, err))
	shown, err := w.MetricOf(t.Context(), it.Tenant(alice), "test.uptime")
	require.NoError(t, err)
	require.Equal(t, "seconds", shown.Unit, "what measures it goes on")
	_, err = w.Update(t.Context(), it.Tenant(alice), in.UpdateInput{ID: rec.ID, TTL: in.Optional[*int]{Set: true, Value: ptr(600)}})
	require.NoError(t, err)
	_, err = w.Publish(t.Context(), it.Operator(), version("3"))
	require.NoError(t, err)
	create(t, w, it.Tenant(alice), wish)
	require.Equal(t, "createInstrumentation", last(w).Action)
}

func TestWhatCannotBePublishedSaysWhere(t *testing.T) {
	w, s := publishingWorld(t)
	for want, input := range map[string]in.PublishInput{
		"INVALID_DEFINITION document.version":          version("0"),
		"INVALID_DEFINITION document":                  {Document: "}"},
		"LIMIT_EXCEEDED document":                      {Document: strings.Repeat("#", catalog.MaxDocumentBytes+1)},
		"INVALID_DEFINITION keyId":                     {Document: uptime, KeyID: "k"},
		"INVALID_DEFINITION signature":                 {Document: uptime, KeyID: "k", Signature: "AAAA"},
		"LIMIT_EXCEEDED keyId":                         {Document: uptime, KeyID: strings.Repeat("k", 65), Signature: "AAAA"},
		"INVALID_DEFINITION document.variants.0.scope": {Document: strings.Replace(uptime, "instance-iterator", "any", 1)},
	} {
		_, err := w.Publish(t.Context(), it.Operator(), input)
		require.Contains(t, mistakes(t, err), want)
		require.Equal(t, "publishMetric "+strings.Fields(mistakes(t, err)[0])[0], last(w).Action+" "+last(w).Result)
	}
	require.Equal(t, []string{"UNKNOWN_METRIC name"}, mistakes(t, w.Retire(t.Context(), it.Operator(), "no.such")))
	_, err := w.Publish(t.Context(), it.Tenant(alice), version("1"))
	require.ErrorIs(t, err, in.ErrForbidden)
	require.ErrorIs(t, w.Retire(t.Context(), it.Tenant(alice), "cpu.usage"), in.ErrForbidden)
	require.Empty(t, s.now.Revision)
	_, err = it.NewWorld(t).Publish(t.Context(), it.Operator(), version("1"))
	require.ErrorIs(t, err, in.ErrBadRequest)
}

func TestNothingBeginsToTraceByAPublication(t *testing.T) {
	w, _ := publishingWorld(t)
	own, err := catalog.Embedded()
	require.NoError(t, err)
	syscalls, ok := own.DefinitionOf("syscall.syscalls")
	require.True(t, ok)
	ops := string(syscalls.Document)
	ops = strings.Replace(ops, "{module: syscall, stat: syscalls}", "{module: test, stat: uptime}", 1)
	ops = regexp.MustCompile(`(?m)^version: \d+$`).ReplaceAllString(ops, "version: 9")
	_, err = w.Publish(t.Context(), it.Operator(), version("2"))
	require.NoError(t, err)
	rec := create(t, w, it.Operator(), counter(func(c *in.CreateInput) { c.Metric, c.Owner = "test.uptime", &alice }))
	_, err = w.Publish(t.Context(), it.Operator(), in.PublishInput{Document: ops})
	require.Equal(t, []string{"INVALID_DEFINITION document"}, mistakes(t, err))
	require.ErrorContains(t, err, string(rec.ID))
	require.NoError(t, w.Delete(t.Context(), it.Operator(), rec.ID))
	_, err = w.Publish(t.Context(), it.Operator(), in.PublishInput{Document: ops})
	require.NoError(t, err)
}

func TestWhereKeysAreTrustedOnlyTheirDefinitionsArePublished(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, other, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	own, err := catalog.Embedded()
	require.NoError(t, err)
	s := &shelf{}
	s.Live = catalog.NewLive(own, s, nil)
	w := it.NewWorld(t, func(o *in.Options) {
		o.Catalog, o.Publisher, o.TrustedKeys = s, s, catalog.Keys{catalog.KeyID(public): public}
	})
	signed := func(input in.PublishInput, key ed25519.PrivateKey) in.PublishInput {
		p := catalog.Sign([]byte(input.Document), key)
		input.Signature, input.KeyID = base64.StdEncoding.EncodeToString(p.Signature), p.KeyID
		return input
	}
	forged, moved := signed(version("1"), other), signed(version("1"), private)
	forged.KeyID = catalog.KeyID(public)
	moved.Document = version("2").Document
	for _, bad := range []struct {
		input in.PublishInput
		want  string
	}{{version("1"), "signature"}, {signed(version("1"), other), "keyId"}, {forged, "signature"}, {moved, "signature"}} {
		_, err := w.Publish(t.Context(), it.Operator(), bad.input)
		require.Equal(t, []string{"INVALID_DEFINITION " + bad.want}, mistakes(t, err))
		require.Equal(t, "publishMetric INVALID_DEFINITION", last(w).Action+" "+last(w).Result)
	}
	require.Empty(t, s.now.Revision, "nothing was published")

	_, err = w.Publish(t.Context(), it.Operator(), signed(version("1"), private))
	require.NoError(t, err)
	_, err = w.Publish(t.Context(), it.Operator(), signed(version("1"), other))
	require.Equal(t, []string{"INVALID_DEFINITION keyId"}, mistakes(t, err), "nor is its signature replaced by another's")
	for _, name := range []string{"test.uptime", "cpu.usage"} { // what stands already is offered again without
		require.NoError(t, w.Retire(t.Context(), it.Operator(), name))
		d, _, _ := s.Known(name)
		_, err = w.Publish(t.Context(), it.Operator(), in.PublishInput{Document: string(d.Document)})
		require.NoError(t, err)
	}
	d, _, _ := s.Known("test.uptime")
	require.Equal(t, catalog.KeyID(public), d.KeyID, "and keeps the signature it has")
}
