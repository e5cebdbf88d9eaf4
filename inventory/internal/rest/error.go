package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"iapi/inventory"
)

// Error is an answer other than 200.
type Error struct {
	Status  int
	Code    string // "" when the body names none
	Message string // shortened

	class error
}

func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("status %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("status %d, %s: %s", e.Status, e.Code, e.Message)
}

// Unwrap returns inventory.ErrUnavailable, inventory.ErrNotFound, or nil for a permanent error.
func (e *Error) Unwrap() error { return e.class }

func newError(status int, body []byte) *Error {
	e := &Error{Status: status}
	var answer struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Errors  []struct {
			Field   string `json:"field"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &answer) == nil {
		e.Code, e.Message = answer.Code, answer.Message
		for _, each := range answer.Errors {
			e.Message += fmt.Sprintf(" (%s: %s)", each.Field, each.Message)
		}
	} else {
		e.Message = string(body)
	}
	e.Message = shorten(e.Message)
	e.class = e.classify()
	return e
}

// classify tells an outage from a refusal. The services answer both with 500; a refusal of the data base names the
// filter in its text, one of CNAPI has a code. Only a 404 that the service wrote itself, with its code, is evidence
// that something is gone; any other comes from something between.
func (e *Error) classify() error {
	switch {
	case e.Status == http.StatusNotFound && e.Code == "ResourceNotFound":
		return inventory.ErrNotFound
	case e.Status == http.StatusNotFound, e.Status == http.StatusTooManyRequests, e.Status == http.StatusRequestTimeout:
		return inventory.ErrUnavailable
	case e.Status == http.StatusInternalServerError:
		if e.Code != "" || strings.Contains(e.Message, "is an invalid filter") ||
			strings.Contains(e.Message, "does not have indexes that support") {
			return nil
		}
		return inventory.ErrUnavailable
	case e.Status > http.StatusInternalServerError:
		return inventory.ErrUnavailable
	}
	return nil
}

func shorten(s string) string {
	const most = 500
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
