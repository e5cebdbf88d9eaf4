package model

import (
	"encoding/json"
	"io"

	"iapi/graph/scalar"
)

// RawObject is an input object as GraphQL has coerced it: maps, lists, strings, numbers and booleans.
type RawObject map[string]any

// UnmarshalGQL takes the object as it is.
func (o *RawObject) UnmarshalGQL(v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return scalar.Error("an object is expected")
	}
	*o = m
	return nil
}

// MarshalGQL writes the object as JSON.
func (o RawObject) MarshalGQL(w io.Writer) {
	_ = json.NewEncoder(w).Encode(map[string]any(o)) // a buffer, and only what JSON knows
}
