package instrumentation

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"iapi/catalog"
	"iapi/identity"
)

// CodeInvalidDefinition: a definition of a metric is not fit for use.
const CodeInvalidDefinition Code = "INVALID_DEFINITION"

// maxKeyIDBytes bounds the name of a key.
const maxKeyIDBytes = 64

// Publisher changes the catalog of every process while they run. A change holds only for the published state that it was
// checked against.
type Publisher interface {
	// Sync takes over all that was published before the call, and Revision names it.
	Sync(ctx context.Context) error
	Revision() string
	// Known returns the newest definition of a metric, and whether that was retired.
	Known(name string) (d *catalog.Definition, retired, ok bool)
	// PublishMetric and RetireMetric return ErrRevision when another state than the expected one is published, and
	// ErrQuota when there are too many definitions.
	PublishMetric(ctx context.Context, expect string, d *catalog.Definition, a Audit) error
	RetireMetric(ctx context.Context, expect string, d *catalog.Definition, a Audit) error
}

// PublishInput is a definition to publish.
type PublishInput struct {
	Document  string // its exact bytes
	Signature string // Ed25519 over them, in base64; "": it is not signed
	KeyID     string // which key has signed it
}

// Publish makes a definition the one of its metric, in every process, and has the hosts that measure the metric told.
// It must be signed where keys are trusted. Its version must be greater than that of the definition in use; publishing the same bytes again is no mistake, adds
// their signature, and offers the metric again if it was retired. Operators only.
func (s *Service) Publish(ctx context.Context, c identity.Caller, in PublishInput) (*catalog.Metric, error) {
	audit := s.audit(c, "publishMetric", "")
	if err := only(c, identity.Operator); err != nil {
		return nil, s.refused(ctx, audit, err)
	}
	d, err := definitionOf(in)
	if err != nil {
		return nil, s.refused(ctx, audit, err)
	}
	audit.Subject = d.Metric.Name
	audit.Detail = fmt.Sprintf("version %d, digest %s", d.Version, d.Digest)
	unsigned := len(d.Signature) == 0
	err = s.publish(ctx, audit, func(expect string) error {
		have, retired, ok := s.publisher.Known(d.Metric.Name)
		if known := ok && have.Digest == d.Digest; !known || !unsigned { // what stands already needs no signature to stand
			if err := s.trusted(d); err != nil {
				return err
			}
		}
		switch {
		case !ok:
		case have.Digest == d.Digest && !retired && (len(d.Signature) == 0 || string(have.Signature) == string(d.Signature) && have.KeyID == d.KeyID):
			s.record(ctx, audit)
			return nil
		case have.Digest == d.Digest && len(d.Signature) == 0: // offered again
			d.Signature, d.KeyID = have.Signature, have.KeyID
		case have.Digest == d.Digest:
		case d.Version <= have.Version:
			return mistake(CodeInvalidDefinition, "document", "version: it must be greater than %d, the version in use, and is %d", have.Version, d.Version)
		}
		if err := s.wouldTrace(ctx, d); err != nil {
			return err
		}
		return s.publisher.PublishMetric(ctx, expect, d, audit)
	})
	if err != nil {
		return nil, err
	}
	return &d.Metric, nil
}

// trusted refuses what none of the keys has signed.
func (s *Service) trusted(d *catalog.Definition) error {
	if s.keys == nil {
		return nil
	}
	switch err := s.keys.Verify(catalog.Publication{Document: d.Document, Signature: d.Signature, KeyID: d.KeyID}); {
	case errors.Is(err, catalog.ErrUnknownKey):
		return mistake(CodeInvalidDefinition, "keyId", "it is none of the keys that are trusted here")
	case err != nil:
		return mistake(CodeInvalidDefinition, "signature", "definitions must be signed here: %s", err)
	}
	return nil
}

// wouldTrace refuses a definition that would make tracing of what now measures otherwise: tracing has a time to live and
// a quota, and what measures otherwise was let in without.
func (s *Service) wouldTrace(ctx context.Context, d *catalog.Definition) error {
	if !slices.ContainsFunc(d.Variants, func(v catalog.Variant) bool { return v.Tracing() }) {
		return nil
	}
	for p := (Page{First: MaxPage}); ; {
		found, next, _, err := s.store.Search(ctx, Filter{Metric: d.Metric.Name}, p)
		if err != nil {
			return fmt.Errorf("find what measures %s: %w", d.Metric.Name, err)
		}
		for _, rec := range found {
			if rec.Live(s.now()) && !rec.Tracing && d.Metric.NeedsTracing(slices.Concat(rec.Predicate.Fields(), rec.Decompositions)...) {
				return mistake(CodeInvalidDefinition, "document",
					"variants: the instrumentation %s, which does not trace, would have to; keep a variant that does not, or delete it first", rec.ID)
			}
		}
		if !next || len(found) == 0 {
			return nil
		}
		p.After = string(found[len(found)-1].ID)
	}
}

