package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// PutJoinToken keeps the hash of a token by which the agent of one host can get its own, once, before ttl has passed. Join
// tokens of the host that nobody has used stay valid.
func (s *Store) PutJoinToken(ctx context.Context, hash string, host uuid.UUID, ttl time.Duration) error {
	if host == uuid.Nil || ttl <= 0 {
		return errors.New("create a join token: host and a time to live above zero must be given")
	}
	now, err := s.clock(ctx)
	if err != nil {
		return err
	}
	lapsed, err := s.joins(ctx, func(expires time.Time, _ uuid.UUID) bool { return !now.Before(expires) })
	if err != nil {
		return err
	}
	fresh := field{"joins", hash, "", itoa(now.Add(ttl).UnixMilli()) + "|" + host.String()}
	err = s.setFields(ctx, nil, append(lapsed, fresh)...)
	if errors.Is(err, errMoved) {
		err = s.setFields(ctx, nil, fresh) // another has removed the lapsed ones
	}
	return err
}

// joins returns removals of the join tokens that drop says.
func (s *Store) joins(ctx context.Context, drop func(expires time.Time, host uuid.UUID) bool) ([]field, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	all, err := s.client.HGetAll(ctx, record+"joins").Result()
	if err != nil {
		return nil, fault("read the join tokens", err)
	}
	var out []field
	for hash, v := range all {
		expires, host, err := parseJoin(v)
		if err != nil {
			return nil, err
		}
		if drop(expires, host) {
			out = append(out, field{"joins", hash, v, ""})
		}
	}
	return out, nil
}

func parseJoin(v string) (time.Time, uuid.UUID, error) {
	ms, id, _ := strings.Cut(v, "|")
	host, err := uuid.Parse(id)
	if err != nil {
		return time.Time{}, uuid.Nil, fmt.Errorf("decode a join token's entry: %w", err)
	}
	return time.UnixMilli(number(ms)).UTC(), host, nil
}

// Redeem turns a join token into the token of its host's agent, both given by their hashes. The join token is used up, and
// a token that the host's agent had before is not valid any more. It returns ErrToken for a join token that is not valid.
func (s *Store) Redeem(ctx context.Context, joinHash, agentHash string) (uuid.UUID, error) {
	now, err := s.clock(ctx)
	if err != nil {
		return uuid.Nil, err
	}
	join, err := s.hget(ctx, "joins", joinHash)
	if err != nil {
		return uuid.Nil, err
	}
	if join == "" {
		return uuid.Nil, fmt.Errorf("join: %w", ErrToken)
	}
	expires, host, err := parseJoin(join)
	if err != nil {
		return uuid.Nil, err
	}
	if !now.Before(expires) {
		return uuid.Nil, fmt.Errorf("join: %w", ErrToken)
	}
	err = s.setAgentToken(ctx, host, agentHash, field{"joins", joinHash, join, ""})
	if errors.Is(err, errMoved) { // another has used it
		return uuid.Nil, fmt.Errorf("join: %w", ErrToken)
	}
	return host, err
}

// SetAgentToken makes a token, given by its hash, the one of a host's agent. A token that it had before is not valid any
// more.
func (s *Store) SetAgentToken(ctx context.Context, host uuid.UUID, hash string) error {
	return s.setAgentToken(ctx, host, hash)
}

// setAgentToken does so together with other changes; errMoved says that those did not hold.
func (s *Store) setAgentToken(ctx context.Context, host uuid.UUID, hash string, with ...field) error {
	for try := range racers {
		before, err := s.hget(ctx, "tokenof", host.String())
		if err != nil {
			return err
		}
		if before == hash { // it was done, and the client, which had no answer, has tried again
			return nil
		}
		for _, f := range with {
			if try == 0 {
				break // they have just been read
			}
			now, err := s.hget(ctx, f.hash, f.name)
			if err != nil {
				return err
			}
			if now != f.old {
				return errMoved
			}
		}
		changes := append([]field{
			{"tokenof", host.String(), before, hash},
			{"tokens", hash, "", host.String()},
		}, with...)
		if before != "" {
			changes = append(changes, field{"tokens", before, host.String(), ""})
		}
		err = s.setFields(ctx, nil, changes...)
		if !errors.Is(err, errMoved) {
			return err
		}
	}
	return errors.New("set an agent's token: too many writers at once")
}

// AgentHost returns the host whose agent has the token with this hash, or ErrToken.
func (s *Store) AgentHost(ctx context.Context, hash string) (uuid.UUID, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	v, err := s.tokens.Do(ctx, hash)
	if err != nil {
		return uuid.Nil, fault("authenticate an agent", err)
	}
	if v == "" {
		return uuid.Nil, fmt.Errorf("authenticate an agent: %w", ErrToken)
	}
	host, err := uuid.Parse(v)
	if err != nil {
		return uuid.Nil, fmt.Errorf("decode the host of a token: %w", err)
	}
	return host, nil
}

// tokenHosts reads the hosts of tokens that are presented at the same time; "": there is no such token.
func (s *Store) tokenHosts(ctx context.Context, hashes []string) ([]string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	found, err := s.client.HMGet(ctx, record+"tokens", hashes...).Result()
	if err != nil {
		return nil, err
	}
	out := make([]string, len(found))
	for i, v := range found {
		out[i] = text(v)
	}
	return out, nil
}

// Secret returns a random secret of 32 bytes that all processes on this store share under a name.
func (s *Store) Secret(ctx context.Context, name string) ([]byte, error) {
	for range racers {
		v, err := s.hget(ctx, "secrets", name)
		if err != nil {
			return nil, err
		}
		if v != "" {
			secret, err := hex.DecodeString(v)
			if err != nil {
				return nil, fmt.Errorf("decode the secret %s: %w", name, err)
			}
			return secret, nil
		}
		fresh := make([]byte, 32)
		_, _ = rand.Read(fresh) // never fails: it ends the program instead
		err = s.setFields(ctx, nil, field{"secrets", name, "", hex.EncodeToString(fresh)})
		if err != nil && !errors.Is(err, errMoved) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("make the secret %s: too many writers at once", name)
}

// RevokeAgent makes the token of a host's agent and the host's join tokens invalid, and tells the processes that serve
// agents to end its session. Repeating it does no harm.
func (s *Store) RevokeAgent(ctx context.Context, host uuid.UUID) error {
	for range racers {
		changes, err := s.joins(ctx, func(_ time.Time, of uuid.UUID) bool { return of == host })
		if err != nil {
			return err
		}
		token, err := s.hget(ctx, "tokenof", host.String())
		if err != nil {
			return err
		}
		if token != "" {
			changes = append(changes, field{"tokens", token, host.String(), ""}, field{"tokenof", host.String(), token, ""})
		}
		if len(changes) > 0 {
			err = s.setFields(ctx, nil, changes...)
			if errors.Is(err, errMoved) {
				continue
			}
			if err != nil {
				return err
			}
		}
		_, err = s.do(ctx, revokeScript, shardOf(host).prefix(), host.String(), revoked.String())
		return err
	}
	return fmt.Errorf("revoke the agent of %s: too many writers at once", host)
}

func (s *Store) hget(ctx context.Context, hash, name string) (string, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	v, err := s.client.HGet(ctx, record+hash, name).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fault("read "+hash, err)
	}
	return v, nil
}
