// The rules of schema.graphql: the recommended ones and Relay's, but for what is listed here with its reason.
import graphql from '@graphql-eslint/eslint-plugin';

// Values without an identity of their own: parts of something that has one, or answers about it.
const values = [
  'Agent', 'AcceptedPayload', 'AssignedTarget', 'AssignedVm', 'Assignment', 'AssignmentBookmark', 'AssignmentVersion',
  'Coverage', 'DataApiTarget', 'GraphiteTarget', 'Limits', 'MetricDefinition', 'MetricField', 'OtlpTarget', 'PageInfo',
  'PlacementCause', 'PlacementExplanation', 'PlacementProblem', 'Predicate', 'Scope', 'ScopePreview', 'StatsdTarget',
  'Tag', 'UserError',
];

const recommended = { ...graphql.configs['schema-recommended'].rules, ...graphql.configs['schema-relay'].rules };

export default [
  {
    files: ['**/*.graphql'],
    languageOptions: { parser: graphql.parser, parserOptions: { graphQLConfig: { schema: 'schema.graphql' } } },
    plugins: { '@graphql-eslint': graphql },
    rules: {
      ...recommended,
      '@graphql-eslint/strict-id-in-types': ['error', { exceptions: { types: values, suffixes: ['Connection', 'Edge', 'Payload'] } }],
      // Small lists that come whole, and `nodes`, are no connections. Audit entries are read in their order, never alone.
      '@graphql-eslint/relay-edge-types': ['error', { withEdgeSuffix: true, shouldImplementNode: false, listTypeCanWrapOnlyEdgeType: false }],
      // Lists that are read forward only have no `last`.
      '@graphql-eslint/relay-arguments': ['error', { includeBoth: false }],
      '@graphql-eslint/no-scalar-result-type-on-mutation': 'error',
      '@graphql-eslint/require-nullable-fields-with-oneof': 'error',
      '@graphql-eslint/require-deprecation-date': 'error',
    },
  },
];
