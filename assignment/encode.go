package assignment

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"iapi/measure"
)

// Encode returns the canonical bytes of a document's list of instrumentations, and their hash: 32 hex digits of a
// SHA-256. The bytes are what the agents' subscription selects, in its order, without white space. A document that Build
// made is in canonical order already.
func Encode(d Document) (body []byte, hash string) {
	body = make([]byte, 0, 64+512*len(d.Instrumentations))
	body = append(body, '[')
	for i := range d.Instrumentations {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendItem(body, &d.Instrumentations[i])
	}
	body = append(body, ']')
	return body, Hash(body)
}

// Hash returns the hash of canonical bytes.
func Hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// Decode reads canonical bytes. It refuses what follows them, and null.
func Decode(body []byte) ([]Item, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	var items []Item
	if err := dec.Decode(&items); err != nil {
		return nil, fmt.Errorf("decoding an assignment: %w", err)
	}
	if items == nil {
		return nil, errors.New("decoding an assignment: null is not a list")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decoding an assignment: something follows it")
	}
	return items, nil
}

func appendItem(b []byte, it *Item) []byte {
	b = appendString(append(b, `{"id":`...), it.ID)
	b = strconv.AppendInt(append(b, `,"revision":`...), int64(it.Revision), 10)
	b = appendOwner(append(b, `,"owner":`...), it.Owner)
	b = appendString(append(b, `,"metric":`...), it.Metric)
	b = appendString(append(b, `,"definitionDigest":`...), it.DefinitionDigest)
	b = append(b, `,"predicate":`...)
	if it.Predicate == nil {
		b = append(b, "null"...)
	} else {
		b = appendPredicate(b, it.Predicate)
	}
	b = append(b, `,"decompositions":[`...)
	for i, d := range it.Decompositions {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, d)
	}
	b = strconv.AppendBool(append(b, `],"wholeHost":`...), it.WholeHost)
	b = append(b, `,"vms":[`...)
	for i := range it.VMs {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendUUID(append(b, `{"uuid":`...), it.VMs[i].UUID)
		b = appendOwner(append(b, `,"owner":`...), it.VMs[i].Owner)
		b = append(b, '}')
	}
	b = append(b, `],"targets":[`...)
	for i := range it.Targets {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTarget(b, &it.Targets[i])
	}
	b = strconv.AppendInt(append(b, `],"granularitySeconds":`...), int64(it.Granularity), 10)
	b = append(b, `,"expiresAt":`...)
	if it.ExpiresAt == nil {
		return append(b, "null}"...)
	}
	return append(appendTime(b, *it.ExpiresAt), '}')
}

func appendTarget(b []byte, t *Target) []byte {
	b = appendString(append(b, `{"kind":`...), t.Kind)
	b = appendString(append(b, `,"address":`...), t.Address)
	b = appendText(append(b, `,"prefix":`...), t.Prefix)
	b = appendText(append(b, `,"transport":`...), t.Transport)
	b = append(b, `,"headers":`...)
	if t.Headers == nil {
		return append(b, "null}"...)
	}
	b = append(b, '{')
	for i, k := range slices.Sorted(maps.Keys(t.Headers)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendString(b, t.Headers[k])
	}
	return append(b, "}}"...)
}

// appendPredicate writes CA 1.0's syntax.
func appendPredicate(b []byte, p *measure.Predicate) []byte {
	if p.IsZero() {
		return append(b, "{}"...)
	}
	b = appendString(append(b, '{'), string(p.Op))
	b = append(b, ":["...)
	if p.Op != measure.And && p.Op != measure.Or {
		b = append(appendString(b, p.Field), ',')
		if p.Value.IsNumber() {
			b = strconv.AppendInt(b, p.Value.Num(), 10)
		} else {
			b = appendString(b, p.Value.Str())
		}
	}
	for i := range p.Args {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendPredicate(b, &p.Args[i])
	}
	return append(b, "]}"...)
}

func appendText(b []byte, s *string) []byte {
	if s == nil {
		return append(b, "null"...)
	}
	return appendString(b, *s)
}

func appendOwner(b []byte, id *uuid.UUID) []byte {
	if id == nil {
		return append(b, "null"...)
	}
	return appendUUID(b, *id)
}

func appendUUID(b []byte, id uuid.UUID) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i, c := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hex[c>>4], hex[c&15])
	}
	return append(b, '"')
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), "2006-01-02T15:04:05.000Z"), '"')
}

// appendString writes a JSON string and escapes no more than JSON demands, as GraphQL servers do. Bytes that are not
// UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
