package store

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/inventory"
)

func randomVM(r *rand.Rand) inventory.VM {
	text := func() string {
		return strings.Repeat([]string{"a", "ä|", "\x00", `"`, "7"}[r.IntN(5)], r.IntN(4)*r.IntN(60))
	}
	vm := inventory.VM{UUID: uuid.New(), Owner: uuid.New(), Host: uuid.New(), State: text(), Alias: text()}
	for range r.IntN(6) {
		if vm.Tags == nil {
			vm.Tags = map[string]string{}
		}
		vm.Tags[text()] = text()
	}
	return vm
}

func TestAVMIsReadBackAsItWasWritten(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 5_000 {
		vm := randomVM(r)
		entry := "17|0123456789abcdef|" + string(appendVM(nil, vm))
		got, err := decodeVM(vm.UUID.String(), entry)
		require.NoError(t, err)
		require.Equal(t, vm, got)
		require.Equal(t, entry, "17|0123456789abcdef|"+string(appendVM(nil, got)), "the same VM has the same text")
	}
}

func TestWhatEarlierVersionsWroteOfAVMIsRead(t *testing.T) {
	vm := inventory.VM{UUID: uuid.New(), Owner: uuid.New(), Host: uuid.New(), State: "running", Alias: "a|b", Tags: map[string]string{"k": "v"}}
	b, err := json.Marshal(vm)
	require.NoError(t, err)
	got, err := decodeVM(vm.UUID.String(), "17|0123456789abcdef|"+string(b))
	require.NoError(t, err)
	require.Equal(t, vm, got)
}

func FuzzDecodeVM(f *testing.F) {
	vm := randomVM(rand.New(rand.NewPCG(3, 4)))
	f.Add("1|ff|" + string(appendVM(nil, vm)))
	f.Add("1|ff|" + string(appendVM(nil, inventory.VM{})))
	f.Add("1|ff|{}")
	f.Add("1|ff|\x01")
	f.Fuzz(func(t *testing.T, entry string) {
		vm, err := decodeVM(uuid.Nil.String(), entry)
		if err != nil {
			require.Zero(t, vm)
			return
		}
		again, err := decodeVM(uuid.Nil.String(), "1|ff|"+string(appendVM(nil, vm)))
		require.NoError(t, err)
		vm.UUID = uuid.Nil // JSON has one of its own
		if len(vm.Tags) == 0 {
			vm.Tags = nil
		}
		require.Equal(t, vm, again)
	})
}
