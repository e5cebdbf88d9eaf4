// Package agentdoc holds the GraphQL documents that agents send, word for word, and the shapes of their variables and
// results. Server and agents share it: the server recognises the subscription by its text and answers it from stored
// bytes. A document that differs in a single byte gets the same answer, only at a higher price.
package agentdoc

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"iapi/assignment"
)

// Assignments is the agents' subscription. The order of its fields is the order of the server's canonical bytes.
const Assignments = `subscription Assignments($host: UUID!, $session: UUID!, $known: AssignmentVersionInput) {
  assignments(host: $host, session: $session, known: $known) {
    __typename
    ... on Assignment {
      host
      version { epoch generation hash }
      sentAt
      instrumentations {
        id
        revision
        owner
        metric
        definitionDigest
        predicate
        decompositions
        wholeHost
        vms { uuid owner }
        targets { kind address prefix transport headers }
        granularitySeconds
        expiresAt
      }
    }
    ... on AssignmentBookmark {
      version { epoch generation hash }
    }
  }
}`

// Report is the mutation by which agents tell how they fare.
const Report = `mutation ReportAgentStatus($input: ReportAgentStatusInput!) {
  reportAgentStatus(input: $input) { accepted superseded nextReportSeconds }
}`

// Definition is the query by which agents fetch how a metric is collected.
const Definition = `query MetricDefinition($digest: String!) {
  metricDefinition(digest: $digest) { digest document signature keyId }
}`

// ExchangeJoinToken is the mutation by which an agent without a credential gets one.
const ExchangeJoinToken = `mutation ExchangeJoinToken($input: ExchangeJoinTokenInput!) {
  exchangeJoinToken(input: $input) { token host userErrors { message path code } }
}`

// Subprotocol is the only websocket subprotocol that is spoken.
const Subprotocol = "graphql-transport-ws"

// Close codes beside those of graphql-transport-ws, and the reasons that come with them.
const (
	// CloseSuperseded: another session is the host's agent now. The reason is ReasonSuperseded.
	CloseSuperseded  = 4409
	ReasonSuperseded = "superseded"
	// CloseRestarting: the server shuts down. The reason is RetryPrefix and a duration as time.ParseDuration reads it,
	// spread over the agents, after which this one should come back.
	CloseRestarting = 1012
	RetryPrefix     = "retry in "
	// CloseExpired: the credential of the connection has lapsed or was revoked.
	CloseExpired = 4403
)

// AssignmentsVariables are the variables of Assignments.
type AssignmentsVariables struct {
	Host    uuid.UUID           `json:"host"`
	Session uuid.UUID           `json:"session"`
	Known   *assignment.Version `json:"known,omitempty"`
}

// AssignmentsData is the data of one event of Assignments.
type AssignmentsData struct {
	Assignments Event `json:"assignments"`
}

// Event is an assignment (TypeName Assignment) or a bookmark (AssignmentBookmark), which has only a Version.
type Event struct {
	TypeName string `json:"__typename"`
	Assignment
}

// Assignment is the whole document of one host, as the subscription and GET /agents/{host}/assignment answer it.
type Assignment struct {
	Host             uuid.UUID          `json:"host"`
	Version          assignment.Version `json:"version"`
	SentAt           time.Time          `json:"sentAt"`
	Instrumentations []assignment.Item  `json:"instrumentations"`
}

// The type names of an Event.
const (
	TypeAssignment = "Assignment"
	TypeBookmark   = "AssignmentBookmark"
)

// ReportVariables are the variables of Report.
type ReportVariables struct {
	Input StatusReport `json:"input"`
}

// StatusReport is how a host fares, whole.
type StatusReport struct {
	Host             uuid.UUID               `json:"host"`
	Session          uuid.UUID               `json:"session"`
	Sequence         int64                   `json:"sequence"` // grows within a session; at most 2³¹−1
	AgentVersion     string                  `json:"agentVersion"`
	Capabilities     []string                `json:"capabilities"` // never nil
	Applied          *assignment.Version     `json:"applied,omitempty"`
	Instrumentations []InstrumentationStatus `json:"instrumentations"` // never nil
	Targets          []TargetStatus          `json:"targets,omitempty"`
}

// InstrumentationStatus is how one instrumentation fares on the host.
type InstrumentationStatus struct {
	ID           string      `json:"id"`
	Revision     int         `json:"revision"`
	Status       string      `json:"status"`
	Message      string      `json:"message,omitempty"`
	LastSampleAt *time.Time  `json:"lastSampleAt,omitempty"`
	VMFailures   []VMFailure `json:"vmFailures,omitempty"`
}

// VMFailure is why one zone is not measured.
type VMFailure struct {
	VM      uuid.UUID `json:"vm"`
	Status  string    `json:"status"`
	Message string    `json:"message,omitempty"`
}

// TargetStatus is how one target takes the host's data.
type TargetStatus struct {
	Instrumentation string     `json:"instrumentation"`
	Target          int        `json:"target"` // index in the instrumentation's targets
	Connected       bool       `json:"connected"`
	Queued          int64      `json:"queued"`
	Dropped         int64      `json:"dropped"`
	LastSuccessAt   *time.Time `json:"lastSuccessAt,omitempty"`
	LastError       string     `json:"lastError,omitempty"`
}

// ReportData is the data that Report answers.
type ReportData struct {
	Result ReportResult `json:"reportAgentStatus"`
}

// ReportResult is what became of a report.
type ReportResult struct {
	Accepted          bool `json:"accepted"`
	Superseded        bool `json:"superseded"`
	NextReportSeconds int  `json:"nextReportSeconds"`
}

// DefinitionData is the data that Definition answers; nil where the digest is not known.
type DefinitionData struct {
	Definition *struct {
		Digest    string  `json:"digest"`
		Document  string  `json:"document"`
		Signature *string `json:"signature"`
		KeyID     *string `json:"keyId"`
	} `json:"metricDefinition"`
}

// Error is one GraphQL error.
type Error struct {
	Message    string          `json:"message"`
	Path       json.RawMessage `json:"path,omitempty"`
	Extensions struct {
		Code              string  `json:"code"`
		CorrelationID     string  `json:"correlationId"`
		RetryAfterSeconds float64 `json:"retryAfterSeconds,omitempty"`
	} `json:"extensions"`
}
