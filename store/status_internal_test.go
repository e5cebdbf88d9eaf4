package store

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestAStatusIsEncodedAsJSONIs(t *testing.T) {
	for _, s := range []statusJSON{
		{}, {LastSample: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, {LastSample: time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)},
		{LastSample: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)}, {Message: "no", LastSample: time.Date(9999, 1, 2, 3, 4, 5, 6, time.UTC)},
		{VMs: map[uuid.UUID]sourceFailure{uuid.Max: {Status: "FAILED"}}}, {LastSample: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{LastSample: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		want, wrong := json.Marshal(&s)
		got, err := s.encode()
		require.Equal(t, wrong, err)
		require.Equal(t, string(want), got)
	}
}
