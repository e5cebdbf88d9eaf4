package worker

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/instrumentation"
	"iapi/inventory"
	"iapi/store"
)

// breakKey breaks a key that is kept for a host.
func breakKey(t *testing.T, s *store.Store, name string, host uuid.UUID) {
	t.Helper()
	keys, err := s.Client().Keys(t.Context(), "iapi:*:"+name+":"+host.String()).Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.NoError(t, s.Client().Del(t.Context(), keys[0]).Err())
	require.NoError(t, s.Client().Set(t.Context(), keys[0], "not what it should be", 0).Err())
}

// TestADamagedHostHoldsUpNobodyAndIsMendedByASweep breaks what is kept of one host.
func TestADamagedHostHoldsUpNobodyAndIsMendedByASweep(t *testing.T) {
	stores(t, func(t *testing.T, open func(t testing.TB) *store.Store) {
		for _, name := range []string{"vms", "fact"} {
			t.Run(name, func(t *testing.T) {
				s := open(t)
				b, w := standing(t, s)
				ctx := t.Context()
				var logged bytes.Buffer
				w.log = slog.New(slog.NewTextHandler(&logged, nil))
				bad := hostID(2)
				was := b.document(bad)
				breakKey(t, s, name, bad)
				id := b.create(ownerID(0), instrumentation.Scope{All: true})
				b.change(retag, numbers(60)...) // all hosts are written to
				require.NoError(t, w.evaluate(ctx, id), "the others are")
				for range 3 {
					require.NoError(t, s.MarkHosts(ctx, false, bad, hostID(3)))
					require.NoError(t, w.drain(ctx))
				}
				for i := range 5 {
					if hostID(i) != bad {
						require.Contains(t, b.document(hostID(i)), string(id))
					}
				}
				if name == "vms" { // where it is the document that is kept in the broken place, there is none
					require.Equal(t, was, b.document(bad), "what it runs stands")
				}
				require.NoError(t, w.Sweep(ctx))
				b.settle(w)
				b.requireTrue()
				for range 2 { // the first still doubts what was written VM by VM
					require.NoError(t, w.Sweep(ctx))
				}
				require.Equal(t, 1, bytes.Count(logged.Bytes(), []byte("WRONGTYPE")), logged.String())
				swept, err := s.LastSweep(ctx)
				require.NoError(t, err)
				require.Zero(t, swept.Differing)
			})
		}
	})
}

// TestADamagedHostIsNotMendedByAListThatLacksWhatTheWalkHasSeen has the list of the one host cut short.
func TestADamagedHostIsNotMendedByAListThatLacksWhatTheWalkHasSeen(t *testing.T) {
	s := open(t, store.Options{Embedded: &store.Embedded{Dir: t.TempDir()}})
	b, w := standing(t, s)
	ctx := t.Context()
	bad := hostID(2)
	breakKey(t, s, "vms", bad)
	require.NoError(t, s.MarkHosts(ctx, false, bad))
	require.NoError(t, w.drain(ctx))
	o := overhear(w)
	was := b.document(bad)
	b.cloud.set(func() { b.cloud.cut = func(vm inventory.VM) bool { return vm.UUID[15]%2 == 0 } })
	require.NoError(t, w.Sweep(ctx))
	require.NoError(t, w.drain(ctx))
	require.Equal(t, 1, o.hosts)
	require.Equal(t, was, b.document(bad))
	b.cloud.set(func() { b.cloud.cut = nil })
	require.NoError(t, w.Sweep(ctx))
	b.settle(w)
	b.requireTrue()
}
