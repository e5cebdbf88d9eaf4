package measure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// String shows the value as predicates' texts do: strings quoted, numbers plain.
func (v Value) String() string {
	if v.isN {
		return strconv.FormatInt(v.num, 10)
	}
	return strconv.Quote(v.str)
}

// MarshalJSON writes a string or an integer.
func (v Value) MarshalJSON() ([]byte, error) {
	if v.isN {
		return strconv.AppendInt(nil, v.num, 10), nil
	}
	return json.Marshal(v.str)
}

// UnmarshalJSON reads a string, or an integer within 64 bits that is written without fraction and exponent.
func (v *Value) UnmarshalJSON(data []byte) error {
	if err := checkText(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	token, err := dec.Token()
	if err != nil {
		return fmt.Errorf("read a value: %w", err)
	}
	value, err := valueOf(token)
	if err != nil {
		return err
	}
	*v = value
	return nil
}

// valueOf turns a JSON token into a value.
func valueOf(token json.Token) (Value, error) {
	switch t := token.(type) {
	case string:
		return String(t), nil
	case json.Number:
		n, err := strconv.ParseInt(t.String(), 10, 64)
		// ParseInt takes "-0", which is no integer that anybody means.
		if err != nil || t == "-0" {
			return Value{}, fmt.Errorf("%s is not an integer within 64 bits; write it without fraction and exponent", shorten(t.String()))
		}
		return Int(n), nil
	default:
		return Value{}, fmt.Errorf("a value is a string or an integer")
	}
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
