// Package assignment says what one host's agent must run: one document with a version. It builds documents, gives them
// canonical bytes and a hash, and compares versions. It is pure.
package assignment

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"iapi/measure"
)

// Version orders the documents of one host. Agents take only a greater (Epoch, Generation).
type Version struct {
	Epoch      string `json:"epoch"`      // 16 lower-case hex digits, compared as text
	Generation int64  `json:"generation"` // grows by one with every commit
	Hash       string `json:"hash"`       // of the canonical bytes; opaque to agents
}

// Document is everything that one host's agent must run. Instrumentations are sorted by id, VMs by uuid.
type Document struct {
	Host             uuid.UUID
	Instrumentations []Item
}

// Item is one instrumentation as one host must run it: whole, or in a list of its zones.
type Item struct {
	ID               string             `json:"id"`
	Revision         int                `json:"revision"`
	Owner            *uuid.UUID         `json:"owner"` // null: the operators
	Metric           string             `json:"metric"`
	DefinitionDigest string             `json:"definitionDigest"`
	Predicate        *measure.Predicate `json:"predicate"`
	Decompositions   []string           `json:"decompositions"`
	WholeHost        bool               `json:"wholeHost"`
	VMs              []VM               `json:"vms"`
	Targets          []Target           `json:"targets"`
	Granularity      int                `json:"granularitySeconds"`
	ExpiresAt        *time.Time         `json:"expiresAt"`
}

// VM is a zone to measure, with its owner, so that the agent can check it against what it sees itself.
type VM struct {
	UUID  uuid.UUID  `json:"uuid"`
	Owner *uuid.UUID `json:"owner"`
}

// Target is a target as agents need it, headers included.
type Target struct {
	Kind      string            `json:"kind"`
	Address   string            `json:"address"`
	Prefix    *string           `json:"prefix"`
	Transport *string           `json:"transport"`
	Headers   map[string]string `json:"headers"`
}

// Stored is a document as the store keeps it and as it travels: its version and its canonical bytes.
type Stored struct {
	Host    uuid.UUID
	Version Version
	Body    json.RawMessage // the canonical JSON of the list of Items
}
