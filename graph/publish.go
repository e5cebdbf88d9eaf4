package graph

import (
	"context"
	"encoding/base64"

	"iapi/catalog"
	"iapi/graph/model"
	"iapi/instrumentation"
)

func (m *mutationResolver) PublishMetric(ctx context.Context, input model.PublishMetricInput) (*model.PublishMetricPayload, error) {
	published, err := m.rules.Publish(ctx, caller(ctx), instrumentation.PublishInput{
		Document: input.Document, Signature: given(input.Signature), KeyID: given(input.KeyID),
	})
	mistakes, err := split(err, "input")
	if err != nil {
		return nil, err
	}
	out := &model.PublishMetricPayload{UserErrors: mistakes}
	if len(mistakes) == 0 {
		out.Metric = &model.Metric{Of: published}
	}
	return out, nil
}

func (m *mutationResolver) RetireMetric(ctx context.Context, input model.RetireMetricInput) (*model.RetireMetricPayload, error) {
	mistakes, err := split(m.rules.Retire(ctx, caller(ctx), input.Name), "input")
	if err != nil {
		return nil, err
	}
	out := &model.RetireMetricPayload{UserErrors: mistakes}
	if len(mistakes) == 0 {
		out.RetiredName = &input.Name
	}
	return out, nil
}

// definitionOf is a definition as agents fetch it.
func definitionOf(d *catalog.Definition) *model.MetricDefinition {
	return &model.MetricDefinition{
		Digest: d.Digest, Document: string(d.Document),
		Signature: optional(base64.StdEncoding.EncodeToString(d.Signature)), KeyID: optional(d.KeyID),
	}
}