// Retire takes a metric off what can be asked for: a create names an unknown metric then. What measures it goes on until
// it ends, and can be updated. Operators only.
func (s *Service) Retire(ctx context.Context, c identity.Caller, name string) error {
	audit := s.audit(c, "retireMetric", name)
	if err := only(c, identity.Operator); err != nil {
		return s.refused(ctx, audit, err)
	}
	return s.publish(ctx, audit, func(expect string) error {
		d, retired, ok := s.publisher.Known(name)
		switch {
		case !ok:
			return mistake(CodeUnknownMetric, "name", "there is no metric %q", clip(name))
		case retired:
			s.record(ctx, audit)
			return nil
		}
		return s.publisher.RetireMetric(ctx, expect, d, audit)
	})
}

// publish tries a change on what is published, again and again while others are faster.
func (s *Service) publish(ctx context.Context, audit Audit, change func(expect string) error) error {
	if s.publisher == nil {
		return s.refused(ctx, audit, badRequest("nothing can be published here"))
	}
	for try := 1; ; try++ {
		if err := s.publisher.Sync(ctx); err != nil {
			return s.refused(ctx, audit, fmt.Errorf("%s: %w", audit.Action, err))
		}
		err := change(s.publisher.Revision())
		switch {
		case errors.Is(err, ErrRevision) && try < attempts:
			continue
		case errors.Is(err, ErrQuota):
			err = mistake(CodeLimitExceeded, "document", "there are as many published definitions as are kept")
		}
		if errors.As(err, new(UserErrors)) {
			return s.refused(ctx, audit, err)
		}
		// The change stands in the store; that this process follows now rather than soon is a courtesy to the caller.
		if err == nil {
			if err := s.publisher.Sync(ctx); err != nil {
				s.log.WarnContext(ctx, "what was published is taken over later", "metric", audit.Subject, "error", err)
			}
			return nil
		}
		return s.refused(ctx, audit, fmt.Errorf("%s: %w", audit.Action, err))
	}
}

// definitionOf reads and checks what is to be published. Every mistake has a path.
func definitionOf(in PublishInput) (*catalog.Definition, error) {
	var wrong collector
	if len(in.Document) > catalog.MaxDocumentBytes {
		return nil, mistake(CodeLimitExceeded, "document", "it is larger than %d bytes", catalog.MaxDocumentBytes)
	}
	var signature []byte
	switch {
	case (in.Signature == "") != (in.KeyID == ""):
		wrong.add(CodeInvalidDefinition, []string{"keyId"}, "a signature and the key's id go together")
	case len(in.KeyID) > maxKeyIDBytes:
		wrong.add(CodeLimitExceeded, []string{"keyId"}, "it is longer than %d bytes", maxKeyIDBytes)
	case in.Signature != "":
		var err error
		if signature, err = base64.StdEncoding.DecodeString(in.Signature); err != nil || len(signature) != ed25519.SignatureSize {
			wrong.add(CodeInvalidDefinition, []string{"signature"}, "it is not the base64 of an Ed25519 signature, %d bytes", ed25519.SignatureSize)
		}
	}
	d, err := catalog.Parse([]byte(in.Document))
	var invalid *catalog.InvalidError
	switch {
	case errors.As(err, &invalid):
		for _, issue := range invalid.Issues {
			wrong.add(CodeInvalidDefinition, append([]string{"document"}, pathOf(issue.Path)...), "%s", issue.Message)
		}
	case err != nil:
		return nil, fmt.Errorf("read the definition: %w", err)
	}
	if err := wrong.found.orNil(); err != nil {
		return nil, err
	}
	d.Signature, d.KeyID = signature, in.KeyID
	return d, nil
}

// pathOf splits the path of an issue: variants[1].source becomes variants, 1, source.
func pathOf(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}

// MetricOf returns the metric of a record as the caller may see it, nil for none. One that was retired is still that of
// what measures it.
func (s *Service) MetricOf(ctx context.Context, c identity.Caller, name string) (*catalog.Metric, error) {
	if err := caller(c); err != nil {
		return nil, err
	}
	m, ok := s.metricInUse(name)
	if !ok {
		return nil, nil
	}
	return showMetric(m, !isOperator(c)), nil
}

// metricInUse finds the metric of a record, also where nothing new may measure it.
func (s *Service) metricInUse(name string) (*catalog.Metric, bool) {
	if m, ok := s.catalog.Metric(name); ok || s.publisher == nil {
		return m, ok
	}
	d, _, ok := s.publisher.Known(name)
	if !ok {
		return nil, false
	}
	return &d.Metric, true
}
