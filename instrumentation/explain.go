package instrumentation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"iapi/identity"
	"iapi/inventory"
)

// Codes of causes, beside the statuses of sources, which are codes too.
const (
	CauseDeleting        = "DELETING"
	CauseExpired         = "EXPIRED"
	CausePaused          = "PAUSED"
	CauseUnknownVM       = "UNKNOWN_VM"       // the inventory has no such machine, or the caller may not see it
	CauseUnknownHost     = "UNKNOWN_HOST"     // the inventory has no such host
	CauseOtherOwner      = "OTHER_OWNER"      // the machine is not the owner's
	CauseNotPlaced       = "NOT_PLACED"       // the machine is on no host
	CauseNotMatched      = "NOT_MATCHED"      // the scope does not match
	CauseWholeHost       = "WHOLE_HOST"       // a zone is asked about, and the instrumentation measures whole hosts
	CauseNotEvaluated    = "NOT_EVALUATED"    // the standing revision waits for a worker
	CauseStale           = "STALE_INVENTORY"  // the inventory could not be asked lately
	CauseNoAgent         = "NO_AGENT"         // no agent of the host has ever reported
	CauseOffline         = "OFFLINE"          // the host's agent cannot be reached
	CauseNotAcknowledged = "NOT_ACKNOWLEDGED" // the agent has not confirmed it yet
	CauseTargetDown      = "TARGET_DOWN"      // the host's agent cannot send the data to a target
	CauseNotInDocument   = "NOT_IN_DOCUMENT"  // it matches, and the host's document does not have it yet
	CauseRemoving        = "REMOVING"         // it should not run there, and the removal is not confirmed yet
)

// Explanation is why a place runs an instrumentation or not.
type Explanation struct {
	Placed bool    // it is in the document of the host
	Causes []Cause // the deciding one first
}

// Explain says why a host or a zone (exactly one of them; the other is Nil) does, or does not, run an instrumentation.
// Only operators ask about hosts.
func (s *Service) Explain(ctx context.Context, c identity.Caller, id ID, host, vm uuid.UUID) (Explanation, error) {
	rec, err := s.readOne(ctx, c, id)
	if err != nil {
		return Explanation{}, err
	}
	if (host == uuid.Nil) == (vm == uuid.Nil) {
		return Explanation{}, badRequest("name a host or a vm, exactly one of them")
	}
	if host != uuid.Nil && !isOperator(c) {
		return Explanation{}, fmt.Errorf("%w: only operators ask about hosts", ErrForbidden)
	}
	e := explainer{Service: s, caller: c, rec: rec, zones: rec.Scope.Zones(rec.Owner)}
	if err := e.explain(ctx, host, vm); err != nil {
		return Explanation{}, fmt.Errorf("explain %s: %w", id, err)
	}
	return e.Explanation, nil
}

type explainer struct {
	*Service
	Explanation
	caller identity.Caller
	rec    Instrumentation
	zones  bool // it measures zones

	// The place asked about, and what is known of it.
	known     bool          // the caller may know of it
	vm        *inventory.VM // nil: a host
	host      *FleetHost
	placement *HostPlacement
}

func (e *explainer) because(code, format string, args ...any) {
	e.Causes = append(e.Causes, Cause{Code: code, Message: fmt.Sprintf(format, args...)})
}

func (e *explainer) explain(ctx context.Context, host, vm uuid.UUID) error {
	if err := e.look(ctx, host, vm); err != nil {
		return err
	}
	e.Placed = e.placement != nil && (e.vm == nil || !e.zones || slices.Contains(e.placement.VMs, e.vm.UUID))
	e.refusals()
	switch {
	case len(e.Causes) == 0:
		e.fares()
	case e.Placed:
		e.because(CauseRemoving, "It is still in place there; its removal is not confirmed yet.")
	}
	if e.vm != nil && !e.zones {
		e.because(CauseWholeHost, "It measures whole hosts, and this machine only as a part of one.")
	}
	if !e.rec.StaleFrom.IsZero() {
		e.because(CauseStale, "The inventory could not be asked since %s.", e.rec.StaleFrom.UTC().Format(time.RFC3339))
	}
	return nil
}

