package rows

import (
	"fmt"
	"os"

	"iapi/catalog"
)

// status says how an evaluation went. The greatest of an expression's parts is that of the whole.
type status int

const (
	ok      status = iota
	missing        // a column is absent, or this is the first reading
	reset          // a counter has gone back since the last reading
	bad            // a column holds text where a number belongs
)

// node is a compiled expression.
type node struct {
	op     catalog.ExprOp
	slot   int
	factor float64 // const: the value; scale, ratio: what to multiply with
	of     []node
	past   int // delta, ratio: the place of the last value
	in     []string
}

// past is a value of the last reading.
type past struct {
	count uint64 // of a plain column, so that differences are exact
	value float64
	exact bool
	known bool
}

// nanoseconds of the units that a ratio may count in.
var perUnit = map[string]float64{"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9, "ticks": 1e7}

// compiler counts the columns and the past values that expressions need.
type compiler struct {
	slots map[string]int
	pasts int
}

func (c *compiler) slot(column string) int {
	slot, found := c.slots[column]
	if !found {
		slot = len(c.slots)
		c.slots[column] = slot
	}
	return slot
}

func (c *compiler) compile(e catalog.Expr) (node, error) {
	n := node{op: e.Op, factor: e.Const, in: e.In, slot: -1}
	if e.Column != "" {
		n.slot = c.slot(e.Column)
	}
	for _, operand := range e.Of {
		child, err := c.compile(operand)
		if err != nil {
			return node{}, err
		}
		n.of = append(n.of, child)
	}
	operands := 0
	switch e.Op {
	case catalog.OpGauge, catalog.OpSkipIf:
		if n.slot < 0 {
			return node{}, fmt.Errorf("%s names no column", e.Op)
		}
	case catalog.OpConst:
	case catalog.OpSum:
		operands = max(1, len(n.of))
	case catalog.OpDiff:
		operands = 2
	case catalog.OpDelta:
		operands = 1
	case catalog.OpScale:
		operands = 1
		if e.Div == 0 {
			return node{}, fmt.Errorf("scale divides by 0")
		}
		n.factor = float64(e.Mul) / float64(e.Div)
		if e.Pages {
			n.factor *= float64(os.Getpagesize())
		}
	case catalog.OpRatio:
		operands = 1
		n.factor = perUnit[e.Per]
		if n.factor == 0 {
			return node{}, fmt.Errorf("ratio per %q, which is no unit", e.Per)
		}
		if e.Percent {
			n.factor *= 100
		}
	default:
		return node{}, fmt.Errorf("there is no operation %q", e.Op)
	}
	if len(n.of) != operands {
		return node{}, fmt.Errorf("%s has %d operands", e.Op, len(n.of))
	}
	if e.Op == catalog.OpDelta || e.Op == catalog.OpRatio {
		n.past = c.pasts
		c.pasts++
	}
	return n, nil
}

// eval computes the expression for one record. Every part is evaluated, whatever the others give, so that all past
// values are those of this reading afterwards. Elapsed is the time in ns that was measured since the last reading.
func (n *node) eval(cols [][]byte, pasts []past, elapsed float64) (float64, status) {
	switch n.op {
	case catalog.OpConst:
		return n.factor, ok
	case catalog.OpGauge:
		return number(cols[n.slot])
	case catalog.OpSkipIf:
		for _, skip := range n.in {
			if string(cols[n.slot]) == skip {
				return 0, missing
			}
		}
		return number(cols[n.slot])
	case catalog.OpScale:
		v, s := n.of[0].eval(cols, pasts, elapsed)
		return v * n.factor, s
	case catalog.OpDelta:
		return n.delta(cols, pasts, elapsed)
	case catalog.OpRatio:
		v, s := n.delta(cols, pasts, elapsed)
		if s == ok && elapsed <= 0 {
			return 0, missing
		}
		return v * n.factor / elapsed, s
	}
	total, worst := 0.0, ok
	for i := range n.of {
		v, s := n.of[i].eval(cols, pasts, elapsed)
		if n.op == catalog.OpDiff && i == 1 {
			v = -v
		}
		total += v
		worst = max(worst, s)
	}
	return total, worst
}

// delta is how much the operand has grown. A counter that went back began anew, or wrapped: how far it came before is
// unknown, so that nothing is said about this interval.
func (n *node) delta(cols [][]byte, pasts []past, elapsed float64) (float64, status) {
	now := past{known: true}
	operand := &n.of[0]
	if operand.op == catalog.OpGauge {
		now.count, now.exact = parseCounter(cols[operand.slot])
	}
	s := ok
	if !now.exact {
		now.value, s = operand.eval(cols, pasts, elapsed)
	}
	then := pasts[n.past]
	if s != ok {
		pasts[n.past] = past{}
		return 0, s
	}
	pasts[n.past] = now
	switch {
	case !then.known || then.exact != now.exact:
		return 0, missing
	case now.exact && now.count < then.count, now.value < then.value:
		return 0, reset
	case now.exact:
		return float64(now.count - then.count), ok
	}
	return now.value - then.value, ok
}

func number(text []byte) (float64, status) {
	if text == nil {
		return 0, missing
	}
	v, isNumber := parseNumber(text)
	if !isNumber {
		return 0, bad
	}
	return v, ok
}

// badSlot finds a column that the expression reads and that holds no number; -1 if there is none.
func (n *node) badSlot(cols [][]byte) int {
	if n.slot >= 0 && (n.op == catalog.OpGauge || n.op == catalog.OpSkipIf) {
		if _, s := number(cols[n.slot]); s == bad {
			return n.slot
		}
	}
	for i := range n.of {
		if slot := n.of[i].badSlot(cols); slot >= 0 {
			return slot
		}
	}
	return -1
}
