package kstat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// The layouts of illumos's <sys/kstat.h> for 64-bit processes on amd64, which is little-endian. They are part of illumos's
// stable interface. Everything here is pure: it is given copies of the memory, believes none of the sizes in it, and is
// the same on every machine.
//
//	kstat_t         0 ks_crtime   8 *ks_next  16 ks_kid  20 ks_module[31]  52 ks_instance  56 ks_name[31]  87 ks_type
//	               88 ks_class[31]  119 ks_flags  120 *ks_data  128 ks_ndata  136 ks_data_size  144 ks_snaptime
//	kstat_named_t   0 name[31]  31 data_type  32 value: c[16], i32, ui32, i64, ui64, or str: *ptr and 40 len
//	kstat_intr_t    0 intrs[5]
//	kstat_io_t      0 nread  8 nwritten  16 reads  20 writes  24 wtime  32 wlentime  40 wlastupdate  48 rtime  56 rlentime
//	               64 rlastupdate  72 wcnt  76 rcnt
const (
	headerSize = 152 // of a kstat_t, without what is for the kernel only
	namedSize  = 48
	ioSize     = 80
	nameSize   = 31 // KSTAT_STRLEN, with the NUL at the end
)

// What ks_type says.
const (
	typeNamed = 1
	typeIntr  = 2
	typeIO    = 3
)

// What data_type says.
const (
	dataChar   = 0
	dataInt32  = 1
	dataUint32 = 2
	dataInt64  = 3
	dataUint64 = 4
	dataString = 9
)

// errLayout says that a kstat is of a type whose layout is not known here. Each raw kstat has its own.
var errLayout = errors.New("the layout of this kstat is not known")

// errShort says that a kstat's memory is smaller than what it says to be in it.
var errShort = errors.New("a kstat is smaller than it says")

// header is a kstat_t. Its names are parts of the bytes that it was decoded from.
type header struct {
	next, data       uint64 // addresses
	module, name     []byte
	class            []byte
	instance         int32
	kind             byte
	count            uint32 // ks_ndata
	size             uint64 // of the data, in bytes
	created, snapped int64  // ks_crtime and ks_snaptime, in ns
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, errShort
	}
	return header{
		created: int64(u64(b, 0)), next: u64(b, 8),
		module: text(b[20 : 20+nameSize]), instance: int32(u32(b, 52)), name: text(b[56 : 56+nameSize]), kind: b[87],
		class: text(b[88 : 88+nameSize]), data: u64(b, 120), count: u32(b, 128), size: u64(b, 136), snapped: int64(u64(b, 144)),
	}, nil
}

// decode makes the record that the command kstat would have printed, from a kstat's header and its data.
func decode(h header, data []byte) (record, error) {
	instance := strconv.AppendInt(nil, int64(h.instance), 10)
	r := record{
		id:     bytes.Join([][]byte{h.module, instance, h.name}, []byte(":")),
		names:  [3][]byte{slices.Clone(h.module), instance, slices.Clone(h.name)},
		values: make(map[string][]byte, min(h.count, 1024)+3),
		at:     h.snapped,
	}
	r.values["class"] = slices.Clone(h.class)
	r.values["crtime"] = seconds(h.created)
	r.values["snaptime"] = seconds(h.snapped)
	var err error
	switch h.kind {
	case typeNamed:
		err = decodeNamed(r.values, data, h.data, h.count)
	case typeIntr:
		err = decodeIntr(r.values, data)
	case typeIO:
		err = decodeIO(r.values, data)
	default:
		err = errLayout
	}
	if err != nil {
		return record{}, fmt.Errorf("decode the kstat %q: %w", r.id, err)
	}
	return r, nil
}

// decodeNamed adds count statistics to values. Base is where the data was: its strings follow the statistics, and
// pointers lead there.
func decodeNamed(values map[string][]byte, data []byte, base uint64, count uint32) error {
	if uint64(count)*namedSize > uint64(len(data)) {
		return errShort
	}
	for i := range int(count) {
		b := data[i*namedSize:][:namedSize]
		name := string(text(b[:nameSize]))
		switch b[31] {
		case dataChar:
			values[name] = slices.Clone(text(b[32:48]))
		case dataInt32:
			values[name] = strconv.AppendInt(nil, int64(int32(u32(b, 32))), 10)
		case dataUint32:
			values[name] = strconv.AppendUint(nil, uint64(u32(b, 32)), 10)
		case dataInt64:
			values[name] = strconv.AppendInt(nil, int64(u64(b, 32)), 10)
		case dataUint64:
			values[name] = strconv.AppendUint(nil, u64(b, 32), 10)
		case dataString:
			pointer, length := u64(b, 32), uint64(u32(b, 40))
			if pointer == 0 {
				continue // a string that was never set
			}
			at := pointer - base
			if pointer < base || at > uint64(len(data)) || length > uint64(len(data))-at {
				return fmt.Errorf("the string %q: %w", name, errShort)
			}
			values[name] = slices.Clone(text(data[at : at+length]))
		default:
			return fmt.Errorf("the statistic %q has the type %d: %w", name, b[31], errLayout)
		}
	}
	return nil
}

func decodeIntr(values map[string][]byte, data []byte) error {
	for i, name := range []string{"hard", "soft", "watchdog", "spurious", "multiple_service"} {
		if len(data) < 4*(i+1) {
			return errShort
		}
		values[name] = strconv.AppendUint(nil, uint64(u32(data, 4*i)), 10)
	}
	return nil
}

func decodeIO(values map[string][]byte, data []byte) error {
	if len(data) < ioSize {
		return errShort
	}
	for _, f := range []struct {
		name string
		at   int
	}{
		{"nread", 0},
		{"nwritten", 8},
		{"wtime", 24},
		{"wlentime", 32},
		{"wlastupdate", 40},
		{"rtime", 48},
		{"rlentime", 56},
		{"rlastupdate", 64},
	} {
		values[f.name] = strconv.AppendUint(nil, u64(data, f.at), 10)
	}
	for _, f := range []struct {
		name string
		at   int
	}{{"reads", 16}, {"writes", 20}, {"wcnt", 72}, {"rcnt", 76}} {
		values[f.name] = strconv.AppendUint(nil, uint64(u32(data, f.at)), 10)
	}
	return nil
}

// text is what stands before the first NUL.
func text(b []byte) []byte {
	before, _, _ := bytes.Cut(b, []byte{0})
	return before
}

// seconds writes ns as the command kstat does: exactly 0, or with nine digits behind the point.
func seconds(ns int64) []byte {
	if ns == 0 {
		return []byte("0")
	}
	return strconv.AppendFloat(nil, float64(uint64(ns))/1e9, 'f', 9, 64)
}

func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func u64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
