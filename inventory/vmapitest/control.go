package vmapitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"

	"iapi/inventory"
)

// ControlHelp describes the control of the simulator over HTTP, for a command's help and for GET /sim.
const ControlHelp = `The simulator is driven over HTTP, below /sim. Bodies are JSON, in VMAPI's and CNAPI's names.

  PUT    /sim/vms/UUID           write a VM whole: {"owner_uuid":…,"alias":…,"state":…,"tags":{…},"server_uuid":…}
  POST   /sim/vms/UUID           change the fields that the body names
  DELETE /sim/vms/UUID           destroy it; ?bulk=true as a host does at start-up; ?forget=true makes it unknown
  PUT    /sim/vms/UUID/tags      replace its tags
  PUT    /sim/hosts/UUID         write a host whole: {"hostname":…,"status":…,"traits":{…}}
  POST   /sim/hosts/UUID         change the fields that the body names
  DELETE /sim/hosts/UUID         make it unknown
  POST   /sim/fleet              add a fleet: {"hosts":[…],"vms":[…]}; nothing is published
  POST   /sim/generate           add a made-up fleet: {"seed":1,"hosts":10,"vms":1000,"owners":20}
  PUT    /sim/faults             replace the faults: [{"mode":"error","path":"/vms","share":0.5,"times":3}]
  GET    /sim/faults             those that are not over
  DELETE /sim/faults             heal
  POST   /sim/feeds/cut          close every connection to the changefeed
  GET    /sim/stats              counts

Modes of faults: error, unavailable, hang, drop, truncate, wrong-json, empty-list, forget-half, feed-silent,
feed-frozen, feed-loss. Without share a fault always strikes, without times it lasts.
`

const maxControlBody = 1 << 30 // a fleet of a million VMs has some 300 MB

// control serves /sim.
func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(*http.Request, []byte) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBody))
			if err != nil {
				writeJSON(w, r, http.StatusRequestEntityTooLarge, problem{Code: "TooLarge", Message: err.Error()})
				return
			}
			answer, err := do(r, body)
			switch {
			case errors.Is(err, inventory.ErrNotFound):
				writeNotFound(w, r, err.Error())
			case err != nil:
				writeJSON(w, r, http.StatusBadRequest, problem{Code: "InvalidArgument", Message: err.Error()})
			case answer == nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				writeJSON(w, r, http.StatusOK, answer)
			}
		})
	}
	for _, pattern := range []string{"GET /sim", "GET /sim/{$}"} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, ControlHelp)
		})
	}
	handle("PUT /sim/vms/{uuid}", s.controlPutVM)
	handle("POST /sim/vms/{uuid}", s.controlPutVM)
	handle("DELETE /sim/vms/{uuid}", s.controlDeleteVM)
	handle("PUT /sim/vms/{uuid}/tags", s.controlPutTags)
	handle("PUT /sim/hosts/{uuid}", s.controlPutHost)
	handle("POST /sim/hosts/{uuid}", s.controlPutHost)
	handle("DELETE /sim/hosts/{uuid}", func(r *http.Request, _ []byte) (any, error) {
		id, err := pathUUID(r)
		if err != nil {
			return nil, err
		}
		return nil, s.RemoveHost(id)
	})
	handle("POST /sim/fleet", func(_ *http.Request, body []byte) (any, error) {
		fleet, err := ParseFleet(body)
		if err != nil {
			return nil, err
		}
		if err := s.Load(fleet); err != nil {
			return nil, err
		}
		return s.Stats(), nil
	})
	handle("POST /sim/generate", func(_ *http.Request, body []byte) (any, error) {
		var o GenerateOptions
		if err := json.Unmarshal(body, &o); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		if err := s.Fill(o); err != nil {
			return nil, err
		}
		return s.Stats(), nil
	})
	handle("PUT /sim/faults", func(_ *http.Request, body []byte) (any, error) {
		var list []Fault
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		return nil, s.SetFaults(list...)
	})
	handle("GET /sim/faults", func(*http.Request, []byte) (any, error) {
		return append([]Fault{}, s.Faults()...), nil
	})
	handle("DELETE /sim/faults", func(*http.Request, []byte) (any, error) { return nil, s.SetFaults() })
	handle("POST /sim/feeds/cut", func(*http.Request, []byte) (any, error) {
		s.CutFeeds()
		return nil, nil
	})
	handle("GET /sim/stats", func(*http.Request, []byte) (any, error) { return s.Stats(), nil })
	return mux
}

func pathUUID(r *http.Request) (uuid.UUID, error) {
	id, err := uuid.Parse(r.PathValue("uuid"))
	if err != nil || id == uuid.Nil {
		return uuid.Nil, fmt.Errorf("uuid: %q is not a uuid", r.PathValue("uuid"))
	}
	return id, nil
}

// controlPutVM writes a VM whole, or for a POST what the body names of it.
func (s *Server) controlPutVM(r *http.Request, body []byte) (any, error) {
	id, err := pathUUID(r)
	if err != nil {
		return nil, err
	}
	var v VM
	if r.Method == http.MethodPost {
		var ok bool
		if v, ok = s.VM(id); !ok {
			return nil, fmt.Errorf("VM %s: %w", id, inventory.ErrNotFound)
		}
		v.Modified = time.Time{}
	}
	if err := v.UnmarshalJSON(body); err != nil {
		return nil, err
	}
	if v.UUID != uuid.Nil && v.UUID != id {
		return nil, errors.New("uuid: differs from the path's")
	}
	v.UUID = id
	return nil, s.Put(v)
}

func (s *Server) controlPutTags(r *http.Request, body []byte) (any, error) {
	id, err := pathUUID(r)
	if err != nil {
		return nil, err
	}
	var v VM
	if err := setTags(&v, body); err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	return nil, s.SetTags(id, v.Tags)
}

func (s *Server) controlDeleteVM(r *http.Request, _ []byte) (any, error) {
	id, err := pathUUID(r)
	if err != nil {
		return nil, err
	}
	switch query := r.URL.Query(); {
	case query.Get("forget") == "true":
		return nil, s.Remove(id)
	case query.Get("bulk") == "true":
		return nil, s.DestroyInBulk(id)
	}
	return nil, s.Destroy(id)
}

// controlPutHost writes a host whole, or for a POST what the body names of it.
func (s *Server) controlPutHost(r *http.Request, body []byte) (any, error) {
	id, err := pathUUID(r)
	if err != nil {
		return nil, err
	}
	var h Host
	if r.Method == http.MethodPost {
		var ok bool
		if h, ok = s.Host(id); !ok {
			return nil, fmt.Errorf("host %s: %w", id, inventory.ErrNotFound)
		}
	}
	if err := h.UnmarshalJSON(body); err != nil {
		return nil, err
	}
	if h.UUID != uuid.Nil && h.UUID != id {
		return nil, errors.New("uuid: differs from the path's")
	}
	h.UUID = id
	return nil, s.PutHost(h)
}
