package vmapi

import (
	"errors"
	"unicode/utf8"

	"github.com/google/uuid"

	"iapi/inventory"
)

// Bounds of what a decoder remembers. At a bound it forgets everything and begins again.
const (
	maxWords   = 1 << 14
	maxWordLen = 256
	maxTagSets = 1 << 14
	maxTagText = 1024
)

// decoder turns VMAPI's answers into VMs. It is tolerant of content, for values come from the hosts as they were found:
// a field of an odd type stays empty, a VM without a usable uuid is left out, both are counted. It is strict about
// JSON. Words and tags that repeat are made once and shared. Not safe for concurrent use.
type decoder struct {
	scanner
	words map[string]string // by the raw text between the quotes
	tags  map[string]tagSet // by the raw text of the object

	rows                      int // of the last page, those left out included
	skippedVMs, skippedFields int64
}

type tagSet struct {
	tags map[string]string
	odd  int64 // tags left out for their type
}

func newDecoder() *decoder {
	return &decoder{words: make(map[string]string), tags: make(map[string]tagSet)}
}

// page decodes a list of VMs, into the room given if there is enough. Nothing that it returns refers to body.
func (d *decoder) page(body []byte, room []inventory.VM) ([]inventory.VM, error) {
	d.data, d.pos, d.rows = body, 0, 0
	if d.peek() != '[' {
		return nil, errors.New("the answer is not a JSON array")
	}
	vms := room[:0]
	for first := true; ; first = false {
		more, err := d.more(first, ']')
		if err != nil {
			return nil, err
		}
		if !more {
			return vms, d.end()
		}
		if vms == nil {
			vms = make([]inventory.VM, 0, pageLimit+1)
		}
		d.rows++
		vms = append(vms, inventory.VM{})
		ok, err := d.vm(&vms[len(vms)-1], 1)
		if err != nil {
			return nil, err
		}
		if !ok {
			vms = vms[:len(vms)-1]
			d.skippedVMs++
		}
	}
}

// object decodes one VM; ok is false when it has no usable uuid.
func (d *decoder) object(body []byte) (vm inventory.VM, ok bool, err error) {
	d.data, d.pos = body, 0
	if ok, err = d.vm(&vm, 0); err != nil {
		return inventory.VM{}, false, err
	}
	return vm, ok, d.end()
}

// vm decodes the value at the current position into a zero VM.
func (d *decoder) vm(vm *inventory.VM, depth int) (ok bool, err error) {
	if d.peek() != '{' {
		_, err := d.skip(depth)
		return false, err
	}
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil {
			return false, err
		}
		if !more {
			return vm.UUID != uuid.Nil, nil
		}
		key, err := d.key()
		if err != nil {
			return false, err
		}
		switch string(key) {
		case "uuid":
			err = d.uuid(&vm.UUID, depth+1)
		case "owner_uuid":
			err = d.uuid(&vm.Owner, depth+1)
		case "server_uuid":
			err = d.uuid(&vm.Host, depth+1)
		case "state":
			vm.State, err = d.text(depth+1, true)
		case "alias":
			vm.Alias, err = d.text(depth+1, false)
		case "tags":
			vm.Tags, err = d.tagSet(depth + 1)
		default:
			_, err = d.skip(depth + 1)
		}
		if err != nil {
			return false, err
		}
	}
}

// uuid decodes a uuid; null is Nil, so is anything else that is none.
func (d *decoder) uuid(id *uuid.UUID, depth int) error {
	*id = uuid.Nil
	if d.peek() == '"' {
		if rest := d.data[d.pos:]; len(rest) >= 38 && rest[37] == '"' && parseUUID(rest[1:37], id) {
			d.pos += 38
			return nil
		}
		raw, plain, err := d.str()
		if err != nil {
			return err
		}
		if !plain {
			raw = []byte(unquote(raw))
		}
		if !parseUUID(raw, id) {
			d.skippedFields++
		}
		return nil
	}
	return d.odd(depth)
}

// odd steps over a value where another type belongs.
func (d *decoder) odd(depth int) error {
	raw, err := d.skip(depth)
	if err == nil && raw[0] != 'n' { // null is ordinary
		d.skippedFields++
	}
	return err
}

// text decodes a string; null is "", so is anything else that is none.
func (d *decoder) text(depth int, repeats bool) (string, error) {
	if d.peek() != '"' {
		return "", d.odd(depth)
	}
	raw, plain, err := d.str()
	if err != nil {
		return "", err
	}
	if repeats {
		return d.word(raw, plain), nil
	}
	return toString(raw, plain), nil
}

func toString(raw []byte, plain bool) string {
	if plain && utf8.Valid(raw) {
		return string(raw)
	}
	return unquote(raw)
}

// word makes the string of a raw text once.
func (d *decoder) word(raw []byte, plain bool) string {
	if w, ok := d.words[string(raw)]; ok {
		return w
	}
	w := toString(raw, plain)
	if len(raw) > maxWordLen {
		return w
	}
	if len(d.words) >= maxWords {
		clear(d.words)
	}
	d.words[string(raw)] = w
	return w
}

// tagSet decodes an object of tags, null to none; equal texts share one map.
func (d *decoder) tagSet(depth int) (map[string]string, error) {
	if d.peek() != '{' {
		return nil, d.odd(depth)
	}
	start := d.pos
	raw, err := d.skip(depth)
	if err != nil || len(raw) == len("{}") {
		return nil, err
	}
	set, ok := d.tags[string(raw)]
	if !ok {
		end := d.pos
		d.pos = start
		if set, err = d.makeTagSet(depth); err != nil {
			return nil, err
		}
		d.pos = end
		if len(raw) <= maxTagText {
			if len(d.tags) >= maxTagSets {
				clear(d.tags)
			}
			d.tags[string(raw)] = set
		}
	}
	d.skippedFields += set.odd
	return set.tags, nil
}

func (d *decoder) makeTagSet(depth int) (set tagSet, err error) {
	set.tags = make(map[string]string)
	for first := true; ; first = false {
		more, err := d.more(first, '}')
		if err != nil {
			return set, err
		}
		if !more {
			if len(set.tags) == 0 {
				set.tags = nil
			}
			return set, nil
		}
		d.peek()
		rawKey, plain, err := d.str()
		if err != nil {
			return set, err
		}
		key := d.word(rawKey, plain)
		d.peek()
		d.pos++ // the colon, which skip has seen
		delete(set.tags, key)
		switch c := d.peek(); c {
		case '"':
			rawValue, plain, err := d.str()
			if err != nil {
				return set, err
			}
			set.tags[key] = d.word(rawValue, plain)
		default:
			value, err := d.skip(depth + 1)
			if err != nil {
				return set, err
			}
			switch c {
			case 'n': // as good as absent
			case '{', '[':
				set.odd++
			default:
				set.tags[key] = d.word(value, true)
			}
		}
	}
}

// parseUUID reads the usual form of 36 characters, in either case. id is unchanged when it is another.
func parseUUID(b []byte, id *uuid.UUID) bool {
	if len(b) != 36 || b[8] != '-' || b[13] != '-' || b[18] != '-' || b[23] != '-' {
		return false
	}
	var u uuid.UUID
	var wrong byte
	for i, at := range hexAt {
		high, low := nibble[b[at]], nibble[b[at+1]]
		wrong |= high | low
		u[i] = high<<4 | low
	}
	if wrong > 15 {
		return false
	}
	*id = u
	return true
}

// hexAt has the positions of a uuid's sixteen pairs of digits in its text.
var hexAt = [16]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}
