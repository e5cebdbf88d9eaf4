package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var doubtScript = load("doubt")

// Damage says of which hosts something is kept that is not valid, and what. Nothing was written of them; the others' part of
// the work is done, and what was read of them is good. ReplaceHostVMs and PutHosts write facts anew that are damaged.
type Damage map[uuid.UUID]error

// Error names the first host and how many there are.
func (d Damage) Error() string {
	hosts := slices.SortedFunc(maps.Keys(d), func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	if len(hosts) == 0 {
		return "no host is damaged"
	}
	return fmt.Sprintf("what is kept of %d hosts is not valid, first of %s: %v", len(hosts), hosts[0], d[hosts[0]])
}

// Of is what is not valid of a host, nil where nothing was found.
func (d Damage) Of(host uuid.UUID) error { return d[host] }

// err is the damage as an error, nil if there is none.
func (d Damage) err() error {
	if len(d) == 0 {
		return nil
	}
	return d
}

// add notes what a call has stumbled over, and reports whether that was damage.
func (d Damage) add(host uuid.UUID, err error) bool {
	if isDamage(err) {
		d[host] = err
		return true
	}
	return false
}

// isDamage reports whether a server answered that what is kept in a place is not what belongs there. Scripts say so with
// DAMAGED; every other error may be of all places.
func isDamage(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && (strings.Contains(reply.Error(), "WRONGTYPE") || strings.Contains(reply.Error(), "DAMAGED")) &&
		!errors.Is(err, instrumentation.ErrNotReady)
}

// damaged is the fault of the first of some commands that were answered with damage, nil if none was.
func damaged(doing string, cmds ...redis.Cmder) error {
	for _, c := range cmds {
		if isDamage(c.Err()) {
			return fault(doing, c.Err())
		}
	}
	return nil
}

// Doubt has the next sweep read hosts whole, whatever is kept of them: their digests become those of no VMs.
func (s *Store) Doubt(ctx context.Context, hosts ...uuid.UUID) error {
	calls := make([]*call, len(hosts))
	for i, h := range hosts {
		calls[i] = &call{script: doubtScript, key: shardOf(h).prefix(), args: []any{h.String()}}
	}
	return s.doAll(ctx, calls)
}
