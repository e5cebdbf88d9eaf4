// Package identity knows who calls: it turns the credentials of a request into a Caller, and everything behind that
// door knows only the Caller.
package identity

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// Kind is what a caller is; it decides what the rules allow.
type Kind string

// The kinds of callers.
const (
	Operator Kind = "operator" // runs the datacenter
	Service  Kind = "service"  // cloudapi: acts for an account
	Tenant   Kind = "tenant"   // an account itself
	Workflow Kind = "workflow" // may hint that a VM has changed, and ask for a refresh
	Agent    Kind = "agent"    // the agent of one host
)

// Caller is who calls.
type Caller struct {
	ID      string    // for audit and rate limits, for example "operator:alice"
	Kind    Kind      //
	Owner   uuid.UUID // the account of a tenant; Nil for others
	Scopes  []string  // what the token allows beyond its kind
	Host    uuid.UUID // the host of an agent; Nil for others
	Expires time.Time // when the credential lapses; zero: never
}

// Errors of an Authenticator.
var (
	// ErrNoCredentials: the request carries none that this Authenticator reads; another may.
	ErrNoCredentials = errors.New("no credentials")
	// ErrBadCredentials: it carries some, and they do not hold.
	ErrBadCredentials = errors.New("credentials are not valid")
)

// Authenticator finds out who calls. It returns ErrNoCredentials or an error that wraps ErrBadCredentials.
type Authenticator interface {
	Authenticate(r *http.Request) (Caller, error)
}

type callerKey struct{}

// WithCaller puts the caller into the context.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom takes the caller out of the context.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// ErrUnavailable: it carries credentials that could not be looked up; trying again may help.
var ErrUnavailable = errors.New("credentials could not be checked")

// CanServe reports whether the caller is the agent of the host.
func (c Caller) CanServe(host uuid.UUID) bool {
	return c.Kind == Agent && host != uuid.Nil && c.Host == host
}

// Lapsed reports whether the credential has expired.
func (c Caller) Lapsed(now time.Time) bool { return !c.Expires.IsZero() && !now.Before(c.Expires) }
