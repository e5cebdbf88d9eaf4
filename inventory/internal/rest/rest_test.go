package rest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/inventory"
)

func ignore([]byte) error { return nil }

func serve(t *testing.T, o Options, h http.HandlerFunc) *Client {
	t.Helper()
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	o.Service, o.URL = "X", web.URL+"/prefix"
	c, err := New(o)
	require.NoError(t, err)
	return c
}

func TestAtMostParallelRequestsRunAtOnce(t *testing.T) {
	var now, most atomic.Int64
	arrived, release := make(chan struct{}), make(chan struct{})
	c := serve(t, Options{Parallel: 3}, func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		arrived <- struct{}{}
		<-release
		now.Add(-1)
	})
	done := make(chan error)
	for range 9 {
		go func() { done <- c.Get(t.Context(), "/a", nil, ignore) }()
	}
	for range 3 {
		<-arrived
	}
	select {
	case <-arrived:
		require.Fail(t, "a fourth request runs")
	case <-time.After(100 * time.Millisecond): // time enough for another to come, were it allowed to
	}
	go func() { // ends when the last request has
		for range 6 {
			release <- struct{}{}
			<-arrived
		}
		for range 3 {
			release <- struct{}{}
		}
	}()
	for range 9 {
		require.NoError(t, <-done)
	}
	require.LessOrEqual(t, most.Load(), int64(3))
}

func TestAnswersHaveABound(t *testing.T) {
	c := serve(t, Options{MaxBody: 100}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(strings.Repeat("x", len(r.URL.Query().Get("n")))))
	})
	require.NoError(t, c.Get(t.Context(), "/", url.Values{"n": {strings.Repeat("x", 100)}}, ignore))
	err := c.Get(t.Context(), "/", url.Values{"n": {strings.Repeat("x", 101)}}, ignore)
	require.ErrorContains(t, err, "larger than 100 bytes")
	require.NotErrorIs(t, err, inventory.ErrUnavailable)
	require.ErrorContains(t, c.Get(t.Context(), "/", url.Values{"n": {strings.Repeat("x", 8000)}}, ignore), "address has")
}

func TestRetriesOnlyWhatMayHelpAndKeepsTheRequestID(t *testing.T) {
	var ids []string
	var n atomic.Int64
	c := serve(t, Options{UserAgent: "test/1"}, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		ids = append(ids, r.Header.Get("X-Request-Id")+r.UserAgent()+r.URL.Path)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	err := c.Get(t.Context(), "/a", nil, ignore)
	require.ErrorIs(t, err, inventory.ErrUnavailable)
	require.EqualValues(t, attempts, n.Load())
	require.Equal(t, ids[0], ids[2])
	require.True(t, strings.HasSuffix(ids[0], "test/1/prefix/a"), ids[0])
	require.Equal(t, Stats{Requests: attempts, Retries: attempts - 1, Failures: 1}, c.Stats())
}

func TestAnAttemptHasADeadline(t *testing.T) {
	c := serve(t, Options{Timeout: 20 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	err := c.Get(t.Context(), "/a", nil, ignore)
	require.ErrorIs(t, err, inventory.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestWhatCannotBeDecodedIsUnavailable(t *testing.T) {
	c := serve(t, Options{}, func(http.ResponseWriter, *http.Request) {})
	odd := errors.New("odd")
	tries := 0
	err := c.Get(t.Context(), "/a", nil, func([]byte) error { tries++; return odd })
	require.ErrorIs(t, err, inventory.ErrUnavailable)
	require.ErrorIs(t, err, odd)
	require.Equal(t, attempts, tries)
}

func TestErrorsAreSorted(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		class  error
	}{
		{404, `{"code":"ResourceNotFound","message":"VM not found"}`, inventory.ErrNotFound},
		{404, `<html>`, inventory.ErrUnavailable},
		{409, `{"code":"ValidationFailed"}`, nil},
		{400, ``, nil},
		{429, ``, inventory.ErrUnavailable},
		{500, `{"message":"request failed: server error: no connections"}`, inventory.ErrUnavailable},
		{500, `{"message":"request failed: server error: (a<5) is an invalid filter"}`, nil},
		{500, `{"code":"InvalidParameters","message":"x"}`, nil},
		{502, `bad gateway`, inventory.ErrUnavailable},
		{503, `{"code":"DataVersion"}`, inventory.ErrUnavailable},
	} {
		e := newError(c.status, []byte(c.body))
		require.Equal(t, c.class, e.Unwrap(), "%d %s", c.status, c.body)
		require.NotEmpty(t, e.Error())
	}
	require.Less(t, len(newError(500, []byte(strings.Repeat("é", 5000))).Error()), 600)
}
