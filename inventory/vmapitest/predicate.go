package vmapitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// errDies marks a request at which the real VMAPI ends its process.
var errDies = errors.New("VMAPI's process would end")

// refusal is the message of a 409, in VMAPI's words.
type refusal string

func (r refusal) Error() string { return string(r) }

var relations = map[string]string{"eq": "=", "ne": "=", "ge": ">=", "le": "<=", "gt": ">", "lt": "<"}

// prototypeNames are what every JavaScript object has; VMAPI mistakes one of them for an operator, and dies.
var prototypeNames = []string{
	"constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
	"__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__", "__proto__",
}

// predicateFilter translates a predicate's JSON text into the text of a filter. Its errors are the messages of VMAPI's
// 409, or errDies.
func predicateFilter(text string) (string, error) {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return "", refusal("Unable to parse predicate as JSON")
	}
	if v == nil {
		return "", errDies
	}
	object, ok := v.(map[string]any)
	if list, isList := v.([]any); (ok && len(object) == 0) || (isList && len(list) == 0) {
		return "", refusal("Empty predicate")
	}
	filter, err := predicateNode(v, 0)
	if err != nil && !errors.Is(err, errDies) {
		err = refusal("Predicate syntax error: Error: " + err.Error())
	}
	return filter, err
}

func predicateNode(v any, depth int) (string, error) {
	object, ok := v.(map[string]any)
	if !ok || depth > maxFilterDepth {
		return "", errors.New("predicate must be an object")
	}
	if len(object) != 1 {
		return "", fmt.Errorf("expected exactly one key per object: found %d", len(object))
	}
	for key, args := range object {
		list, isList := args.([]any)
		if slices.Contains(prototypeNames, key) {
			return "", errDies
		}
		if key == "and" || key == "or" {
			return logical(key, list, isList, depth)
		}
		if _, ok := relations[key]; !ok {
			return "", fmt.Errorf("invalid key: %s", key)
		}
		if !isList || len(list) != 2 {
			return "", fmt.Errorf("relational expr key %q must have an array of two elements", key)
		}
		return relation(key, list[0], list[1])
	}
	return "", nil
}

func logical(key string, list []any, isList bool, depth int) (string, error) {
	if !isList {
		return "", fmt.Errorf("logical expr key %q does not have an array", key)
	}
	if len(list) < 2 {
		return "", fmt.Errorf("logical expr key %q does not contain enough elements: found %d, expected at least two", key, len(list))
	}
	var b strings.Builder
	b.WriteString(map[string]string{"and": "(&", "or": "(|"}[key])
	for _, each := range list {
		filter, err := predicateNode(each, depth+1)
		if err != nil {
			return "", err
		}
		b.WriteString(filter)
	}
	return b.String() + ")", nil
}

func relation(key string, field, constant any) (string, error) {
	name, ok := field.(string)
	if !ok {
		return "", fmt.Errorf("field of %q must be a string", key)
	}
	var value string
	switch c := constant.(type) {
	case string:
		value = c
	case float64:
		value = numberText(c)
	case bool:
		value = fmt.Sprint(c)
	default:
		return "", fmt.Errorf("constant of %q must be a string, a number or a boolean", key)
	}
	var filter string
	switch {
	case strings.HasPrefix(name, "tag."): // whatever the relation, it is evaluated as equality
		filter = tagFilter(strings.TrimPrefix(name, "tag."), value)
	case name == "ram":
		filter = "(max_physical_memory" + relations[key] + value + ")"
	default:
		filter = "(" + name + relations[key] + value + ")"
	}
	if key == "ne" {
		filter = "(!" + filter + ")"
	}
	return filter, nil
}
