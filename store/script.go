package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// script is a Lua script. Its file says what it guarantees. All scripts take one key, the prefix of their family, and touch
// only keys that begin with it.
type script struct {
	name string
	run  *redis.Script
}

// load reads scripts from their files; the last names the script, the others are put before it.
func load(files ...string) *script {
	var text strings.Builder
	for _, f := range files {
		b, err := luaFiles.ReadFile("lua/" + f + ".lua")
		if err != nil {
			panic(err) // the file is missing from the build
		}
		text.Write(b)
		text.WriteByte('\n')
	}
	return &script{name: files[len(files)-1], run: redis.NewScript(text.String())}
}

// call is one run of a script.
type call struct {
	script *script
	key    string
	args   []any
	reply  any
	err    error
}

// do runs one script.
func (s *Store) do(ctx context.Context, sc *script, key string, args ...any) (any, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	reply, err := sc.run.Run(ctx, s.client, []string{key}, args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fault(sc.name, err)
	}
	return reply, nil
}

// doAll runs scripts in one round trip for each server, with the plain commands that also adds, which each have their error.
// A call that fails has its error; the first one is returned too.
func (s *Store) doAll(ctx context.Context, calls []*call, also ...func(p redis.Pipeliner)) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if !s.clustered() {
		s.doTogether(ctx, calls, also)
	} else {
		s.doApart(ctx, calls, also)
	}
	for _, c := range calls {
		if c.err != nil {
			return fault(c.script.name, c.err)
		}
	}
	return nil
}

// doApart runs the scripts of each key by themselves. In a pipeline for several servers the client takes all for failed when one
// server does not answer in time.
func (s *Store) doApart(ctx context.Context, calls []*call, also []func(p redis.Pipeliner)) {
	byKey := make(map[string][]*call)
	for _, c := range calls {
		byKey[c.key] = append(byKey[c.key], c)
	}
	var running sync.WaitGroup
	defer running.Wait()
	for _, calls := range byKey {
		running.Go(func() { s.doTogether(ctx, calls, nil) })
	}
	if len(also) > 0 {
		running.Go(func() { s.doTogether(ctx, nil, also) })
	}
}

// doTogether runs scripts and plain commands in one round trip.
func (s *Store) doTogether(ctx context.Context, calls []*call, also []func(p redis.Pipeliner)) {
	todo := calls
	for attempt := 0; len(todo)+len(also) > 0; attempt++ {
		pipe := s.client.Pipeline()
		for _, add := range also {
			add(pipe)
		}
		also = nil
		cmds := make([]*redis.Cmd, len(todo))
		for i, c := range todo {
			if attempt == 0 {
				cmds[i] = pipe.EvalSha(ctx, c.script.run.Hash(), []string{c.key}, c.args...)
			} else {
				cmds[i] = c.script.run.Eval(ctx, pipe, []string{c.key}, c.args...)
			}
		}
		_, _ = pipe.Exec(ctx) // each command has its error
		var again []*call
		for i, c := range todo {
			c.reply, c.err = cmds[i].Result()
			switch {
			case errors.Is(c.err, redis.Nil):
				c.err = nil
			case c.err != nil && attempt == 0 && redis.HasErrorPrefix(c.err, "NOSCRIPT"):
				again = append(again, c)
			}
		}
		todo = again
	}
}

// part is what a script that deals with several hosts of a shard is told of one of them.
type part struct {
	host   uuid.UUID
	args   []any
	weight int // how many things of the host there are to deal with, about
}

// How much one run of a script deals with at most. It holds up all others, so it has to end within a millisecond or two.
const (
	maxParts  = 32
	maxWeight = 256
)

// run is a call of a script for several parts.
type run struct {
	call
	of     []int // the parts, in the order of the answers
	weight int
}

// runs makes calls of a script for all parts, in their order for each shard. The arguments that come first are the same in
// each.
func runs(sc *script, parts []part, first ...any) []*run {
	var all []*run
	last := make(map[shard]*run)
	for i, p := range parts {
		sh := shardOf(p.host)
		r := last[sh]
		if r == nil || len(r.of) == maxParts || r.weight+p.weight > maxWeight {
			r = &run{call: call{script: sc, key: sh.prefix(), args: slices.Clone(first)}}
			last[sh], all = r, append(all, r)
		}
		r.args = append(r.args, p.args...)
		r.of, r.weight = append(r.of, i), r.weight+p.weight
	}
	return all
}

// doParts runs a script for all parts and returns what it answers to each, or an error.
func (s *Store) doParts(ctx context.Context, sc *script, parts []part, first ...any) (replies []any, errs []error) {
	all := runs(sc, parts, first...)
	calls := make([]*call, len(all))
	for i, r := range all {
		calls[i] = &r.call
	}
	_ = s.doAll(ctx, calls) // each call has its error
	replies, errs = make([]any, len(parts)), make([]error, len(parts))
	for _, r := range all {
		for k, i := range r.of {
			reply := at(r.reply, k)
			switch {
			case r.err != nil:
				errs[i] = fault(sc.name, r.err)
			case len(list(r.reply)) != len(r.of):
				errs[i] = badReply(sc, r.reply)
			case text(at(reply, 0)) == "ERR":
				errs[i] = fault(sc.name, errors.New(text(at(reply, 1))))
			default:
				replies[i] = reply
			}
		}
	}
	return replies, errs
}

// pipelined runs plain commands in one round trip for each server.
func (s *Store) pipelined(ctx context.Context, doing string, fn func(p redis.Pipeliner)) error {
	return s.pipe(ctx, doing, fn, func(err error) bool { return errors.Is(err, redis.Nil) })
}

// undamaged is pipelined for commands of which some may be answered with damage: those have their errors, see damaged.
func (s *Store) undamaged(ctx context.Context, doing string, fn func(p redis.Pipeliner)) error {
	return s.pipe(ctx, doing, fn, func(err error) bool { return errors.Is(err, redis.Nil) || isDamage(err) })
}

// pipe runs plain commands, whose errors may be some that are for the caller to look at.
func (s *Store) pipe(ctx context.Context, doing string, fn func(p redis.Pipeliner), fine func(error) bool) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	cmds, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error { fn(p); return nil })
	if err == nil || fine(err) { // it is that of the first command that has one
		for _, c := range cmds {
			if err := c.Err(); err != nil && !fine(err) {
				return fault(doing, err)
			}
		}
		return nil
	}
	return fault(doing, err)
}

// What scripts answer with.

func list(reply any) []any {
	l, _ := reply.([]any)
	return l
}

func at(reply any, i int) any {
	if l := list(reply); i < len(l) {
		return l[i]
	}
	return nil
}

func text(reply any) string {
	switch v := reply.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

func number(reply any) int64 {
	switch v := reply.(type) {
	case int64:
		return v
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	}
	return 0
}

func texts(reply any) []string {
	l := list(reply)
	out := make([]string, len(l))
	for i, v := range l {
		out[i] = text(v)
	}
	return out
}

// anys makes script arguments of texts.
func anys[T ~string](in []T) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = string(v)
	}
	return out
}

// badReply is the fault of a script that answered something that it never should.
func badReply(sc *script, reply any) error {
	return fmt.Errorf("%s: unexpected reply %v", sc.name, reply)
}
