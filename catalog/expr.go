package catalog

import (
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// ExprOp is an operation of an expression.
type ExprOp string

// The operations.
const (
	OpGauge  ExprOp = "gauge"   // Column: its present value
	OpConst  ExprOp = "const"   // Const
	OpDelta  ExprOp = "delta"   // how much Of[0] has grown since the record's last reading
	OpSum    ExprOp = "sum"     // of all Of
	OpDiff   ExprOp = "diff"    // Of[0] less Of[1]
	OpScale  ExprOp = "scale"   // Of[0] times Mul, by Div, times the size of a page if Pages
	OpRatio  ExprOp = "ratio"   // the delta of Of[0] by the time that was measured between the readings, in Per; times 100 if Percent
	OpSkipIf ExprOp = "skip_if" // Column's present value; nothing if its text is one of In
)

// Expr says how a value comes from the columns of a record and of its last reading. It is data, not a language: there
// is a closed set of operations. In YAML it is a column's name, or an object with the operation as its only key:
//
//	rss                                          a column, the same as {gauge: rss}
//	{const: 1}
//	{delta: reads}                               the operand is an expression
//	{sum: [user, nice]}                          {diff: [MemTotal, MemAvailable]}
//	{scale: {of: rss_kb, mul: 1024, div: 1}}     {scale: {of: faults, pages: true}}
//	{ratio: {of: user_usec, per: us, percent: true}}
//	{skip_if: {of: value, in: [max]}}            the operand is a column
//
// A record that lacks a column gives no value, nor does a delta or ratio at a record's first reading, nor one of which a
// counter has gone back. Columns hold integers or decimal fractions; other text is an error.
type Expr struct {
	Op      ExprOp
	Column  string
	Const   float64
	Of      []Expr
	Mul     int64 // 1 where not given
	Div     int64 // 1 where not given
	Pages   bool
	Per     string // ns, us, ms, s, or ticks of 1/100 s
	Percent bool
	In      []string
}

// Columns calls fn for each column that the expression reads.
func (e Expr) Columns(fn func(column string)) {
	if e.Column != "" {
		fn(e.Column)
	}
	for _, operand := range e.Of {
		operand.Columns(fn)
	}
}

// Differential reports whether the expression compares with the last reading, so that a first one gives no value.
func (e Expr) Differential() bool {
	if e.Op == OpDelta || e.Op == OpRatio {
		return true
	}
	for _, operand := range e.Of {
		if operand.Differential() {
			return true
		}
	}
	return false
}

// IsZero reports whether there is no expression.
func (e Expr) IsZero() bool { return e.Op == "" }

// UnmarshalYAML reads the forms above and refuses every other.
func (e *Expr) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := readExpr(node)
	if err != nil {
		return err
	}
	*e = parsed
	return nil
}

func readExpr(node *yaml.Node) (Expr, error) {
	if node.Kind == yaml.ScalarNode {
		column, err := readText(node, "a column's name")
		return Expr{Op: OpGauge, Column: column}, err
	}
	if node.Kind != yaml.MappingNode || len(node.Content) != 2 {
		return Expr{}, at(node, "an expression is a column's name, or an object with one operation")
	}
	key, arg := node.Content[0], node.Content[1]
	e := Expr{Op: ExprOp(key.Value)}
	var err error
	switch e.Op {
	case OpGauge:
		e.Column, err = readText(arg, "a column's name")
	case OpConst:
		if e.Const, err = strconv.ParseFloat(arg.Value, 64); err != nil || arg.Kind != yaml.ScalarNode {
			err = at(arg, "const needs a number")
		}
	case OpDelta:
		e.Of, err = readExprs(arg)
	case OpSum, OpDiff:
		if arg.Kind != yaml.SequenceNode {
			return Expr{}, at(arg, key.Value+" needs a list of expressions")
		}
		e.Of, err = readExprs(arg.Content...)
	case OpScale, OpRatio, OpSkipIf:
		err = e.readMembers(arg)
	default:
		err = at(key, fmt.Sprintf("there is no operation %q", key.Value))
	}
	return e, err
}

func readExprs(nodes ...*yaml.Node) ([]Expr, error) {
	var all []Expr
	for _, node := range nodes {
		e, err := readExpr(node)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// exprMembers are the keys that each operation with an object takes.
var exprMembers = map[ExprOp]map[string]bool{
	OpScale:  {"of": true, "mul": true, "div": true, "pages": true},
	OpRatio:  {"of": true, "per": true, "percent": true},
	OpSkipIf: {"of": true, "in": true},
}

func (e *Expr) readMembers(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return at(node, string(e.Op)+" needs an object")
	}
	if e.Op == OpScale {
		e.Mul, e.Div = 1, 1
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if !exprMembers[e.Op][key.Value] || seen[key.Value] {
			return at(key, fmt.Sprintf("%s does not take %q, or not twice", e.Op, key.Value))
		}
		seen[key.Value] = true
		var err error
		switch key.Value {
		case "of":
			if e.Op == OpSkipIf {
				e.Column, err = readText(value, "a column's name")
			} else {
				e.Of, err = readExprs(value)
			}
		case "mul":
			err = value.Decode(&e.Mul)
		case "div":
			err = value.Decode(&e.Div)
		case "pages":
			err = value.Decode(&e.Pages)
		case "per":
			e.Per, err = readText(value, "a unit of time")
		case "percent":
			err = value.Decode(&e.Percent)
		case "in":
			err = value.Decode(&e.In)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readText(node *yaml.Node, what string) (string, error) {
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" || node.Value == "" {
		return "", at(node, "here belongs "+what)
	}
	return node.Value, nil
}

func at(node *yaml.Node, message string) error {
	return fmt.Errorf("line %d: %s", node.Line, message)
}
