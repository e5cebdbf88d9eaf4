package session

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
	"iapi/graph/agentdoc"
	"iapi/measure"
)

// readFrame splits a message of graphql-transport-ws. The payload is a part of the text, and has only been passed over.
func readFrame(text []byte) (f frame, err error) {
	r := reader{text: text}
	r.object(func(name []byte) {
		switch string(name) {
		case "id":
			f.ID = r.string()
		case "type":
			f.Type = r.string()
		case "payload":
			f.Payload = r.raw()
		default:
			r.raw()
		}
	})
	if err := r.end(); err != nil {
		return frame{}, fmt.Errorf("decode a message: %w", err)
	}
	return f, nil
}

// decode reads the response of an operation. An error that the API answered comes before any data.
func decode(text []byte, data any) error {
	some := false
	err := readResponse(text, func(r *reader) {
		some = true
		if raw := r.raw(); r.err == nil {
			if err := json.Unmarshal(raw, data); err != nil {
				r.fail(err)
			}
		}
	})
	if err == nil && !some {
		err = errors.New("decode the API's answer: it has no data")
	}
	return err
}

// readResponse hands over what follows "data", and gives the first of the errors.
func readResponse(text []byte, data func(r *reader)) error {
	var errs []agentdoc.Error
	r := reader{text: text}
	r.object(func(name []byte) {
		switch string(name) {
		case "data":
			data(&r)
		case "errors":
			if raw := r.raw(); r.err == nil {
				if err := json.Unmarshal(raw, &errs); err != nil {
					r.fail(err)
				}
			}
		default:
			r.raw()
		}
	})
	err := r.end()
	if len(errs) > 0 {
		return asError(errs[0])
	}
	if err != nil {
		return fmt.Errorf("decode the API's answer: %w", err)
	}
	return nil
}

// items are the instrumentations of the last document. Each document is whole, and of most of them there is nothing new in
// the next one: what has the same bytes is not read again, but shared, for nobody changes what a document has.
type items struct {
	all []assignment.Item
	by  map[[sha256.Size]byte]int // their places, by the digest of their bytes
}

// readEvent reads one event of the subscription.
func (last *items) readEvent(text []byte) (e agentdoc.Event, err error) {
	err = readResponse(text, func(r *reader) {
		r.object(func(name []byte) {
			if string(name) != "assignments" {
				r.raw()
				return
			}
			e.Assignment = r.assignment(&e.TypeName, last)
		})
	})
	return e, err
}

// readAssignment reads a document as GET answers it.
func (last *items) readAssignment(text []byte) (Assignment, error) {
	r := reader{text: text}
	var name string
	a := r.assignment(&name, last)
	if err := r.end(); err != nil {
		return Assignment{}, fmt.Errorf("decode the assignment: %w", err)
	}
	return a, nil
}

func (r *reader) assignment(typeName *string, last *items) (a Assignment) {
	r.object(func(name []byte) {
		switch string(name) {
		case "__typename":
			*typeName = r.string()
		case "host":
			r.parsed(a.Host.UnmarshalText)
		case "version":
			a.Version = r.version()
		case "sentAt":
			r.parsed(a.SentAt.UnmarshalText)
		case "instrumentations":
			a.Instrumentations = r.items(last)
		default:
			r.raw()
		}
	})
	return a
}

func (r *reader) version() (v Version) {
	r.object(func(name []byte) {
		switch string(name) {
		case "epoch":
			v.Epoch = r.string()
		case "generation":
			v.Generation = r.int()
		case "hash":
			v.Hash = r.string()
		default:
			r.raw()
		}
	})
	return v
}

// items reads the instrumentations, nil for null, and remembers them for the next document.
func (r *reader) items(last *items) []assignment.Item {
	now := items{all: make([]assignment.Item, 0, len(last.all)+1), by: make(map[[sha256.Size]byte]int, len(last.all)+1)}
	if !r.list(func() {
		begin := r.at
		sum := sha256.Sum256(r.raw())
		if place, known := last.by[sum]; known {
			now.all = append(now.all, last.all[place])
		} else {
			r.at = begin
			now.all = append(now.all, r.item())
		}
		now.by[sum] = len(now.all) - 1
	}) {
		return nil
	}
	*last = now
	return now.all
}

func (r *reader) item() (i assignment.Item) {
	r.object(func(name []byte) {
		switch string(name) {
		case "id":
			i.ID = r.string()
		case "revision":
			i.Revision = int(r.int())
		case "owner":
			i.Owner = r.uuid()
		case "metric":
			i.Metric = r.string()
		case "definitionDigest":
			i.DefinitionDigest = r.string()
		case "predicate":
			i.Predicate = r.predicate()
		case "decompositions":
			i.Decompositions = r.strings()
		case "wholeHost":
			i.WholeHost = r.bool()
		case "vms":
			vms := []assignment.VM{}
			if r.list(func() { vms = append(vms, r.vm()) }) {
				i.VMs = vms
			}
		case "targets":
			targets := []assignment.Target{}
			if r.list(func() { targets = append(targets, r.target()) }) {
				i.Targets = targets
			}
		case "granularitySeconds":
			i.Granularity = int(r.int())
		case "expiresAt":
			var at time.Time
			if r.parsed(at.UnmarshalText) {
				i.ExpiresAt = &at
			}
		default:
			r.raw()
		}
	})
	return i
}

func (r *reader) uuid() *uuid.UUID {
	var id uuid.UUID
	if !r.parsed(id.UnmarshalText) {
		return nil
	}
	return &id
}

func (r *reader) predicate() *measure.Predicate {
	if r.err != nil || r.null() {
		return nil
	}
	raw := r.raw()
	if r.err != nil {
		return nil
	}
	p := new(measure.Predicate)
	if err := p.UnmarshalJSON(raw); err != nil {
		r.fail(err)
	}
	return p
}

func (r *reader) vm() (vm assignment.VM) {
	r.object(func(name []byte) {
		switch string(name) {
		case "uuid":
			r.parsed(vm.UUID.UnmarshalText)
		case "owner":
			vm.Owner = r.uuid()
		default:
			r.raw()
		}
	})
	return vm
}

func (r *reader) target() (t assignment.Target) {
	r.object(func(name []byte) {
		switch string(name) {
		case "kind":
			t.Kind = r.string()
		case "address":
			t.Address = r.string()
		case "prefix":
			t.Prefix = r.optional()
		case "transport":
			t.Transport = r.optional()
		case "headers":
			headers := make(map[string]string)
			if r.object(func(name []byte) { key := string(name); headers[key] = r.string() }) {
				t.Headers = headers
			}
		default:
			r.raw()
		}
	})
	return t
}
