package measure

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The bounds of a predicate. A comparison alone has depth 1; each and or or around it adds one.
const (
	MaxPredicateDepth  = 8
	MaxPredicateLeaves = 64
	MaxPredicateBytes  = 8 << 10 // of its JSON
	MaxConstantBytes   = 256     // of a string constant
	maxFieldBytes      = 64
)

// PredicateCode is what kind of mistake a PredicateError is, as the schema's UserErrorCode names it.
type PredicateCode string

// The kinds of mistakes.
const (
	InvalidPredicate PredicateCode = "INVALID_PREDICATE" // its form is wrong
	UnknownField     PredicateCode = "UNKNOWN_FIELD"     // the metric has no such field, or the caller may not use it
	TypeMismatch     PredicateCode = "TYPE_MISMATCH"     // operator or constant do not fit the field
)

// PredicateError is one mistake in a predicate.
type PredicateError struct {
	Code    PredicateCode
	Path    []string // from the root to the node, for example and, 1, eq
	Message string
}

// Error implements error.
func (e *PredicateError) Error() string {
	if len(e.Path) == 0 {
		return "predicate: " + e.Message
	}
	return "predicate: " + strings.Join(e.Path, ".") + ": " + e.Message
}

// FieldType is what Check needs to know of a field.
type FieldType struct {
	Numeric bool
	Uint    bool     // a discrete field whose values are decimal numbers, such as pid
	Address bool     // a discrete field whose values are IP addresses
	Stack   bool     // a discrete field that nothing can compare
	Values  []string // the closed set of a discrete field's values; empty: open
}

// IsComparison reports whether the operator compares a field with a constant.
func (o Op) IsComparison() bool {
	switch o {
	case Eq, Ne, Lt, Le, Gt, Ge:
		return true
	}
	return false
}

// Validate checks the form of a predicate that was not read by ParsePredicate: operators, bounds, constants.
// The error is a *PredicateError.
func (p Predicate) Validate() error {
	leaves := 0
	if err := p.validate(nil, 1, &leaves); err != nil {
		return err
	}
	return nil
}

// validate returns a *PredicateError, or nil.
func (p Predicate) validate(path []string, depth int, leaves *int) *PredicateError {
	invalid := func(message string) *PredicateError {
		return &PredicateError{Code: InvalidPredicate, Path: slices.Clone(path), Message: message}
	}
	if depth > MaxPredicateDepth {
		return invalid("it is nested deeper than " + strconv.Itoa(MaxPredicateDepth) + " levels")
	}
	if p.Op == "" {
		if p.Field != "" || len(p.Args) > 0 {
			return invalid("an operator is missing")
		}
		return nil
	}
	path = append(path, string(p.Op))
	switch {
	case p.Op == And || p.Op == Or:
		if len(p.Args) == 0 {
			return invalid(string(p.Op) + " needs at least one member")
		}
		for i, arg := range p.Args {
			if err := arg.validate(append(path, strconv.Itoa(i)), depth+1, leaves); err != nil {
				return err
			}
		}
		return nil
	case p.Op.IsComparison():
		if *leaves++; *leaves > MaxPredicateLeaves {
			return invalid("it has more than " + strconv.Itoa(MaxPredicateLeaves) + " comparisons")
		}
		if !isFieldName(p.Field) {
			return &PredicateError{Code: UnknownField, Path: slices.Clone(path), Message: strconv.Quote(shorten(p.Field)) + " is not a field's name"}
		}
		if message := p.Value.invalid(); message != "" {
			return invalid(message)
		}
		return nil
	default:
		return invalid("there is no operator " + strconv.Quote(shorten(string(p.Op))))
	}
}

// invalid says what is wrong with a constant, "" for nothing.
func (v Value) invalid() string {
	switch {
	case v.isN:
		return ""
	case len(v.str) > MaxConstantBytes:
		return "a constant is at most " + strconv.Itoa(MaxConstantBytes) + " bytes long"
	case !utf8.ValidString(v.str):
		return "a constant must be valid UTF-8"
	case strings.ContainsRune(v.str, 0):
		return "a constant cannot contain the character NUL"
	}
	return ""
}

