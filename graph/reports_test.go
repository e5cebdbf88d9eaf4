package graph_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

var correlated = regexp.MustCompile(`"correlationId":"[^"]*"`)

// TestReportsAreAnsweredAsTheExecutorDoes sends reports word for word as agents do, and in another spelling that only the
// executor knows, good ones and bad ones. Answers and what is stored are the same.
func TestReportsAreAnsweredAsTheExecutorDoes(t *testing.T) {
	host, session, zone := uuid.New(), uuid.New(), uuid.New()
	good := `{"host":"HOST","session":"SESSION","sequence":7,"agentVersion":"1.2","capabilities":["procfs"],` +
		`"applied":{"epoch":"0000000000000001","generation":3,"hash":"h"},"instrumentations":[` +
		`{"id":"i-1","revision":2,"status":"RUNNING","lastSampleAt":"2026-01-02T03:04:05.678+01:00"},` +
		`{"id":"i-2","revision":1,"status":"FAILED","message":"no \u00e9","vmFailures":[{"vm":"ZONE","status":"DENIED","message":"x"},{"vm":"HOST","status":"PENDING"}]}],` +
		`"targets":[{"instrumentation":"i-1","target":0,"connected":true,"queued":5,"dropped":0,"lastSuccessAt":"2026-01-02T03:04:05Z"},` +
		`{"instrumentation":"i-2","target":1,"connected":false,"queued":1,"dropped":2,"lastError":"refused"}]}`
	for name, input := range map[string]string{
		"whole":                     good,
		"little":                    `{"host":"HOST","session":"SESSION","sequence":0,"agentVersion":"","capabilities":[],"instrumentations":[]}`,
		"nulls where they may be":   `{"host":"HOST","session":"SESSION","sequence":1,"agentVersion":"1","capabilities":[],"applied":null,"targets":null,"instrumentations":[{"id":"i-1","revision":1,"status":"PENDING","message":null,"lastSampleAt":null,"vmFailures":null}]}`,
		"another host":              strings.Replace(good, "HOST", uuid.NewString(), 1),
		"no session":                strings.Replace(good, "SESSION", uuid.Nil.String(), 1),
		"a sequence below zero":     strings.Replace(good, `"sequence":7`, `"sequence":-1`, 1),
		"a sequence that is wide":   strings.Replace(good, `"sequence":7`, `"sequence":2147483648`, 1),
		"a sequence that is text":   strings.Replace(good, `"sequence":7`, `"sequence":"7"`, 1),
		"a number that is wide":     strings.Replace(good, `"queued":5`, `"queued":2147483648`, 1),
		"a uuid in braces":          strings.Replace(good, `"ZONE"`, `"{ZONE}"`, 1),
		"a uuid without dashes":     strings.Replace(good, "SESSION", strings.ReplaceAll(session.String(), "-", ""), 1),
		"a uuid that is a number":   strings.Replace(good, `"SESSION"`, `5`, 1),
		"a time before year 0":      strings.Replace(good, "2026-01-02T03:04:05.678", "0000-01-01T00:00:00", 1),
		"an unknown status":         strings.Replace(good, "RUNNING", "WALKING", 1),
		"a status in small letters": strings.Replace(good, "RUNNING", "running", 1),
		"an unknown member":         strings.Replace(good, `"sequence"`, `"extra":1,"sequence"`, 1),
		"nothing":                   `null`,
		"a member is missing":       strings.Replace(good, `"agentVersion":"1.2",`, ``, 1),
		"a null in a list":          strings.Replace(good, `["procfs"]`, `[null]`, 1),
		"a null where none may be":  strings.Replace(good, `"capabilities":["procfs"]`, `"capabilities":null`, 1),
		"a bad time":                strings.Replace(good, "2026-01-02T03:04:05Z", "yesterday", 1),
		"too many":                  strings.Replace(good, `["procfs"]`, `[`+strings.Repeat(`"a",`, 2000)+`"a"]`, 1),
		"an id that is a number":    strings.Replace(good, `"id":"i-1"`, `"id":1`, 1),
		"a generation with a dot":   strings.Replace(good, `"generation":3`, `"generation":3.0`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			input := strings.NewReplacer("HOST", host.String(), "SESSION", session.String(), "ZONE", zone.String()).Replace(input)
			answers, stored := make(map[string][]string), make(map[string]any)
			for path, query := range map[string]string{"known": agentdoc.Report, "executor": agentdoc.Report + " "} {
				a := newAPI(t)
				a.serve(host, nil)
				p := a.ready(t, a.agent(host))
				p.subscribe("op", query, map[string]any{"input": json.RawMessage(input)})
				for !strings.Contains(strings.Join(answers[path], ""), `"type":"complete"`) && !strings.Contains(strings.Join(answers[path], ""), `"type":"error"`) {
					answers[path] = append(answers[path], correlated.ReplaceAllString(p.hear(), ""))
				}
				stored[path] = a.source.Reports()
			}
			require.Equal(t, answers["executor"], answers["known"])
			require.Equal(t, stored["executor"], stored["known"])
		})
	}
}

func TestARevokedAgentIsDisconnectedWithoutASubscriptionToo(t *testing.T) {
	eachLink(t, func(t *testing.T, newAPI newDoor) {
		a := newAPI(t)
		host, other := uuid.New(), uuid.New()
		a.serve(host, nil)
		a.serve(other, nil)
		revoked, stays := a.ready(t, a.agent(host)), a.ready(t, a.agent(other))
		a.source.Revoke(host)
		code, reason := revoked.closes()
		require.Equal(t, agentdoc.CloseExpired, code)
		require.Equal(t, "The credential was revoked", reason)
		stays.subscribe("a", agentdoc.Assignments, known(other, uuid.New(), nil))
		require.Contains(t, stays.hear(), `"type":"next"`)
	})
}
