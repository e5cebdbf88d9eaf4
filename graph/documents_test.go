package graph_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"iapi/graph/agentdoc"
)

func TestDocumentsOfAgentsAreValid(t *testing.T) {
	text, err := os.ReadFile("../schema.graphql")
	require.NoError(t, err)
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphql", Input: string(text)})
	require.NoError(t, err)
	for name, document := range map[string]string{
		"assignments": agentdoc.Assignments, "report": agentdoc.Report, "definition": agentdoc.Definition, "join": agentdoc.ExchangeJoinToken,
	} {
		_, errs := gqlparser.LoadQueryWithRules(schema, document, rules.NewDefaultRules())
		require.Empty(t, errs, name)
	}
	for name, def := range schema.Types {
		if def.BuiltIn {
			continue
		}
		require.NotEmpty(t, def.Description, name)
		for _, f := range def.Fields {
			if strings.HasPrefix(f.Name, "__") {
				continue
			}
			require.NotEmpty(t, f.Description, name+"."+f.Name)
			for _, arg := range f.Arguments {
				require.NotEmpty(t, arg.Description, name+"."+f.Name+"."+arg.Name)
			}
		}
		for _, v := range def.EnumValues {
			require.NotEmpty(t, v.Description, name+"."+v.Name)
		}
	}
}
