package vmapitest

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// listVMs answers GET /vms.
func (s *Server) listVMs(w http.ResponseWriter, r *http.Request) {
	req, errs, err := parseList(splitQuery(r.URL.RawQuery))
	if err != nil {
		s.die(w, err)
		return
	}
	if len(errs) > 0 {
		writeInvalid(w, errs...)
		return
	}
	if req.parsed, err = parseFilter(req.filter); err == nil {
		req.plan, err = req.parsed.plan()
	}
	if err != nil {
		message := req.filter + " is an invalid filter"
		if errors.Is(err, errNoIndex) {
			message = "vmapi_vms does not have indexes that support " + req.filter
		}
		writeJSON(w, r, http.StatusInternalServerError, problem{Message: "request failed: server error: " + message})
		return
	}
	rows, count := s.page(req)
	if req.roleTags && len(rows) > 0 {
		writeInvalid(w, invalid("role_tags", "Invalid parameter"))
		return
	}
	body := make([]byte, 0, 64+len(rows)*300)
	body = append(body, '[')
	for i, each := range rows {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendVM(body, each, req.columns)
	}
	body = append(body, ']')
	w.Header().Set("X-Joyent-Resource-Count", strconv.Itoa(count))
	writeBody(w, r, http.StatusOK, body)
}

// page evaluates a request as the data base does: count, SQL with its limit, exact filter, marker row dropped.
func (s *Server) page(req listRequest) ([]row, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := s.table.count(req.filter, req.plan)
	var records []*record
	if req.sort == nil {
		records = s.walk(req)
	} else {
		records = s.sorted(req)
	}
	markerText, _, _ := markerID(req.marker)
	forget := s.faults.forgets()
	exact := req.parsed.exactInSQL()
	rows := make([]row, 0, len(records))
	for _, r := range records {
		if !exact && !req.parsed.match(r, false) {
			continue
		}
		if req.marker != nil && r.id.String() == markerText {
			continue
		}
		if forget && forgotten(r.id) {
			continue
		}
		rows = append(rows, s.overlaid(r))
	}
	return rows, count
}

// sqlLimit is one more with a marker, for the marker's own row.
func (req listRequest) sqlLimit() int {
	if req.marker != nil {
		return req.limit + 1
	}
	return req.limit
}

// walk goes down the uuids from the marker, VMAPI's order when none is asked for.
func (s *Server) walk(req listRequest) []*record {
	rows := s.table.candidates(req.plan)
	end := len(rows)
	if req.marker != nil {
		text, id, isID := markerID(req.marker)
		end = sort.Search(len(rows), func(i int) bool {
			if isID {
				return compareIDs(rows[i].id, id) > 0
			}
			return rows[i].id.String() > text
		})
	}
	out := make([]*record, 0, min(end, req.sqlLimit()))
	skip := req.offset
	for i := end - 1; i >= 0 && len(out) < req.sqlLimit(); i-- {
		if !req.plan.match(rows[i], true) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		out = append(out, rows[i])
	}
	return out
}

// sorted evaluates a request with a sort key. A marker limits each of its keys by itself, which loses rows; so does
// VMAPI.
func (s *Server) sorted(req listRequest) []*record {
	var out []*record
	for _, r := range s.table.candidates(req.plan) {
		if req.plan.match(r, true) && (req.marker == nil || behindMarker(r, req)) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *record) int {
		c := compareBy(a, b, req.sort.key)
		if req.sort.descends {
			c = -c
		}
		return cmp.Or(c, compareIDs(b.id, a.id))
	})
	out = out[min(req.offset, len(out)):]
	return out[:min(req.sqlLimit(), len(out))]
}

func behindMarker(r *record, req listRequest) bool {
	text, _, _ := markerID(req.marker)
	if req.sort.key == "uuid" && !req.sort.descends {
		return r.id.String() >= text
	}
	if r.id.String() > text || req.sort.key == "uuid" {
		return r.id.String() <= text
	}
	var c int
	if numberColumns[req.sort.key] {
		limit, _ := req.marker[req.sort.key].(float64)
		n := r.numberOf(req.sort.key)
		if n == 0 {
			return false
		}
		c = cmp.Compare(float64(n), limit)
	} else {
		text, ok := r.textOf(req.sort.key)
		if !ok {
			return false
		}
		c = strings.Compare(text, fmt.Sprint(req.marker[req.sort.key]))
	}
	return c == 0 || (c < 0) == req.sort.descends
}

