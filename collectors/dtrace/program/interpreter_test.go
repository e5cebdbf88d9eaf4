package program

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// interpreter evaluates the expressions that the compiler emits, as the tracers do: of their grammar what is needed, and
// nothing shared with the compiler.
type interpreter struct {
	tokens []string
	vars   map[string]any // int64, string or []byte
}

var tokenPattern = regexp.MustCompile(`^(?:\s+|"(?:[^"\\]|\\[0-7]{3})*"|[$@]?[A-Za-z_][A-Za-z0-9_]*(?:->[A-Za-z_][A-Za-z0-9_]*)*|[0-9]+|<=|>=|==|!=|&&|\|\||[-+*/%()<>?:,\[\]])`)

func evaluate(text string, vars map[string]any) (result any, err error) {
	in := &interpreter{vars: vars}
	for rest := text; rest != ""; {
		token := tokenPattern.FindString(rest)
		if token == "" {
			return nil, fmt.Errorf("no token at %q", rest)
		}
		if strings.TrimSpace(token) != "" {
			in.tokens = append(in.tokens, token)
		}
		rest = rest[len(token):]
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("evaluate %s: %v", text, r)
		}
	}()
	result = in.ternary()
	if len(in.tokens) > 0 {
		return nil, fmt.Errorf("%q is left of %s", in.tokens, text)
	}
	return result, nil
}

func (in *interpreter) peek(tokens ...string) bool {
	for _, token := range tokens {
		if len(in.tokens) > 0 && in.tokens[0] == token {
			return true
		}
	}
	return false
}

func (in *interpreter) next() string {
	token := in.tokens[0]
	in.tokens = in.tokens[1:]
	return token
}

func (in *interpreter) expect(token string) {
	if got := in.next(); got != token {
		panic(fmt.Sprintf("%q instead of %q", got, token))
	}
}

func truthy(v any) bool { return v.(int64) != 0 }

func boolean(b bool) any {
	if b {
		return int64(1)
	}
	return int64(0)
}

func (in *interpreter) ternary() any {
	v := in.binary(0)
	if !in.peek("?") {
		return v
	}
	in.next()
	yes := in.ternary()
	in.expect(":")
	no := in.ternary()
	if truthy(v) {
		return yes
	}
	return no
}

// levels are the operators from the loosest to the tightest.
var levels = [][]string{{"||"}, {"&&"}, {"==", "!="}, {"<", "<=", ">", ">="}, {"+", "-"}, {"*", "/", "%"}}

func (in *interpreter) binary(level int) any {
	if level == len(levels) {
		return in.unary()
	}
	left := in.binary(level + 1)
	for in.peek(levels[level]...) {
		op := in.next()
		left = apply(op, left, in.binary(level+1))
	}
	return left
}

func apply(op string, left, right any) any {
	if s, is := left.(string); is {
		switch op {
		case "==":
			return boolean(s == right.(string))
		case "!=":
			return boolean(s != right.(string))
		}
	}
	a, b := left.(int64), right.(int64)
	switch op {
	case "||":
		return boolean(a != 0 || b != 0)
	case "&&":
		return boolean(a != 0 && b != 0)
	case "==":
		return boolean(a == b)
	case "!=":
		return boolean(a != b)
	case "<":
		return boolean(a < b)
	case "<=":
		return boolean(a <= b)
	case ">":
		return boolean(a > b)
	case ">=":
		return boolean(a >= b)
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "%":
		return a % b
	}
	if b == 0 {
		return int64(0) // the other branch of a ternary, which is never used
	}
	return a / b
}

var castPattern = regexp.MustCompile(`^u?int64(_t)?$`)

func (in *interpreter) unary() any {
	if in.peek("-") {
		in.next()
		return -in.unary().(int64)
	}
	token := in.next()
	switch {
	case token == "(" && castPattern.MatchString(in.tokens[0]):
		in.next()
		in.expect(")")
		return in.unary().(int64)
	case token == "(":
		v := in.ternary()
		in.expect(")")
		return v
	case token == "strncmp":
		in.expect("(")
		a := in.ternary().(string)
		in.expect(",")
		b := in.ternary().(string)
		in.expect(",")
		n := int(in.ternary().(int64))
		in.expect(")")
		return boolean(a[:min(n, len(a))] != b[:min(n, len(b))])
	case token == "substr":
		in.expect("(")
		s := in.ternary().(string)
		in.expect(",")
		from := int(in.ternary().(int64))
		in.expect(",")
		n := int(in.ternary().(int64))
		in.expect(")")
		return s[min(from, len(s)):min(from+n, len(s))]
	case token[0] == '"':
		s, err := strconv.Unquote(token)
		if err != nil {
			panic(err)
		}
		return s
	case token[0] >= '0' && token[0] <= '9':
		n, err := strconv.ParseInt(token, 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	v, found := in.vars[token]
	if !found {
		panic("there is no " + token)
	}
	if bytes, is := v.([]byte); is {
		in.expect("[")
		i := in.ternary().(int64)
		in.expect("]")
		return int64(bytes[i])
	}
	return v
}
