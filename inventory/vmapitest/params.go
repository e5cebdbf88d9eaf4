package vmapitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// fieldError is an element of the errors of a 409.
type fieldError struct {
	Field   string   `json:"field,omitempty"`
	Fields  []string `json:"fields,omitempty"`
	Code    string   `json:"code"`
	Message string   `json:"message,omitempty"`
}

func invalid(field, message string) *fieldError {
	return &fieldError{Field: field, Code: "Invalid", Message: message}
}

// listRequest is what the parameters of GET /vms come to.
type listRequest struct {
	filter   string // the text that goes to the data base
	parsed   *filter
	plan     *filter
	columns  []column // nil: all
	limit    int
	offset   int
	sort     *sortKey
	marker   map[string]any // nil: none
	roleTags bool           // a documented parameter that fails as soon as anything matches
}

type sortKey struct {
	key      string
	descends bool
	directed bool // a direction was given
}

var listFields = strings.Fields(`alias autoboot billing_id brand cpu_cap cpu_shares cpu_type customer_metadata
	delegate_dataset disk_driver dns_domain docker do_not_inventory firewall_enabled firewall_rules fs_allowed hostname
	indestructible_delegated indestructible_zoneroot init_name internal_metadata kernel_version last_modified limit_priv
	locality maintain_resolvers max_locked_memory max_lwps max_physical_memory max_swap mdata_exec_timeout networks
	nic_driver overprovision_cpu overprovision_memory owner_uuid package_name package_version quota ram resolvers
	role_tags server_uuid state tags tmpfs uuid vcpus volumes zfs_data_compression zfs_io_priority zfs_snapshot_limit
	zlog_max_size zone_state`)

var sortKeys = strings.Fields(`uuid owner_uuid image_uuid billing_id server_uuid tags brand state alias
	max_physical_memory create_timestamp docker`)

var (
	uuidForm  = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	aliasForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	countForm = regexp.MustCompile(`^(?:0|[1-9][0-9]*)$`)
	limitForm = regexp.MustCompile(`^-?[0-9]+(?:\.[0-9]*)?$`)
	limitJunk = regexp.MustCompile(`^[0-9]+(?:\.[0-9]*)?[^0-9.]`) // a number for one parser and none for another
	tagIndex  = regexp.MustCompile(`^tag\[`)
)

// param is one parameter of a query string, in its order.
type param struct{ key, value string }

func splitQuery(raw string) []param {
	var params []param
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		params = append(params, param{unescape(key), unescape(value)})
	}
	return params
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// listBuilder gathers what the parameters mean, and what is wrong with them.
type listBuilder struct {
	req     listRequest
	filters []string
	errs    []*fieldError
	rawMark *string
}

// parseList reads the parameters of GET /vms as strictly as VMAPI: the errors are those of its 409, err is errDies.
func parseList(params []param) (listRequest, []*fieldError, error) {
	b := listBuilder{req: listRequest{limit: 1000}}
	seen := make(map[string]bool)
	for _, p := range params {
		if tagIndex.MatchString(p.key) {
			return listRequest{}, nil, fmt.Errorf("%w: %s", errDies, p.key)
		}
		if seen[p.key] {
			if p.key == "limit" || strings.HasPrefix(p.key, "tag.") {
				return listRequest{}, nil, fmt.Errorf("%w: %s twice", errDies, p.key)
			}
			b.errs = append(b.errs, invalid(p.key, "Invalid parameter"))
			continue
		}
		seen[p.key] = true
		if err := b.param(p); err != nil {
			return listRequest{}, nil, err
		}
	}
	if err := b.paging(); err != nil {
		return listRequest{}, nil, err
	}
	if len(b.errs) > 0 {
		return listRequest{}, b.errs, nil
	}
	switch len(b.filters) {
	case 0:
		b.req.filter = "(uuid=*)"
	case 1:
		b.req.filter = b.filters[0]
	default:
		b.req.filter = "(&" + strings.Join(b.filters, "") + ")"
	}
	return b.req, nil, nil
}

func (b *listBuilder) bad(field, message string) { b.errs = append(b.errs, invalid(field, message)) }

func (b *listBuilder) add(filter string) { b.filters = append(b.filters, filter) }

