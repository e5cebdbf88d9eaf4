package catalog

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// MissingMetric is a metric of CA 1.0, or some fields of it, that cannot be had of some places, and why.
type MissingMetric struct {
	Name   string  `json:"name"`
	Label  string  `json:"label"`
	Places []Place `json:"places"` // of which it cannot be had, though CA 1.0 had it of them
	Why    string  `json:"why"`
	Here   bool    `json:"here"`  // it is defined, and only this machine cannot collect it
	Whole  bool    `json:"whole"` // nothing of it can be had, of no place
	// Fields are those that are missing of a metric that can be had without them; nil: all of it is missing.
	Fields []string `json:"fields,omitempty"`
	// Unproven: nothing is missing, and Why says what has not been shown of it.
	Unproven bool `json:"unproven,omitempty"`
}

// places are those of which CA 1.0 had the metric.
func (m CA1Metric) places() []Place {
	if m.Zones {
		return []Place{Host, Zone}
	}
	return []Place{Host}
}

// Missing returns what the catalog does not have of the metrics of CA 1.0, or the platform cannot collect, for hosts and for
// zones; and what it has and nobody has seen at work.
func (c *Catalog) Missing(p Platform) []MissingMetric {
	var out []MissingMetric
	for _, m := range CA1() {
		d, ok := c.byName[m.Name]
		if !ok {
			out = append(out, MissingMetric{Name: m.Name, Label: m.Label, Places: m.places(), Why: m.Absent, Whole: true})
			continue
		}
		missing, had := d.missingPlaces(p, m)
		out = append(append(out, missing...), d.missingFields(p.OS, m, had)...)
		if m.Unproven != "" && len(had) > 0 && p.OS == "linux" {
			out = append(out, MissingMetric{Name: m.Name, Label: m.Label, Places: had, Why: m.Unproven, Here: true, Unproven: true})
		}
	}
	return out
}

// missingPlaces tells of the places that the platform cannot measure at all, and gives those that it can.
func (d *Definition) missingPlaces(p Platform, m CA1Metric) (missing []MissingMetric, had []Place) {
	byReason := map[string][]Place{}
	for _, place := range m.places() {
		if _, err := d.Select(p, place, nil); err == nil {
			had = append(had, place)
		} else if why := reasonOf(err); d.has(p.OS, place) {
			byReason[why] = append(byReason[why], place)
		} else {
			why = cmp.Or(lacksPlace[p.OS][m.Name+" "+string(place)], why)
			byReason[why] = append(byReason[why], place)
		}
	}
	if own := map[string]string{"linux": m.Linux, "illumos": m.Illumos}[p.OS]; own != "" && len(had) == 0 {
		byReason = map[string][]Place{own: m.places()}
	}
	for _, why := range slices.Sorted(maps.Keys(byReason)) {
		missing = append(missing, MissingMetric{Name: m.Name, Label: m.Label, Places: byReason[why], Why: why, Here: true, Whole: len(had) == 0})
	}
	return missing, had
}

// missingFields tells of the fields of a metric, and of those that CA 1.0 had, that nothing gives on the system of the places
// that can be measured.
func (d *Definition) missingFields(os string, m CA1Metric, places []Place) (missing []MissingMetric) {
	var names []string
	for _, f := range d.Metric.Fields {
		if !f.Builtin {
			names = append(names, f.Name)
		}
	}
	for name := range strings.FieldsSeq(m.Fields) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	type group struct{ why, places string }
	groups := map[group]*MissingMetric{}
	for _, name := range names {
		without := slices.DeleteFunc(slices.Clone(places), func(place Place) bool { return d.has(os, place, name) })
		if len(without) == 0 {
			continue
		}
		why := cmp.Or(lacks[os][m.Name+" "+name], lacks[os][name], "nothing gives it on "+os)
		key := group{why, string(without[0]) + string(without[len(without)-1])}
		if groups[key] == nil {
			groups[key] = &MissingMetric{Name: m.Name, Label: m.Label, Places: without, Why: why, Here: true}
		}
		groups[key].Fields = append(groups[key].Fields, name)
	}
	for _, key := range slices.SortedFunc(maps.Keys(groups), func(a, b group) int {
		return cmp.Or(strings.Compare(a.why, b.why), strings.Compare(a.places, b.places))
	}) {
		missing = append(missing, *groups[key])
	}
	return missing
}

