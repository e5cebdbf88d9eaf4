package kstat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"

	"iapi/collectors/collect"
)

// command is the source that runs the command kstat.
type command struct {
	path func(name string) string
}

// exitNothing is the command's exit status when nothing matches.
const exitNothing = 1

// read implements source.
func (c command) read(ctx context.Context, of selection) ([]record, error) {
	path := c.path("kstat")
	if path == "" {
		return nil, collect.Errorf(collect.Unsupported, "kstat is not installed")
	}
	args := []string{"-p"}
	for _, s := range of.parts() {
		if s.value != "" {
			args = append(args, s.flag, s.value)
		}
	}
	text, err := collect.Output(ctx, timeout, maxOutput, path, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitNothing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse(text)
}

// parse reads the lines "module:instance:name:statistic<tab>value" of kstat -p. The lines of one kstat follow each other.
func parse(text []byte) ([]record, error) {
	var records []record
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			continue
		}
		key, value, found := bytes.Cut(line, []byte("\t"))
		end := bytes.LastIndexByte(key, ':')
		if !found || end < 0 {
			return nil, fmt.Errorf("read the kstats: %q is not a statistic and its value", line[:min(len(line), 80)])
		}
		id, statistic := key[:end], key[end+1:]
		parts := bytes.SplitN(id, []byte(":"), 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("read the kstats: %q does not name a kstat", key[:min(len(key), 80)])
		}
		if len(records) == 0 || !bytes.Equal(records[len(records)-1].id, id) {
			records = dropUnread(records)
			records = append(records, record{id: id, names: [3][]byte(parts), values: map[string][]byte{}})
		}
		r := &records[len(records)-1]
		if string(statistic) == "snaptime" {
			whole := value
			if !bytes.Contains(value, []byte(".")) {
				whole = append(slices.Clone(value), '.')
			}
			at, err := strconv.ParseUint(string(nanoseconds(whole)), 10, 63)
			if err != nil {
				return nil, fmt.Errorf("read the kstats: the snaptime %q is no time", value[:min(len(value), 80)])
			}
			r.at = int64(at)
		}
		if times[string(statistic)] {
			value = nanoseconds(value)
		}
		r.values[string(statistic)] = value
	}
	return dropUnread(records), nil
}

// dropUnread drops the last kstat if the command could not read it.
func dropUnread(records []record) []record {
	if n := len(records) - 1; n >= 0 && !records[n].isRead() {
		return records[:n]
	}
	return records
}

// times are the statistics of an I/O kstat that the kernel counts in ns and the command prints in seconds.
var times = map[string]bool{
	"rtime": true, "rlentime": true, "rlastupdate": true, "wtime": true, "wlentime": true, "wlastupdate": true,
}

// nanoseconds turns 12.000000345 into 12000000345, exactly. Old commands leave out zeros at the end. Texts without a
// point stay as they are: other kstats count in ns under the same names.
func nanoseconds(text []byte) []byte {
	seconds, fraction, found := bytes.Cut(text, []byte("."))
	if !found || len(fraction) > 9 {
		return text
	}
	digits := slices.Concat(seconds, fraction, []byte("000000000")[len(fraction):])
	if digits = bytes.TrimLeft(digits, "0"); len(digits) == 0 {
		return []byte("0")
	}
	return digits
}
