package main

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/delivery"
	"iapi/identity"
	"iapi/store"
)

// feedSource lets delivery read and write the store: what is here is only the difference in the words.
type feedSource struct{ store *store.Store }

func (f feedSource) Documents(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Stored, error) {
	return f.store.Documents(ctx, hosts...)
}

func (f feedSource) Versions(ctx context.Context, hosts ...uuid.UUID) ([]assignment.Version, error) {
	return f.store.Versions(ctx, hosts...)
}

func (f feedSource) Rebase(ctx context.Context, host uuid.UUID, known assignment.Version) (assignment.Version, error) {
	v, err := f.store.Rebase(ctx, host, known)
	if errors.Is(err, store.ErrNoDocument) {
		return assignment.Version{}, nil
	}
	return v, err
}

func (f feedSource) WatchDocuments(ctx context.Context, fn func(changes []delivery.Change, gap bool)) error {
	return f.store.WatchDocuments(ctx, func(changes []store.DocChange, gap bool) {
		out := make([]delivery.Change, len(changes))
		for i, c := range changes {
			out[i] = delivery.Change{Host: c.Host, Version: c.Version, Kind: delivery.Kind(c.Kind), Session: c.Session}
		}
		fn(out, gap)
	})
}

func (f feedSource) BeginSession(ctx context.Context, host, session uuid.UUID) error {
	return f.store.BeginSession(ctx, host, session)
}

func (f feedSource) Knows(ctx context.Context, host uuid.UUID) (bool, error) {
	facts, err := f.store.Facts(ctx, host)
	return facts.Known, err
}

func (f feedSource) Touch(ctx context.Context, hosts ...uuid.UUID) error {
	return f.store.Touch(ctx, hosts...)
}

func (f feedSource) ReportBatch(ctx context.Context, reports []delivery.Report) ([]delivery.ReportResult, error) {
	in := make([]store.Report, len(reports))
	for i, r := range reports {
		statuses := make([]store.Status, len(r.Instrumentations))
		for j, s := range r.Instrumentations {
			statuses[j] = store.Status(s)
		}
		targets := make([]store.TargetStatus, len(r.Targets))
		for j, t := range r.Targets {
			targets[j] = store.TargetStatus(t)
		}
		in[i] = store.Report{Host: r.Host, Session: r.Session, Sequence: r.Sequence, AgentVersion: r.AgentVersion,
			Capabilities: r.Capabilities, Applied: r.Applied, Instrumentations: statuses, Targets: targets}
	}
	results, err := f.store.ReportBatch(ctx, in)
	if err != nil {
		return nil, err
	}
	out := make([]delivery.ReportResult, len(results))
	for i, r := range results {
		out[i] = delivery.ReportResult{Accepted: r.Accepted, Superseded: r.Superseded}
	}
	return out, nil
}

// credentials are the agents' credentials: identity makes and reads the tokens, the store keeps their hashes.
type credentials struct{ store *store.Store }

// CreateJoinToken implements instrumentation.Agents.
func (c credentials) CreateJoinToken(ctx context.Context, host uuid.UUID, ttl time.Duration) (string, error) {
	token, hash := identity.NewJoinToken()
	if err := c.store.PutJoinToken(ctx, hash, host, ttl); err != nil {
		return "", err
	}
	return token, nil
}

// RevokeAgent implements instrumentation.Agents.
func (c credentials) RevokeAgent(ctx context.Context, host uuid.UUID) error {
	if err := c.store.RevokeCertificates(ctx, host); err != nil {
		return err
	}
	return c.store.RevokeAgent(ctx, host) // this tells the processes that serve agents, so it comes last
}

// Lookup implements identity.AgentTokens.
func (c credentials) Lookup(ctx context.Context, tokenHash string) (uuid.UUID, bool, error) {
	host, err := c.store.AgentHost(ctx, tokenHash)
	if errors.Is(err, store.ErrToken) {
		return uuid.Nil, false, nil
	}
	return host, err == nil, err
}

// Redeem implements identity.JoinTokens. The host of a token never changes, so looking first is safe.
func (c credentials) Redeem(ctx context.Context, host uuid.UUID, joinHash, agentHash string) (bool, error) {
	of, err := c.store.JoinHost(ctx, joinHash)
	if err == nil && of == host {
		_, err = c.store.Redeem(ctx, joinHash, agentHash)
	}
	if errors.Is(err, store.ErrToken) {
		return false, nil
	}
	return err == nil && of == host, err
}
