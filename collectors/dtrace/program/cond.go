package program

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"iapi/catalog"
	"iapi/collectors/collect"
	"iapi/measure"
)

// cond is a condition as a typed tree. Its text is complete in itself: it stands in parentheses.
type cond interface{ text(l Language) string }

// truth is a condition that is known.
type truth bool

// join is an and or an or of at least one member.
type join struct {
	op   measure.Op
	args []cond
}

// compareInt compares a number, which is an expression of the definition with its cast, or a variable.
type compareInt struct {
	left string
	op   measure.Op
	n    int64
}

// compareUint compares with a number that may need all 64 bits.
type compareUint struct {
	left string
	op   measure.Op
	n    uint64
}

// compareString compares a text by Eq or Ne.
type compareString struct {
	left string
	op   measure.Op
	s    string
}

// firstLetter compares the first letter of a text by Eq or Ne.
type firstLetter struct {
	left   string
	op     measure.Op
	letter byte
}

// address compares an array of bytes with an address by Eq or Ne.
type address struct {
	left  string
	op    measure.Op
	bytes []byte
}

// programText compares the text at an address of the traced program by Eq or Ne. It is read as numbers: a comparison of
// texts is unrolled into more ways through a program than the kernel's verifier follows.
type programText struct {
	at    string
	op    measure.Op
	bytes []byte
}

// symbols is the table of operators; no other is ever printed for a predicate.
var symbols = map[measure.Op]string{
	measure.Eq: "==", measure.Ne: "!=", measure.Lt: "<", measure.Le: "<=", measure.Gt: ">", measure.Ge: ">=",
	measure.And: "&&", measure.Or: "||",
}

func (t truth) text(Language) string {
	if t {
		return "(1)"
	}
	return "(0)"
}

func (j join) text(l Language) string {
	parts := make([]string, len(j.args))
	for i, arg := range j.args {
		parts[i] = arg.text(l)
	}
	return "(" + strings.Join(parts, " "+symbols[j.op]+" ") + ")"
}

func (c compareInt) text(Language) string {
	return "(" + c.left + " " + symbols[c.op] + " " + integer(c.n) + ")"
}

func (c compareUint) text(Language) string {
	return "(" + c.left + " " + symbols[c.op] + " " + strconv.FormatUint(c.n, 10) + ")"
}

func (c compareString) text(Language) string {
	return "((" + c.left + ") " + symbols[c.op] + " " + quote(c.s) + ")"
}

func (c firstLetter) text(l Language) string {
	if l == D {
		return "(substr(" + c.left + ", 0, 1) " + symbols[c.op] + " " + quote(string(c.letter)) + ")"
	}
	return "(strncmp((" + c.left + "), " + quote(string(c.letter)) + ", 1) " + symbols[c.op] + " 0)"
}

func (c address) text(Language) string {
	outer := measure.And
	if c.op == measure.Ne {
		outer = measure.Or
	}
	parts := make([]string, len(c.bytes))
	for i, b := range c.bytes {
		parts[i] = "(" + c.left + "[" + strconv.Itoa(i) + "] " + symbols[c.op] + " " + strconv.Itoa(int(b)) + ")"
	}
	return "(" + strings.Join(parts, " "+symbols[outer]+" ") + ")"
}

func (c programText) text(Language) string {
	outer := measure.And
	if c.op == measure.Ne {
		outer = measure.Or
	}
	var parts []string
	eachWord(0, len(c.bytes), func(from, size int) {
		parts = append(parts, "("+wordAt(c.at, from, size)+" "+symbols[c.op]+" "+wordOf(c.bytes[from:from+size])+")")
	})
	return "(" + strings.Join(parts, " "+symbols[outer]+" ") + ")"
}

// eachWord divides bytes into words, so that nothing is read behind their end.
func eachWord(from, end int, fn func(from, size int)) {
	for from < end {
		size := 8
		for size > end-from {
			size /= 2
		}
		fn(from, size)
		from += size
	}
}

// wordAt reads a word of a program's memory.
func wordAt(address string, from, size int) string {
	return "*(uint" + strconv.Itoa(8*size) + " *)uptr(" + address + " + " + strconv.Itoa(from) + ")"
}