// require adds attr=value when the value has its form.
func (b *listBuilder) require(ok bool, p param, attr, message string) {
	if !ok {
		b.bad(p.key, message)
		return
	}
	b.add("(" + attr + "=" + p.value + ")")
}

func (b *listBuilder) param(p param) error {
	switch p.key {
	case "uuid", "owner_uuid", "server_uuid", "image_uuid", "billing_id":
		b.require(uuidForm.MatchString(p.value), p, p.key, "Invalid UUID")
	case "uuids":
		b.uuids(p)
	case "state":
		b.state(p)
	case "alias":
		if !aliasForm.MatchString(p.value) {
			b.bad(p.key, "Invalid alias")
			return nil
		}
		b.add("(alias=" + p.value + "*)")
	case "brand":
		b.require(slices.Contains(brands, p.value), p, "brand", "Must be one of: "+strings.Join(brands, ", "))
	case "docker":
		switch p.value {
		case "true":
			b.add("(docker=true)")
		case "false":
			b.add("(!(docker=true))")
		default:
			b.bad(p.key, "Invalid parameter")
		}
	case "ram":
		b.require(countForm.MatchString(p.value), p, "max_physical_memory", "Invalid parameter")
	case "create_timestamp":
		ms, ok := parseTimestamp(p.value)
		b.require(ok, param{p.key, strconv.FormatInt(ms, 10)}, "create_timestamp", "Invalid timestamp")
	case "package_name", "package_version":
		b.add("(" + p.key + "=" + p.value + ")")
	case "predicate":
		if p.value == "" {
			return nil
		}
		filter, err := predicateFilter(p.value)
		if errors.Is(err, errDies) {
			return fmt.Errorf("%w: predicate %s", err, p.value)
		}
		if err != nil {
			b.bad(p.key, err.Error())
			return nil
		}
		b.add(filter)
	case "query":
		if p.value != "" {
			b.add(rawFilter(p.value))
		}
	case "fields":
		b.fields(p)
	case "limit":
		return b.limit(p)
	case "offset":
		n, err := strconv.Atoi(p.value)
		if err != nil || n < 0 {
			b.bad(p.key, "Not a valid number: number must be >= 0")
		}
		b.req.offset = n
	case "marker":
		b.rawMark = &p.value
	case "sort":
		b.sort(p)
	case "role_tags":
		if !uuidForm.MatchString(p.value) {
			return fmt.Errorf("%w: role_tags=%s", errDies, p.value)
		}
		b.req.roleTags = true
	case "tag":
		b.bad("tag", "Invalid tag key: undefined")
	default:
		b.dotted(p)
	}
	return nil
}

// dotted reads tag.KEY and internal_metadata.KEY, and refuses what is unknown.
func (b *listBuilder) dotted(p param) {
	if key, ok := strings.CutPrefix(p.key, "tag."); ok {
		if p.value == "" {
			b.bad("tag", `Invalid tag value: ""`)
			return
		}
		b.add(tagFilter(key, p.value))
		return
	}
	if key, ok := strings.CutPrefix(p.key, "internal_metadata."); ok {
		b.add("(internal_metadata_search_array=" + key + "=" + p.value + ")")
		return
	}
	b.bad(p.key, "Invalid parameter")
}

func (b *listBuilder) uuids(p param) {
	var filter strings.Builder
	for id := range strings.SplitSeq(p.value, ",") {
		if !uuidForm.MatchString(id) {
			b.bad("uuids", "Invalid UUID")
			return
		}
		filter.WriteString("(uuid=" + id + ")")
	}
	if strings.Contains(p.value, ",") {
		b.add("(|" + filter.String() + ")")
		return
	}
	b.add(filter.String())
}

func (b *listBuilder) state(p param) {
	switch p.value {
	case "active":
		b.add("(&(!(state=destroyed))(!(state=failed)))")
	case "running", "stopped", "destroyed":
		b.add("(state=" + p.value + ")")
	default:
		b.bad("state", "Must be one of: active, destroyed, running, stopped")
	}
}

