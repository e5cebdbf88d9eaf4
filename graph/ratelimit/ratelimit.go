// Package ratelimit bounds what each caller may ask for in a while, for all processes together, in Redis.
package ratelimit

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

// Redis lets each caller spend a budget that fills again evenly.
type Redis struct {
	limiter *redis_rate.Limiter
	limit   redis_rate.Limit
}

// New makes a limiter: perSecond units come back in a second, burst at most are saved up.
func New(client redis.UniversalClient, perSecond, burst int) *Redis {
	return &Redis{limiter: redis_rate.NewLimiter(client), limit: redis_rate.Limit{Rate: perSecond, Burst: burst, Period: time.Second}}
}

// Allow spends cost of the caller's budget, or tells after what time it would suffice. A cost above the burst is taken for
// the burst, else it could never be paid.
func (r *Redis) Allow(ctx context.Context, caller string, cost int) (ok bool, retryAfter time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	result, err := r.limiter.AllowN(ctx, "iapi:{"+caller+"}", r.limit, min(max(cost, 1), r.limit.Burst))
	if err != nil {
		return false, 0, fmt.Errorf("check the rate limit: %w", err)
	}
	if result.Allowed == 0 {
		return false, result.RetryAfter, nil
	}
	return true, 0, nil
}
