package instrumentation

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	idPrefix  = "i-"
	idBytes   = 12 // 48 bits of milliseconds since 1970, then 48 random bits
	idEncoded = 20
)

// idEncoding keeps the order of the bytes in the order of the text.
var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// NewID makes an ID for something created at the given time: "i-" and 20 characters of 0-9 and a-v. IDs of different
// milliseconds sort by time. entropy is read for 6 bytes; use crypto/rand.Reader.
func NewID(at time.Time, entropy io.Reader) (ID, error) {
	var b [8 + 6]byte
	binary.BigEndian.PutUint64(b[:8], uint64(at.UnixMilli()))
	if _, err := io.ReadFull(entropy, b[8:]); err != nil {
		return "", fmt.Errorf("read entropy for an id: %w", err)
	}
	return ID(idPrefix + strings.ToLower(idEncoding.EncodeToString(b[2:]))), nil
}

// ParseID checks that a text has the form of an ID. Each ID has exactly one form.
func ParseID(text string) (ID, error) {
	rest, ok := strings.CutPrefix(text, idPrefix)
	if !ok || len(rest) != idEncoded || strings.ToLower(rest) != rest {
		return "", errBadID
	}
	upper := strings.ToUpper(rest)
	raw, err := idEncoding.DecodeString(upper)
	// The last character holds one bit only; the decoder ignores the other four.
	if err != nil || len(raw) != idBytes || idEncoding.EncodeToString(raw) != upper {
		return "", errBadID
	}
	return ID(text), nil
}

var errBadID = fmt.Errorf("an id is %q and %d characters of 0-9 and a-v", idPrefix, idEncoded)

// CreatedAt returns the time that the ID was made for, in milliseconds, and the zero time for a malformed one.
func (id ID) CreatedAt() time.Time {
	if _, err := ParseID(string(id)); err != nil {
		return time.Time{}
	}
	raw, _ := idEncoding.DecodeString(strings.ToUpper(string(id[len(idPrefix):])))
	return time.UnixMilli(int64(binary.BigEndian.Uint64(append([]byte{0, 0}, raw[:6]...)))).UTC()
}
