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
	"iapi/inventory"
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

// BenchmarkSearchFirst50 reads the first page of 100,000 records, by everything that there is to search by. The embedded
// server sorts an index whenever it is read and is not made for so many: it has 10,000.
func BenchmarkSearchFirst50(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		n := 100_000
		if strings.HasPrefix(b.Name(), "BenchmarkSearchFirst50/embedded") {
			n = 10_000
		}
		seed(b, s, n)
		all, _, _, err := s.Search(b.Context(), instrumentation.Filter{}, instrumentation.Page{First: 250})
		require.NoError(b, err)
		var items []assignment.Item
		for _, r := range all {
			items = append(items, item(string(r.ID), 1, uid(1)))
		}
		assign(b, s, uid(1000), items...)
		_, err = s.PutVMs(b.Context(), at(1), []inventory.VM{newVM(1, uid(1000))})
		require.NoError(b, err)

		owner := uid(7)
		for _, c := range []struct {
			name string
			f    instrumentation.Filter
			page instrumentation.Page
		}{
			{"all", instrumentation.Filter{}, instrumentation.Page{First: 50}},
			{"middle", instrumentation.Filter{}, instrumentation.Page{First: 50, After: string(all[249].ID)}},
			{"last", instrumentation.Filter{}, instrumentation.Page{Last: 50}},
			{"owner", instrumentation.Filter{Owner: &owner}, instrumentation.Page{First: 50}},
			{"ownerAndTag", instrumentation.Filter{Owner: &owner, Tags: []instrumentation.Tag{{Key: "team", Value: "7"}}}, instrumentation.Page{First: 50}},
			{"metric", instrumentation.Filter{Metric: all[0].Metric}, instrumentation.Page{First: 50}},
			{"state", instrumentation.Filter{States: []instrumentation.State{instrumentation.Created, instrumentation.Enabled}}, instrumentation.Page{First: 50}},
			{"tags", instrumentation.Filter{Tags: []instrumentation.Tag{{Key: "team", Value: "7"}, {Key: "half", Value: "1"}}}, instrumentation.Page{First: 50}},
			{"everything", instrumentation.Filter{Metric: all[0].Metric, States: []instrumentation.State{instrumentation.Created}, Tags: []instrumentation.Tag{{Key: "half", Value: "1"}}, Text: "num"}, instrumentation.Page{First: 50}},
			{"disjoint", instrumentation.Filter{Tags: []instrumentation.Tag{{Key: "half", Value: "0"}, {Key: "half", Value: "1"}}}, instrumentation.Page{First: 50}},
			{"vm", instrumentation.Filter{VM: uid(1)}, instrumentation.Page{First: 50}},
			{"host", instrumentation.Filter{Host: uid(1000)}, instrumentation.Page{First: 50}},
			{"text", instrumentation.Filter{Text: "number 4711"}, instrumentation.Page{First: 50}},
			{"commonText", instrumentation.Filter{Text: "number"}, instrumentation.Page{First: 50}},
			{"none", instrumentation.Filter{Owner: &owner, Text: "nothing has this"}, instrumentation.Page{First: 50}},
		} {
			b.Run(c.name, func(b *testing.B) {
				for b.Loop() {
					_, _, _, err := s.Search(b.Context(), c.f, c.page)
					require.NoError(b, err)
				}
			})
		}
		b.Run("count", func(b *testing.B) {
			for b.Loop() {
				_, err := s.Count(b.Context(), instrumentation.Filter{Metric: all[0].Metric, States: []instrumentation.State{instrumentation.Created}})
				require.NoError(b, err)
			}
		})
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
				r.Tags = []instrumentation.Tag{{Key: "half", Value: fmt.Sprint(i % 2)}, {Key: "team", Value: fmt.Sprint(i / 100 % 10)}}
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
