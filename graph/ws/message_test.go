package ws

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzPlainSubscribe: a message that is taken apart in the quick way, with a payload that is JSON, is the same in the slow way.
func FuzzPlainSubscribe(f *testing.F) {
	for _, seed := range []string{
		`{"id":"1","type":"subscribe","payload":{"query":"{x}"}}`,
		`{"id":"a-1","type":"subscribe","payload":{},"id":"b"}`,
		`{"id":"1","type":"subscribe","payload":{}}}`,
		`{"id":"\u0031","type":"subscribe","payload":{}}`,
		`{"id":"","type":"subscribe","payload":{}}`,
		`{"id":"1","type":"subscribe","payload":"}"}`,
		`{"id":"1","type":"complete"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, payload, ok := plainSubscribe(raw)
		if !ok || !json.Valid(payload) {
			return
		}
		var m message
		require.NoError(t, json.Unmarshal(raw, &m))
		require.Equal(t, "subscribe", m.Type)
		require.Equal(t, id, *m.ID)
		var slow, quick any
		require.NoError(t, json.Unmarshal(m.Payload, &slow))
		require.NoError(t, json.Unmarshal(payload, &quick))
		require.Equal(t, slow, quick)
	})
}