// has reports whether a variant is for the system and the place, and has the fields.
func (d *Definition) has(os string, place Place, fields ...string) bool {
	return slices.ContainsFunc(d.Variants, func(v Variant) bool {
		return (len(v.When.OS) == 0 || slices.Contains(v.When.OS, os)) && slices.Contains(v.Places, place) && d.Metric.covers(v.Fields, fields)
	})
}

// Why a metric cannot be had of a place on a system where it can of the other.
var lacksPlace = map[string]map[string]string{
	"linux": {
		"cpu.loadavg1 zone":     "the kernel keeps one load average, that of the host",
		"nic.vnic_bytes host":   noVNICs,
		"nic.vnic_packets host": noVNICs,
		"vm.physio_bytes host":  "what a machine asks for is counted for its cgroup; disk.physio_bytes has the host's",
		"vm.physio_ops host":    "what a machine asks for is counted for its cgroup; disk.physio_ops has the host's",
		"zfs.arc_ops zone":      "the ARC counts for the host, and a zone's part of it is not to be told without probes within the kernel's functions",
	},
	"illumos": {
		"memory.swap_limit host": "only zones are limited",
		"nic.vnic_bytes host":    byVNIC,
		"nic.vnic_packets host":  byVNIC,
		"tcp.connects zone":      inForeign,
		"unix.processes zone":    "a process's record has the number of its zone, and nothing that is read with it says which VM that is",
	},
}

const (
	byVNIC  = "a VNIC is a zone's: ask for the zones; nic.bytes and nic.packets have the host's"
	noVNICs = "nothing says which of a host's interfaces belong to zones: ask for the zones, each counts its own; nic.bytes and nic.packets have the host's"
)

// Reasons that several fields share.
const (
	counted   = "it is counted there for all processes together"
	ofCgroup  = "the counters of a cgroup do not tell"
	byHost    = ofCgroup + "; disk.physio_ops has it for the host"
	noPath    = "calls with a path have no open file whose file system could be asked for"
	unparsed  = "a probe tells of it to which not every query comes, and what is counted has passed each of a definition's probes"
	onlyPID   = "the probe tells of the process only its number"
	inForeign = "a connection is established in the context of whatever runs, by which a D program cannot be kept to zones"
	noParents = "a parent keeps its arguments in its own memory, which a tracer cannot read while the child runs"
)

// Why a field cannot be had where the metric can, by the system and the field, or of one metric alone by its name too.
var lacks = map[string]map[string]string{
	"linux": {
		"ppsargs":                    noParents,
		"fstype":                     noPath,
		"tcpstack":                   "each network namespace has one TCP stack, and its zone says which",
		"execname":                   counted,
		"pid":                        counted,
		"psargs":                     counted,
		"ppid":                       counted,
		"pexecname":                  counted,
		"errno":                      ofCgroup,
		"latency":                    byHost,
		"size":                       byHost,
		"offset":                     byHost,
		"parsed":                     unparsed,
		"apache.httpd_ops http_url":  "its probe has the path, without the query",
		"apache.httpd_ops raddr":     "its probes do not tell of the connection",
		"apache.httpd_ops rport":     "its probes do not tell of the connection",
		"tcp.connects psargs":        "another process may run when a connection is established, and bpftrace cannot keep arguments until then",
		"vm.thread_samples vmmmuctx": "which of its address spaces a guest is in stands in a register of the guest, which the kernel does not show to tracers",
		"zfs.arc_ops ppsargs":        counted,
	},
	"illumos": {
		"kstack":                     "the rows of D programs have no stacks here",
		"ustack":                     "the rows of D programs have no stacks here",
		"parsed":                     unparsed,
		"latency":                    "the probe comes when it is established, and nothing keeps when it began",
		"execname":                   counted,
		"pid":                        counted,
		"tcp.accepts raddr":          inForeign,
		"tcp.accepts rport":          inForeign,
		"tcp.accepts lport":          inForeign,
		"tcp.connects execname":      onlyPID,
		"tcp.connects psargs":        onlyPID,
		"tcp.connects ppid":          onlyPID,
		"tcp.connects pexecname":     onlyPID,
		"tcp.connects ppsargs":       onlyPID,
		"vm.thread_samples vmmmuctx": "D read it by vmregs, which knew the guests of the KVM of SmartOS alone, and knows none of bhyve's",
	},
}
