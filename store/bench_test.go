package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

func benchEach(b *testing.B, fn func(b *testing.B, s *store.Store)) {
	b.Run("embedded", func(b *testing.B) { fn(b, storetest.Embedded(b, store.Options{})) })
	b.Run("redis", func(b *testing.B) { fn(b, storetest.Real(b, store.Options{})) })
}

func BenchmarkCommit(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		for i := 0; b.Loop(); i++ {
			_, err := s.Commit(b.Context(), change(newRecord(uid(i%100), "requests of the shop"), 0))
			require.NoError(b, err)
		}
	})
}

// BenchmarkSearchFirst50 reads the first page of 100,000 records: of all, of the one owner in 100 with a tag that a tenth of
// them has, and by a text that two dozen names have. The embedded server sorts an index whenever it is read and is not made
// for so many: it has 10,000.
func BenchmarkSearchFirst50(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		n := 100_000
		if strings.HasPrefix(b.Name(), "BenchmarkSearchFirst50/embedded") {
			n = 10_000
		}
		seed(b, s, n)
		owner := uid(7)
		for name, f := range map[string]instrumentation.Filter{
			"all":   {},
			"owner": {Owner: &owner, Tags: []instrumentation.Tag{{Key: "team", Value: "7"}}},
			"text":  {Text: "number 4711"},
			"none":  {Owner: &owner, Text: "nothing has this"},
		} {
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					_, _, _, err := s.Search(b.Context(), f, instrumentation.Page{First: 50})
					require.NoError(b, err)
				}
			})
		}
	})
}

// seed writes records as Commit leaves them, in pipelines.
func seed(b *testing.B, s *store.Store, n int) {
	b.Helper()
	first := newRecord(uid(0), "number 0")
	_, err := s.Commit(b.Context(), change(first, 0))
	require.NoError(b, err)
	keys, err := s.Client().HKeys(b.Context(), "iapi:{i}:rec").Result()
	require.NoError(b, err)
	require.Equal(b, []string{string(first.ID)}, keys)
	for from := 1; from < n; from += 100 {
		_, err := s.Client().Pipelined(b.Context(), func(p redis.Pipeliner) error {
			for i := from; i < min(from+100, n); i++ {
				r := newRecord(uid(i%100), fmt.Sprint("number ", i))
				r.Tags = []instrumentation.Tag{{Key: "team", Value: fmt.Sprint(i / 100 % 10)}}
				store.WriteForBenchmark(b.Context(), p, &r)
			}
			return nil
		})
		require.NoError(b, err)
	}
	count, err := s.Count(b.Context(), instrumentation.Filter{})
	require.NoError(b, err)
	require.Equal(b, n, count)
}

func BenchmarkCommitDocument(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		ctx := b.Context()
		vms := make([]uuid.UUID, 20)
		for i := range vms {
			vms[i] = uid(i)
		}
		for i := 0; b.Loop(); i++ {
			host := uid(1000 + i%100)
			require.NoError(b, s.MarkHosts(ctx, false, host))
			c := claim(b, s, 1, time.Minute)[0]
			f := facts(b, s, host)
			var items []assignment.Item
			for k := range 10 {
				items = append(items, item(fmt.Sprint("i", k), i, vms...))
			}
			doc, hash, counts := body(items...)
			_, committed, err := s.CommitDocument(ctx, c, f, doc, hash, counts)
			require.NoError(b, err)
			require.True(b, committed)
		}
	})
}

// BenchmarkReportBatch stores 100 reports of 10 instrumentations each in one call.
func BenchmarkReportBatch(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		versions := make([]assignment.Version, 100)
		for h := range versions {
			var items []assignment.Item
			for k := range 10 {
				items = append(items, item(fmt.Sprint("i", k), 1, uid(h), uid(h+1)))
			}
			versions[h] = assign(b, s, uid(1000+h), items...)
		}
		for n := int64(1); b.Loop(); n++ {
			reports := make([]store.Report, len(versions))
			for h := range reports {
				reports[h] = store.Report{Host: uid(1000 + h), Session: uid(77), Sequence: n, Applied: versions[h]}
				for k := range 10 {
					reports[h].Instrumentations = append(reports[h].Instrumentations,
						store.Status{ID: instrumentation.ID(fmt.Sprint("i", k)), Revision: 1, Status: running, LastSample: created})
				}
			}
			results, err := s.ReportBatch(b.Context(), reports)
			require.NoError(b, err)
			require.True(b, results[99].Accepted)
		}
	})
}
