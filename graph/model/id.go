package model

import (
	"encoding/base64"
	"errors"
	"strings"
)

// Global ids are a prefix that names the type, and the thing's own key in base64url without padding: the 16 bytes of a
// uuid, or the name of a metric. Instrumentations have ids of their own, "i-…", which are used as they are.
const (
	InstrumentationPrefix = "i-"
	MetricPrefix          = "m-"
	VMPrefix              = "v-"
	HostPrefix            = "h-"
)

// ErrBadID: the text is no global id.
var ErrBadID = errors.New("this is no id of anything")

// GlobalID makes a global id.
func GlobalID(prefix string, key []byte) string {
	return prefix + base64.RawURLEncoding.EncodeToString(key)
}

// ParseGlobalID splits a global id into its prefix and its key. The key of an instrumentation is the whole id.
func ParseGlobalID(s string) (prefix string, key []byte, err error) {
	if len(s) > 300 || len(s) < 3 {
		return "", nil, ErrBadID
	}
	switch prefix = s[:2]; prefix {
	case InstrumentationPrefix:
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", nil, ErrBadID
		}
		return prefix, []byte(s), nil
	case MetricPrefix, VMPrefix, HostPrefix:
		key, err = base64.RawURLEncoding.Strict().DecodeString(s[2:])
		if err != nil || (prefix != MetricPrefix && len(key) != 16) || GlobalID(prefix, key) != s {
			return "", nil, ErrBadID // the decoder passes over line breaks
		}
		return prefix, key, nil
	}
	return "", nil, ErrBadID
}