func (b *listBuilder) fields(p param) {
	var wrong []string
	b.req.columns = []column{}
	all := false
	for name := range strings.SplitSeq(p.value, ",") {
		if name == "*" {
			all = true
			continue
		}
		if !slices.Contains(listFields, name) {
			wrong = append(wrong, name)
			continue
		}
		if c, ok := columnsByName[name]; ok {
			b.req.columns = append(b.req.columns, c)
		}
	}
	if len(wrong) > 0 {
		b.bad("fields", "Invalid values: "+strings.Join(wrong, ", "))
	}
	if all {
		b.req.columns = nil
	}
}

func (b *listBuilder) limit(p param) error {
	const message = "Not a valid number: number must be >= 1 and <= 1000"
	if limitJunk.MatchString(p.value) {
		return fmt.Errorf("%w: limit=%s", errDies, p.value)
	}
	whole, _, _ := strings.Cut(p.value, ".")
	n, err := strconv.Atoi(whole)
	if err != nil || !limitForm.MatchString(p.value) || n < 1 || n > 1000 {
		b.bad("limit", message)
		return nil
	}
	b.req.limit = n
	return nil
}

func (b *listBuilder) sort(p param) {
	key, direction, directed := strings.Cut(p.value, ".")
	direction = strings.ToLower(direction)
	if !slices.Contains(sortKeys, key) || (directed && direction != "asc" && direction != "desc") {
		b.bad("sort", "Invalid sort field: "+p.value)
		return
	}
	b.req.sort = &sortKey{key: key, descends: direction == "desc", directed: directed}
}

// paging checks what marker, sort and offset mean together.
func (b *listBuilder) paging() error {
	if b.rawMark == nil {
		return nil
	}
	raw := *b.rawMark
	if b.req.offset != 0 {
		b.errs = append(b.errs, &fieldError{
			Fields: []string{"offset", "marker"}, Code: "ConflictingParameters",
			Message: "offset and marker cannot be used at the same time",
		})
		return nil
	}
	refuse := func(why string) { b.bad("marker", "Invalid marker: "+raw+". "+why) }
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		refuse("Could not parse marker as an object JSON representation, reason: " + err.Error())
		return nil
	}
	if v == nil { // silently the first page
		return nil
	}
	marker, ok := v.(map[string]any)
	if !ok {
		refuse("A marker needs to be an object")
		return nil
	}
	if _, ok := marker["uuid"]; !ok {
		refuse("A marker needs to have a uuid property from which a strict total order can be established")
		return nil
	}
	for key := range marker {
		if key != "uuid" && (b.req.sort == nil || b.req.sort.key != key) {
			refuse("All marker keys except uuid must be present in the sort parameter. Sort fields: " + sortName(b.req.sort) +
				". Marker keys: " + key + ".")
			return nil
		}
	}
	if s := b.req.sort; s != nil {
		value, ok := marker[s.key]
		if !ok {
			refuse("All sort fields must be present in the marker. Sort fields: " + s.key + ".")
			return nil
		}
		if s.key == "create_timestamp" {
			ms, ok := parseTimestamp(fmt.Sprint(value))
			if number, isNumber := value.(float64); isNumber {
				ms, ok = int64(number), true
			}
			if !ok {
				refuse("Invalid create_timestamp")
				return nil
			}
			marker[s.key] = float64(ms)
		}
		if !s.directed {
			return fmt.Errorf("%w: sort=%s without direction, with a marker", errDies, s.key)
		}
	}
	b.req.marker = marker
	return nil
}

func sortName(s *sortKey) string {
	if s == nil {
		return "none"
	}
	return s.key
}

func parseTimestamp(text string) (ms int64, ok bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UnixMilli(), true
		}
	}
	return 0, false
}

// rawFilter is what VMAPI makes of the query parameter before it passes it on.
func rawFilter(text string) string {
	if !strings.HasPrefix(text, "(") {
		text = "(" + text + ")"
	}
	return strings.ReplaceAll(text, "(ram", "(max_physical_memory")
}

// markerID is the uuid of a marker as the data base compares it: as text, whatever its type.
func markerID(marker map[string]any) (text string, id uuid.UUID, isID bool) {
	switch v := marker["uuid"].(type) {
	case string:
		text = v
	case nil:
		text = "null"
	default:
		raw, err := json.Marshal(v)
		if err != nil { // it came from JSON
			return "null", uuid.Nil, false
		}
		text = string(raw)
	}
	id, err := uuid.Parse(text)
	return text, id, err == nil && id.String() == text
}
