package targets

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"iapi/dataapi"
	"iapi/measure"
)

// site is a Data API without a network, so that tests of what goes together have time in their hands.
type site struct {
	mu     sync.Mutex
	answer func(r *http.Request, body []byte) *http.Response // nil: the real one's
	real   http.Handler
	asked  []string // the paths, in their order
}

func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.Path)
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		if resp := answer(r, body); resp != nil {
			return resp, nil
		}
		<-r.Context().Done() // it hangs
		return nil, r.Context().Err()
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	w := httptest.NewRecorder()
	s.real.ServeHTTP(w, r)
	return w.Result(), nil
}

func (s *site) set(answer func(r *http.Request, body []byte) *http.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// paths gives what was asked for since the last time.
func (s *site) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.asked
	s.asked = nil
	return all
}

func says(status int, body string, headers ...string) *http.Response {
	w := httptest.NewRecorder()
	for i := 0; i < len(headers); i += 2 {
		w.Header().Set(headers[i], headers[i+1])
	}
	w.WriteHeader(status)
	_, _ = w.WriteString(body)
	return w.Result()
}

// sharing opens n queues to one Data API, each for a stream of its own.
func sharing(t *testing.T, n int, o Options) (*site, []*Queue) {
	t.Helper()
	real := dataapi.New(dataapi.Options{})
	s := &site{real: real.Handler()}
	o.HTTPClient, o.Shared = &http.Client{Transport: s}, &Shared{}
	queues := make([]*Queue, n)
	for i := range queues {
		o.Name = stream(i)
		q, err := Open(measure.Target{Kind: measure.DataAPI, Address: "http://site/base"}, o)
		require.NoError(t, err)
		queues[i] = q
	}
	s.real = http.StripPrefix("/base", s.real)
	return s, queues
}

func stream(i int) string { return fmt.Sprintf("inst-%d", i) }

// enqueueEach has every queue send a point of its own stream.
func enqueueEach(queues []*Queue, value int) {
	for i, q := range queues {
		p := point(value)
		p.Instrumentation = stream(i)
		q.Enqueue([]measure.Point{p})
	}
}

func closeAll(t *testing.T, queues []*Queue) {
	for _, q := range queues {
		closeQueue(t, q)
	}
}

// kept is how many events the site has of a stream.
func (s *site) kept(i int) int {
	w := httptest.NewRecorder()
	s.real.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/base/"+stream(i)+"/data", nil))
	if w.Code != http.StatusOK {
		return 0
	}
	return strings.Count(w.Body.String(), "\n")
}

func TestQueuesThatShareSendInOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, queues := sharing(t, 50, quick())
		for tick := range 3 {
			enqueueEach(queues, tick)
			synctest.Wait()
			require.Equal(t, []string{"/base/data"}, s.paths(), "nothing is waited for when all are there")
			for i, q := range queues {
				require.EqualValues(t, tick+1, q.Stats().Sent)
				require.True(t, q.Stats().Connected)
				require.Equal(t, tick+1, s.kept(i))
			}
		}
		began := time.Now()
		enqueueEach(queues[:20], 3)
		awaitStats(t, queues[0], "it is sent", func(s Stats) bool { return s.Sent == 4 })
		require.LessOrEqual(t, time.Since(began), gatherFor+time.Millisecond, "nor is anything for long when some have nothing")
		require.Equal(t, []string{"/base/data"}, s.paths())

		enqueueEach(queues[:1], 4)
		awaitStats(t, queues[0], "it is sent", func(s Stats) bool { return s.Sent == 5 })
		require.Equal(t, []string{"/base/inst-0/data"}, s.paths(), "one alone comes in the form that every Data API knows")
		closeAll(t, queues)
	})
}

func TestEachQueueHearsWhatBecameOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.jitter = func(d time.Duration) time.Duration { return d }
		s, queues := sharing(t, 4, o)
		s.set(func(r *http.Request, body []byte) *http.Response {
			var all dataapi.TogetherAnswer
			for line := range strings.Lines(string(body)) {
				var head dataapi.TogetherHead
				if json.Unmarshal([]byte(line), &head) != nil || head.Events == 0 {
					continue
				}
				switch head.Stream {
				case stream(1):
					all.Batches = append(all.Batches, dataapi.Outcome{Status: 400, Error: "I do not like it"})
				case stream(2):
					all.Batches = append(all.Batches, dataapi.Outcome{Status: 503, Error: "too many streams", RetryAfter: 60})
				default:
					all.Batches = append(all.Batches, dataapi.Outcome{Accepted: 1})
				}
			}
			text, err := json.Marshal(all)
			if err != nil {
				return says(500, err.Error())
			}
			return says(200, string(text))
		})
		enqueueEach(queues, 0)
		synctest.Wait()
		for i, want := range []Stats{{Sent: 1}, {Dropped: 1}, {Queued: 1}, {Sent: 1}} {
			got := queues[i].Stats()
			requireSum(t, got)
			require.Equal(t, want.Sent, got.Sent, i)
			require.Equal(t, want.Dropped, got.Dropped, i)
			require.Equal(t, want.Queued, got.Queued, i)
		}
		require.Equal(t, map[string]int64{ReasonRefused: 1}, queues[1].Stats().DroppedFor)
		require.Contains(t, queues[1].Stats().LastRefusal, "I do not like it")
		require.Contains(t, queues[2].Stats().LastError, "too many streams")
		require.True(t, queues[3].Stats().Connected)

		s.set(nil)
		began := time.Now()
		inItsTime(t, queues[2], func(s Stats) bool { return s.Sent == 1 })
		require.WithinDuration(t, began.Add(time.Minute), time.Now(), time.Second, "as long as it was asked to wait")
		closeAll(t, queues)
	})
}

// inItsTime is awaitStats for a bubble, where minutes cost nothing.
func inItsTime(t *testing.T, q *Queue, ok func(Stats) bool) {
	t.Helper()
	for range 100_000 {
		if ok(q.Stats()) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Failf(t, "never", "%+v", q.Stats())
}

func TestARefusalOfAllTogetherIsToldToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.jitter = func(d time.Duration) time.Duration { return d }
		for _, c := range []struct {
			status int
			wait   time.Duration
		}{{503, 7 * time.Second}, {401, misconfigWait}} {
			s, queues := sharing(t, 3, o)
			s.set(func(*http.Request, []byte) *http.Response { return says(c.status, "away", "Retry-After", "7") })
			enqueueEach(queues, 0)
			synctest.Wait()
			require.Equal(t, []string{"/base/data"}, s.paths())
			for _, q := range queues {
				require.Contains(t, q.Stats().LastError, "away")
				require.EqualValues(t, 1, q.Stats().Queued)
			}
			s.set(nil)
			began := time.Now()
			for i, q := range queues {
				inItsTime(t, q, func(s Stats) bool { return s.Sent == 1 })
				require.Equal(t, 1, s.kept(i))
			}
			require.WithinDuration(t, began.Add(c.wait), time.Now(), time.Second)
			closeAll(t, queues)
		}
	})
}

func TestADataAPIThatKnowsNothingOfItIsSparedSharedRequests(t *testing.T) {
	for name, odd := range map[string]*http.Response{
		"no such path": says(404, "not found"), "no such method": says(405, ""), "a refusal": says(400, "what is this?"),
		"an answer of its own": says(200, `{"ok":true}`), "too few outcomes": says(202, `{"batches":[{"accepted":1}]}`),
	} {
		synctest.Test(t, func(t *testing.T) {
			s, queues := sharing(t, 3, quick())
			together := 0
			s.set(func(r *http.Request, body []byte) *http.Response {
				if r.URL.Path == "/base/data" {
					together++
					return says(odd.StatusCode, bodyOf(odd))
				}
				w := httptest.NewRecorder()
				r.Body = io.NopCloser(bytes.NewReader(body))
				s.real.ServeHTTP(w, r)
				return w.Result()
			})
			for tick := range 5 {
				enqueueEach(queues, tick)
				synctest.Wait()
			}
			for i, q := range queues {
				require.EqualValues(t, 5, q.Stats().Sent, name)
				require.Zero(t, q.Stats().Dropped, name)
				require.Equal(t, 5, s.kept(i), name)
			}
			require.Equal(t, 1, together, name)
			time.Sleep(apartFor)
			enqueueEach(queues, 5)
			synctest.Wait()
			require.Equal(t, 2, together, "it may have learned: "+name)
			closeAll(t, queues)
		})
	}
}

