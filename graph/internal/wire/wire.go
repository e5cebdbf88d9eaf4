// Package wire encodes GraphQL responses, the same for every transport.
package wire

import (
	"encoding/json"
	"fmt"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// Append appends a response. What the executor has encoded already is taken over byte for byte. Data that is missing is
// left out for a request that was never executed, and null otherwise.
func Append(b []byte, r *graphql.Response, executed bool) ([]byte, error) {
	b = append(b, '{')
	if len(r.Errors) > 0 {
		var err error
		b = append(b, `"errors":`...)
		if b, err = AppendErrors(b, r.Errors); err != nil {
			return b, err
		}
	}
	if executed {
		if len(r.Errors) > 0 {
			b = append(b, ',')
		}
		b = append(b, `"data":`...)
		if len(r.Data) == 0 {
			b = append(b, `null`...)
		} else {
			b = append(b, r.Data...)
		}
	}
	if len(r.Extensions) > 0 {
		extensions, err := json.Marshal(r.Extensions)
		if err != nil {
			return b, fmt.Errorf("encode the extensions of a response: %w", err)
		}
		b = append(b, `,"extensions":`...)
		b = append(b, extensions...)
	}
	return append(b, '}'), nil
}

// AppendErrors appends a list of errors.
func AppendErrors(b []byte, errs gqlerror.List) ([]byte, error) {
	encoded, err := json.Marshal(errs)
	if err != nil {
		return b, fmt.Errorf("encode the errors of a response: %w", err)
	}
	return append(b, encoded...), nil
}
