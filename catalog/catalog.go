package catalog

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed definitions/*.yaml
var embedded embed.FS

// Catalog is an unchanging set of definitions, one for each metric. It is safe for concurrent use.
type Catalog struct {
	byName   map[string]*Definition
	byDigest map[string]*Definition
	metrics  []*Metric // sorted by name
}

// Embedded returns the definitions that come with IAPI.
func Embedded() (*Catalog, error) {
	names, err := fs.Glob(embedded, "definitions/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list the embedded definitions: %w", err)
	}
	documents := make([][]byte, 0, len(names))
	for _, name := range names {
		document, err := embedded.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the embedded definition %s: %w", name, err)
		}
		documents = append(documents, document)
	}
	return New(documents...)
}

// New parses documents, of which no two may define the same metric.
func New(documents ...[]byte) (*Catalog, error) {
	definitions := make([]*Definition, 0, len(documents))
	seen := make(map[string]bool, len(documents))
	for i, document := range documents {
		d, err := Parse(document)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if seen[d.Metric.Name] {
			return nil, fmt.Errorf("document %d: metric %s is defined twice", i+1, d.Metric.Name)
		}
		seen[d.Metric.Name] = true
		definitions = append(definitions, d)
	}
	return build(definitions), nil
}

func build(definitions []*Definition) *Catalog {
	c := &Catalog{byName: make(map[string]*Definition), byDigest: make(map[string]*Definition)}
	for _, d := range definitions {
		c.byName[d.Metric.Name] = d
		c.byDigest[d.Digest] = d
		c.metrics = append(c.metrics, &d.Metric)
	}
	slices.SortFunc(c.metrics, func(a, b *Metric) int { return strings.Compare(a.Name, b.Name) })
	return c
}

// Metrics returns all metrics, sorted by name.
func (c *Catalog) Metrics() []*Metric { return slices.Clone(c.metrics) }

// Metric returns the metric with the name.
func (c *Catalog) Metric(name string) (*Metric, bool) {
	d, ok := c.byName[name]
	if !ok {
		return nil, false
	}
	return &d.Metric, true
}

// Definition returns the definition whose document has the digest.
func (c *Catalog) Definition(digest string) (*Definition, bool) {
	d, ok := c.byDigest[digest]
	return d, ok
}

// DefinitionOf returns the definition of the metric with the name.
func (c *Catalog) DefinitionOf(name string) (*Definition, bool) {
	d, ok := c.byName[name]
	return d, ok
}

// With returns a catalog that has the document too, in place of its metric's older one. A version never goes back, and
// one version never stands for two documents.
func (c *Catalog) With(document []byte) (*Catalog, error) {
	d, err := Parse(document)
	if err != nil {
		return nil, err
	}
	have, exists := c.byName[d.Metric.Name]
	switch {
	case !exists:
	case have.Digest == d.Digest:
		return c, nil
	case d.Version <= have.Version:
		return nil, fmt.Errorf("definition of %s: version %d does not follow %d", d.Metric.Name, d.Version, have.Version)
	}
	return build(append(c.others(d.Metric.Name), d)), nil
}

// Without returns a catalog that lacks the metric.
func (c *Catalog) Without(name string) *Catalog { return build(c.others(name)) }

func (c *Catalog) others(name string) []*Definition {
	var rest []*Definition
	for _, m := range c.metrics {
		if m.Name != name {
			rest = append(rest, c.byName[m.Name])
		}
	}
	return rest
}
