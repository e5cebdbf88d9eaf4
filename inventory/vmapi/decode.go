package vmapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
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
	maxLikely  = 16
	aliasRoom  = 8 << 10
)

// decoder turns VMAPI's answers into VMs. It is tolerant of content, for values come from the hosts as they were found:
// a field of an odd type stays empty, a VM without a usable uuid is left out, both are counted. It is strict about
// JSON. Words and tags that repeat are made once and shared, and aliases lie side by side. Not safe for concurrent use.
type decoder struct {
	scanner
	words   map[string]string // by the raw text between the quotes
	tags    map[string]tagSet // by the raw text of the object
	likely  []member          // of the first row of this page
	state   string            // of the last VM, which most others share
	aliases strings.Builder

	rows                      int // of the last page, those left out included
	skippedVMs, skippedFields int64
}

// member is how a member of a row begins: a bracket or comma, the name and the colon, with all white space. Where the same
// bytes stand in the same place of another row they mean the same, and nobody needs to read them again.
type member struct {
	text  []byte // a part of the page
	field field
}

// field is a member that is wanted of a VM.
type field int

const (
	fieldOther field = iota
	fieldUUID
	fieldOwner
	fieldHost
	fieldState
	fieldAlias
	fieldTags
)

func fieldOf(name []byte) field {
	switch string(name) {
	case "uuid":
		return fieldUUID
	case "owner_uuid":
		return fieldOwner
	case "server_uuid":
		return fieldHost
	case "state":
		return fieldState
	case "alias":
		return fieldAlias
	case "tags":
		return fieldTags
	}
	return fieldOther
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
	d.data, d.pos, d.rows, d.likely = body, 0, 0, d.likely[:0]
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
	d.data, d.pos, d.rows, d.likely = body, 0, 0, d.likely[:0]
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
	for i := 0; ; i++ {
		what, more, err := d.member(i)
		if err != nil {
			return false, err
		}
		if !more {
			return vm.UUID != uuid.Nil, nil
		}
		switch what {
		case fieldUUID:
			err = d.uuid(&vm.UUID, depth+1)
		case fieldOwner:
			err = d.uuid(&vm.Owner, depth+1)
		case fieldHost:
			err = d.uuid(&vm.Host, depth+1)
		case fieldState:
			if vm.State, err = d.text(depth+1, d.stateWord); err == nil {
				d.state = vm.State
			}
		case fieldAlias:
			vm.Alias, err = d.text(depth+1, d.alias)
		case fieldTags:
			vm.Tags, err = d.tagSet(depth + 1)
		default:
			_, err = d.skip(depth + 1)
		}
		if err != nil {
			return false, err
		}
	}
}

// member steps to the value of a row's i-th member, or behind the row's end.
func (d *decoder) member(i int) (what field, more bool, err error) {
	if i < len(d.likely) {
		if m := &d.likely[i]; bytes.HasPrefix(d.data[d.pos:], m.text) {
			d.pos += len(m.text)
			return m.field, true, nil
		}
	}
	start := d.pos
	if more, err = d.more(i == 0, '}'); err != nil || !more {
		return fieldOther, false, err
	}
	name, err := d.key()
	if err != nil {
		return fieldOther, false, err
	}
	what = fieldOf(name)
	if i == len(d.likely) && d.rows <= 1 && i < maxLikely {
		d.likely = append(d.likely, member{d.data[start:d.pos], what})
	}
	return what, true, nil
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
func (d *decoder) text(depth int, take func(raw []byte, plain bool) string) (string, error) {
	if d.peek() != '"' {
		return "", d.odd(depth)
	}
	raw, plain, err := d.str()
	if err != nil {
		return "", err
	}
	return take(raw, plain), nil
}

// alias makes the string of a raw text beside other aliases, which costs less than one of its own.
func (d *decoder) alias(raw []byte, plain bool) string {
	if !plain || len(raw) > maxWordLen || !utf8.Valid(raw) {
		return toString(raw, plain)
	}
	if d.aliases.Cap()-d.aliases.Len() < len(raw) {
		d.aliases.Reset()
		d.aliases.Grow(aliasRoom)
	}
	start := d.aliases.Len()
	d.aliases.Write(raw)
	return d.aliases.String()[start:]
}

func toString(raw []byte, plain bool) string {
	if plain && utf8.Valid(raw) {
		return string(raw)
	}
	return unquote(raw)
}

// stateWord is word for states.
func (d *decoder) stateWord(raw []byte, plain bool) string {
	if plain && string(raw) == d.state && d.state != "" {
		return d.state
	}
	return d.word(raw, plain)
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
	// A text that is known as a whole object, and stands here, is the object that stands here.
	if n := bytes.IndexByte(d.data[start:min(start+maxTagText, len(d.data))], '}') + 1; n > 0 {
		if n == len("{}") {
			d.pos += n
			return nil, nil
		}
		if set, ok := d.tags[string(d.data[start:start+n])]; ok {
			d.pos += n
			d.skippedFields += set.odd
			return set.tags, nil
		}
	}
	raw, err := d.skip(depth)
	if err != nil {
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
	four := binary.LittleEndian.Uint32
	first, wrong1 := unhex(uint64(four(b)) | uint64(four(b[4:]))<<32)
	second, wrong2 := unhex(uint64(four(b[9:])) | uint64(four(b[14:]))<<32)
	third, wrong3 := unhex(uint64(four(b[19:])) | uint64(four(b[24:]))<<32)
	fourth, wrong4 := unhex(uint64(four(b[28:])) | uint64(four(b[32:]))<<32)
	if wrong1|wrong2|wrong3|wrong4 != 0 {
		return false
	}
	binary.LittleEndian.PutUint32(id[0:], first)
	binary.LittleEndian.PutUint32(id[4:], second)
	binary.LittleEndian.PutUint32(id[8:], third)
	binary.LittleEndian.PutUint32(id[12:], fourth)
	return true
}

// unhex turns eight hexadecimal digits, the first in the lowest byte, into four bytes in the same order. All eight are
// worked on at once; wrong is zero if writing them again gives the same.
func unhex(digits uint64) (four uint32, wrong uint64) {
	letters := digits >> 6 & ones // 1 in each byte that would be a letter
	values := digits&(ones*0x0f) + letters*9
	tens := (values + ones*6) >> 4 & ones // 1 in each byte that is ten or more
	again := values + ones*'0' + tens*('a'-'0'-10)
	wrong = again ^ (digits | letters<<5) | values&(ones*0xf0)
	pairs := (values<<4 | values>>8) & 0x00ff00ff00ff00ff
	pairs = (pairs | pairs>>8) & 0x0000ffff0000ffff
	return uint32(pairs | pairs>>16), wrong
}
