package session

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"iapi/graph/agentdoc"
)

func TestADocumentIsReadAsEncodingJSONReadsIt(t *testing.T) {
	frame, _ := benchDocument(3)
	var last items // which has some of the next document, and not all
	for _, change := range [][2]string{
		{"", ""},
		{`"prefix":null`, `"prefix":"a\u00e4\n\"b"`},
		{`"headers":{}`, `"headers":{"Authorization":"Bearer ä","X\tY":""}`},
		{`"transport":"HTTP"`, `"transport":null`},
		{`"owner":"11111111-2222-4333-8444-555555555555"`, `"owner":null`},
		{`"expiresAt":"2026-11-22T22:00:00.000Z"`, `"expiresAt":null`},
		{`"decompositions":["cpumode"]`, `"decompositions":[]`},
		{`"decompositions":["cpumode"]`, `"decompositions":null`},
		{`"revision":1`, `"later":{"a":[1,{"b":"}]"}]},"revision":2147483647`},
		{`,`, " ,\n\t"},
	} {
		text := []byte(strings.ReplaceAll(string(frame), change[0], change[1]))
		if change[0] == "" {
			text = bytes.Clone(frame)
		}
		var want struct {
			ID, Type string
			Payload  struct{ Data agentdoc.AssignmentsData }
		}
		require.NoError(t, json.Unmarshal(text, &want))
		f, err := readFrame(text)
		require.NoError(t, err)
		require.Equal(t, want.ID, f.ID)
		require.Equal(t, want.Type, f.Type)
		got, err := last.readEvent(f.Payload)
		require.NoError(t, err)
		require.Equal(t, want.Payload.Data.Assignments, got, "%s", change[1])
		clear(text)
		require.Equal(t, want.Payload.Data.Assignments, got, "nothing of it is a part of the message, whose memory is used again")
	}
}

// FuzzDocuments: whatever encoding/json reads of a document is read, and the same.
func FuzzDocuments(f *testing.F) {
	text, _ := benchDocument(1)
	document := text[bytes.Index(text, []byte(`{"__typename"`)) : len(text)-3]
	for _, seed := range []string{string(document), `{"host":null,"version":null}`, `{"instrumentations":[{"targets":[{"headers":{"a":"\ud800"}}],"revision":01}]}`,
		`{"version":{"generation":-0}}`, `{"a":[}]}`, `null`, `{"sentAt":"2026-11-22T20:00:00Z" }x`, "{\"host\":\"\\", "{\"version\":{\"hash\":\"\x00\xff\"}}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var last items
		_, _ = last.readAssignment(document)
		got, err := last.readAssignment(text)
		var want agentdoc.Event
		// What is not of the document is only passed over, so that more than encoding/json takes is taken, but nothing less.
		if json.Unmarshal(text, &want) != nil || !unambiguous(t, text) {
			return
		}
		require.NoError(t, err)
		require.Equal(t, want.Assignment, got)
		again, err := last.readAssignment(text)
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}

// unambiguous tells that no name comes twice in an object, and none in other letters than are meant: encoding/json adds up
// the first, and takes the second.
func unambiguous(t *testing.T, text []byte) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	type level struct {
		object bool
		names  map[string]bool
		value  bool
	}
	var levels []*level
	for {
		token, err := d.Token()
		if err == io.EOF {
			return true
		}
		require.NoError(t, err)
		var top *level
		if len(levels) > 0 {
			top = levels[len(levels)-1]
		}
		if name, is := token.(string); is && top != nil && top.object && !top.value {
			folded := strings.ToLower(name)
			if top.names[folded] || folded != name && name != "definitionDigest" && name != "wholeHost" && name != "granularitySeconds" &&
				name != "expiresAt" && name != "sentAt" || strings.ContainsFunc(name, func(r rune) bool { return r > 0x7f }) {
				return false
			}
			top.names[folded], top.value = true, true
			continue
		}
		if top != nil {
			top.value = false
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			levels = append(levels, &level{object: token == json.Delim('{'), names: map[string]bool{}})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
	}
}