func bodyOf(r *http.Response) string {
	text, _ := io.ReadAll(r.Body) // of a recorder
	r.Body = io.NopCloser(bytes.NewReader(text))
	return string(text)
}

func TestWhatIsTooMuchTogetherGoesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, queues := sharing(t, 3, quick())
		s.set(func(r *http.Request, body []byte) *http.Response {
			if bytes.Count(body, []byte("\n")) > 3 {
				return says(413, "too large")
			}
			w := httptest.NewRecorder()
			r.Body = io.NopCloser(bytes.NewReader(body))
			s.real.ServeHTTP(w, r)
			return w.Result()
		})
		enqueueEach(queues, 0)
		synctest.Wait()
		require.Len(t, s.paths(), 4)
		for i, q := range queues {
			require.EqualValues(t, 1, q.Stats().Sent)
			require.Equal(t, 1, s.kept(i))
		}
		closeAll(t, queues)
	})
}

func TestAQueueThatClosesWaitsForNobodyElsesRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, queues := sharing(t, 3, quick())
		s.set(func(*http.Request, []byte) *http.Response { return nil })
		enqueueEach(queues, 0)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorContains(t, queues[0].Close(ctx), "1 points were neither sent nor spooled")
		require.Equal(t, time.Second, time.Since(began))
		inItsTime(t, queues[1], func(s Stats) bool { return s.LastError != "" })
		require.WithinDuration(t, began.Add(maxSendTime), time.Now(), time.Second, "the others give it its time")
		require.Contains(t, queues[1].Stats().LastError, "did not answer in time")
		s.set(nil)
		for i, q := range queues[1:] {
			inItsTime(t, q, func(s Stats) bool { return s.Sent == 1 })
			require.Equal(t, 1, s.kept(i+1))
		}
		closeAll(t, queues[1:])
		require.Empty(t, queues[1].opts.Shared.posts, "the last has left nothing")
	})
}

func TestQueuesOfOtherHeadersOrAddressesShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{}
		var seen []string
		s.set(func(r *http.Request, _ []byte) *http.Response {
			seen = append(seen, r.Header.Get("Authorization"))
			return says(200, `{"accepted":1}`)
		})
		o := quick()
		o.HTTPClient, o.Shared = &http.Client{Transport: s}, &Shared{}
		var queues []*Queue
		for _, token := range []string{"a", "b"} {
			q, err := Open(measure.Target{Kind: measure.DataAPI, Address: "http://site/base", Headers: map[string]string{"Authorization": token}}, o)
			require.NoError(t, err)
			queues = append(queues, q)
			enqueueEach([]*Queue{q}, 0)
			synctest.Wait()
		}
		require.Equal(t, []string{"a", "b"}, seen)
		require.Equal(t, []string{"/base/inst-0/data", "/base/inst-0/data"}, s.paths())
		closeAll(t, queues)
	})
}

// Over a real network, with answers that get lost, an outage, spools and another life.
func TestQueuesThatShareLoseAndDoubleNothing(t *testing.T) {
	d, url := dataServer(t)
	d.set(false, rand.New(rand.NewPCG(5, 6)))
	o := quick()
	o.Dir, o.SpoolAfter, o.BatchSize, o.Shared = t.TempDir(), time.Millisecond, 7, &Shared{}
	const streams, each = 8, 60
	life := func(from, to int, until func(Stats) bool) {
		queues := make([]*Queue, streams)
		for i := range queues {
			o.Name = stream(i)
			q, err := Open(measure.Target{Kind: measure.DataAPI, Address: url}, o)
			require.NoError(t, err)
			queues[i] = q
		}
		for value := from; value < to; value++ {
			enqueueEach(queues, value)
		}
		for _, q := range queues {
			awaitStats(t, q, "it fares as expected", until)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, q := range queues {
			require.NoError(t, q.Close(ctx))
		}
	}
	life(0, each, func(s Stats) bool { return s.Sent >= each/2 })
	d.set(true, nil)
	life(each, 2*each, func(s Stats) bool { return s.Spooled > 0 && s.Sent == 0 })
	d.set(false, rand.New(rand.NewPCG(7, 8)))
	life(2*each, 3*each, func(s Stats) bool { return s.Queued == 0 })
	for i := range streams {
		requireEachOnce(t, received(t, url, stream(i)), 0, 3*each)
	}
}
