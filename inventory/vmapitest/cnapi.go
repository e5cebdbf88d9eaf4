package vmapitest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// listServers answers GET /servers: ascending uuids, limit and offset, and odd ways to refuse.
func (s *Server) listServers(w http.ResponseWriter, r *http.Request) {
	var uuids, fields []string
	filters := make(map[string]string)
	limit, offset := 1000, 0
	for _, p := range splitQuery(r.URL.RawQuery) {
		switch p.key {
		case "uuids":
			uuids = strings.Split(p.value, ",")
		case "fields":
			fields = strings.Split(p.value, ",")
		case "hostname", "extras":
			filters[p.key] = p.value
		case "setup", "headnode", "reserved", "reservoir":
			if p.value != "true" && p.value != "false" {
				writeServerError(w, r, http.StatusInternalServerError, p.key)
				return
			}
			filters[p.key] = p.value
		case "limit", "offset":
			n, err := strconv.Atoi(p.value)
			switch {
			case err != nil || n < 0:
				writeServerError(w, r, http.StatusInternalServerError, p.key)
				return
			case p.key == "offset":
				offset = n
			case n < 1 || n > 1000:
				writeServerError(w, r, http.StatusBadRequest, p.key)
				return
			default:
				limit = n
			}
		default:
			writeJSON(w, r, http.StatusConflict, problem{
				Code: "InvalidArgument", Message: p.key + " is not an explicitly defined parameter",
			})
			return
		}
	}
	var hosts []Host
	s.mu.Lock()
	for _, h := range s.hosts {
		if h.passes(filters) && (uuids == nil || slices.Contains(uuids, h.UUID.String())) {
			hosts = append(hosts, h)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(hosts, func(a, b Host) int { return compareIDs(a.UUID, b.UUID) })
	hosts = hosts[min(offset, len(hosts)):]
	hosts = hosts[:min(limit, len(hosts))]
	rows := make([]map[string]any, len(hosts))
	for i, h := range hosts {
		rows[i] = s.serverObject(h, fields)
	}
	writeJSON(w, r, http.StatusOK, rows)
}

func (h Host) passes(filters map[string]string) bool {
	for key, want := range filters {
		var have string
		switch key {
		case "hostname":
			have = h.Hostname
		case "setup":
			have = strconv.FormatBool(!h.NotSetUp)
		case "headnode":
			have = strconv.FormatBool(h.Headnode)
		case "reserved":
			have = strconv.FormatBool(h.Reserved)
		case "reservoir":
			have = strconv.FormatBool(h.Reservoir)
		default:
			continue
		}
		if have != want {
			return false
		}
	}
	return true
}

// getServer answers GET /servers/:uuid.
func (s *Server) getServer(w http.ResponseWriter, r *http.Request) {
	id, err := uuid.Parse(r.PathValue("uuid"))
	h, ok := s.Host(id)
	if err != nil || !ok {
		writeNotFound(w, r, "Server "+r.PathValue("uuid")+" not found")
		return
	}
	writeJSON(w, r, http.StatusOK, s.serverObject(h, nil))
}

// serverObject is a host as CNAPI shows it, with the fields named or all.
func (s *Server) serverObject(h Host, fields []string) map[string]any {
	traits := h.Traits
	if traits == nil {
		traits = map[string]any{}
	}
	object := map[string]any{
		"uuid": h.UUID, "hostname": h.Hostname, "datacenter": h.Datacenter, "status": h.Status, "setup": !h.NotSetUp,
		"setting_up": false, "headnode": h.Headnode, "reserved": h.Reserved, "reservoir": h.Reservoir, "traits": traits,
		"rack_identifier": h.Rack, "comments": "", "boot_params": map[string]any{}, "kernel_flags": map[string]any{},
		"boot_platform": "20250101T000000Z", "current_platform": "20250101T000000Z", "created": s.started.UTC(),
		"last_boot": s.started.UTC(), "ram": h.RAM, "reservation_ratio": 0.15, "serial": "ttyb", "default_console": "vga",
		"transitional_status": "",
	}
	if fields == nil {
		return object
	}
	chosen := make(map[string]any, len(fields))
	for _, name := range fields {
		if value, ok := object[name]; ok {
			chosen[name] = value
		}
	}
	return chosen
}

// writeServerError refuses a bad value, with CNAPI's odd statuses.
func writeServerError(w http.ResponseWriter, r *http.Request, status int, field string) {
	writeJSON(w, r, status, problem{
		Code: "InvalidParameters", Message: "Request parameters failed validation",
		Errors: []*fieldError{{Field: field, Code: "Invalid", Message: "Invalid parameter"}},
	})
}
