package wiring

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"iapi/identity"
	"iapi/instrumentation"
	"iapi/store"
)

// Credentials are those of the agents: identity makes and reads the tokens, the store keeps their hashes.
type Credentials struct{ Store *store.Store }

var (
	_ instrumentation.Agents = Credentials{}
	_ identity.AgentTokens   = Credentials{}
	_ identity.JoinTokens    = Credentials{}
)

// CreateJoinToken implements instrumentation.Agents.
func (c Credentials) CreateJoinToken(ctx context.Context, host uuid.UUID, ttl time.Duration) (string, error) {
	token, hash := identity.NewJoinToken()
	if err := c.Store.PutJoinToken(ctx, hash, host, ttl); err != nil {
		return "", err
	}
	return token, nil
}

// RevokeAgent implements instrumentation.Agents.
func (c Credentials) RevokeAgent(ctx context.Context, host uuid.UUID) error {
	if err := c.Store.RevokeCertificates(ctx, host); err != nil {
		return err
	}
	return c.Store.RevokeAgent(ctx, host) // this tells the processes that serve agents, so it comes last
}

// Lookup implements identity.AgentTokens.
func (c Credentials) Lookup(ctx context.Context, tokenHash string) (uuid.UUID, bool, error) {
	host, err := c.Store.AgentHost(ctx, tokenHash)
	if errors.Is(err, store.ErrToken) {
		return uuid.Nil, false, nil
	}
	return host, err == nil, err
}

// Redeem implements identity.JoinTokens. The host of a token never changes, so looking first is safe.
func (c Credentials) Redeem(ctx context.Context, host uuid.UUID, joinHash, agentHash string) (bool, error) {
	if of, known, err := c.Lookup(ctx, agentHash); err != nil || known {
		return known && of == host, err
	}
	of, err := c.Store.JoinHost(ctx, joinHash)
	if err == nil && of == host {
		_, err = c.Store.Redeem(ctx, joinHash, agentHash)
	}
	if errors.Is(err, store.ErrToken) {
		return false, nil
	}
	return err == nil && of == host, err
}
