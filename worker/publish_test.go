package worker

import (
	"context"
	"strings"
	"testing"
	"time"

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
		require.Eventually(t, func() bool { ids, _ := s.HostIDs(ctx); return len(ids) == 5 }, 10*time.Second, 5*time.Millisecond)
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
		require.Eventually(t, func() bool { return b.places() == 5 }, 10*time.Second, 5*time.Millisecond)

		publish := func(number string) *catalog.Definition {
			d, err := catalog.Parse([]byte(strings.Replace(string(old.Document), "\nversion: 1\n", "\nversion: "+number+"\n", 1)))
			require.NoError(t, err)
			require.NotEqual(t, old.Digest, d.Digest)
			revision, err := s.PublishedRevision(ctx)
			require.NoError(t, err)
			require.NoError(t, s.PublishMetric(ctx, revision, d, instrumentation.Audit{}))
			return d
		}
		require.Eventually(t, have(publish("100").Digest), 10*time.Second, 5*time.Millisecond)
		newest := publish("101")
		require.Eventually(t, have(newest.Digest), 10*time.Second, 5*time.Millisecond)
		require.Eventually(t, func() bool {
			waiting, err := s.Unspread(ctx)
			require.NoError(t, err)
			return len(waiting) == 0
		}, 15*time.Second, 20*time.Millisecond, "it ends")
		revision, err := s.PublishedRevision(ctx)
		require.NoError(t, err)
		require.NoError(t, s.RetireMetric(ctx, revision, newest, instrumentation.Audit{}))
		require.NoError(t, s.MarkHosts(ctx, false, hostID(1)))
		require.Eventually(t, func() bool { back, err := s.Backlog(ctx); return err == nil && back.DirtyHosts == 0 }, 10*time.Second, 5*time.Millisecond)
		require.True(t, have(newest.Digest)(), "what measures a retired metric goes on")
	})
}
