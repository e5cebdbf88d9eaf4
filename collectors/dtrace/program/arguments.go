package program

import (
	"slices"
	"strconv"
	"strings"

	"iapi/catalog"
	"iapi/measure"
)

// A process keeps its arguments in its own memory, each with a zero at its end. A clause that compares them has where
// they begin, and how many bytes of them there are of those that are looked at.
const (
	argumentStart  = "curtask->mm->arg_start"
	argumentLength = "(uint64)(curtask->mm->arg_end - " + argumentStart + ")"
	argumentVars   = "  $start = " + argumentStart + "; $length = " + argumentLength + ";"
)

// arguments compares the arguments of the current process, as they are shown, by Eq or Ne. Zeros and spaces are equal,
// for both are shown as spaces, and those at the end are not shown.
type arguments struct {
	op    measure.Op
	bytes []byte // the last one is no space
}

func (c arguments) text(Language) string {
	n := len(c.bytes)
	parts := []string{"($length >= " + strconv.Itoa(n) + ")"}
	eachWord(0, n, func(from, size int) {
		word, want, mask := wordAt("$start", from, size), make([]byte, size), make([]byte, size)
		isMasked := false
		for i, b := range c.bytes[from : from+size] {
			if want[i], mask[i] = b, 0xff; b == ' ' {
				want[i], mask[i], isMasked = 0, 0xff&^' ', true
			}
		}
		if isMasked {
			word = "(" + word + " & " + wordOf(mask) + ")"
		}
		parts = append(parts, "("+word+" == "+wordOf(want)+")")
	})
	// Most have nothing but their zero after that. Others have written another text over them, and the rest is compared
	// as far as it is looked at and theirs; what comes behind is the environment, which is nobody's business.
	var rest []string
	eachWord(n, catalog.ArgumentBytes, func(from, size int) {
		word := "((uint64)" + wordAt("$start", from, size) + " & " + wordOf([]byte(strings.Repeat("\xdf", size))) + ")"
		end := strconv.Itoa(from + size)
		cut := "((" + word + " << (8 * (" + strconv.Itoa(from+8) + " - $length))) == 0)" // what is behind the arguments falls out
		rest = append(rest, "(($length <= "+strconv.Itoa(from)+") || ("+word+" == 0) || (($length < "+end+") && "+cut+"))")
	})
	if len(rest) > 0 {
		parts = append(parts, "(($length == "+strconv.Itoa(n+1)+") || ("+strings.Join(rest, " && ")+"))")
	}
	equal := "(" + strings.Join(parts, " && ") + ")"
	if c.op == measure.Ne {
		return "(" + equal + " == 0)"
	}
	return equal
}

// ofArguments reports whether a condition compares arguments, and so needs what argumentVars sets.
func ofArguments(p measure.Predicate, def *catalog.Clause) bool {
	return slices.ContainsFunc(p.Fields(), func(name string) bool { return def.Fields[name].CType == catalog.CTypeArguments })
}

// shownArguments makes of the bytes of arguments what people read. bpftrace prints bytes that are not printable as
// \xHH, and does not tell those from the same four characters.
func shownArguments(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '\\' && i+3 < len(text) && text[i+1] == 'x' {
			if n, err := strconv.ParseUint(text[i+2:i+4], 16, 8); err == nil {
				c, i = byte(n), i+3
			}
		}
		if c == 0 {
			c = ' '
		}
		b.WriteByte(c)
	}
	return strings.TrimRight(b.String(), " ")
}
