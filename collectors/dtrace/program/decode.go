package program

import (
	"net/netip"
	"strconv"
	"strings"

	"iapi/catalog"
	"iapi/measure"
)

func syscallNames(arch string) map[uint64]string {
	switch arch {
	case "amd64":
		return syscallsAMD64
	case "arm64":
		return syscallsARM64
	}
	return nil // numbers have no names here
}

// Row is a row's key made readable.
type Row struct {
	Fields []measure.Field // the discrete decompositions, in their order
	Value  int64           // of the numeric decomposition: one value of the bucket
}

// Decode reads the parts of a row's key after its zone. zone is the value of zonename. It fails for a row that the program
// cannot have printed.
func (p *Program) Decode(zone string, parts []string) (Row, bool) {
	if len(parts) != len(p.keys) {
		return Row{}, false
	}
	var row Row
	if p.numeric != nil {
		n, ok := parseNumber(parts[0])
		if !ok {
			return Row{}, false
		}
		row.Value = n
	}
	for i, f := range p.fields {
		value, ok := "", true
		if at := p.decoded[i]; at >= 0 {
			value, ok = p.decode(p.keys[at], parts[at])
		} else {
			value = p.builtin(f, zone)
		}
		if !ok {
			return Row{}, false
		}
		row.Fields = append(row.Fields, measure.Field{Name: f.Name, Value: value})
	}
	return row, true
}

// parseNumber reads a number of up to 64 bits; what is above the signed ones is the greatest of them.
func parseNumber(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	if _, err := strconv.ParseUint(text, 10, 64); err == nil {
		return 1<<63 - 1, true
	}
	return 0, false
}

func (p *Program) decode(k key, text string) (string, bool) {
	value := text
	switch {
	case k.trace.Decode == "syscall", k.trace.Decode == "majorminor":
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return "", false
		}
		value = strconv.FormatUint(n, 10)
		if k.trace.Decode == "majorminor" {
			value = deviceName(p.wish.Devices, n)
		} else if name, known := syscallNames(p.wish.Arch)[n]; known {
			value = name
		}
	case k.trace.Decode == "errno":
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return "", false
		}
		value = errnoName(n)
	case k.trace.CType == catalog.CTypeFSType:
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return "", false
		}
		value = fileSystemName(n)
	case k.kind == stackKey:
		value = folded(text)
	case k.trace.CType == catalog.CTypeArguments:
		value = shownArguments(text)
	case k.trace.CType == catalog.CTypeText:
		value = text[:min(len(text), k.trace.Length)]
	case k.trace.Decode == "firstletter":
		if text == "" {
			return "", false
		}
		value = text[:1]
	case k.kind == numberKey:
		if _, ok := parseNumber(text); !ok {
			return "", false
		}
	case k.kind == addressKey:
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return "", false
		}
		value = ip.Unmap().String()
	}
	if k.trace.Map != nil {
		mapped, known := k.trace.Map[value]
		return mapped, known
	}
	// What leaves this machine is text; a process may call itself anything.
	return strings.ToValidUTF8(value, "�"), true
}

const minorBits = 20

func deviceName(d Devices, dev uint64) string {
	if d != nil {
		if name, found := d.Name(dev); found {
			return name
		}
	}
	return strconv.FormatUint(dev>>minorBits, 10) + ":" + strconv.FormatUint(dev&(1<<minorBits-1), 10)
}

// deviceNumber understands a device's name, and its numbers where it has none.
func deviceNumber(d Devices, name string) (uint64, bool) {
	if d != nil {
		if dev, found := d.Number(name); found {
			return dev, true
		}
	}
	high, low, _ := strings.Cut(name, ":")
	major, err := strconv.ParseUint(high, 10, 12)
	minor, err2 := strconv.ParseUint(low, 10, minorBits)
	dev := major<<minorBits | minor
	return dev, err == nil && err2 == nil && strconv.FormatUint(major, 10)+":"+strconv.FormatUint(minor, 10) == name
}
