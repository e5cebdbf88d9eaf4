package graph

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"iapi/graph/scalar"
)

// variables checks the values of variables and of literals to their leaves before anything is executed, for every
// transport. The library looks at the leaves only when a field is executed, and then other fields have had their effect.
type variables struct{ schema *ast.Schema }

// ExtensionName implements graphql.HandlerExtension.
func (variables) ExtensionName() string { return "Variables" }

// Validate implements graphql.HandlerExtension.
func (variables) Validate(graphql.ExecutableSchema) error { return nil }

// MutateOperationParameters writes 2.0 as 2. The library does not take the former as an Int.
func (variables) MutateOperationParameters(_ context.Context, params *graphql.RawParams) *gqlerror.Error {
	for name, v := range params.Variables {
		if n, ok := v.(json.Number); ok {
			params.Variables[name] = scalar.Integral(n)
		}
	}
	return nil
}

// MutateOperationContext refuses the operation if one of the values is not of its type.
func (v variables) MutateOperationContext(_ context.Context, op *graphql.OperationContext) *gqlerror.Error {
	for _, d := range op.Operation.VariableDefinitions {
		value, ok := op.Variables[d.Variable]
		if !ok {
			continue
		}
		if err := v.check(ast.Path{ast.PathName("variable"), ast.PathName(d.Variable)}, d.Type, value); err != nil {
			return err
		}
	}
	for _, o := range op.Doc.Operations {
		if err := v.literals(o.SelectionSet, op.Variables); err != nil {
			return err
		}
	}
	for _, f := range op.Doc.Fragments {
		if err := v.literals(f.SelectionSet, op.Variables); err != nil {
			return err
		}
	}
	return nil
}

// literals checks what is written in the arguments of fields, also of those that are skipped: the document is wrong. What
// fragments hold is checked with the fragments, once.
func (v variables) literals(set ast.SelectionSet, values map[string]any) *gqlerror.Error {
	for _, selection := range set {
		var err *gqlerror.Error
		switch selection := selection.(type) {
		case *ast.Field:
			if err = v.arguments(selection, values); err == nil {
				err = v.literals(selection.SelectionSet, values)
			}
		case *ast.InlineFragment:
			err = v.literals(selection.SelectionSet, values)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v variables) arguments(field *ast.Field, values map[string]any) *gqlerror.Error {
	for _, a := range field.Arguments {
		if a.Value.Kind == ast.Variable {
			continue // it was checked
		}
		value, err := a.Value.Value(values)
		if err != nil {
			return gqlerror.ErrorPosf(a.Position, "The argument %s of %s has a number that is too large.", a.Name, field.Name)
		}
		if name := bareName(a.Value); name != "" {
			return gqlerror.ErrorPosf(a.Position, "The argument %s of %s has the name %s where a value is wanted; a text stands in quotes.", a.Name, field.Name, name)
		}
		path := ast.Path{ast.PathName(a.Name)}
		if wrong := v.check(path, field.Definition.Arguments.ForName(a.Name).Type, value); wrong != nil {
			return gqlerror.ErrorPosf(a.Position, "The argument %s of %s: %s.", wrong.Path, field.Name, wrong.Message)
		}
	}
	return nil
}

// bareName finds a name, as of a member of an enum, that stands for a scalar: NaN is not the text "NaN". The library takes
// it for that.
func bareName(value *ast.Value) string {
	if value.Kind == ast.EnumValue && value.Definition != nil && value.Definition.Kind == ast.Scalar {
		return value.Raw
	}
	for _, child := range value.Children {
		if name := bareName(child.Value); name != "" {
			return name
		}
	}
	return ""
}

// check looks at what is in a value. The library has checked its outline: what is missing, unknown or null.
func (v variables) check(path ast.Path, t *ast.Type, value any) *gqlerror.Error {
	if value == nil {
		return nil
	}
	if t.Elem != nil {
		list := reflect.ValueOf(value)
		if list.Kind() != reflect.Slice {
			return v.check(path, t.Elem, value)
		}
		for i := range list.Len() {
			if err := v.check(append(path, ast.PathIndex(i)), t.Elem, list.Index(i).Interface()); err != nil {
				return err
			}
		}
		return nil
	}
	def := v.schema.Types[t.NamedType]
	if def.Kind == ast.InputObject {
		members, _ := value.(map[string]any)
		for _, f := range def.Fields {
			if err := v.check(append(path, ast.PathName(f.Name)), f.Type, members[f.Name]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := checkLeaf(def, value); err != nil {
		return gqlerror.ErrorPathf(path, "%s", err.Error())
	}
	return nil
}

// checkLeaf checks a scalar or a member of an enum as its reader does.
func checkLeaf(def *ast.Definition, value any) (err error) {
	if def.Kind == ast.Enum {
		if name, ok := value.(string); !ok || def.EnumValues.ForName(name) == nil {
			return errors.New("this is no " + def.Name)
		}
		return nil
	}
	switch def.Name {
	case "String":
		_, err = scalar.UnmarshalString(value)
	case "Int":
		_, err = scalar.UnmarshalInt(value)
	case "Boolean":
		if _, ok := value.(bool); !ok {
			err = errors.New("a Boolean must be true or false")
		}
	case "ID":
		err = id(value)
	case "UUID":
		_, err = scalar.UnmarshalUUID(value)
	case "DateTime":
		_, err = scalar.UnmarshalDateTime(value)
	case "FieldValue":
		_, err = scalar.UnmarshalFieldValue(value)
	case "Float":
		_, err = graphql.UnmarshalFloat(value)
	}
	return err
}

// id takes a string or an integer.
func id(value any) error {
	switch value := value.(type) {
	case string, int, int64:
		return nil
	case json.Number:
		if _, err := value.Int64(); err == nil {
			return nil
		}
	}
	return errors.New("an ID must be a string or an integer")
}
