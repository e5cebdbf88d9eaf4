package identity_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/identity"
)

// A token holds while it is its time, whichever way the clock came to that time: a clock that was wrong for a while has used
// no token up and brought none back for longer.
func TestATokenHoldsInItsTimeWhicheverWayTheClockJumps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	s := newSigner(t, "k", "ES256")
	writeKeys(t, path, s.jwk())
	clock := now
	auth := fromFile(t, path, func(o *identity.JWTOptions) { o.Clock = func() time.Time { return clock } })
	token := bearer(s.sign(t)) // from now on, for an hour
	for _, c := range []struct {
		at    time.Duration
		holds bool
	}{
		{0, true}, {30 * time.Minute, true}, {2 * time.Hour, false}, {59 * time.Minute, true}, {-time.Hour, false}, {time.Minute, true},
		{365 * 24 * time.Hour, false}, {-365 * 24 * time.Hour, false}, {time.Hour + 9*time.Second, true}, {time.Hour + 11*time.Second, false},
	} {
		clock = now.Add(c.at)
		caller, err := auth.Authenticate(token)
		if !c.holds {
			require.ErrorIs(t, err, identity.ErrBadCredentials, "%s", c.at)
			continue
		}
		require.NoError(t, err, "%s", c.at)
		require.Equal(t, now.Add(time.Hour), caller.Expires, "its end is its own")
	}
}
