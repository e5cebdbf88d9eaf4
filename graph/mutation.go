package graph

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/delivery"
	"iapi/graph/model"
	"iapi/identity"
	"iapi/instrumentation"
)

func (m *mutationResolver) CreateInstrumentation(ctx context.Context, input model.CreateInstrumentationInput) (*model.CreateInstrumentationPayload, error) {
	return m.created(ctx)(m.rules.Create(ctx, caller(ctx), createInputOf(input)))
}

func (m *mutationResolver) CloneInstrumentation(ctx context.Context, input model.CloneInstrumentationInput) (*model.CreateInstrumentationPayload, error) {
	return m.created(ctx)(m.rules.Clone(ctx, caller(ctx), cloneInputOf(input)))
}

func (m *mutationResolver) UpdateInstrumentation(ctx context.Context, input model.UpdateInstrumentationInput) (*model.UpdateInstrumentationPayload, error) {
	return m.updated(ctx)(m.rules.Update(ctx, caller(ctx), updateInputOf(input)))
}

func (m *mutationResolver) PauseInstrumentation(ctx context.Context, input model.InstrumentationIDInput) (*model.UpdateInstrumentationPayload, error) {
	return m.updated(ctx)(m.rules.Pause(ctx, caller(ctx), instrumentation.ID(input.ID)))
}

func (m *mutationResolver) ResumeInstrumentation(ctx context.Context, input model.InstrumentationIDInput) (*model.UpdateInstrumentationPayload, error) {
	return m.updated(ctx)(m.rules.Resume(ctx, caller(ctx), instrumentation.ID(input.ID)))
}

func (m *mutationResolver) RefreshInstrumentation(ctx context.Context, input model.InstrumentationIDInput) (*model.UpdateInstrumentationPayload, error) {
	return m.updated(ctx)(m.rules.Refresh(ctx, caller(ctx), instrumentation.ID(input.ID)))
}

func (m *mutationResolver) DeleteInstrumentation(ctx context.Context, input model.InstrumentationIDInput) (*model.DeleteInstrumentationPayload, error) {
	mistakes, err := split(m.rules.Delete(ctx, caller(ctx), instrumentation.ID(input.ID)), "input")
	if err != nil {
		return nil, err
	}
	out := &model.DeleteInstrumentationPayload{UserErrors: mistakes}
	if len(mistakes) == 0 {
		out.DeletedID = &input.ID
	}
	return out, nil
}

func (m *mutationResolver) DeleteInstrumentations(ctx context.Context, input model.DeleteInstrumentationsInput) (*model.DeleteInstrumentationsPayload, error) {
	deleted, err := m.rules.DeleteMany(ctx, caller(ctx), filterOf(&input.Filter), input.ExpectedCount)
	mistakes, err := split(err, "input")
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(deleted))
	for i, id := range deleted {
		ids[i] = string(id)
	}
	return &model.DeleteInstrumentationsPayload{DeletedCount: len(ids), DeletedIds: ids, UserErrors: mistakes}, nil
}

func (m *mutationResolver) NotifyVMChanged(ctx context.Context, input model.NotifyVMChangedInput) (*model.AcceptedPayload, error) {
	return accepted(m.rules.NotifyVM(ctx, caller(ctx), input.VM, string(input.Kind), given(input.RequestID)), "input")
}

func (m *mutationResolver) RefreshAll(ctx context.Context) (*model.AcceptedPayload, error) {
	return accepted(m.rules.RefreshAll(ctx, caller(ctx)))
}

func (m *mutationResolver) StopTracing(ctx context.Context, input model.StopTracingInput) (*model.AcceptedPayload, error) {
	return accepted(m.rules.StopTracing(ctx, caller(ctx), input.Hosts.Value(), given(input.Everywhere), input.Reason), "input")
}

func (m *mutationResolver) ConfirmGuard(ctx context.Context, id string) (*model.AcceptedPayload, error) {
	return accepted(m.rules.ConfirmGuard(ctx, caller(ctx), id))
}

func (m *mutationResolver) RevokeAgent(ctx context.Context, host uuid.UUID) (*model.AcceptedPayload, error) {
	return accepted(m.rules.RevokeAgent(ctx, caller(ctx), host))
}

// defaultJoinTTL is what the schema says.
const defaultJoinTTL = 3600

func (m *mutationResolver) CreateJoinToken(ctx context.Context, input model.CreateJoinTokenInput) (*model.CreateJoinTokenPayload, error) {
	ttl := defaultJoinTTL
	if v := input.TTLSeconds.Value(); v != nil {
		ttl = *v
	}
	token, err := m.rules.CreateJoinToken(ctx, caller(ctx), input.Host, time.Duration(ttl)*time.Second)
	mistakes, err := split(err, "input")
	if err != nil {
		return nil, err
	}
	return &model.CreateJoinTokenPayload{Token: optional(token), UserErrors: mistakes}, nil
}

