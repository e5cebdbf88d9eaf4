package graph

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/errcode"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/delivery"
	"iapi/graph/model"
	"iapi/graph/scalar"
	"iapi/identity"
	"iapi/instrumentation"
)

// The codes of errors, as extensions.code.
const (
	codeUnauthenticated = "UNAUTHENTICATED"
	codeForbidden       = "FORBIDDEN"
	codeRateLimited     = "RATE_LIMITED"
	codeNotReady        = "NOT_READY"
	codeNotDurable      = "NOT_DURABLE"
	codeNotFound        = "NOT_FOUND"
	codeBadRequest      = "BAD_REQUEST"
	codeTooLarge        = "TOO_LARGE"
	codeTooComplex      = "COMPLEXITY_LIMIT_EXCEEDED"
	codeSuperseded      = "SUPERSEDED"
	codeInternal        = "INTERNAL"
)

// correlationExtension names the id of an error, beside its code.
const correlationExtension = "correlationId"

// refusal is an error whose whole text is for the caller.
type refusal struct {
	code       string
	message    string
	retryAfter time.Duration
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

func (r *refusal) gqlerror() *gqlerror.Error {
	e := &gqlerror.Error{Message: r.message, Err: r, Extensions: map[string]any{"code": r.code}}
	if r.retryAfter > 0 {
		e.Extensions["retryAfterSeconds"] = seconds(r.retryAfter)
	}
	return e
}

// seconds to the millisecond.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// sentences are what callers read of the domain's errors. Their own texts go no further than the log.
var sentences = []struct {
	err        error
	code       string
	message    string
	retryAfter time.Duration
}{
	{instrumentation.ErrUnauthenticated, codeUnauthenticated, "Say who you are: no valid credentials came with the request.", 0},
	{identity.ErrBadCredentials, codeUnauthenticated, "The credentials are not valid.", 0},
	{instrumentation.ErrForbidden, codeForbidden, "You may not do this.", 0},
	{instrumentation.ErrNotFound, codeNotFound, "There is no such thing, or you may not see it.", 0},
	{delivery.ErrUnknownHost, codeNotFound, "The inventory has no such host.", 0},
	{delivery.ErrSuperseded, codeSuperseded, "Another session is the agent of this host now.", 20 * time.Second},
	{delivery.ErrRevoked, codeForbidden, "The credential was revoked.", 0},
	{delivery.ErrNotReady, codeNotReady, "This is not ready yet; ask again.", time.Second},
	{delivery.ErrClosed, codeNotReady, "The server is about to stop; ask again.", time.Second},
	{instrumentation.ErrNotReady, codeNotReady, "This is not ready yet; ask again.", time.Second},
	{identity.ErrUnavailable, codeNotReady, "The credentials cannot be looked up now; ask again.", time.Second},
	{instrumentation.ErrNotDurable, codeNotDurable, "The change was made but is not confirmed; repeating it with its idempotency key is safe.", time.Second},
	{context.DeadlineExceeded, codeNotReady, "This took too long; ask again.", time.Second},
}

// presenter turns errors into what callers may see of them, and logs each with its correlation id.
type presenter struct{ log *slog.Logger }

// present never shows the text of an error that was not written for callers.
func (p presenter) present(ctx context.Context, err error) *gqlerror.Error {
	out := translate(err)
	if out.Path == nil {
		out.Path = graphql.GetPath(ctx)
	}
	id := correlationID(ctx)
	out.Extensions[correlationExtension] = id
	caller, _ := identity.CallerFrom(ctx)
	switch code := out.Extensions["code"]; code {
	case codeInternal:
		p.log.ErrorContext(ctx, "an operation failed", "error", err, "path", out.Path.String(), "caller", caller.ID, "correlationId", id)
	case codeBadRequest, codeTooLarge: // the texts may quote what was sent, secrets too
		p.log.InfoContext(ctx, "an operation was refused", "code", code, "path", out.Path.String(), "caller", caller.ID, "correlationId", id)
	default:
		p.log.InfoContext(ctx, "an operation was refused", "code", code, "error", err, "path", out.Path.String(), "caller", caller.ID, "correlationId", id)
	}
	return out
}

func translate(err error) *gqlerror.Error {
	var wrapped *gqlerror.Error
	if errors.As(err, &wrapped) && (wrapped.Err == nil || wrapped.Rule != "") {
		return translateRequestError(wrapped) // the request itself is wrong
	}
	out := &gqlerror.Error{Err: err, Extensions: map[string]any{}}
	if wrapped != nil {
		out.Path, out.Locations = wrapped.Path, wrapped.Locations
	}
	var refused *refusal
	var mistakes instrumentation.UserErrors
	var value scalar.Error
	switch {
	case errors.As(err, &refused):
		r := refused.gqlerror()
		out.Message, out.Extensions = r.Message, r.Extensions
	case errors.As(err, &mistakes):
		out.Message, out.Extensions["code"] = mistakes.Error(), codeBadRequest
		out.Extensions["userErrors"] = userErrors(mistakes)
	case errors.As(err, &value):
		out.Message, out.Extensions["code"] = value.Error(), codeBadRequest
	case errors.Is(err, instrumentation.ErrBadRequest):
		out.Message, out.Extensions["code"] = requestText(err), codeBadRequest
	default:
		out.Message, out.Extensions["code"] = "Something went wrong on our side.", codeInternal
		for _, s := range sentences {
			if errors.Is(err, s.err) {
				out.Message, out.Extensions["code"] = s.message, s.code
				if s.retryAfter > 0 {
					out.Extensions["retryAfterSeconds"] = seconds(s.retryAfter)
				}
				break
			}
		}
	}
	return out
}

// translateRequestError is for the errors of the parser and the validator, which are written for callers.
func translateRequestError(e *gqlerror.Error) *gqlerror.Error {
	out := *e
	out.Extensions = map[string]any{"code": codeBadRequest}
	switch code, _ := e.Extensions["code"].(string); {
	case code == codeTooComplex, code == codeInternal:
		out.Extensions["code"] = code
	case code == errcode.ParseFailed && strings.Contains(e.Message, "exceeded token limit"):
		out.Extensions["code"] = codeTooLarge
	}
	return &out
}

// requestText is what follows the sentinel in an error of badRequest.
func requestText(err error) string {
	_, text, found := strings.Cut(err.Error(), instrumentation.ErrBadRequest.Error()+": ")
	if !found || text == "" {
		return "The request makes no sense."
	}
	return text
}

// recovered is the error of a panic. It is presented as any other fault.
func recovered(_ context.Context, r any) error { return fmt.Errorf("a resolver panicked: %v", r) }

// userErrors translates the domain's mistakes. path is put before theirs.
func userErrors(mistakes instrumentation.UserErrors, path ...string) []model.UserError {
	out := make([]model.UserError, len(mistakes))
	for i, m := range mistakes {
		out[i] = model.UserError{
			Message: m.Message, Code: model.UserErrorCode(m.Code),
			Path: append(append(make([]string, 0, len(path)+len(m.Path)), path...), m.Path...),
		}
	}
	return out
}

// split takes the mistakes that the caller can mend out of an error. They come back in the payload.
func split(err error, path ...string) ([]model.UserError, error) {
	var mistakes instrumentation.UserErrors
	if errors.As(err, &mistakes) {
		return userErrors(mistakes, path...), nil
	}
	return []model.UserError{}, err
}

// withCorrelation gives everything that follows one id to be found by in the log.
func withCorrelation(ctx context.Context) context.Context {
	return identity.WithCorrelationID(ctx, correlationID(ctx))
}

func correlationID(ctx context.Context) string {
	if id := identity.CorrelationID(ctx); id != "" {
		return id
	}
	return newCorrelationID()
}

func newCorrelationID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