// wordOf is the number that such a word is: every machine that bpftrace is asked for here has the low byte first.
func wordOf(bytes []byte) string {
	var n uint64
	for i, b := range bytes {
		n |= uint64(b) << (8 * i)
	}
	return strconv.FormatUint(n, 10)
}

// integer prints a number so that both languages read it as one: a minus is an operator there.
func integer(n int64) string {
	switch {
	case n >= 0:
		return strconv.FormatInt(n, 10)
	case n == -1<<63:
		return "(-9223372036854775807 - 1)"
	}
	return "(" + strconv.FormatInt(n, 10) + ")"
}

// quote makes the one form of string constant that both lexers read alike: every byte that is not plain is a backslash
// and exactly three octal digits.
func quote(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == ' ', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// never is the truth of a comparison with a constant that the field never has.
func never(op measure.Op) cond { return truth(op == measure.Ne) }

// cond makes a condition of a predicate as one clause can evaluate it. number gives the text of a numeric field.
func (c *compiler) cond(p measure.Predicate, def *catalog.Clause, number func(name string) string) (cond, error) {
	switch {
	case p.Op == "":
		return truth(true), nil
	case p.Op == measure.And || p.Op == measure.Or:
		return c.join(p, def, number)
	}
	f, _ := c.wish.Definition.Metric.Field(p.Field)
	t, has := def.Fields[p.Field]
	switch {
	case !has:
		return nil, collect.Errorf(collect.Failed, "a clause lacks the field %s", p.Field)
	case f.Arity == catalog.Numeric:
		left, n := number(p.Field), p.Value.Num()
		if t.CType != catalog.CTypeInt && n < 0 { // no unsigned number is below 0
			return truth(p.Op == measure.Ne || p.Op == measure.Gt || p.Op == measure.Ge), nil
		}
		return compareInt{left: left, op: p.Op, n: n}, nil
	case t.Map != nil:
		return c.mapped(f, t, def, p.Value.Str(), p.Op)
	}
	return c.raw(f, t, def, p.Op, p.Value.Str())
}

func (c *compiler) join(p measure.Predicate, def *catalog.Clause, number func(string) string) (cond, error) {
	out := join{op: p.Op}
	for _, arg := range p.Args {
		made, err := c.cond(arg, def, number)
		if err != nil {
			return nil, err
		}
		if known, is := made.(truth); is {
			if bool(known) == (p.Op == measure.Or) {
				return known, nil
			}
			continue
		}
		out.args = append(out.args, made)
	}
	switch len(out.args) {
	case 0:
		return truth(p.Op == measure.And), nil
	case 1:
		return out.args[0], nil
	}
	return out, nil
}

// mapped compares a field whose raw values the definition maps. What the map lacks is neither equal nor unequal.
func (c *compiler) mapped(f catalog.Field, t catalog.TraceField, def *catalog.Clause, s string, op measure.Op) (cond, error) {
	out := join{op: measure.Or}
	for _, raw := range slices.Sorted(maps.Keys(t.Map)) {
		if (t.Map[raw] == s) != (op == measure.Eq) {
			continue
		}
		made, err := c.raw(f, t, def, measure.Eq, raw)
		if err != nil {
			return nil, err
		}
		if made != truth(false) {
			out.args = append(out.args, made)
		}
	}
	if len(out.args) == 0 {
		return truth(false), nil
	}
	return out, nil
}

var ntop = regexp.MustCompile(`^ntop\((2|10), ?([A-Za-z_][A-Za-z0-9_]*(?:->[A-Za-z_][A-Za-z0-9_]*)*)\)$`)

// raw compares a discrete field with a text as it is before the definition's map, but after its decoding.
func (c *compiler) raw(f catalog.Field, t catalog.TraceField, def *catalog.Clause, op measure.Op, s string) (cond, error) {
	expr := c.expr(t, def)
	switch {
	case t.CType == catalog.CTypeStack:
		return nil, collect.Errorf(collect.Unsupported, "the field %s is a stack, which cannot be compared", f.Name)
	case t.CType == catalog.CTypeArguments:
		if len(s) > catalog.ArgumentBytes || strings.HasSuffix(s, " ") { // what is shown is shorter, and ends before its last space
			return never(op), nil
		}
		return arguments{op: op, bytes: []byte(s)}, c.lowByteFirst()
	case t.CType == catalog.CTypeFSType:
		return c.fileSystem(expr, op, s), nil
	case t.Decode == "errno":
		n, known := errnoNumber(s)
		if !known {
			return never(op), nil
		}
		return compareUint{left: c.lang.number(expr, false), op: op, n: n}, nil
	case t.Decode == "syscall":
		n, known := c.syscallNumber(s)
		if !known {
			return nil, collect.Errorf(collect.Failed, "there is no system call %q on %s", s, c.wish.Arch)
		}
		return compareUint{left: c.lang.number(expr, false), op: op, n: n}, nil
	case t.Decode == "majorminor":
		n, known := deviceNumber(c.wish.Devices, s)
		if !known {
			return never(op), nil
		}
		return compareUint{left: c.lang.number(expr, false), op: op, n: n}, nil
	case t.Decode == "firstletter":
		if len(s) != 1 {
			return never(op), nil
		}
		return firstLetter{left: expr, op: op, letter: s[0]}, nil
	case t.CType == catalog.CTypeInt:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != s {
			return never(op), nil
		}
		return compareInt{left: c.lang.number(expr, true), op: op, n: n}, nil
	case t.CType == catalog.CTypeUint:
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || strconv.FormatUint(n, 10) != s {
			return never(op), nil
		}
		return compareUint{left: c.lang.number(expr, false), op: op, n: n}, nil
	case t.CType == catalog.CTypeIP:
		return c.address(f, expr, op, s)
	}
	// A longer constant than the platform's names can never be equal, and the tracer would refuse it.
	if len(s) > min(c.lang.maxText(), cmp.Or(f.MaxLen, c.lang.maxText()), cmp.Or(t.Length, c.lang.maxText())) {
		return never(op), nil
	}
	if t.CType == catalog.CTypeText && c.lang == Bpftrace {
		return c.programText(t, def, op, s)
	}
	return compareString{left: expr, op: op, s: s}, nil
}

// programText compares the first bytes of a program's text, as many as the field has, or all with their end.
func (c *compiler) programText(t catalog.TraceField, def *catalog.Clause, op measure.Op, s string) (cond, error) {
	if err := c.lowByteFirst(); err != nil {
		return nil, err
	}
	bytes := []byte(s)
	if len(bytes) < t.Length {
		bytes = append(bytes, 0)
	}
	return programText{at: c.resolve(t.Expr, def), op: op, bytes: bytes}, nil
}

// lowByteFirst refuses machines on which texts of programs would be compared as other numbers.
func (c *compiler) lowByteFirst() error {
	if !slices.Contains([]string{"amd64", "arm64", "386", "arm", "riscv64", "ppc64le"}, c.wish.Arch) {
		return collect.Errorf(collect.Unsupported, "texts of programs are not compared on %s", c.wish.Arch)
	}
	return nil
}

func (c *compiler) address(f catalog.Field, expr string, op measure.Op, s string) (cond, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" {
		return nil, collect.Errorf(collect.Failed, "the field %s is an IP address, which %q is not", f.Name, s)
	}
	ip = ip.Unmap()
	if c.lang == D {
		return compareString{left: expr, op: op, s: ip.String()}, nil
	}
	parts := ntop.FindStringSubmatch(expr)
	switch {
	case parts == nil:
		return nil, collect.Errorf(collect.Unsupported, "the field %s cannot be compared by the tracer", f.Name)
	case parts[1] == "10":
		bytes := ip.As16() // of an IPv4 address its form within IPv6
		return address{left: parts[2], op: op, bytes: bytes[:]}, nil
	case !ip.Is4():
		return never(op), nil
	}
	return address{left: parts[2], op: op, bytes: ip.AsSlice()}, nil
}

func (c *compiler) syscallNumber(name string) (uint64, bool) {
	for n, have := range syscallNames(c.wish.Arch) {
		if have == name {
			return n, true
		}
	}
	n, err := strconv.ParseUint(name, 10, 32)
	return n, err == nil && strconv.FormatUint(n, 10) == name
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
