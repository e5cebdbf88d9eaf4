package instrumentation_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	in "iapi/instrumentation"
)

func TestIDsHaveOneFormAndSortByTime(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123_000_000, time.UTC)
	var before in.ID
	for i := range 1000 {
		now := at.Add(time.Duration(i*i) * time.Millisecond)
		id, err := in.NewID(now, rand.Reader)
		require.NoError(t, err)
		require.Regexp(t, `^i-[0-9a-v]{20}$`, string(id))
		require.Equal(t, now, id.CreatedAt())
		parsed, err := in.ParseID(string(id))
		require.NoError(t, err)
		require.Equal(t, id, parsed)
		if i > 0 && i*i > (i-1)*(i-1) {
			require.Greater(t, id, before)
		}
		before = id
	}
}

func TestIDNeedsEntropy(t *testing.T) {
	_, err := in.NewID(time.Now(), io.LimitReader(rand.Reader, 5))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	broken := errors.New("broken")
	_, err = in.NewID(time.Now(), iotest.ErrReader(broken))
	require.ErrorIs(t, err, broken)
}

func TestParseIDRefusesEveryOtherForm(t *testing.T) {
	good, err := in.NewID(time.UnixMilli(1), bytes.NewReader(make([]byte, 6)))
	require.NoError(t, err)
	require.Equal(t, in.ID("i-00000000040000000000"), good)
	for _, text := range []string{
		"", "i-", "00000000020000000000", "i-0000000004000000000", "i-000000000400000000000", "I-00000000020000000000",
		"i-0000000004000000000V", "i-0000000004000000000w", "i-00000000040000000001", "i-0000000004 000000000", "i-00000000040000000\n00",
		"x-00000000020000000000", "i-ſ000000000200000000",
	} {
		_, err := in.ParseID(text)
		require.Error(t, err, "%q", text)
		require.True(t, in.ID(text).CreatedAt().IsZero())
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("i-00000000040000000000")
	f.Add("i-vvvvvvvvvvvvvvvvvvvg")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := in.ParseID(text)
		if err != nil {
			return
		}
		require.Equal(t, text, string(id))
		again, err := in.NewID(id.CreatedAt(), bytes.NewReader(make([]byte, 6)))
		require.NoError(t, err)
		require.Equal(t, text[:11], string(again)[:11], "the time must survive")
	})
}
