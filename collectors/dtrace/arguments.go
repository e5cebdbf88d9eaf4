package dtrace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"iapi/catalog"
	"iapi/collectors/collect"
)

// argument is what the kernel says of a member of a tracepoint's args.
type argument struct {
	address bool // a pointer, or what is found by one
	array   bool // of anything but characters: as a number it is where it begins
}

var (
	// member is such as "field:const void * skaddr;" and "field:__u8 daddr[4];" of a tracepoint's format.
	member = regexp.MustCompile(`(?m)^\s*field:([^;]+?)([A-Za-z_][A-Za-z0-9_]*)(\[[^];]*\])?;`)
	// shownAsAddress is a number that the kernel itself prints as an address.
	shownAsAddress = regexp.MustCompile(`\(void \*\) ?\(?REC->([A-Za-z_][A-Za-z0-9_]*)`)
	// ofAddresses are IP addresses, of which bpftrace takes the bytes of an array.
	ofAddresses = regexp.MustCompile(`\bntop *\([^()]*\)`)
)

// parseFormat reads the members of a tracepoint's args.
func parseFormat(text []byte) map[string]argument {
	members := map[string]argument{}
	for _, match := range member.FindAllSubmatch(text, -1) {
		of, array := string(match[1]), len(match[3]) > 0
		members[string(match[2])] = argument{
			address: strings.ContainsAny(of, "*(") || strings.Contains(of, "_loc "),
			array:   array && strings.TrimSpace(of) != "char",
		}
	}
	for _, match := range shownAsAddress.FindAllSubmatch(text, -1) {
		if a, is := members[string(match[1])]; is {
			a.address = true
			members[string(match[1])] = a
		}
	}
	return members
}

// checkArguments refuses a variant that takes an address for a value: it would tell where this kernel keeps things. Which of a
// tracepoint's args are addresses only the kernel that has it knows.
func (e *Engine) checkArguments(v *catalog.Variant) error {
	if v.Source.Bpftrace == nil {
		return nil
	}
	formats := map[string]map[string]argument{}
	check := func(probe string, values ...string) error {
		name, is := strings.CutPrefix(probe, "tracepoint:")
		if !is {
			return nil
		}
		for _, expr := range values {
			for _, arg := range catalog.Arguments(expr) {
				if formats[name] == nil {
					text, err := e.format(name)
					if err != nil {
						return collect.Errorf(collect.Unsupported, "read what the tracepoint %s tells: %w", name, err)
					}
					formats[name] = parseFormat(text)
				}
				a := formats[name][arg] // what is not there is refused by the tracer
				if a.address || a.array && slices.Contains(catalog.Arguments(ofAddresses.ReplaceAllString(expr, "")), arg) {
					return collect.Errorf(collect.Denied, "args->%s of the tracepoint %s is an address, which tells of the kernel: it can be but a key of what is saved", arg, name)
				}
			}
		}
		return nil
	}
	for i := range v.Source.Bpftrace.Clauses {
		c := &v.Source.Bpftrace.Clauses[i]
		for _, probe := range c.Probes {
			if err := check(probe, c.Values()...); err != nil {
				return err
			}
		}
	}
	for _, clean := range v.Source.Bpftrace.Clean {
		if err := check(clean.Probe, clean.If); err != nil {
			return err
		}
	}
	return nil
}

// format reads what the kernel tells of a tracepoint.
func (e *Engine) format(name string) ([]byte, error) {
	dir := strings.Replace(name, ":", "/", 1)
	text, err := os.ReadFile(filepath.Join(e.opts.Sys, "kernel/tracing/events", dir, "format"))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(e.opts.Sys, "kernel/debug/tracing/events", dir, "format"))
	}
	return text, err
}
