package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

func definition(t testing.TB, version int) *catalog.Definition {
	t.Helper()
	d, err := catalog.Parse(fmt.Appendf(nil, `schema: iapi.metric/1
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
            - value: up
`, version))
	require.NoError(t, err)
	return d
}

func published(t testing.TB, s *store.Store) catalog.Published {
	t.Helper()
	p, err := s.Published(t.Context())
	require.NoError(t, err)
	return p
}

func TestPublishedDefinitionsAreKeptAndHoldOnlyForTheExpectedState(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		audit := instrumentation.Audit{At: created, Caller: "operator:alice", Action: "publishMetric", Subject: "test.uptime", Result: "ok"}
		require.Empty(t, published(t, s).Revision)
		d := definition(t, 1)
		d.Signature, d.KeyID = []byte{0, 0xff, 1}, "key"
		require.NoError(t, s.PublishMetric(t.Context(), "", d, audit))
		p := published(t, s)
		require.NotEmpty(t, p.Revision)
		require.Equal(t, map[string]catalog.Standing{"test.uptime": {Digest: d.Digest, Version: 1}}, p.Metrics)
		require.Equal(t, map[string]catalog.Publication{d.Digest: {Document: d.Document, Signature: d.Signature, KeyID: "key"}}, p.Definitions)
		entries, err := s.AuditLog(t.Context(), "", 1)
		require.NoError(t, err)
		require.Equal(t, "publishMetric", entries[0].Action)

		require.ErrorIs(t, s.PublishMetric(t.Context(), "", definition(t, 2), audit), instrumentation.ErrRevision)
		require.Equal(t, p, published(t, s), "nothing has changed")
		require.NoError(t, s.RetireMetric(t.Context(), p.Revision, d, audit))
		retired := published(t, s)
		require.True(t, retired.Metrics["test.uptime"].Retired)
		require.Len(t, retired.Definitions, 1)
		require.NotEqual(t, p.Revision, retired.Revision)
	})
}

func TestReplacedDefinitionsAreKeptForAWhile(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		publish := func(version int) {
			require.NoError(t, s.PublishMetric(t.Context(), published(t, s).Revision, definition(t, version), instrumentation.Audit{}))
		}
		for v := range 20 {
			publish(v + 1)
		}
		require.Len(t, published(t, s).Definitions, 20, "while hosts wait to be told, documents may name any")
		waiting, err := s.Unspread(t.Context())
		require.NoError(t, err)
		require.Len(t, waiting, 1)
		require.True(t, waiting[0].Begun.IsZero())

		publish(21)
		require.NoError(t, s.EndSpread(t.Context(), waiting[0]))
		again, err := s.Unspread(t.Context())
		require.NoError(t, err)
		require.Len(t, again, 1, "it was published again since")
		now := created.Add(time.Second)
		require.NoError(t, s.BeginSpread(t.Context(), again[0], now))
		begun, err := s.Unspread(t.Context())
		require.NoError(t, err)
		require.Equal(t, now, begun[0].Begun)
		require.NoError(t, s.EndSpread(t.Context(), begun[0]))
		none, err := s.Unspread(t.Context())
		require.NoError(t, err)
		require.Empty(t, none)

		publish(22)
		p := published(t, s)
		require.Len(t, p.Definitions, 17, "the one in use and the last sixteen")
		require.Contains(t, p.Definitions, definition(t, 22).Digest)
		require.NotContains(t, p.Definitions, definition(t, 1).Digest)
	})
}

func TestPublishedDefinitionsSurviveACrash(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, time.Hour)
	d := definition(t, 1)
	require.NoError(t, s.PublishMetric(t.Context(), "", d, instrumentation.Audit{}))
	want := published(t, s)
	copied := crash(t, dir)
	require.NoError(t, s.Close())
	s = openDir(t, copied, time.Hour)
	require.Equal(t, want, published(t, s))
	require.NoError(t, s.Close())
}