func isFieldName(s string) bool {
	if s == "" || len(s) > maxFieldBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// Fields returns the names of the fields that the predicate compares, sorted, each once.
func (p Predicate) Fields() []string {
	var names []string
	p.walk(nil, func(leaf Predicate, _ []string) { names = append(names, leaf.Field) })
	slices.Sort(names)
	return slices.Compact(names)
}

// walk calls fn for each comparison with its path, in order. fn must not keep the path.
func (p Predicate) walk(path []string, fn func(leaf Predicate, path []string)) {
	if p.Op == "" {
		return
	}
	path = append(path, string(p.Op))
	if p.Op.IsComparison() {
		fn(p, path)
	}
	for i, arg := range p.Args {
		arg.walk(append(path, strconv.Itoa(i)), fn)
	}
}

// Check compares the predicate with the fields of a metric and returns every mistake, in order. lookup returns false for
// a field that the metric lacks or that the caller may not use.
func (p Predicate) Check(lookup func(field string) (FieldType, bool)) []*PredicateError {
	var found []*PredicateError
	p.walk(nil, func(leaf Predicate, path []string) {
		if code, message := leaf.checkLeaf(lookup); message != "" {
			found = append(found, &PredicateError{Code: code, Path: slices.Clone(path), Message: message})
		}
	})
	return found
}

func (p Predicate) checkLeaf(lookup func(string) (FieldType, bool)) (PredicateCode, string) {
	t, ok := lookup(p.Field)
	switch {
	case !ok:
		return UnknownField, "there is no field " + strconv.Quote(p.Field)
	case t.Numeric && !p.Value.isN:
		return TypeMismatch, "field " + p.Field + " is numeric and needs an integer, not " + p.Value.String()
	case t.Numeric:
		return "", ""
	case p.Op != Eq && p.Op != Ne:
		return TypeMismatch, "operator " + string(p.Op) + " needs a numeric field, and " + p.Field + " is discrete"
	case p.Value.isN:
		return TypeMismatch, "field " + p.Field + " is discrete and needs a string: " + strconv.Quote(p.Value.String())
	case t.Stack:
		return TypeMismatch, "field " + p.Field + " is a stack, which cannot be compared"
	case t.Address && !isAddress(p.Value.str):
		return TypeMismatch, "field " + p.Field + " is an IP address, not " + p.Value.String()
	case len(t.Values) > 0 && !slices.Contains(t.Values, p.Value.str):
		return TypeMismatch, "field " + p.Field + " is never " + p.Value.String() + "; it is one of " + strings.Join(t.Values, ", ")
	case t.Uint && !isCanonicalUint(p.Value.str):
		return TypeMismatch, "field " + p.Field + " is a decimal number in a string, not " + p.Value.String()
	}
	return "", ""
}

// isAddress reports whether s is an IP address, which any of its forms stands for.
func isAddress(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Zone() == ""
}

// isCanonicalUint reports whether s is an unsigned 64-bit number as strconv writes it.
func isCanonicalUint(s string) bool {
	n, err := strconv.ParseUint(s, 10, 64)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// Match evaluates the predicate for one event. get returns the value of a field. A comparison of a field that the event
// lacks is false, ne included: what a tracer has not gathered never makes it count an event, and the collectors that
// evaluate in memory must agree with it. So is a comparison of a string with a number, or of strings by order.
func (p Predicate) Match(get func(field string) (Value, bool)) bool {
	switch p.Op {
	case "":
		return true
	case And:
		for _, arg := range p.Args {
			if !arg.Match(get) {
				return false
			}
		}
		return true
	case Or:
		for _, arg := range p.Args {
			if arg.Match(get) {
				return true
			}
		}
		return false
	}
	v, ok := get(p.Field)
	if !ok || v.isN != p.Value.isN {
		return false
	}
	switch p.Op {
	case Eq:
		return v == p.Value
	case Ne:
		return v != p.Value
	case Lt:
		return v.isN && v.num < p.Value.num
	case Le:
		return v.isN && v.num <= p.Value.num
	case Gt:
		return v.isN && v.num > p.Value.num
	case Ge:
		return v.isN && v.num >= p.Value.num
	}
	return false
}

// Text shows the predicate to people: execname == "mysqld" && latency > 100000000.
func (p Predicate) Text() string {
	var b strings.Builder
	p.text(&b, "")
	return b.String()
}

var symbols = map[Op]string{Eq: "==", Ne: "!=", Lt: "<", Le: "<=", Gt: ">", Ge: ">=", And: " && ", Or: " || "}

// text writes the predicate as a member of outer. Mixed members always get parentheses: few readers know by heart
// which of the two binds tighter.
func (p Predicate) text(b *strings.Builder, outer Op) {
	switch {
	case p.Op == "":
		b.WriteString("true")
	case p.Op.IsComparison():
		b.WriteString(p.Field + " " + symbols[p.Op] + " " + p.Value.String())
	default:
		mixed := outer != "" && outer != p.Op && len(p.Args) > 1
		if len(p.Args) > 1 {
			outer = p.Op
		}
		if mixed {
			b.WriteByte('(')
		}
		for i, arg := range p.Args {
			if i > 0 {
				b.WriteString(symbols[p.Op])
			}
			arg.text(b, outer)
		}
		if mixed {
			b.WriteByte(')')
		}
	}
}

// Simplify removes members that are always true, and and and or around a single member. The meaning stays the same.
func (p Predicate) Simplify() Predicate {
	if p.Op != And && p.Op != Or {
		return p
	}
	args := make([]Predicate, 0, len(p.Args))
	for _, arg := range p.Args {
		arg = arg.Simplify()
		if arg.IsZero() {
			if p.Op == Or {
				return Predicate{}
			}
			continue
		}
		args = append(args, arg)
	}
	switch len(args) {
	case 0:
		return Predicate{}
	case 1:
		return args[0]
	}
	return Predicate{Op: p.Op, Args: args}
}

// Canonical returns a predicate of the same meaning in which nested ands and ors of the same kind are one, members are
// sorted and occur once. Two predicates with equal canonical JSON mean the same.
func (p Predicate) Canonical() Predicate {
	p = p.Simplify()
	if p.Op != And && p.Op != Or {
		return p
	}
	var args []Predicate
	for _, arg := range p.Args {
		arg = arg.Canonical()
		if arg.Op == p.Op {
			args = append(args, arg.Args...)
		} else {
			args = append(args, arg)
		}
	}
	slices.SortFunc(args, Predicate.compare)
	args = slices.CompactFunc(args, func(a, b Predicate) bool { return a.compare(b) == 0 })
	if len(args) == 1 {
		return args[0]
	}
	return Predicate{Op: p.Op, Args: args}
}

// compare orders predicates by their JSON, so that it is 0 only for equal ones.
func (p Predicate) compare(o Predicate) int {
	return strings.Compare(string(p.appendJSON(nil)), string(o.appendJSON(nil)))
}
