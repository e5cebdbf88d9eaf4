package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Platform is what a host can do. A nil function means that nothing of its kind is there.
type Platform struct {
	OS, Arch   string // as Go names them
	Kernel     string // the release, for example 6.18.2-arch1; empty: unknown, and no range of versions holds
	Cgroup     string // v1, v2, hybrid or ""
	Bpftrace   string // the version, "" if it is not installed
	File       func(path string) bool
	Command    func(name string) bool
	Tracepoint func(name string) bool
	USDT       func(probe string) bool
}

// ErrUnsupported: no variant of a definition can do what is asked on this host.
var ErrUnsupported = errors.New("not supported here")

// Select returns the cheapest variant that works on the platform, measures the place, and has every field; among equals
// the first of the document. The error wraps ErrUnsupported and says what is missing.
func (d *Definition) Select(p Platform, place Place, fields []string) (*Variant, error) {
	var best *Variant
	reason := fmt.Sprintf("nothing measures a %s on %s", place, p.OS)
	for i := range d.Variants {
		v := &d.Variants[i]
		if !slices.Contains(v.Places, place) || len(v.When.OS) > 0 && !slices.Contains(v.When.OS, p.OS) {
			continue
		}
		if missing := v.When.missing(p); missing != "" {
			reason = "this host lacks " + missing
			continue
		}
		if !d.Metric.covers(v.Fields, fields) {
			if best == nil {
				reason = "on this host the fields " + strings.Join(fields, ", ") + " cannot be had together"
			}
			continue
		}
		if best == nil || v.Cost < best.Cost {
			best = v
		}
	}
	if best == nil {
		return nil, fmt.Errorf("metric %s: %w: %s", d.Metric.Name, ErrUnsupported, reason)
	}
	return best, nil
}

// reasonOf is the part of an error of Select that says why.
func reasonOf(err error) string {
	_, reason, _ := strings.Cut(err.Error(), ErrUnsupported.Error()+": ")
	return reason
}

// missing says what the platform lacks, "" for nothing.
func (w When) missing(p Platform) string {
	has := func(test func(string) bool, name string) bool { return test != nil && test(name) }
	switch {
	case len(w.OS) > 0 && !slices.Contains(w.OS, p.OS):
		return "the system " + strings.Join(w.OS, " or ")
	case len(w.Arch) > 0 && !slices.Contains(w.Arch, p.Arch):
		return "the architecture " + strings.Join(w.Arch, " or ")
	case len(w.Cgroup) > 0 && !slices.Contains(w.Cgroup, p.Cgroup):
		return "cgroups of version " + strings.Join(w.Cgroup, " or ")
	case w.Kernel != "" && !inRange(p.Kernel, w.Kernel):
		return "a kernel " + w.Kernel
	case w.Bpftrace != "" && !inRange(p.Bpftrace, w.Bpftrace):
		return "bpftrace " + w.Bpftrace
	case w.Command != "" && !has(p.Command, w.Command):
		return "the command " + w.Command
	}
	for _, kind := range []struct {
		name string
		test func(string) bool
		all  []string
	}{{"the file ", p.File, w.Files}, {"the tracepoint ", p.Tracepoint, w.Tracepoints}, {"the probe ", p.USDT, w.USDT}} {
		for _, name := range kind.all {
			if !has(kind.test, name) {
				return kind.name + name
			}
		}
	}
	return ""
}

// inRange reports whether a version fulfils every condition of a range such as ">=4.18 <6". An unknown version does not.
func inRange(version, conditions string) bool {
	have, ok := versionOf(version)
	if !ok {
		return false
	}
	for _, condition := range strings.Fields(conditions) {
		number := strings.TrimLeft(condition, "<>=")
		want, _ := versionOf(number)
		order := slices.Compare(have[:], want[:])
		var holds bool
		switch condition[:len(condition)-len(number)] {
		case ">=":
			holds = order >= 0
		case ">":
			holds = order > 0
		case "<":
			holds = order < 0
		case "<=":
			holds = order <= 0
		case "=":
			holds = order == 0
		}
		if !holds {
			return false
		}
	}
	return true
}

// invalidRange reports whether a text is not a range of versions.
func invalidRange(conditions string) bool {
	fields := strings.Fields(conditions)
	for _, condition := range fields {
		number := strings.TrimLeft(condition, "<>=")
		_, ok := versionOf(number)
		if !ok || strings.Trim(number, "0123456789.") != "" ||
			!slices.Contains([]string{">=", ">", "<", "<=", "="}, condition[:len(condition)-len(number)]) {
			return true
		}
	}
	return len(fields) == 0
}

// versionOf reads the numbers at the start of a version: 6, 18, 2 of v6.18.2-arch1.
func versionOf(text string) (numbers [3]int, ok bool) {
	text = strings.TrimPrefix(text, "v")
	for i := range numbers {
		end := 0
		for end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		n, err := strconv.Atoi(text[:end])
		if err != nil {
			return numbers, i > 0
		}
		numbers[i] = n
		if end == len(text) || text[end] != '.' {
			return numbers, true
		}
		text = text[end+1:]
	}
	return numbers, true
}
