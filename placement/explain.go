package placement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"iapi/instrumentation"
	"iapi/inventory"
)

// The codes of an explanation.
const (
	CodeMatches   = "SCOPE_MATCHES"
	CodeMismatch  = "SCOPE_DOES_NOT_MATCH"
	CodeOwner     = "OTHER_OWNER"
	CodeNotPlaced = "VM_NOT_PLACED"
	CodeZones     = "SCOPE_IS_ABOUT_ZONES"
	CodeHosts     = "SCOPE_IS_ABOUT_HOSTS"
	CodeUnknown   = "HOST_UNKNOWN"
	CodeInvalid   = "SCOPE_INVALID"
)

// Explain says whether a zone (vm given) or a whole host (vm nil) is a place of the scope, and why: the deciding term
// first. The host may be nil where nothing is known of it. Messages name no host, so that a tenant may read them.
func Explain(s instrumentation.Scope, owner uuid.UUID, vm *inventory.VM, host *inventory.Host) (bool, []instrumentation.Cause) {
	switch zones := s.Zones(owner); {
	case vm == nil && zones:
		return no(CodeZones, "The instrumentation measures zones, not whole hosts.")
	case vm != nil && !zones:
		return no(CodeHosts, "The instrumentation measures whole hosts, not zones.")
	case vm == nil && host == nil:
		return no(CodeUnknown, "Nothing is known of the host.")
	case vm != nil && owner != uuid.Nil && vm.Owner != owner:
		return no(CodeOwner, "The zone does not belong to the owner of the instrumentation.")
	case vm != nil && vm.Host == uuid.Nil:
		return no(CodeNotPlaced, "The zone has no host yet.")
	case vm != nil && !vm.Placed():
		return no(CodeNotPlaced, fmt.Sprintf("The zone is %s.", vm.State))
	}
	p := place{vm: vm, host: host}
	if vm != nil {
		p.hostID, p.host = vm.Host, knownHost(vm.Host, host)
	} else {
		p.hostID = host.UUID
	}
	t, causes := explain(s, p)
	return t == yes, causes
}

func no(code, message string) (bool, []instrumentation.Cause) {
	return false, []instrumentation.Cause{{Code: code, Message: message}}
}

// truth is three-valued: what depends on the unknown is neither true nor false.
type truth int8

const (
	nay     truth = -1
	unknown truth = 0
	yes     truth = 1
)

// explain evaluates a scope as it was written, and returns the terms that decide.
func explain(s instrumentation.Scope, p place) (truth, []instrumentation.Cause) {
	if members(s) != 1 {
		return unknown, []instrumentation.Cause{{Code: CodeInvalid, Message: "A part of the scope says nothing, or two things at once."}}
	}
	switch {
	case s.Not != nil:
		t, causes := explain(*s.Not, p)
		for i := range causes {
			switch causes[i].Code {
			case CodeMatches:
				causes[i].Code = CodeMismatch
			case CodeMismatch:
				causes[i].Code = CodeMatches
			}
		}
		return -t, causes
	case len(s.And) > 0:
		return decide(s.And, p, nay)
	case len(s.Or) > 0:
		return decide(s.Or, p, yes)
	}
	t, text := leaf(s, p)
	code := map[truth]string{yes: CodeMatches, nay: CodeMismatch, unknown: CodeUnknown}[t]
	return t, []instrumentation.Cause{{Code: code, Message: text}}
}

// decide explains a list of which one arg with the deciding truth settles the whole: nay for and, yes for or. Without
// such an arg, one that is unknown decides, and otherwise all do.
func decide(args []instrumentation.Scope, p place, deciding truth) (truth, []instrumentation.Cause) {
	all := -deciding
	var causes []instrumentation.Cause
	for _, a := range args {
		switch t, c := explain(a, p); {
		case t == deciding:
			return t, c
		case t == unknown && all != unknown:
			all, causes = unknown, c
		case t == all:
			causes = append(causes, c...)
		}
	}
	return all, causes
}

// leaf evaluates one term of a scope and says what it found.
func leaf(s instrumentation.Scope, p place) (truth, string) {
	e := normal(s, false)
	is := func(yesText, noText string) (truth, string) {
		if e.holds(p) {
			return yes, yesText
		}
		return nay, noText
	}
	switch {
	case s.All:
		return yes, "The scope is every zone of its owner."
	case s.EveryHost:
		return yes, "The scope is every host."
	case len(s.VMs) > 0:
		return is("The scope names the zone.", "The scope names other zones.")
	case len(s.Hosts) > 0:
		return is("The scope names the host.", "The scope names other hosts.")
	case s.VMAlias != "":
		return is(fmt.Sprintf("The zone's alias is %q.", s.VMAlias), fmt.Sprintf("The zone's alias is not %q.", s.VMAlias))
	case s.VMTag != nil:
		text := tagText(*s.VMTag, p.vm.Tags)
		return is(text, text)
	}
	if p.host == nil {
		return unknown, "Nothing is known of the host's traits."
	}
	return is(
		fmt.Sprintf("The host has the trait %q that the scope wants.", s.HostTag.Key),
		fmt.Sprintf("The host does not have the trait %q that the scope wants.", s.HostTag.Key))
}

func tagText(t instrumentation.TagMatch, tags map[string]string) string {
	v, has := tags[t.Key]
	switch {
	case !has:
		return fmt.Sprintf("The zone has no tag %q.", t.Key)
	case len(t.In) == 0:
		return fmt.Sprintf("The zone has the tag %q.", t.Key)
	case slices.Contains(t.In, v):
		return fmt.Sprintf("The zone's tag %q is %q.", t.Key, v)
	}
	quoted := make([]string, len(t.In))
	for i, in := range t.In {
		quoted[i] = strconv.Quote(in)
	}
	return fmt.Sprintf("The zone's tag %q is %q, not %s.", t.Key, v, strings.Join(quoted, " or "))
}
