package worker

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/catalog"
	"iapi/instrumentation"
	"iapi/store"
)

// publications is what operators publish, as a process has it whose catalog nothing but the worker updates.
type publications struct {
	*catalog.Live
	*store.Store
}

func TestHostsAreToldOfAPublishedDefinition(t *testing.T) {
	own, err := catalog.Embedded()
	require.NoError(t, err)
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		ctx := context.Background()
		s := open(t)
		b := newBench(t, 13, s)
		p := publications{catalog.NewLive(own, s, nil), s}
		running(t, b, s, func(o *Options) { o.Catalog, o.Publications = catalog.Assigned{Live: p.Live}, p })
		eventually(t, func() bool { ids, _ := s.HostIDs(ctx); return len(ids) == 5 })
		id := b.create(uuid.Nil, instrumentation.Scope{EveryHost: true})
		require.NoError(t, NewQueue(s.Client(), s).Evaluate(ctx, id, 1))
		have := func(digest string) func() bool {
			return func() bool {
				for n := range 5 {
					if !strings.Contains(b.document(hostID(n)), digest) {
						return false
					}
				}
				return true
			}
		}
		old, ok := own.DefinitionOf(b.get(id).Metric)
		require.True(t, ok)
		eventually(t, func() bool { return b.places() == 5 })

		version := regexp.MustCompile(`(?m)^version: \d+$`)
		publish := func(number string) *catalog.Definition {
			d, err := catalog.Parse(version.ReplaceAll(old.Document, []byte("version: "+number)))
			require.NoError(t, err)
			require.NotEqual(t, old.Digest, d.Digest)
			revision, err := s.PublishedRevision(ctx)
			require.NoError(t, err)
			require.NoError(t, s.PublishMetric(ctx, revision, d, instrumentation.Audit{}))
			return d
		}
		eventually(t, have(publish("100").Digest))
		newest := publish("101")
		eventually(t, have(newest.Digest))
		eventually(t, func() bool {
			waiting, err := s.Unspread(ctx)
			require.NoError(t, err)
			return len(waiting) == 0
		}, "it ends")
		revision, err := s.PublishedRevision(ctx)
		require.NoError(t, err)
		require.NoError(t, s.RetireMetric(ctx, revision, newest, instrumentation.Audit{}))
		require.NoError(t, s.MarkHosts(ctx, false, hostID(1)))
		eventually(t, func() bool { back, err := s.Backlog(ctx); return err == nil && back.DirtyHosts == 0 })
		require.True(t, have(newest.Digest)(), "what measures a retired metric goes on")
	})
}
