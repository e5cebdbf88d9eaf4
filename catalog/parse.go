package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"iapi/measure"
)

// Schema is the version of the documents' schema that this package reads.
const Schema = "iapi.metric/1"

// The bounds of a document.
const (
	MaxDocumentBytes = 64 << 10
	maxDocumentDepth = 24
)

// document is what a definition's YAML says.
type document struct {
	Schema string `yaml:"schema"`
	Metric struct {
		Module string `yaml:"module"`
		Stat   string `yaml:"stat"`
	} `yaml:"metric"`
	Version int    `yaml:"version"`
	Label   string `yaml:"label"`
	Kind    string `yaml:"kind"` // interval or point
	Value   struct {
		Unit string `yaml:"unit"` // a noun, such as operations
		Type string `yaml:"type"` // or a type, as of fields
	} `yaml:"value"`
	Visibility string              `yaml:"visibility"` // operator or tenant
	Fields     map[string]fieldDoc `yaml:"fields"`
	Limits     Limits              `yaml:"limits"`
	Variants   []Variant           `yaml:"variants"`

	order []string // of the fields
}

type fieldDoc struct {
	Builtin    string     `yaml:"builtin"` // host or zone
	Type       string     `yaml:"type"`    // string, stack, number, percent, size, time, subsecond
	Label      string     `yaml:"label"`
	Visibility string     `yaml:"visibility"` // operator, or as the metric
	Values     []string   `yaml:"values"`
	MaxLen     int        `yaml:"max_len"`
	Match      string     `yaml:"match"` // uint
	Buckets    bucketsDoc `yaml:"buckets"`
}

type bucketsDoc struct {
	LogLinear *measure.LogLinear `yaml:"loglinear"`
	Linear    *measure.Linear    `yaml:"linear"`
}

// bucketer returns nil when there are no buckets.
func (b bucketsDoc) bucketer() measure.Bucketer {
	switch {
	case b.LogLinear != nil:
		return *b.LogLinear
	case b.Linear != nil:
		return *b.Linear
	}
	return nil
}

// units are those of values and numeric fields by type; only the types of numeric fields are here.
var units = map[string]string{"number": "", "percent": "percent", "size": "bytes", "time": "ns", "subsecond": "ms"}

// typeStack is the type of a field whose values are stacks.
const typeStack = "stack"

// Digest names a document by its exact bytes: the hex SHA-256.
func Digest(document []byte) string {
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}

// Parse reads and checks a document. When it is not fit for use the error is an *InvalidError with every reason.
func Parse(text []byte) (*Definition, error) {
	doc, issues := read(text)
	if len(issues) == 0 {
		issues = doc.lint()
	}
	if len(issues) > 0 {
		return nil, &InvalidError{Issues: issues}
	}
	return doc.definition(bytes.Clone(text)), nil
}

// Lint returns all that is wrong with a document, nothing when Parse takes it.
func Lint(text []byte) []Issue {
	_, err := Parse(text)
	var invalid *InvalidError
	if errors.As(err, &invalid) {
		return invalid.Issues
	}
	return nil
}

// Issue is one thing that is wrong with a document.
type Issue struct {
	Path    string // for example variants[1].source.file[0].paths[0]; empty: the document
	Message string
}

// String shows both.
func (i Issue) String() string {
	if i.Path == "" {
		return i.Message
	}
	return i.Path + ": " + i.Message
}

// InvalidError says why a document is not fit for use.
type InvalidError struct{ Issues []Issue }

// Error implements error.
func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Issues))
	for i, issue := range e.Issues {
		texts[i] = issue.String()
	}
	return "definition: " + strings.Join(texts, "; ")
}

// read decodes a document strictly: one document of plain YAML without unknown or repeated keys.
func read(text []byte) (*document, []Issue) {
	if len(text) > MaxDocumentBytes {
		return nil, []Issue{{Message: fmt.Sprintf("it is larger than %d bytes", MaxDocumentBytes)}}
	}
	var root yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&root); err != nil {
		return nil, []Issue{{Message: "it is not YAML: " + err.Error()}}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, []Issue{{Message: "it is not one document"}}
	}
	if issue := checkNode(&root, 0); issue != nil {
		return nil, []Issue{*issue}
	}
	doc := new(document)
	dec = yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(doc); err != nil {
		var wrong *yaml.TypeError
		if !errors.As(err, &wrong) {
			return nil, []Issue{{Message: err.Error()}}
		}
		var issues []Issue
		for _, message := range wrong.Errors {
			issues = append(issues, Issue{Message: message})
		}
		return nil, issues
	}
	doc.order = keysOf(&root, "fields")
	return doc, nil
}

