package instrumentation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"iapi/measure"
)

func (i Instrumentation) expired(now time.Time) bool {
	return !i.ExpiresAt.IsZero() && !now.Before(i.ExpiresAt)
}

// Judge says which state a record is in: from its own times first, then from whether its standing revision has been
// evaluated, then from how its sources fare. Sources that are offline do not degrade it, and no sources at all is
// ENABLED.
func Judge(rec Instrumentation, c Coverage, now time.Time) State {
	waiting := Created
	if !rec.EnabledAt.IsZero() {
		waiting = Updating
	}
	switch {
	case !rec.DeletedAt.IsZero():
		return Deleting
	case rec.expired(now):
		return Expired
	case !rec.PausedAt.IsZero():
		return Paused
	case rec.Evaluated < rec.Revision:
		return waiting
	case c.Failed > 0:
		return Degraded
	case c.Pending > 0:
		return waiting
	}
	return Enabled
}

// WishDigest is the same for instrumentations that need the same probe: equal metric, decompositions, and predicates
// that mean the same.
func WishDigest(i Instrumentation) string {
	return digest(struct {
		Metric         string            `json:"metric"`
		Predicate      measure.Predicate `json:"predicate"`
		Decompositions []string          `json:"decompositions"`
	}{i.Metric, i.Predicate.Canonical(), append([]string{}, i.Decompositions...)})
}

// digest is the sha256 of a value's JSON, in hex. What is passed has no type that JSON lacks, so encoding cannot fail.
func digest(v any) string {
	text, _ := json.Marshal(v)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
