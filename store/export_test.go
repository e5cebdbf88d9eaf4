package store

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

// WriteForBenchmark writes a record and its indexes as Commit does, without its script.
func WriteForBenchmark(ctx context.Context, p redis.Pipeliner, r *instrumentation.Instrumentation) {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	p.HSet(ctx, record+"rec", string(r.ID), b)
	for _, name := range index(r) {
		p.ZAdd(ctx, record+name, redis.Z{Member: string(r.ID)})
	}
}

// HostKey is a key that is kept for a host.
func HostKey(host uuid.UUID, name string) string { return shardOf(host).key(name + host.String()) }

// ShardKey is a key that is kept for the shard of a host.
func ShardKey(host uuid.UUID, name string) string { return shardOf(host).key(name) }

// BeginSessions is what BeginSession does for those that begin at the same time.
func (s *Store) BeginSessions(ctx context.Context, hosts, sessions []uuid.UUID) []error {
	parts := make([]part, len(hosts))
	for i := range hosts {
		parts[i] = part{host: hosts[i], args: []any{hosts[i].String(), sessions[i].String(), 0}}
	}
	all, _ := s.beginSessions(ctx, parts) // it never has an error of its own
	errs := make([]error, len(all))
	for i, b := range all {
		errs[i] = b.err
	}
	return errs
}
