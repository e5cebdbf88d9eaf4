package placement

import (
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"iapi/instrumentation"
	"iapi/inventory"
)

// labelled shows a VM to a Kubernetes selector: its tags, its owner and its host as labels. Nothing is copied.
type labelled struct {
	tags        map[string]string
	owner, host string
}

func label(vm *inventory.VM) labelled { return labelled{vm.Tags, vm.Owner.String(), vm.Host.String()} }

func (l *labelled) Lookup(key string) (string, bool) {
	switch key {
	case "owner":
		return l.owner, true
	case "host":
		return l.host, true
	}
	v, ok := l.tags[key]
	return v, ok
}

func (l *labelled) Has(key string) bool   { _, ok := l.Lookup(key); return ok }
func (l *labelled) Get(key string) string { v, _ := l.Lookup(key); return v }

// selector makes a Kubernetes selector of a scope. All of a selector's requirements must hold, so an or of tags with
// different keys has no selector: it becomes one of values of its first key, which costs as much and means something else.
func selector(s instrumentation.Scope, owner uuid.UUID) labels.Selector {
	out := labels.NewSelector()
	must := func(key string, op selection.Operator, values ...string) {
		r, err := labels.NewRequirement(key, op, values)
		if err != nil {
			panic(err) // the generator makes no such keys and values
		}
		out = out.Add(*r)
	}
	if owner != uuid.Nil {
		must("owner", selection.Equals, owner.String())
	}
	parts := s.And
	if len(parts) == 0 {
		parts = []instrumentation.Scope{s}
	}
	for _, p := range parts {
		switch {
		case p.All:
		case len(p.Hosts) == 1:
			must("host", selection.Equals, p.Hosts[0].String())
		case p.VMTag != nil && len(p.VMTag.In) == 0:
			must(p.VMTag.Key, selection.Exists)
		case p.VMTag != nil:
			must(p.VMTag.Key, selection.In, p.VMTag.In...)
		case p.Not != nil:
			must(p.Not.VMTag.Key, selection.NotIn, p.Not.VMTag.In...)
		default:
			var values []string
			for _, o := range p.Or {
				values = append(values, o.VMTag.In...)
			}
			must(p.Or[0].VMTag.Key, selection.In, values...)
		}
	}
	return out
}