// ExchangeJoinToken is for agents that have nothing but the join token, so it asks no rules: the token is the permission.
func (m *mutationResolver) ExchangeJoinToken(ctx context.Context, input model.ExchangeJoinTokenInput) (*model.ExchangeJoinTokenPayload, error) {
	token, err := m.exchange(ctx, input)
	mistakes, err := split(m.rules.Joined(ctx, input.Host, err), "input")
	if err != nil {
		return nil, err
	}
	out := &model.ExchangeJoinTokenPayload{UserErrors: mistakes}
	if len(mistakes) == 0 {
		out.Token, out.Host = &token, &input.Host
	}
	return out, nil
}

func (m *mutationResolver) exchange(ctx context.Context, input model.ExchangeJoinTokenInput) (string, error) {
	if m.join == nil {
		return "", fmt.Errorf("%w: %w", &refusal{code: codeForbidden, message: "Agents do not join here by tokens."}, instrumentation.ErrForbidden)
	}
	credential := given(input.Credential)
	if credential != "" && !identity.IsAgentToken(credential) {
		return "", instrumentation.UserErrors{{
			Code: instrumentation.CodeTypeMismatch, Path: []string{"credential"}, Message: "It is not of the form of an agent's credential.",
		}}
	}
	token, err := identity.Join(ctx, m.join, input.Host, input.Token, credential)
	if errors.Is(err, identity.ErrBadCredentials) {
		return "", instrumentation.UserErrors{{
			Code: instrumentation.CodeNotFound, Path: []string{"token"},
			Message: "The join token does not hold for this host: it is unknown, used, of another host or has lapsed.",
		}}
	}
	return token, err
}

func (m *mutationResolver) ReportAgentStatus(ctx context.Context, input model.ReportAgentStatusInput) (*model.ReportAgentStatusPayload, error) {
	result, next, err := m.feed.report(ctx, reportOf(input))
	if err != nil {
		return nil, err
	}
	return &model.ReportAgentStatusPayload{
		Accepted: result.Accepted, Superseded: result.Superseded, NextReportSeconds: int(next / time.Second),
	}, nil
}

func reportOf(in model.ReportAgentStatusInput) delivery.Report {
	r := delivery.Report{
		Host: in.Host, Session: in.Session, Sequence: int64(in.Sequence), AgentVersion: in.AgentVersion, Capabilities: in.Capabilities,
		Instrumentations: make([]delivery.Status, len(in.Instrumentations)),
	}
	if v := in.Applied.Value(); v != nil {
		r.Applied = versionOf(*v)
	}
	for i, s := range in.Instrumentations {
		r.Instrumentations[i] = delivery.Status{
			ID: instrumentation.ID(s.ID), Revision: s.Revision, Status: instrumentation.Status(s.Status),
			Message: given(s.Message), LastSample: given(s.LastSampleAt),
		}
		failures := s.VMFailures.Value()
		if len(failures) == 0 {
			continue
		}
		r.Instrumentations[i].VMs = make(map[uuid.UUID]instrumentation.SourceFailure, len(failures))
		for _, f := range failures {
			r.Instrumentations[i].VMs[f.VM] = instrumentation.SourceFailure{Status: instrumentation.Status(f.Status), Message: given(f.Message)}
		}
	}
	for _, t := range in.Targets.Value() {
		r.Targets = append(r.Targets, delivery.TargetStatus{
			Instrumentation: instrumentation.ID(t.Instrumentation), Target: t.Target, Connected: t.Connected,
			Queued: int64(t.Queued), Dropped: int64(t.Dropped), LastSuccess: given(t.LastSuccessAt), LastError: given(t.LastError),
		})
	}
	return r
}

// created and updated make payloads of what the rules return.

func (m *mutationResolver) created(ctx context.Context) func(*instrumentation.Instrumentation, error) (*model.CreateInstrumentationPayload, error) {
	return func(rec *instrumentation.Instrumentation, err error) (*model.CreateInstrumentationPayload, error) {
		one, mistakes, err := m.outcome(ctx, rec, err)
		if err != nil {
			return nil, err
		}
		return &model.CreateInstrumentationPayload{Instrumentation: one, UserErrors: mistakes}, nil
	}
}

func (m *mutationResolver) updated(ctx context.Context) func(*instrumentation.Instrumentation, error) (*model.UpdateInstrumentationPayload, error) {
	return func(rec *instrumentation.Instrumentation, err error) (*model.UpdateInstrumentationPayload, error) {
		one, mistakes, err := m.outcome(ctx, rec, err)
		if err != nil {
			return nil, err
		}
		return &model.UpdateInstrumentationPayload{Instrumentation: one, UserErrors: mistakes}, nil
	}
}

func (m *mutationResolver) outcome(
	ctx context.Context, rec *instrumentation.Instrumentation, err error,
) (*model.Instrumentation, []model.UserError, error) {
	mistakes, err := split(err, "input")
	if err != nil || len(mistakes) > 0 {
		return nil, mistakes, err
	}
	one, err := (*resolver)(m).view(ctx).one(ctx, rec)
	return one, mistakes, err
}

func accepted(err error, path ...string) (*model.AcceptedPayload, error) {
	mistakes, err := split(err, path...)
	if err != nil {
		return nil, err
	}
	return &model.AcceptedPayload{Accepted: len(mistakes) == 0, UserErrors: mistakes}, nil
}
