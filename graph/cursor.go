package graph

import (
	"encoding/base64"
	"fmt"

	"github.com/google/uuid"

	"iapi/graph/model"
	"iapi/instrumentation"
)

// A cursor is base64url of the version of its format, the kind of list, and the key of the item in that list. Clients get
// it back to us and know nothing of that.
const cursorVersion = '1'

// The kinds of lists. A cursor of one list is not taken for one of another.
const (
	byInstrumentation = 'i'
	byVM              = 'v'
	byHost            = 'h'
	byEntry           = 'a'
)

const maxCursor = 256

func cursor(kind byte, key string) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{cursorVersion, kind}, key...))
}

func parseCursor(kind byte, text string) (string, error) {
	if len(text) > maxCursor {
		return "", badRequest("this is no cursor of ours: %.20q…", text)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < 3 || raw[0] != cursorVersion || raw[1] != kind || cursor(kind, string(raw[2:])) != text {
		return "", badRequest("this is no cursor of this list: %q", text)
	}
	key := string(raw[2:])
	if kind == byVM || kind == byHost {
		if _, err := uuid.Parse(key); err != nil {
			return "", badRequest("this is no cursor of this list: %q", text)
		}
	}
	return key, nil
}

// pageOf reads the arguments of a connection.
func pageOf(kind byte, first, last *int, after, before *string) (instrumentation.Page, error) {
	var p instrumentation.Page
	var err error
	switch {
	case first != nil && last != nil:
		return p, badRequest("give first or last, not both")
	case first != nil:
		p.First, err = size("first", *first)
	case last != nil:
		p.Last, err = size("last", *last)
	default:
		p.First = instrumentation.DefaultPage
	}
	if err == nil && after != nil {
		p.After, err = parseCursor(kind, *after)
	}
	if err == nil && before != nil {
		p.Before, err = parseCursor(kind, *before)
	}
	return p, err
}

func size(name string, n int) (int, error) {
	if n < 1 || n > instrumentation.MaxPage {
		return 0, badRequest("%s is between 1 and %d", name, instrumentation.MaxPage)
	}
	return n, nil
}

func pageInfo[E any](edges []E, next, previous bool, cursorOf func(E) string) model.PageInfo {
	info := model.PageInfo{HasNextPage: next, HasPreviousPage: previous}
	if len(edges) > 0 {
		start, end := cursorOf(edges[0]), cursorOf(edges[len(edges)-1])
		info.StartCursor, info.EndCursor = &start, &end
	}
	return info
}

func badRequest(format string, args ...any) error {
	return fmt.Errorf("%w: %s", instrumentation.ErrBadRequest, fmt.Sprintf(format, args...))
}
