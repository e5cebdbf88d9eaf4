package vmapitest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// record is a VM in the simulator's table. It never changes: a write puts another in its place, so that whoever holds
// one may read it without the lock.
type record struct {
	id, owner, host                         uuid.UUID
	alias, state                            string
	shape                                   *shape
	tags                                    *tagSet
	created, modified, destroyed, writtenAt int64 // epoch ms; 0: null
}

// shape is what many VMs have in common; equal ones are shared.
type shape struct {
	zoneState, brand   string
	image, billing     uuid.UUID
	ram, quota, cpuCap int
	docker             int8 // 0: null, 1: true, -1: false
}

func (r *record) vm() VM {
	v := VM{
		UUID: r.id, Owner: r.owner, Host: r.host, Alias: r.alias, State: r.state, ZoneState: r.shape.zoneState,
		Brand: r.shape.brand, Tags: columnTags(r.tags.text), Image: r.shape.image, Billing: r.shape.billing,
		RAM: r.shape.ram, Quota: r.shape.quota, CPUCap: r.shape.cpuCap,
		Created: msTime(r.created), Modified: msTime(r.modified), Destroyed: msTime(r.destroyed),
	}
	if r.shape.docker != 0 {
		docker := r.shape.docker > 0
		v.Docker = &docker
	}
	return v
}

func timeMS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func msTime(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// row is a record as an answer shows it: state may be overlaid by the host's.
type row struct {
	*record
	state string
}

// column is a field of the VM object: its name and how its value is written.
type column struct {
	name  string
	write func(dst []byte, r row) []byte
}

func constant(name, value string) column {
	return column{name, func(dst []byte, _ row) []byte { return append(dst, value...) }}
}

// fullColumns are the keys that every VM has; those that depend on the brand follow them.
var fullColumns = []column{
	{"uuid", func(b []byte, r row) []byte { return appendUUID(b, r.id) }},
	{"alias", func(b []byte, r row) []byte { return appendText(b, r.alias) }},
	constant("autoboot", "null"),
	{"brand", func(b []byte, r row) []byte { return appendText(b, r.shape.brand) }},
	{"billing_id", func(b []byte, r row) []byte { return appendUUID(b, r.shape.billing) }},
	{"cpu_cap", func(b []byte, r row) []byte { return appendNumber(b, r.shape.cpuCap) }},
	constant("cpu_shares", "null"),
	{"create_timestamp", func(b []byte, r row) []byte { return appendTime(b, r.created) }},
	constant("customer_metadata", "{}"),
	constant("datasets", "[]"),
	{"destroyed", func(b []byte, r row) []byte { return appendTime(b, r.destroyed) }},
	constant("firewall_enabled", "false"),
	constant("internal_metadata", "{}"),
	{"last_modified", func(b []byte, r row) []byte { return appendTime(b, r.modified) }},
	constant("limit_priv", "null"),
	constant("max_locked_memory", "null"),
	constant("max_lwps", "null"),
	{"max_physical_memory", func(b []byte, r row) []byte { return appendNumber(b, r.shape.ram) }},
	constant("max_swap", "null"),
	constant("nics", "[]"),
	{"owner_uuid", func(b []byte, r row) []byte { return appendUUID(b, r.owner) }},
	constant("platform_buildstamp", "null"),
	{"quota", func(b []byte, r row) []byte { return appendNumber(b, r.shape.quota) }},
	{"ram", func(b []byte, r row) []byte { return appendNumber(b, r.shape.ram) }},
	constant("resolvers", "null"),
	{"server_uuid", func(b []byte, r row) []byte { return appendUUID(b, r.host) }},
	constant("snapshots", "[]"),
	{"state", func(b []byte, r row) []byte { return appendText(b, r.state) }},
	{"tags", func(b []byte, r row) []byte { return append(b, r.tags.json...) }},
	constant("zfs_filesystem", "null"),
	constant("zfs_io_priority", "null"),
	{"zone_state", func(b []byte, r row) []byte { return appendText(b, r.shape.zoneState) }},
	constant("zonepath", "null"),
	constant("zpool", "null"),
}

var (
	imageColumn = column{"image_uuid", func(b []byte, r row) []byte { return appendUUID(b, r.shape.image) }}
	disksColumn = column{"disks", func(b []byte, r row) []byte {
		b = append(b, `[{"image_uuid":`...)
		return append(appendUUID(b, r.shape.image), "}]"...)
	}}
	dockerColumn = column{"docker", func(b []byte, r row) []byte { return strconv.AppendBool(b, r.shape.docker > 0) }}
	roleTags     = constant("role_tags", "[]")
	vcpusColumn  = constant("vcpus", "null")
	cpuType      = constant("cpu_type", "null")
)

// isHVM reports whether the brand has disks in place of an image.
func (s *shape) isHVM() bool { return s.brand == "kvm" || s.brand == "bhyve" }

// columnsOf are the keys of one VM's full object.
func columnsOf(r row) []column {
	columns := fullColumns[:len(fullColumns):len(fullColumns)]
	if r.shape.isHVM() {
		columns = append(columns, vcpusColumn, cpuType, disksColumn)
	} else {
		columns = append(columns, imageColumn)
	}
	if r.shape.docker != 0 {
		columns = append(columns, dockerColumn)
	}
	return columns
}

var columnsByName = func() map[string]column {
	named := make(map[string]column)
	for _, c := range append(fullColumns, imageColumn, disksColumn, dockerColumn, roleTags, vcpusColumn, cpuType) {
		named[c.name] = c
	}
	return named
}()

// has reports whether a VM's object has the key of a column.
func (r row) has(c column) bool {
	switch c.name {
	case "image_uuid":
		return !r.shape.isHVM()
	case "disks", "vcpus", "cpu_type":
		return r.shape.isHVM()
	case "docker":
		return r.shape.docker != 0
	}
	return true
}

// appendVM writes a VM with the columns given, nil for all.
func appendVM(dst []byte, r row, columns []column) []byte {
	if columns == nil {
		columns = columnsOf(r)
	}
	dst = append(dst, '{')
	first := true
	for _, c := range columns {
		if !r.has(c) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, c.name...)
		dst = append(dst, '"', ':')
		dst = c.write(dst, r)
	}
	return append(dst, '}')
}

// appendSparse writes a VM's full object without its null fields, as the changefeed does.
func appendSparse(dst []byte, r row) []byte {
	var scratch []byte
	columns := columnsOf(r)
	kept := columns[:0:0]
	for _, c := range columns {
		if scratch = c.write(scratch[:0], r); !bytes.Equal(scratch, []byte("null")) {
			kept = append(kept, c)
		}
	}
	return appendVM(dst, r, kept)
}

func appendUUID(dst []byte, id uuid.UUID) []byte {
	if id == uuid.Nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = hex.AppendEncode(dst, id[0:4])
	for _, part := range [][]byte{id[4:6], id[6:8], id[8:10], id[10:16]} {
		dst = append(dst, '-')
		dst = hex.AppendEncode(dst, part)
	}
	return append(dst, '"')
}

func appendText(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, err := json.Marshal(s)
			if err != nil { // a string always marshals
				return append(dst, "null"...)
			}
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

func appendNumber(dst []byte, n int) []byte {
	if n == 0 {
		return append(dst, "null"...)
	}
	return strconv.AppendInt(dst, int64(n), 10)
}

func appendTime(dst []byte, ms int64) []byte {
	if ms == 0 {
		return append(dst, "null"...)
	}
	return time.UnixMilli(ms).UTC().AppendFormat(dst, `"2006-01-02T15:04:05.000Z"`)
}
