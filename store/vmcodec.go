package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
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

// decodeVM reads what is kept of a VM.
func decodeVM(id, entry string) (vm inventory.VM, err error) {
	_, entry, _ = strings.Cut(entry, "|")
	_, entry, _ = strings.Cut(entry, "|")
	switch {
	case entry != "" && entry[0] == compactVM:
		vm, err = parseVM(entry[1:])
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

func parseVM(text string) (vm inventory.VM, err error) {
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
	for text != "" {
		var k, v string
		if k, text, err = cutString(text); err != nil {
			return vm, err
		}
		if v, text, err = cutString(text); err != nil {
			return vm, err
		}
		if vm.Tags == nil {
			vm.Tags = make(map[string]string)
		}
		vm.Tags[k] = v
	}
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
