package store_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/assignment"
	"iapi/instrumentation"
	"iapi/store"
	"iapi/store/storetest"
)

// item is one instrumentation of a document: a whole host without zones.
func item(id string, revision int, vms ...uuid.UUID) assignment.Item {
	i := assignment.Item{ID: id, Revision: revision, WholeHost: len(vms) == 0}
	for _, vm := range vms {
		i.VMs = append(i.VMs, assignment.VM{UUID: vm})
	}
	slices.SortFunc(i.VMs, func(a, b assignment.VM) int { return strings.Compare(a.UUID.String(), b.UUID.String()) })
	return i
}

// body makes a document, its hash and its counts.
func body(items ...assignment.Item) (b []byte, hash string, counts []store.Counts) {
	b, err := json.Marshal(items)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(b)
	for _, i := range items {
		counts = append(counts, store.Counts{ID: instrumentation.ID(i.ID), Expected: max(1, len(i.VMs))})
	}
	return b, hex.EncodeToString(sum[:]), counts
}

// assign commits a document for a host, as a worker does.
func assign(t testing.TB, s *store.Store, host uuid.UUID, items ...assignment.Item) assignment.Version {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, s.MarkHosts(ctx, true, host))
	for {
		for _, c := range claim(t, s, 1, time.Minute) {
			if c.Host != host {
				require.NoError(t, s.ReleaseHost(ctx, c))
				continue
			}
			b, hash, counts := body(items...)
			v, committed, err := s.CommitDocument(ctx, c, facts(t, s, host), b, hash, counts)
			require.NoError(t, err)
			require.True(t, committed)
			return v
		}
	}
}

func TestGenerationsAreDenseAndUniqueUnderRaces(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		var mu sync.Mutex
		given := map[int64]string{}
		var writers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() {
				for done := 0; done < 10; {
					if err := s.MarkHosts(ctx, false, host); err != nil {
						t.Error(err)
						return
					}
					claims, err := s.ClaimHosts(ctx, "w", 1, time.Minute)
					if err != nil {
						t.Error(err)
						return
					}
					for _, c := range claims {
						for committed := false; !committed; {
							f, err := s.Facts(ctx, host)
							if err != nil {
								t.Error(err)
								return
							}
							hash := fmt.Sprintf("%d-%d", w, done)
							var v assignment.Version
							v, committed, err = s.CommitDocument(ctx, c, f, []byte("[]"), hash, nil)
							if err != nil {
								t.Error(err)
								return
							}
							if committed {
								mu.Lock()
								if given[v.Generation] != "" {
									t.Errorf("generation %d was given out twice", v.Generation)
								}
								given[v.Generation] = v.Hash
								mu.Unlock()
								done++
							}
						}
					}
				}
			})
		}
		writers.Wait()
		require.Len(t, given, 80)
		for g := range int64(80) {
			require.NotEmpty(t, given[g+1])
		}
		doc, err := s.Document(ctx, host)
		require.NoError(t, err)
		require.Equal(t, assignment.Version{Epoch: "0000000000000001", Generation: 80, Hash: given[80]}, doc.Version)
	})
}

func TestTheVersionGrowsOnlyWithTheHash(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		_, err := s.Document(ctx, host)
		require.ErrorIs(t, err, store.ErrNoDocument)
		first := assign(t, s, host, item("a", 1))
		require.Equal(t, first, assign(t, s, host, item("a", 1)))
		second := assign(t, s, host, item("a", 2))
		require.EqualValues(t, 2, second.Generation)
		vs, err := s.Versions(ctx, uid(9), host)
		require.NoError(t, err)
		require.Equal(t, []assignment.Version{{}, second}, vs)
		doc, err := s.Document(ctx, host)
		require.NoError(t, err)
		b, hash, _ := body(item("a", 2))
		require.JSONEq(t, string(b), string(doc.Body))
		require.Equal(t, hash, doc.Version.Hash)
	})
}

