package dataapi_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"iapi/dataapi"
)

// patience is how long a test waits for what must come, however slow the machine is.
const patience = time.Minute

func serve(t *testing.T, o dataapi.Options) (*dataapi.Server, string) {
	t.Helper()
	s := dataapi.New(o)
	web := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		_ = s.Close()
		web.Close()
	})
	return s, web.URL
}

func line(second int, extra string) string {
	return fmt.Sprintf(`{"timestamp":"2024-01-01T00:00:%02dZ","count":%d%s}`, second, second, extra)
}

func post(t *testing.T, url, key, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Idempotency-Key", key)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, strings.TrimSpace(string(answer))
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(answer), resp.Header
}

func TestABatchIsStoredAndReadBack(t *testing.T) {
	_, url := serve(t, dataapi.Options{})
	status, answer := post(t, url+"/s/data", "", line(1, "")+"\n\n"+line(2, `,"x":"y"`)+"\n")
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"accepted":2}`, answer)

	status, body, header := get(t, url+"/s/data?limit=1")
	require.Equal(t, 200, status)
	require.Equal(t, `{"stream":"s","timestamp":"2024-01-01T00:00:01Z","count":1}`+"\n", body)
	_, body, _ = get(t, url+"/s/data?after="+header.Get(dataapi.PositionHeader))
	require.Equal(t, `{"stream":"s","timestamp":"2024-01-01T00:00:02Z","count":2,"x":"y"}`+"\n", body)
	_, body, _ = get(t, url+"/s/data?since=2024-01-01T00:00:02Z")
	require.Equal(t, 1, strings.Count(body, "\n"))

	info, err := dataapi.Client{URL: url}.Info(t.Context(), "s")
	require.NoError(t, err)
	require.EqualValues(t, 2, info.Received)
	require.Equal(t, "/s/data", info.Location)
	all, err := dataapi.Client{URL: url}.Streams(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	_, err = dataapi.Client{URL: url}.Info(t.Context(), "none")
	require.ErrorIs(t, err, dataapi.ErrNoStream)
}

func TestABadLineRefusesTheBatchAndIsNamedByItsNumber(t *testing.T) {
	_, url := serve(t, dataapi.Options{})
	status, answer := post(t, url+"/s/data", "k", line(1, "")+"\nnonsense\n"+line(2, "")+"\n"+line(3, `,"stream":"other"`))
	require.Equal(t, 400, status)
	var refusal dataapi.Refusal
	require.NoError(t, json.Unmarshal([]byte(answer), &refusal))
	require.Equal(t, []dataapi.LineError{{Line: 2, Error: "not a JSON object"}, {Line: 4, Error: "stream: is not the one that the batch is for"}}, refusal.Lines)
	status, _, _ = get(t, url+"/s/data")
	require.Equal(t, 404, status, "nothing was stored")
	// The key of a refused batch is not used up.
	_, answer = post(t, url+"/s/data", "k", line(1, ""))
	require.JSONEq(t, `{"accepted":1}`, answer)
}

func TestAReplayIsHarmlessAlsoWhenBothComeAtOnce(t *testing.T) {
	_, url := serve(t, dataapi.Options{})
	batch := strings.Repeat(line(1, "")+"\n", 3000) // long enough to be read at the same time
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { post(t, url+"/s/data", "once", batch) })
	}
	wg.Wait()
	_, answer := post(t, url+"/s/data", "once", batch)
	require.JSONEq(t, `{"accepted":3000,"duplicate":true}`, answer)
	_, answer = post(t, url+"/other/data", "once", line(1, ""))
	require.JSONEq(t, `{"accepted":1}`, answer, "keys are each stream's own")
	info, err := dataapi.Client{URL: url}.Info(t.Context(), "s")
	require.NoError(t, err)
	require.EqualValues(t, 3000, info.Received)
}

func TestAPositionOfAStreamThatWasDroppedDoesNotHideItsSuccessorsEvents(t *testing.T) {
	now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	_, url := serve(t, dataapi.Options{MaxStreams: 1, Now: func() time.Time { return now }})
	for i := range 5 {
		post(t, url+"/a/data", "", line(i, ""))
	}
	_, _, header := get(t, url+"/a/data")
	for _, name := range []string{"b", "a"} {
		now = now.Add(time.Hour)
		status, _ := post(t, url+"/"+name+"/data", "", line(9, ""))
		require.Equal(t, 200, status)
	}
	_, body, _ := get(t, url+"/a/data?after="+header.Get(dataapi.PositionHeader))
	require.Contains(t, body, `"count":9`)
}

func TestBoundsOfABody(t *testing.T) {
	_, url := serve(t, dataapi.Options{MaxBody: 1000})
	status, _ := post(t, url+"/s/data", "", strings.Repeat(line(1, "")+"\n", 100))
	require.Equal(t, 413, status)
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, err := zip.Write(bytes.Repeat([]byte("\n"), 1<<20))
	require.NoError(t, err)
	require.NoError(t, zip.Close())
	status, _ = post(t, url+"/s/data", "", bomb.String(), "Content-Encoding", "gzip")
	require.Equal(t, 413, status)
	for _, name := range []string{"a%2Fb", "a%20b", strings.Repeat("a", 129), "%C3%A9"} {
		status, _ = post(t, url+"/"+name+"/data", "", line(1, ""))
		require.Equal(t, 400, status, name)
	}
	status, _ = post(t, url+"/s/data", "", line(1, ""), "Content-Type", "image/png")
	require.Equal(t, 415, status)
	status, _ = post(t, url+"/s/data", "", line(1, ""), "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
	require.Equal(t, 403, status, "a page in a browser must not write")
}

func TestMemoryIsBounded(t *testing.T) {
	now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	_, url := serve(t, dataapi.Options{MaxStreams: 2, MaxEventsPerStream: 3, IdleAfter: time.Minute, Now: func() time.Time { return now }})
	for i := range 5 {
		post(t, url+"/a/data", "", line(i, ""))
	}
	_, body, _ := get(t, url+"/a/data")
	require.Equal(t, 3, strings.Count(body, "\n"))
	require.NotContains(t, body, `"count":1`)
	post(t, url+"/b/data", "", line(1, ""))
	status, answer := post(t, url+"/c/data", "", line(1, ""))
	require.Equal(t, 503, status, answer)
	now = now.Add(2 * time.Minute)
	post(t, url+"/b/data", "", line(1, ""))
	status, _ = post(t, url+"/c/data", "", line(1, ""))
	require.Equal(t, 200, status)
	status, _, _ = get(t, url+"/a/data")
	require.Equal(t, 404, status, "the idle one made room")
}

func TestAllEventsTogetherAreBounded(t *testing.T) {
	_, url := serve(t, dataapi.Options{MaxBytes: 2000})
	for i := range 60 {
		status, _ := post(t, fmt.Sprintf("%s/s%d/data", url, i%3), "", line(i, `,"pad":"`+strings.Repeat("x", 100)+`"`))
		require.Equal(t, 200, status)
	}
	all, err := dataapi.Client{URL: url}.Streams(t.Context())
	require.NoError(t, err)
	kept := 0
	for _, s := range all {
		kept += s.Kept
	}
	require.LessOrEqual(t, kept, 2000/(100+64))
	require.Positive(t, kept)
}

// collector gathers what a watch is given.
type collector struct {
	mu  sync.Mutex
	got []string
}

func (c *collector) take(e dataapi.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, string(e.Count))
	return nil
}

func (c *collector) is(want ...string) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Sprint(c.got) == fmt.Sprint(want)
	}
}

func TestWatchBeginsBeforeTheStreamAndGetsEachEventOnce(t *testing.T) {
	_, url := serve(t, dataapi.Options{Heartbeat: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var c collector
	ended := make(chan error, 1)
	go func() { ended <- dataapi.Client{URL: url}.Watch(ctx, "s", time.Time{}, c.take) }()
	require.Eventually(t, func() bool {
		info, err := dataapi.Client{URL: url}.Info(ctx, "s")
		return err == nil && info.Following == 1
	}, patience, time.Millisecond)
	for i := range 4 {
		post(t, url+"/s/data", "", line(i, ""))
	}
	require.Eventually(t, c.is("0", "1", "2", "3"), patience, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)

	stop := errors.New("enough")
	require.ErrorIs(t, dataapi.Client{URL: url}.Watch(t.Context(), "s", time.Time{}, func(dataapi.Event) error { return stop }), stop)
	require.Error(t, dataapi.Client{URL: url}.Watch(t.Context(), "a/b", time.Time{}, c.take))
}

// swap is a listener's address at which servers come and go.
type swap struct {
	mu  sync.Mutex
	now http.Handler
}

func (s *swap) set(h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = h
}

func (s *swap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.now
	s.mu.Unlock()
	h.ServeHTTP(w, r)
}

func TestWatchSurvivesBreaksAndARestartWithoutRepeats(t *testing.T) {
	var front swap
	first := dataapi.New(dataapi.Options{})
	front.set(first.Handler())
	web := httptest.NewServer(&front)
	defer web.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var c collector
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = dataapi.Client{URL: web.URL}.Watch(ctx, "s", time.Date(2024, 1, 1, 0, 0, 1, 0, time.UTC), c.take)
	}()
	defer func() { cancel(); <-ended }()
	post(t, web.URL+"/s/data", "a", line(0, "")+"\n"+line(1, "")+"\n"+line(2, ""))
	require.Eventually(t, c.is("1", "2"), patience, time.Millisecond)

	web.CloseClientConnections()
	post(t, web.URL+"/s/data", "b", line(3, ""))
	require.Eventually(t, c.is("1", "2", "3"), patience, time.Millisecond)

	second := dataapi.New(dataapi.Options{})
	front.set(second.Handler())
	require.NoError(t, first.Close())
	// The sender got no answer for b, and sends it again to the server that has forgotten it.
	post(t, web.URL+"/s/data", "b", line(3, ""))
	post(t, web.URL+"/s/data", "c", line(4, ""))
	require.Eventually(t, c.is("1", "2", "3", "4"), patience, time.Millisecond)
	cancel()
	<-ended
	require.NoError(t, second.Close())
}

func TestASlowReaderIsToldWhatItHasMissed(t *testing.T) {
	_, url := serve(t, dataapi.Options{MaxEventsPerStream: 5})
	post(t, url+"/s/data", "", line(0, ""))
	_, _, header := get(t, url+"/s/data")
	for i := 1; i < 20; i++ {
		post(t, url+"/s/data", "", line(i, ""))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/s/live?after="+header.Get(dataapi.PositionHeader), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	var missed uint64
	events := 0
	for events < 5 && lines.Scan() {
		var l dataapi.Line
		require.NoError(t, json.Unmarshal(lines.Bytes(), &l))
		missed += l.Missed
		if l.Event != nil {
			events++
		}
	}
	require.EqualValues(t, 14, missed)
}

func TestBatchesOverAWebsocketAreAcknowledged(t *testing.T) {
	_, url := serve(t, dataapi.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url+"/s/data", nil)
	require.NoError(t, err)
	defer conn.CloseNow()
	exchange := func(message string) string {
		require.NoError(t, conn.Write(ctx, websocket.MessageText, []byte(message)))
		_, answer, err := conn.Read(ctx)
		require.NoError(t, err)
		return string(answer)
	}
	require.JSONEq(t, `{"seq":1,"accepted":1}`, exchange(`{"seq":1,"key":"k"}`+"\n"+line(1, "")))
	require.JSONEq(t, `{"seq":2,"accepted":1,"duplicate":true}`, exchange(`{"seq":2,"key":"k"}`+"\n"+line(1, "")))
	require.JSONEq(t, `{"seq":3,"accepted":0,"status":400,"error":"nothing was stored: not every line is an event","lines":[{"line":3,"error":"not a JSON object"}]}`,
		exchange(`{"seq":3}`+"\n"+line(1, "")+"\nx"))
	require.NoError(t, conn.Write(ctx, websocket.MessageText, []byte(line(1, ""))))
	_, _, err = conn.Read(ctx)
	require.Equal(t, websocket.StatusPolicyViolation, websocket.CloseStatus(err))
}

func TestDatagramsAreTakenOneEventEach(t *testing.T) {
	s, url := serve(t, dataapi.Options{})
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.ServeUDP(ctx, conn) }()
	out, err := net.Dial("udp", conn.LocalAddr().String())
	require.NoError(t, err)
	defer out.Close()
	for _, datagram := range []string{"nonsense", line(1, ""), line(2, `,"stream":"s"`)} {
		_, err = out.Write([]byte(datagram))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		info, err := dataapi.Client{URL: url}.Info(t.Context(), "s")
		return err == nil && info.Received == 1
	}, patience, time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

func TestCloseEndsEverythingThatIsOpen(t *testing.T) {
	s, url := serve(t, dataapi.Options{MaxReaders: 2})
	live, err := http.Get(url + "/s/live")
	require.NoError(t, err)
	defer live.Body.Close()
	conn, _, err := websocket.Dial(t.Context(), url+"/s/data", nil)
	require.NoError(t, err)
	defer conn.CloseNow()
	status, _, _ := get(t, url+"/s/live")
	require.Equal(t, 503, status)
	require.NoError(t, s.Close())
	_, err = io.Copy(io.Discard, live.Body)
	require.NoError(t, err)
	_, _, err = conn.Read(t.Context())
	require.Error(t, err)
}