// look reads what is known of the place. What a tenant has lost or never had is unknown to it.
func (e *explainer) look(ctx context.Context, host, vm uuid.UUID) (err error) {
	if vm != uuid.Nil {
		found, err := e.store.Machines(ctx, vm)
		if err != nil {
			return err
		}
		if e.vm = found[0]; e.vm == nil || !isOperator(e.caller) && e.vm.Owner != e.rec.Owner {
			return nil
		}
		host = e.vm.Host
	}
	e.known = true
	if host == uuid.Nil {
		return nil
	}
	hosts, err := e.store.FleetHosts(ctx, host)
	if err != nil {
		return err
	}
	e.host = hosts[0]
	e.placement, err = e.store.HostPlacement(ctx, e.rec.ID, host)
	return err
}

// refusals gives the reasons why the place should not run it.
func (e *explainer) refusals() {
	if !e.rec.DeletedAt.IsZero() {
		e.because(CauseDeleting, "It is being deleted.")
	}
	if e.rec.expired(e.now()) {
		e.because(CauseExpired, "Its time to live has passed.")
	}
	if !e.rec.PausedAt.IsZero() {
		e.because(CausePaused, "It is paused.")
	}
	switch {
	case !e.known:
		e.vm = nil
		e.because(CauseUnknownVM, "There is no such machine.")
	case e.vm == nil && e.host == nil:
		e.because(CauseUnknownHost, "There is no such host.")
	case e.vm != nil && e.rec.Owner != uuid.Nil && e.vm.Owner != e.rec.Owner:
		e.because(CauseOtherOwner, "The machine belongs to another owner.")
	case e.vm != nil && !e.vm.Placed():
		e.because(CauseNotPlaced, "The machine is on no host; its state is %q.", clip(e.vm.State))
	case e.vm == nil && e.zones:
		// Which zones of the host match is for the document to say; each can be asked about by itself.
		if e.placement == nil && e.rec.Evaluated >= e.rec.Revision {
			e.because(CauseNotMatched, "No zone of this host is in the scope: %s", e.text(e.rec.Scope))
		}
	default:
		e.match()
	}
}

// match tells the term because of which the scope does not match.
func (e *explainer) match() {
	place := e.vm
	if !e.zones {
		place = nil
	}
	var on inventory.Host
	if e.host != nil {
		on = e.host.Host
	} else {
		on.UUID = e.vm.Host
	}
	if !e.rec.Scope.Matches(place, on) {
		e.because(CauseNotMatched, "The scope does not match: %s", e.text(e.rec.Scope.failing(place, on)))
	}
}

func (e *explainer) text(s Scope) string {
	if !isOperator(e.caller) {
		s = s.WithoutHosts()
	}
	return s.Text()
}

// fares gives the reason why a place that should run it does, or does not yet.
func (e *explainer) fares() {
	switch {
	case e.host == nil || e.host.Agent == nil:
		e.because(CauseNoAgent, "No agent has ever reported from the host.")
		return
	case !e.host.Agent.Online:
		e.because(CauseOffline, "The agent of the host cannot be reached at present.")
		return
	case !e.Placed && e.rec.Evaluated < e.rec.Revision:
		e.because(CauseNotEvaluated, "The change waits to be evaluated.")
		return
	case !e.Placed:
		e.because(CauseNotInDocument, "It is about to be put in place.")
		return
	}
	status, message := e.placement.Status, e.placement.Message
	if e.vm != nil {
		if f, ok := e.placement.Failures[e.vm.UUID]; ok {
			status, message = f.Status, f.Message
		}
	}
	code := string(status)
	if status == StatusPending {
		code = CauseNotAcknowledged
	}
	// What is measured and cannot be sent is of no use to anybody; what is not even measured has a deeper cause.
	measured := status == StatusRunning || status == StatusPending
	if measured {
		e.targets()
	}
	e.because(code, "%s", showMessage(e.caller, status, message))
	if !measured {
		e.targets()
	}
}

// targets tells to which targets the agent cannot send.
func (e *explainer) targets() {
	for _, t := range e.placement.Targets {
		if t.Connected || t.LastError == "" {
			continue // or it has not been tried yet
		}
		if !isOperator(e.caller) {
			e.because(CauseTargetDown, "The data cannot be sent to target %d at present.", t.Target)
			continue
		}
		e.because(CauseTargetDown, "The data cannot be sent to target %d, and %d points are lost: %s", t.Target, t.Dropped, t.LastError)
	}
}
