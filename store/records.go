package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"iapi/instrumentation"
)

var (
	commitScript = load("entry", "commit")
	forgetScript = load("forget")
)

// racers is how often a write is tried again when another has changed the record in between.
const racers = 64

// index returns the names of the indexes that a record is in. Each is a zset whose members all have score 0, so that ids
// are in their own order, which is that of creation.
func index(r *instrumentation.Instrumentation) []string {
	names := []string{"ix:all", ownerIndex(r.Owner), metricIndex(r.Metric), stateIndex(r.State)}
	for _, t := range r.Tags {
		names = append(names, tagIndex(t))
	}
	for _, g := range grams(r.Name) {
		names = append(names, gramIndex(g))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func ownerIndex(owner uuid.UUID) string             { return "ix:o:" + owner.String() }
func metricIndex(metric string) string              { return "ix:m:" + metric }
func stateIndex(state instrumentation.State) string { return "ix:s:" + string(state) }
func tagIndex(t instrumentation.Tag) string         { return "ix:t:" + t.Key + "\x00" + t.Value }
func gramIndex(gram string) string                  { return "ix:x:" + gram }

// grams returns every run of one to three characters of a name, in lower case, each once.
func grams(name string) []string {
	r := []rune(strings.ToLower(name))
	var out []string
	for n := 1; n <= 3; n++ {
		for i := 0; i+n <= len(r); i++ {
			out = append(out, string(r[i:i+n]))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// write is a record as it stands and as it shall stand; nil is none.
type write struct {
	id         instrumentation.ID
	oldJSON    string
	old, new   *instrumentation.Instrumentation
	maxLive    int
	maxTracing int
	idem       string // "": none
	idemValue  string
	audit      string // an entry, as auditEntry makes it; "": none
	log        bool
	evaluate   int // 1: mark, -1: unmark, 0: leave
}

// args turns a write into what the script needs.
func (w *write) args() ([]any, error) {
	newJSON := ""
	live, tracing := 0, 0
	var adds, removes []string
	owner, expires := uuid.Nil, int64(0)
	if w.old != nil {
		owner = w.old.Owner
		removes = index(w.old)
		l, t := counted(w.old)
		live, tracing = -l, -t
	}
	if w.new != nil {
		b, err := json.Marshal(w.new)
		if err != nil {
			return nil, fmt.Errorf("encode the record: %w", err)
		}
		newJSON = string(b)
		owner = w.new.Owner
		l, t := counted(w.new)
		live, tracing = live+l, tracing+t
		expires = expiry(w.new)
		now := index(w.new)
		for _, name := range now {
			if _, had := slices.BinarySearch(removes, name); !had {
				adds = append(adds, name)
			}
		}
		removes = slices.DeleteFunc(removes, func(name string) bool {
			_, kept := slices.BinarySearch(now, name)
			return kept
		})
	}
	args := []any{
		string(w.id), w.oldJSON, newJSON, owner.String(), live, w.maxLive, tracing, w.maxTracing,
		w.idem, w.idemValue, w.audit, flag(w.log), w.evaluate, expires, nonce(), len(adds),
	}
	return append(append(args, anys(adds)...), anys(removes)...), nil
}

// nonce names one write, so that the client can send it again when the connection breaks before the answer.
func nonce() string {
	id := uuid.New()
	return string(id[:])
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// expiry is when a record must be given state EXPIRED, in milliseconds; 0: never, or it has that state already.
func expiry(r *instrumentation.Instrumentation) int64 {
	if r.ExpiresAt.IsZero() || !r.DeletedAt.IsZero() || r.State == instrumentation.Expired {
		return 0
	}
	return r.ExpiresAt.UnixMilli()
}

// counted tells what a record takes of its owner's quota. Deleted and expired ones take nothing.
func counted(r *instrumentation.Instrumentation) (live, tracing int) {
	if !r.DeletedAt.IsZero() || r.State == instrumentation.Expired {
		return 0, 0
	}
	return 1, flag(r.Tracing)
}

// errMoved: the record has changed since it was read.
var errMoved = errors.New("the record has changed")

// used is what an idempotency key was used for before; its id is "" where it was not.
type used struct {
	digest string
	id     instrumentation.ID
	record string // JSON; "": it is gone
}

func parseUsed(value, record string) used {
	digest, id, _ := strings.Cut(value, "|")
	return used{digest, instrumentation.ID(id), record}
}

// apply runs the script. When the idempotency key was used already, nothing is written and what it was used for is returned.
func (s *Store) apply(ctx context.Context, w *write) (before used, err error) {
	args, err := w.args()
	if err != nil {
		return used{}, err
	}
	reply, err := s.mutate(ctx, commitScript, args...)
	if err != nil {
		return used{}, err
	}
	switch text(at(reply, 0)) {
	case "OK":
		return used{}, nil
	case "IDEM":
		return parseUsed(text(at(reply, 1)), text(at(reply, 2))), nil
	case "MOVED":
		return used{}, errMoved
	case "QUOTA":
		return used{}, &instrumentation.QuotaError{Has: instrumentation.Usage{Live: int(number(at(reply, 1))), Tracing: int(number(at(reply, 2)))}}
	}
	return used{}, badReply(commitScript, reply)
}

// Commit implements instrumentation.Store. A new record takes one run of the script, which decides everything. A change is
// worked out from the record that stands, so that is read first.
func (s *Store) Commit(ctx context.Context, c instrumentation.Change) (instrumentation.Instrumentation, error) {
	var none instrumentation.Instrumentation
	if c.Record.ID == "" {
		return none, errors.New("commit: the record's id is missing")
	}
	audit, err := s.auditEntry(&c.Audit)
	if err != nil {
		return none, fmt.Errorf("commit %s: %w", c.Record.ID, err)
	}
	w := write{
		id: c.Record.ID, new: &c.Record, maxLive: c.MaxLive, maxTracing: c.MaxTracing, audit: audit, log: true, evaluate: 1,
	}
	if c.IdempotencyKey != "" {
		sum := sha256.Sum256([]byte(c.Audit.Caller + "\x00" + c.Record.Owner.String() + "\x00" + c.IdempotencyKey))
		w.idem = hex.EncodeToString(sum[:])
		w.idemValue = c.InputDigest + "|" + string(c.Record.ID)
	}
	for range racers {
		var before used
		if c.Expect > 0 {
			if before, err = s.standing(ctx, &w); err != nil {
				return none, err
			}
			switch {
			case before.id != "":
				return repeated(before, c.InputDigest)
			case w.old == nil:
				return none, fmt.Errorf("commit %s: %w", w.id, instrumentation.ErrNotFound)
			case w.old.Revision != c.Expect:
				return none, fmt.Errorf("commit %s: %w: it is %d", w.id, instrumentation.ErrRevision, w.old.Revision)
			}
		}
		before, err = s.apply(ctx, &w)
		switch {
		case errors.Is(err, errMoved) && c.Expect > 0:
			continue
		case errors.Is(err, errMoved):
			return none, fmt.Errorf("commit %s: %w: there is one of that id", w.id, instrumentation.ErrRevision)
		case before.id != "":
			return repeated(before, c.InputDigest)
		}
		s.told(ctx, &c.Audit, err)
		if err != nil {
			return none, fmt.Errorf("commit %s: %w", w.id, err)
		}
		return c.Record, nil
	}
	return none, fmt.Errorf("commit %s: %w: too many writers at once", w.id, instrumentation.ErrRevision)
}

// standing reads the record that stands and what the idempotency key was used for: in one round trip where there is no key,
// or it was not used.
func (s *Store) standing(ctx context.Context, w *write) (before used, err error) {
	var rec, idem *redis.StringCmd
	err = s.pipelined(ctx, "read the record", func(p redis.Pipeliner) {
		rec = p.HGet(ctx, record+"rec", string(w.id))
		if w.idem != "" {
			idem = p.Get(ctx, record+"idem:"+w.idem)
		}
	})
	if err != nil {
		return used{}, err
	}
	w.oldJSON, w.old = rec.Val(), nil
	if w.oldJSON != "" {
		if w.old, err = decode(w.id, w.oldJSON); err != nil {
			return used{}, err
		}
	}
	if idem == nil || idem.Val() == "" {
		return used{}, nil
	}
	before = parseUsed(idem.Val(), "")
	err = s.pipelined(ctx, "read the key's record", func(p redis.Pipeliner) { rec = p.HGet(ctx, record+"rec", string(before.id)) })
	before.record = rec.Val()
	return before, err
}

// repeated returns the record that an idempotency key was used for.
func repeated(before used, digest string) (instrumentation.Instrumentation, error) {
	var none instrumentation.Instrumentation
	switch {
	case before.digest != digest:
		return none, fmt.Errorf("commit: %w", instrumentation.ErrIdempotency)
	case before.record == "":
		return none, fmt.Errorf("commit: the idempotency key's %s: %w", before.id, instrumentation.ErrNotFound)
	}
	r, err := decode(before.id, before.record)
	if err != nil {
		return none, err
	}
	return *r, nil
}

func decode(id instrumentation.ID, text string) (*instrumentation.Instrumentation, error) {
	var r instrumentation.Instrumentation
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf("decode the record of %s: %w", id, err)
	}
	return &r, nil
}

// Get implements instrumentation.Store.
func (s *Store) Get(ctx context.Context, ids ...instrumentation.ID) ([]*instrumentation.Instrumentation, error) {
	out := make([]*instrumentation.Instrumentation, 0, len(ids))
	for chunk := range slices.Chunk(ids, 500) {
		fields := make([]string, len(chunk))
		for i, id := range chunk {
			fields[i] = string(id)
		}
		bounded, cancel := s.bound(ctx)
		values, err := s.client.HMGet(bounded, record+"rec", fields...).Result()
		cancel()
		if err != nil {
			return nil, fault("read records", err)
		}
		for i, v := range values {
			t, _ := v.(string)
			if t == "" {
				out = append(out, nil)
				continue
			}
			r, err := decode(chunk[i], t)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// amend rewrites a record by fn, which returns what to do with the evaluation mark, whether to tell the log, and false to
// leave the record as it is. It returns ErrNotFound where there is none.
func (s *Store) amend(ctx context.Context, id instrumentation.ID, fn func(r *instrumentation.Instrumentation) (evaluate int, log, write bool, err error)) error {
	for range racers {
		w := write{id: id}
		if _, err := s.standing(ctx, &w); err != nil {
			return err
		}
		if w.old == nil {
			return instrumentation.ErrNotFound
		}
		next := *w.old
		var change bool
		var err error
		if w.evaluate, w.log, change, err = fn(&next); err != nil || !change {
			return err
		}
		w.new = &next
		if _, err = s.apply(ctx, &w); !errors.Is(err, errMoved) {
			return err
		}
	}
	return fmt.Errorf("%w: too many writers at once", instrumentation.ErrRevision)
}

// SetState notes how an instrumentation fares; it is not a revision. A zero enabledAt leaves what is there. It returns
// ErrRevision if the revision has moved on, for then the judgement was about something else.
func (s *Store) SetState(ctx context.Context, id instrumentation.ID, revision int, state instrumentation.State, enabledAt time.Time) error {
	err := s.amend(ctx, id, func(r *instrumentation.Instrumentation) (int, bool, bool, error) {
		if r.Revision != revision {
			return 0, false, false, fmt.Errorf("%w: it is %d", instrumentation.ErrRevision, r.Revision)
		}
		if r.State == state && (enabledAt.IsZero() || r.EnabledAt.Equal(enabledAt)) {
			return 0, false, false, nil
		}
		changed := r.State != state
		r.State = state
		if !enabledAt.IsZero() {
			r.EnabledAt = enabledAt.UTC()
		}
		return 0, changed, true, nil
	})
	if err != nil {
		return fmt.Errorf("set the state of %s: %w", id, err)
	}
	return nil
}

// Evaluated notes that a revision was evaluated, and since when the inventory could not be asked about it (zero: it could).
// If the revision has moved on, or the record has gone, nothing is noted.
func (s *Store) Evaluated(ctx context.Context, id instrumentation.ID, revision int, stale time.Time) error {
	err := s.amend(ctx, id, func(r *instrumentation.Instrumentation) (int, bool, bool, error) {
		if r.Revision != revision {
			return 0, false, false, nil
		}
		r.Evaluated, r.StaleFrom = revision, stale.UTC()
		if stale.IsZero() {
			r.StaleFrom = time.Time{}
		}
		return -1, false, true, nil
	})
	if errors.Is(err, instrumentation.ErrNotFound) {
		err = s.pipelined(ctx, "forget the mark", func(p redis.Pipeliner) { p.ZRem(ctx, record+"unevaluated", string(id)) })
	}
	if err != nil {
		return fmt.Errorf("note the evaluation of %s: %w", id, err)
	}
	return nil
}

// Remove removes a record and all that is kept for it. What hosts run is not its business. Removing twice does no harm.
func (s *Store) Remove(ctx context.Context, id instrumentation.ID) error {
	var calls []*call
	for sh := range shard(shards) {
		calls = append(calls, &call{script: forgetScript, key: sh.prefix(), args: []any{string(id)}})
	}
	if err := s.doAll(ctx, calls); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	for range racers {
		w := write{id: id, log: true, evaluate: -1}
		if _, err := s.standing(ctx, &w); err != nil {
			return err
		}
		if w.old == nil {
			return nil
		}
		_, err := s.apply(ctx, &w)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errMoved) {
			return fmt.Errorf("remove %s: %w", id, err)
		}
	}
	return fmt.Errorf("remove %s: %w: too many writers at once", id, instrumentation.ErrRevision)
}

// Usage implements instrumentation.Store.
func (s *Store) Usage(ctx context.Context, owner uuid.UUID) (instrumentation.Usage, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	v, err := s.client.HMGet(ctx, record+"quota", owner.String()+":live", owner.String()+":tracing").Result()
	if err != nil {
		return instrumentation.Usage{}, fault("read the usage", err)
	}
	return instrumentation.Usage{Live: int(number(v[0])), Tracing: int(number(v[1]))}, nil
}
