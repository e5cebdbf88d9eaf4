package dataapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/dataapi"
)

func head(stream, key string, events int) string {
	return fmt.Sprintf(`{"stream":%q,"key":%q,"events":%d}`, stream, key, events)
}

func TestBatchesOfSeveralStreamsComeInOneBody(t *testing.T) {
	_, url := serve(t, dataapi.Options{MaxStreams: 3})
	post(t, url+"/c/data", "seen", line(9, ""))
	body := strings.Join([]string{
		head("a", "1", 2), line(1, `,"stream":"a"`), line(2, `,"events":"2"`),
		head("b", "1", 2), line(3, ""), "nonsense",
		"", head("c", "seen", 1), line(9, ""),
		head("a", "", 1), line(4, ""),
		head("d", "1", 1), line(5, ""),
		head("e", "1", 1), line(6, ""),
	}, "\n")
	status, answer := post(t, url+"/data", "", body, "Content-Type", "application/x-ndjson")
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"batches":[
		{"accepted":2},
		{"accepted":0,"status":400,"error":"nothing was stored: not every line is an event","lines":[{"line":6,"error":"not a JSON object"}]},
		{"accepted":1,"duplicate":true},
		{"accepted":1},
		{"accepted":1},
		{"accepted":0,"status":503,"error":"there are too many streams","retryAfter":60}
	]}`, answer)
	_, kept, _ := get(t, url+"/a/data")
	require.Equal(t, 3, strings.Count(kept, "\n"))
	status, _, _ = get(t, url+"/b/data")
	require.Equal(t, 404, status, "nothing of it was stored")

	// A batch keeps its key whichever way it comes.
	_, answer = post(t, url+"/a/data", "1", line(1, ""))
	require.JSONEq(t, `{"accepted":2,"duplicate":true}`, answer)
	_, answer = post(t, url+"/data", "", head("d", "1", 1)+"\n"+line(5, ""))
	require.JSONEq(t, `{"batches":[{"accepted":1,"duplicate":true}]}`, answer)
	_, answer = post(t, url+"/data", "", "")
	require.JSONEq(t, `{"batches":[]}`, answer)
}

func TestABodyThatCannotBeTakenApartStoresNothing(t *testing.T) {
	_, url := serve(t, dataapi.Options{})
	good := head("a", "1", 1) + "\n" + line(1, "") + "\n"
	for body, want := range map[string]string{
		good + line(2, ""):                            "line 3: is not the head of a batch",
		good + head("../b", "1", 1):                   "line 3: is not the head of a batch",
		good + head("b", "1", -1):                     "line 3: is not the head of a batch",
		good + head("b", "1", 1):                      "fewer lines than its last head says",
		good + head("b", "1", 1<<62):                  "fewer lines than its last head says",
		strings.Repeat(good, 1024+1):                  "more than 1024 batches",
		good + strings.Repeat("x", 9):                 "line 3: is not the head of a batch",
		good + head("b", strings.Repeat("k", 257), 0): "line 3: is not the head of a batch",
	} {
		status, answer := post(t, url+"/data", "", body)
		require.Equal(t, 400, status, body[:min(len(body), 200)])
		require.Contains(t, answer, want)
	}
	status, _ := post(t, url+"/data", "", good, "Content-Type", "image/png")
	require.Equal(t, 415, status)
	status, _, _ = get(t, url+"/a/data")
	require.Equal(t, 404, status)
}

// FuzzTogether: whatever comes, each head has one outcome, and every accepted event is a line of the body.
func FuzzTogether(f *testing.F) {
	f.Add([]byte(head("a", "1", 1) + "\n" + line(1, "") + "\n" + head("b", "", 2) + "\n" + line(2, "") + "\n\n"))
	f.Add([]byte(head("a", "1", 3) + "\n" + head("b", "1", 1) + "\n" + line(1, "")))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := dataapi.New(dataapi.Options{})
		defer s.Close()
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/data", bytes.NewReader(body)))
		if w.Code != http.StatusOK {
			require.Equal(t, http.StatusBadRequest, w.Code)
			return
		}
		var all dataapi.TogetherAnswer
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &all))
		accepted := 0
		for _, o := range all.Batches {
			if !o.Duplicate {
				accepted += o.Accepted
			}
			require.True(t, o.Status == 0 || o.Accepted == 0)
		}
		require.LessOrEqual(t, accepted+len(all.Batches), bytes.Count(body, []byte("\n"))+1)
	})
}
