package session

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// FuzzFrames: whatever comes as messages of the subscription, what is handed over is this host's, and always newer.
func FuzzFrames(f *testing.F) {
	document := fmt.Sprintf(`{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"Assignment","host":%q,
		"version":{"epoch":"0000000000000001","generation":%%d,"hash":"h"},"sentAt":"2026-01-01T00:00:00.000Z","instrumentations":[
		{"id":"x","revision":1,"metric":"cpu.usage","predicate":{"eq":["cpumode","user"]},"wholeHost":true,"granularitySeconds":1}]}}}}`, testHost)
	f.Add([]byte(fmt.Sprintf(document, 1)), []byte(fmt.Sprintf(document, 2)))
	f.Add([]byte(fmt.Sprintf(document, 2)), []byte(fmt.Sprintf(document, 1)))
	f.Add([]byte(`{"id":"a","type":"next","payload":{"data":{"assignments":{"__typename":"AssignmentBookmark","version":{"epoch":"0000000000000001","generation":1,"hash":"h"}}}}}`), []byte(`{"type":"ping"}`))
	f.Add([]byte(`{"id":"a","type":"error","payload":[{"message":"no","extensions":{"code":"SUPERSEDED"}}]}`), []byte(`{"id":"a","type":"complete"}`))
	f.Add([]byte(`{"id":"a","type":"error","payload":[{"message":"no","extensions":{"retryAfterSeconds":1e400}}]}`), []byte(`{"id":"1","type":"next","payload":{}}`))
	f.Add([]byte(`{"id":"a","type":"next","payload":{"data":null,"errors":[{}]}}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		s, err := New(Options{Servers: []string{"http://127.0.0.1:1"}, Host: testHost})
		require.NoError(t, err)
		var last Version
		receive := func(a Assignment) {
			require.Equal(t, testHost, a.Host)
			require.True(t, a.Version.Validate() == nil && a.Version.Newer(last), "%v after %v", a.Version, last)
			last = a.Version
		}
		l := &link{waiting: map[string]chan frame{"1": make(chan frame, 1)}}
		for _, raw := range [][]byte{first, second, first} {
			f, err := readFrame(raw)
			if err != nil {
				continue
			}
			if f.ID == subscriptionID {
				if err := s.event(f, time.Now(), receive); err != nil {
					require.LessOrEqual(t, RetryAfter(err), maxAway)
				}
				continue
			}
			l.answer(f)
		}
		require.Equal(t, last, s.version())
	})
}

// FuzzAnswers: whatever the API answers to an operation, it is data or an error.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"data":{"reportAgentStatus":{"accepted":true,"superseded":false,"nextReportSeconds":7}}}`))
	f.Add([]byte(`{"data":null,"errors":[{"message":"no","extensions":{"retryAfterSeconds":-1}}]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"errors":[{}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var data struct {
			Result ReportResult `json:"reportAgentStatus"`
		}
		if err := decode(raw, &data); err != nil {
			require.NotEmpty(t, err.Error())
			require.LessOrEqual(t, RetryAfter(err), maxAway)
			require.GreaterOrEqual(t, RetryAfter(err), time.Duration(0))
		}
	})
}

// FuzzWhenToComeBack: whatever a server says, in a header or as the reason of a close, nobody stays away for longer than allowed.
func FuzzWhenToComeBack(f *testing.F) {
	f.Add("7", "retry in 1.5s")
	f.Add("Thu, 01 Jan 2026 12:00:30 GMT", "retry in 999999h")
	f.Add("-1", "superseded")
	f.Fuzz(func(t *testing.T, header, reason string) {
		resp := &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {header}, "Date": {"Thu, 01 Jan 2026 12:00:00 GMT"}}}
		for _, err := range []error{retryAfter(resp), readError(websocket.CloseError{Code: 1012, Reason: reason})} {
			wait := RetryAfter(err)
			require.True(t, wait >= 0 && wait <= maxAway, "%v", wait)
		}
	})
}
