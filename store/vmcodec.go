package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"iapi/inventory"
)

// A VM's facts are kept as asof|digest|VM. The VM is a compact text of its own, for there may be a million of them and a
// host's are all read whenever its document is made: a version, owner and host, then state, alias and the tags by key,
// each with its length before it. The same VM always has the same text. What earlier versions wrote is JSON.
const compactVM = 1

// appendVM writes a VM. Its uuid is not in the text.
func appendVM(b []byte, vm inventory.VM) []byte {
	b = append(b, compactVM)
	b = append(append(b, vm.Owner[:]...), vm.Host[:]...)
	b = appendString(appendString(b, vm.State), vm.Alias)
	var room [16]string
	keys := room[:0]
	for k := range vm.Tags {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = appendString(appendString(b, k), vm.Tags[k])
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errNotVM = errors.New("the entry is not valid")

// vmDecoder reads what is kept of VMs. VMs with equal tags share one map, which must not be changed. The zero vmDecoder is
// ready. Not safe for concurrent use.
type vmDecoder struct{ tags map[string]map[string]string }

// decodeVM reads what is kept of one VM.
func decodeVM(id, entry string) (inventory.VM, error) { return new(vmDecoder).vm(id, entry) }

// vms reads what is kept of a host's VMs, and returns them by their uuids.
func (d *vmDecoder) vms(kept map[string]string) ([]inventory.VM, error) {
	vms := make([]inventory.VM, 0, len(kept))
	for _, id := range slices.Sorted(maps.Keys(kept)) { // the texts of uuids have their order
		vm, err := d.vm(id, kept[id])
		if err != nil {
			return nil, err
		}
		vms = append(vms, vm)
	}
	return vms, nil
}

func (d *vmDecoder) vm(id, entry string) (vm inventory.VM, err error) {
	_, entry, _ = strings.Cut(entry, "|")
	_, entry, _ = strings.Cut(entry, "|")
	switch {
	case entry != "" && entry[0] == compactVM:
		vm, err = d.parse(entry[1:])
		if err == nil {
			vm.UUID, err = uuid.Parse(id)
		}
	case entry != "" && entry[0] == '{':
		err = json.Unmarshal([]byte(entry), &vm)
	default:
		err = errNotVM
	}
	if err != nil {
		return inventory.VM{}, fmt.Errorf("decode VM %s: %w", id, err)
	}
	return vm, nil
}

func (d *vmDecoder) parse(text string) (vm inventory.VM, err error) {
	if len(text) < 32 {
		return vm, errNotVM
	}
	copy(vm.Owner[:], text)
	copy(vm.Host[:], text[16:])
	text = text[32:]
	if vm.State, text, err = cutString(text); err != nil {
		return vm, err
	}
	if vm.Alias, text, err = cutString(text); err != nil {
		return vm, err
	}
	if text == "" {
		return vm, nil
	}
	if known, ok := d.tags[text]; ok {
		vm.Tags = known
		return vm, nil
	}
	tags := make(map[string]string)
	for rest := text; rest != ""; {
		var k, v string
		if k, rest, err = cutString(rest); err != nil {
			return vm, err
		}
		if v, rest, err = cutString(rest); err != nil {
			return vm, err
		}
		tags[k] = v
	}
	if d.tags == nil {
		d.tags = make(map[string]map[string]string)
	}
	d.tags[text], vm.Tags = tags, tags
	return vm, nil
}

// cutString takes a string off the front of a text. It is a part of the text: nothing is copied.
func cutString(text string) (s, rest string, err error) {
	var n uint64
	for i := range len(text) {
		if i == 9 {
			break
		}
		n |= uint64(text[i]&0x7f) << (7 * i)
		if text[i] < 0x80 {
			if rest = text[i+1:]; n > uint64(len(rest)) {
				break
			}
			return rest[:n], rest[n:], nil
		}
	}
	return "", "", errNotVM
}