// compareBy compares by a column; NULL is the largest.
func compareBy(a, b *record, attr string) int {
	if numberColumns[attr] {
		m, n := a.numberOf(attr), b.numberOf(attr)
		return compareNull(m != 0, n != 0, cmp.Compare(m, n))
	}
	x, okX := a.columnText(attr)
	y, okY := b.columnText(attr)
	return compareNull(okX, okY, strings.Compare(x, y))
}

func compareNull(a, b bool, c int) int {
	switch {
	case a && b:
		return c
	case a:
		return -1
	case b:
		return 1
	}
	return 0
}

// columnText is textOf with the uuid columns, which filters compare as uuids.
func (r *record) columnText(attr string) (string, bool) {
	switch attr {
	case "owner_uuid":
		return r.owner.String(), r.owner != uuid.Nil
	case "server_uuid":
		return r.host.String(), r.host != uuid.Nil
	}
	return r.textOf(attr)
}

// overlaid is how an answer shows a record: with the option, a running VM has the state of a host that is not running.
func (s *Server) overlaid(r *record) row {
	if s.opts.HostStatusOverlay && r.state == "running" {
		if h, ok := s.hosts[r.host]; ok && h.Status != "running" {
			return row{r, h.Status}
		}
	}
	return row{r, r.state}
}

// getVM answers GET /vms/:uuid.
func (s *Server) getVM(w http.ResponseWriter, r *http.Request) {
	v, ok := s.find(w, r)
	if !ok {
		return
	}
	var columns []column
	for _, p := range splitQuery(r.URL.RawQuery) {
		switch p.key {
		case "owner_uuid":
			if !uuidForm.MatchString(p.value) {
				writeInvalid(w, invalid("owner_uuid", "Invalid UUID"))
				return
			}
			if v.owner.String() != p.value {
				writeNotFound(w, r, "VM not found")
				return
			}
		case "fields": // any name will do here
			columns = []column{}
			for name := range strings.SplitSeq(p.value, ",") {
				if c, ok := columnsByName[name]; ok {
					columns = append(columns, c)
				} else if name == "*" {
					columns = append(columns, columnsOf(v)...)
				}
			}
		}
	}
	writeBody(w, r, http.StatusOK, appendVM(nil, v, columns))
}

// find looks up the VM of a path, and answers when there is none.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (row, bool) {
	text := r.PathValue("uuid")
	if !uuidForm.MatchString(text) {
		writeInvalid(w, invalid("uuid", "Invalid UUID"))
		return row{}, false
	}
	v, ok := s.lookup(uuid.MustParse(text))
	if !ok {
		writeNotFound(w, r, "VM not found")
	}
	return v, ok
}

func (s *Server) lookup(id uuid.UUID) (row, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.table.byID[id]
	if rec == nil || (s.faults.forgets() && forgotten(id)) {
		return row{}, false
	}
	return s.overlaid(rec), true
}

// getTags answers GET /vms/:uuid/tags.
func (s *Server) getTags(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.find(w, r); ok {
		writeBody(w, r, http.StatusOK, v.tags.json)
	}
}

// getTag answers GET /vms/:uuid/tags/:key with the bare value.
func (s *Server) getTag(w http.ResponseWriter, r *http.Request) {
	v, ok := s.find(w, r)
	if !ok {
		return
	}
	value, ok := columnTags(v.tags.text)[r.PathValue("key")]
	if !ok {
		writeNotFound(w, r, "Tag not found")
		return
	}
	writeJSON(w, r, http.StatusOK, value)
}

// statuses answers GET /statuses?uuids=a,b.
func (s *Server) statuses(w http.ResponseWriter, r *http.Request) {
	out := make(map[string]string)
	for _, p := range splitQuery(r.URL.RawQuery) {
		if p.key != "uuids" {
			continue
		}
		for text := range strings.SplitSeq(p.value, ",") {
			if !uuidForm.MatchString(text) {
				writeInvalid(w, invalid("uuids", "Invalid UUID"))
				return
			}
			if v, ok := s.lookup(uuid.MustParse(text)); ok {
				out[text] = v.state
			}
		}
	}
	writeJSON(w, r, http.StatusOK, out)
}
