package schema_test

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
)

func load(t *testing.T, path string) *ast.Schema {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: path, Input: string(text)})
	require.NoError(t, err)
	return schema
}

// TestTheContractHolds compares with contract.graphql, which has the names and meanings that clients, checks and agents rely
// on. The schema may have more; what stands there it has with the same types and defaults.
func TestTheContractHolds(t *testing.T) {
	contract, schema := load(t, "contract.graphql"), load(t, "../../schema.graphql")
	compared := 0
	for name, want := range contract.Types {
		if want.BuiltIn {
			continue
		}
		got := schema.Types[name]
		require.NotNil(t, got, "type %s is missing", name)
		require.Equal(t, want.Kind, got.Kind, name)
		require.Equal(t, want.Directives.ForName("oneOf") != nil, got.Directives.ForName("oneOf") != nil, "@oneOf of %s", name)
		require.Subset(t, got.Interfaces, want.Interfaces, "interfaces of %s", name)
		require.Subset(t, got.Types, want.Types, "members of %s", name)
		for _, v := range want.EnumValues {
			require.NotNil(t, got.EnumValues.ForName(v.Name), "%s.%s is missing", name, v.Name)
			compared++
		}
		for _, f := range want.Fields {
			is := got.Fields.ForName(f.Name)
			require.NotNil(t, is, "%s.%s is missing", name, f.Name)
			require.Equal(t, f.Type.String(), is.Type.String(), "%s.%s", name, f.Name)
			require.Equal(t, f.DefaultValue.String(), is.DefaultValue.String(), "default of %s.%s", name, f.Name)
			compared++
			for _, arg := range f.Arguments {
				a := is.Arguments.ForName(arg.Name)
				require.NotNil(t, a, "%s.%s(%s:) is missing", name, f.Name, arg.Name)
				require.Equal(t, arg.Type.String(), a.Type.String(), "%s.%s(%s:)", name, f.Name, arg.Name)
				require.Equal(t, arg.DefaultValue.String(), a.DefaultValue.String(), "default of %s.%s(%s:)", name, f.Name, arg.Name)
				compared++
			}
			// What callers do not know of may not be required of them.
			for _, arg := range is.Arguments {
				known := f.Arguments.ForName(arg.Name) != nil
				require.True(t, known || !arg.Type.NonNull || arg.DefaultValue != nil, "%s.%s(%s:) is required", name, f.Name, arg.Name)
			}
		}
		if want.Kind == ast.InputObject {
			for _, f := range got.Fields {
				known := slices.ContainsFunc(want.Fields, func(w *ast.FieldDefinition) bool { return w.Name == f.Name })
				require.True(t, known || !f.Type.NonNull || f.DefaultValue != nil, "%s.%s is required", name, f.Name)
			}
		}
	}
	require.Greater(t, compared, 400)
}