// checkNode refuses what makes a document say less, or more, than a reader sees: aliases, merged keys and tags.
func checkNode(node *yaml.Node, depth int) *Issue {
	wrong := func(message string) *Issue { return &Issue{Message: fmt.Sprintf("line %d: %s", node.Line, message)} }
	switch {
	case depth > maxDocumentDepth:
		return wrong(fmt.Sprintf("it is nested deeper than %d levels", maxDocumentDepth))
	case node.Anchor != "": // an alias is nothing without its anchor
		return wrong("anchors and aliases are not allowed")
	case node.Style&yaml.TaggedStyle != 0 || node.Tag == "!!merge":
		return wrong("tags and merged keys are not allowed")
	}
	seen := make(map[string]bool)
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			if child.Kind != yaml.ScalarNode {
				return wrong("a key must be plain text")
			}
			if seen[child.Value] {
				return wrong(fmt.Sprintf("the key %q is there twice", child.Value))
			}
			seen[child.Value] = true
		}
		if issue := checkNode(child, depth+1); issue != nil {
			return issue
		}
	}
	return nil
}

// keysOf returns the keys of a member of the document in their order.
func keysOf(root *yaml.Node, member string) []string {
	var keys []string
	top := root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value != member {
			continue
		}
		for j := 0; j+1 < len(top.Content[i+1].Content); j += 2 {
			keys = append(keys, top.Content[i+1].Content[j].Value)
		}
	}
	return keys
}

// definition makes a definition of a document that has passed lint.
func (d *document) definition(text []byte) *Definition {
	digest := Digest(text)
	def := &Definition{Digest: digest, Document: text, Version: d.Version, Limits: d.Limits, Variants: d.Variants}
	m := &def.Metric
	*m = Metric{
		Name:     d.Metric.Module + "." + d.Metric.Stat,
		Module:   d.Metric.Module,
		Stat:     d.Metric.Stat,
		Label:    d.Label,
		Interval: strings.ToUpper(d.Kind),
		Unit:     d.Value.Unit,
		Tenant:   d.Visibility == "tenant",
		Digest:   digest,
		Tracing:  true,
	}
	if d.Value.Type != "" {
		m.Unit = units[d.Value.Type]
	}
	for _, name := range d.order {
		m.Fields = append(m.Fields, d.Fields[name].field(name))
	}
	traces := false
	for i := range d.Variants {
		v := &d.Variants[i]
		m.Collectors = append(m.Collectors, v.Source.collector())
		if v.Tracing() {
			traces = true
			m.notesAddresses(v.Source)
		} else {
			m.Tracing = false
		}
		m.ways = append(m.ways, way{v.When.OS, v.Places, v.Tracing(), v.Fields})
	}
	slices.Sort(m.Collectors)
	m.Collectors = slices.Compact(m.Collectors)
	if traces {
		m.MaxTTL = time.Duration(d.Limits.MaxRuntime) * time.Second
	}
	return def
}

// notesAddresses finds the fields that a tracer gives as addresses.
func (m *Metric) notesAddresses(s Source) {
	source := s.Bpftrace
	if source == nil {
		source = s.DTrace
	}
	for i := range m.Fields {
		f := &m.Fields[i]
		f.Address = f.Address || slices.ContainsFunc(source.Clauses, func(c Clause) bool { return c.Fields[f.Name].CType == CTypeIP })
	}
}

func (f fieldDoc) field(name string) Field {
	field := Field{
		Name:     name,
		Label:    f.Label,
		Arity:    Discrete,
		Operator: f.Visibility == "operator",
		Values:   f.Values,
		Uint:     f.Match == "uint",
		MaxLen:   f.MaxLen,
		Builtin:  f.Builtin != "",
		Stack:    f.Type == typeStack,
	}
	if unit, numeric := units[f.Type]; numeric && f.Builtin == "" {
		field.Arity, field.Unit, field.Buckets = Numeric, unit, f.Buckets.bucketer()
	}
	return field
}

// collector names what collects from the source, as the schema's CollectorKind does.
func (s Source) collector() string {
	switch {
	case s.Kstat != nil:
		return "KSTAT"
	case s.ZFS != nil:
		return "ZFS"
	case s.Bpftrace != nil, s.DTrace != nil:
		return "DTRACE"
	}
	return "PROCFS"
}
