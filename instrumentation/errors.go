package instrumentation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Errors of a Service, for errors.Is, beside those of a Store.
var (
	ErrUnauthenticated = errors.New("nobody has said who calls")
	ErrForbidden       = errors.New("the caller may not do this")
	ErrBadRequest      = errors.New("the request makes no sense")
)

// badRequest makes an error whose text may be shown to the caller.
func badRequest(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadRequest, fmt.Sprintf(format, args...))
}

// Code is what kind of mistake a UserError is, as the schema names it.
type Code string

// The kinds of mistakes.
const (
	CodeUnknownMetric       Code = "UNKNOWN_METRIC"
	CodeUnknownField        Code = "UNKNOWN_FIELD"
	CodeTypeMismatch        Code = "TYPE_MISMATCH"
	CodeInvalidPredicate    Code = "INVALID_PREDICATE"
	CodeInvalidScope        Code = "INVALID_SCOPE"
	CodeInvalidTarget       Code = "INVALID_TARGET"
	CodeScopeForbidden      Code = "SCOPE_FORBIDDEN"
	CodeLimitExceeded       Code = "LIMIT_EXCEEDED"
	CodeTTLExceeded         Code = "TTL_EXCEEDED"
	CodeRevisionConflict    Code = "REVISION_CONFLICT"
	CodeIdempotencyConflict Code = "IDEMPOTENCY_CONFLICT"
	CodePreviewStale        Code = "PREVIEW_STALE"
	CodeCountMismatch       Code = "COUNT_MISMATCH"
	CodeNotFound            Code = "NOT_FOUND"
	CodeUnavailable         Code = "UNAVAILABLE" // no mistake of the caller's: asking again may do it
)

// UserError is a mistake that the caller can mend. Message is fit to be shown to the caller.
type UserError struct {
	Code    Code
	Message string
	Path    []string // from the input's root, for example scope, and, 1, vmTag, key
}

// UserErrors is every mistake of one call. It is an error; use errors.As to get at the mistakes.
type UserErrors []UserError

// Error names all mistakes, each with its path.
func (e UserErrors) Error() string {
	texts := make([]string, len(e))
	for i, one := range e {
		texts[i] = strings.Join(one.Path, ".") + ": " + one.Message
	}
	return strings.Join(texts, "; ")
}

// Is makes errors.Is find the Store's error that a mistake stands for.
func (e UserErrors) Is(target error) bool {
	var code Code
	switch target {
	case ErrNotFound:
		code = CodeNotFound
	case ErrRevision:
		code = CodeRevisionConflict
	case ErrIdempotency:
		code = CodeIdempotencyConflict
	case ErrQuota:
		code = CodeLimitExceeded
	default:
		return false
	}
	return slices.ContainsFunc(e, func(one UserError) bool { return one.Code == code })
}

// orNil returns a nil error when there are no mistakes.
func (e UserErrors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// under returns the mistakes with their paths put below the given ones.
func (e UserErrors) under(path ...string) UserErrors {
	out := make(UserErrors, len(e))
	for i, one := range e {
		one.Path = append(slices.Clone(path), one.Path...)
		out[i] = one
	}
	return out
}

// collector gathers mistakes.
type collector struct{ found UserErrors }

func (c *collector) add(code Code, path []string, format string, args ...any) {
	c.found = append(c.found, UserError{Code: code, Path: slices.Clone(path), Message: fmt.Sprintf(format, args...)})
}

// mistake is one UserError as an error.
func mistake(code Code, path, format string, args ...any) error {
	return UserErrors{{Code: code, Path: []string{path}, Message: fmt.Sprintf(format, args...)}}
}
