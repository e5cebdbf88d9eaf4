package instrumentation

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"iapi/identity"
)

// The bounds of what operators and workflows send.
const (
	maxStopHosts   = 10_000
	maxReasonBytes = 512
	minJoinTTL     = time.Minute
)

// NotifyVM hints that a machine has changed; the inventory decides. kind and request (a workflow's id) are for the audit
// log. For operators, services and workflows.
func (s *Service) NotifyVM(ctx context.Context, c identity.Caller, vm uuid.UUID, kind, request string) error {
	audit := s.audit(c, "notifyVmChanged", vm.String())
	audit.Detail = clip(strings.TrimSpace(kind + " " + request))
	if err := only(c, identity.Operator, identity.Service, identity.Workflow); err != nil {
		return s.refused(ctx, audit, err)
	}
	if vm == uuid.Nil {
		return s.refused(ctx, audit, mistake(CodeTypeMismatch, "vm", "it is the uuid of a machine"))
	}
	if err := s.queue.NotifyVM(ctx, vm); err != nil {
		return s.refused(ctx, audit, fmt.Errorf("notify of a changed machine: %w", err))
	}
	s.record(ctx, audit)
	return nil
}

// RefreshAll starts a comparison of everything with the inventory. For operators and workflows.
func (s *Service) RefreshAll(ctx context.Context, c identity.Caller) error {
	audit := s.audit(c, "refreshAll", "")
	if err := only(c, identity.Operator, identity.Workflow); err != nil {
		return s.refused(ctx, audit, err)
	}
	if err := s.queue.Sweep(ctx); err != nil {
		return s.refused(ctx, audit, fmt.Errorf("start a sweep: %w", err))
	}
	s.record(ctx, audit)
	return nil
}

// StopTracing stops tracing at once, on some hosts or everywhere: exactly one of them. Operators only.
func (s *Service) StopTracing(ctx context.Context, c identity.Caller, hosts []uuid.UUID, everywhere bool, reason string) error {
	audit := s.audit(c, "stopTracing", "everywhere")
	if !everywhere {
		audit.Subject = fmt.Sprintf("%d hosts", len(hosts))
		if len(hosts) == 1 {
			audit.Subject = hosts[0].String()
		}
	}
	audit.Detail = clip(reason)
	if err := only(c, identity.Operator); err != nil {
		return s.refused(ctx, audit, err)
	}
	var wrong collector
	switch {
	case everywhere && hosts != nil:
		wrong.add(CodeInvalidScope, []string{"hosts"}, "give hosts or everywhere, not both")
	case !everywhere && len(hosts) == 0:
		wrong.add(CodeInvalidScope, []string{"hosts"}, "name the hosts, or say everywhere: true")
	case len(hosts) > maxStopHosts:
		wrong.add(CodeLimitExceeded, []string{"hosts"}, "%d hosts at most; say everywhere: true for all", maxStopHosts)
	}
	switch {
	case strings.TrimSpace(reason) == "":
		wrong.add(CodeTypeMismatch, []string{"reason"}, "say why")
	case len(reason) > maxReasonBytes:
		wrong.add(CodeLimitExceeded, []string{"reason"}, "it is longer than %d bytes", maxReasonBytes)
	}
	if err := wrong.found.orNil(); err != nil {
		return s.refused(ctx, audit, err)
	}
	if err := s.known(ctx, hosts); err != nil {
		return s.refused(ctx, audit, err)
	}
	if err := s.queue.StopTracing(ctx, hosts, reason); err != nil {
		return s.refused(ctx, audit, fmt.Errorf("stop tracing: %w", err))
	}
	s.record(ctx, audit)
	return nil
}

// known refuses hosts that the inventory does not have.
func (s *Service) known(ctx context.Context, hosts []uuid.UUID) error {
	found, err := s.store.FleetHosts(ctx, hosts...)
	if err != nil {
		return fmt.Errorf("look up hosts: %w", err)
	}
	var wrong collector
	for i, host := range found {
		if host == nil {
			wrong.add(CodeNotFound, []string{"hosts", strconv.Itoa(i)}, "the inventory has no host %s", hosts[i])
		}
	}
	return wrong.found.orNil()
}

// ConfirmGuard lets happen what a guard holds back. Operators only.
func (s *Service) ConfirmGuard(ctx context.Context, c identity.Caller, id string) error {
	audit := s.audit(c, "confirmGuard", id)
	if err := only(c, identity.Operator); err != nil {
		return s.refused(ctx, audit, err)
	}
	switch err := s.store.ConfirmGuard(ctx, id, audit); {
	case errors.Is(err, ErrNotFound):
		return s.refused(ctx, audit, mistake(CodeNotFound, "id", "no such guard waits"))
	case err != nil:
		return s.refused(ctx, audit, fmt.Errorf("confirm a guard: %w", err))
	}
	return nil
}

// CreateJoinToken makes a token by which the agent of a host joins, once, within ttl. Operators only.
func (s *Service) CreateJoinToken(ctx context.Context, c identity.Caller, host uuid.UUID, ttl time.Duration) (string, error) {
	audit := s.audit(c, "createJoinToken", host.String())
	if err := only(c, identity.Operator); err != nil {
		return "", s.refused(ctx, audit, err)
	}
	var wrong collector
	if host == uuid.Nil {
		wrong.add(CodeTypeMismatch, []string{"host"}, "it is the uuid of a host")
	}
	if ttl < minJoinTTL || ttl > s.policy.JoinTokenTTL {
		wrong.add(CodeTTLExceeded, []string{"ttlSeconds"}, "it is between %d and %d", seconds(minJoinTTL), seconds(s.policy.JoinTokenTTL))
	}
	if err := wrong.found.orNil(); err != nil {
		return "", s.refused(ctx, audit, err)
	}
	token, err := s.agents.CreateJoinToken(ctx, host, ttl)
	if err != nil {
		return "", s.refused(ctx, audit, fmt.Errorf("create a join token: %w", err))
	}
	s.record(ctx, audit)
	return token, nil
}

// Joined records that a host's agent has exchanged a join token, or why not, which it returns. Until then who calls is nobody: the
// token is the permission.
func (s *Service) Joined(ctx context.Context, host uuid.UUID, why error) error {
	audit := s.audit(identity.Caller{ID: "agent:" + host.String(), Kind: identity.Agent}, "exchangeJoinToken", host.String())
	if why != nil {
		audit.Caller = "nobody"
		return s.refused(ctx, audit, why)
	}
	s.record(ctx, audit)
	return nil
}

// RevokeAgent makes the credentials of a host's agent void and ends its session. Those of a host that has left the
// inventory are void afterwards too, but the call is refused, for more often its uuid is wrong. Operators only.
func (s *Service) RevokeAgent(ctx context.Context, c identity.Caller, host uuid.UUID) error {
	audit := s.audit(c, "revokeAgent", host.String())
	if err := only(c, identity.Operator); err != nil {
		return s.refused(ctx, audit, err)
	}
	err := s.agents.RevokeAgent(ctx, host)
	if err == nil {
		var found []*FleetHost
		if found, err = s.store.FleetHosts(ctx, host); err == nil && found[0] == nil {
			return s.refused(ctx, audit, mistake(CodeNotFound, "host",
				"the inventory has no such host; no credential holds for its agent, if it ever had one"))
		}
	}
	if err != nil {
		return s.refused(ctx, audit, fmt.Errorf("revoke an agent: %w", err))
	}
	s.record(ctx, audit)
	return nil
}

func seconds(d time.Duration) int { return int(d / time.Second) }
