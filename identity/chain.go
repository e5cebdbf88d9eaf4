package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
)

// Chain asks one Authenticator after the other; the first that reads credentials decides. Why credentials do not hold is
// logged here, once, and hidden from the caller: the error is ErrNoCredentials, ErrBadCredentials or ErrUnavailable and
// says no more. An Authorization header that nobody reads is bad, rather than none.
func Chain(log *slog.Logger, of ...Authenticator) Authenticator { return chain{log, of} }

type chain struct {
	log *slog.Logger
	of  []Authenticator
}

func (c chain) Authenticate(r *http.Request) (Caller, error) {
	for _, a := range c.of {
		caller, err := a.Authenticate(r)
		switch {
		case err == nil:
			return caller, nil
		case errors.Is(err, ErrNoCredentials):
			continue
		case errors.Is(err, ErrBadCredentials):
			c.log.WarnContext(r.Context(), "credentials refused", "remote", r.RemoteAddr, "correlationId", CorrelationID(r.Context()), "error", err)
			return Caller{}, ErrBadCredentials
		}
		c.log.ErrorContext(r.Context(), "credentials could not be checked", "remote", r.RemoteAddr, "correlationId", CorrelationID(r.Context()), "error", err)
		return Caller{}, ErrUnavailable
	}
	if len(r.Header.Values("Authorization")) > 0 {
		c.log.WarnContext(r.Context(), "credentials refused", "remote", r.RemoteAddr, "correlationId", CorrelationID(r.Context()), "error", "nothing reads them")
		return Caller{}, ErrBadCredentials
	}
	return Caller{}, ErrNoCredentials
}

// CorrelationHeader is the header of an answer that has the id of WithCorrelationID.
const CorrelationHeader = "X-Correlation-Id"

type correlationKey struct{}

// WithCorrelationID keeps the id that the answer to a request carries, for the log.
func WithCorrelationID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// CorrelationID returns what WithCorrelationID kept, "" where it kept nothing.
func CorrelationID(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}

// bearer returns the bearer token of a request, ErrNoCredentials where there is none.
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	switch len(values) {
	case 0:
		return "", ErrNoCredentials
	case 1:
	default:
		return "", bad("the request has %d Authorization headers", len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", ErrNoCredentials
	}
	return token, nil
}

// bad makes an ErrBadCredentials that says why, for the log.
func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrBadCredentials, fmt.Errorf(format, args...))
}