func TestCommitRefusesFactsAndCountsThatDoNotFit(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		require.NoError(t, s.MarkHosts(ctx, false, host))
		c := claim(t, s, 1, time.Minute)[0]
		_, _, err := s.CommitDocument(ctx, c, facts(t, s, uid(1)), []byte("[]"), "h", nil)
		require.Error(t, err)
		_, _, err = s.CommitDocument(ctx, c, facts(t, s, host), []byte("[]"), "", nil)
		require.Error(t, err)
		_, _, err = s.CommitDocument(ctx, c, facts(t, s, host), []byte("x"), "h", nil)
		require.Error(t, err)
		b, hash, counts := body(item("a", 1, uid(1)))
		counts[0].Expected = 2
		_, _, err = s.CommitDocument(ctx, c, facts(t, s, host), b, hash, counts)
		require.ErrorContains(t, err, "1 sources of a, and 2")
	})
}

func TestRebase(t *testing.T) {
	storetest.Each(t, store.Options{}, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		host := uid(1000)
		_, err := s.Rebase(ctx, host, assignment.Version{Epoch: "1", Generation: 1})
		require.ErrorContains(t, err, "16 lower-case hex digits")
		// No epoch may be used up, and none is believed that cannot have been.
		for _, epoch := range []string{"ffffffffffffffff", "fffffffffffffffe", "7fffffffffffffff", "0000000200000000"} {
			_, err = s.Rebase(ctx, host, assignment.Version{Epoch: epoch, Generation: 1, Hash: "x"})
			require.ErrorContains(t, err, epoch)
		}
		_, err = s.Rebase(ctx, host, assignment.Version{Epoch: "ffffffffffffffff", Generation: 1})
		require.Error(t, err)

		// Without a document the first one is in the new epoch.
		_, err = s.Rebase(ctx, host, assignment.Version{Epoch: "00000000000000ff", Generation: 9, Hash: "x"})
		require.ErrorIs(t, err, store.ErrNoDocument)
		v := assign(t, s, host, item("a", 1))
		require.Equal(t, "0000000000000100", v.Epoch)
		require.EqualValues(t, 1, v.Generation)
		v = assign(t, s, host, item("a", 2))

		for _, known := range []assignment.Version{v, {Epoch: v.Epoch, Generation: 1, Hash: "older"}, {Epoch: "00000000000000ff", Generation: 99}} {
			got, err := s.Rebase(ctx, host, known)
			require.NoError(t, err)
			require.Equal(t, v, got, "an honest version changes nothing: %+v", known)
		}
		for _, known := range []assignment.Version{
			{Epoch: v.Epoch, Generation: 3, Hash: v.Hash},
			{Epoch: "0000000000000101", Generation: 1, Hash: "other"},
			{Epoch: "00000000ffffffff", Generation: 1, Hash: "x"},
		} {
			before := v
			_, err := s.Rebase(ctx, host, known)
			require.ErrorIs(t, err, store.ErrNoDocument)
			_, err = s.Document(ctx, host)
			require.ErrorIs(t, err, store.ErrNoDocument, "what the store went back to never reaches the agent under a greater number")
			again, err := s.Rebase(ctx, host, known)
			require.ErrorIs(t, err, store.ErrNoDocument, "asking again begins no other epoch: %v", again)
			v = assign(t, s, host, item("a", 2)) // what is reconciled does, even if it is the same
			require.Greater(t, v.Epoch, known.Epoch)
			require.Greater(t, v.Epoch, before.Epoch)
			require.EqualValues(t, 1, v.Generation)
		}
		v = assign(t, s, host, item("a", 3))
		require.Equal(t, assignment.Version{Epoch: "0000000100000000", Generation: 2, Hash: v.Hash}, v)

		claims, err := s.ClaimHosts(ctx, "w", 10, time.Minute)
		require.NoError(t, err)
		require.Empty(t, claims)
		_, err = s.Rebase(ctx, host, assignment.Version{Epoch: "0000000100000001", Generation: 1, Hash: "x"})
		require.ErrorIs(t, err, store.ErrNoDocument)
		claims, err = s.ClaimHosts(ctx, "w", 10, time.Minute)
		require.NoError(t, err)
		require.Len(t, claims, 1, "the host is marked")
	})
}
