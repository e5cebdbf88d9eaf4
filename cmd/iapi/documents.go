package main

// The operations that the client sends. A test validates each against the schema.
const (
	instrumentationFields = `
fragment fields on Instrumentation {
  id name owner metric { name unit } predicate { json text } decompositions { name } scope { json text }
  targets {
    __typename
    ... on DataApiTarget { url transport streamUrl }
    ... on StatsdTarget { address prefix }
    ... on GraphiteTarget { address prefix }
    ... on OtlpTarget { endpoint }
  }
  tags { key value } granularitySeconds state revision createdAt updatedAt expiresAt
  coverage { expected running pending failed offline }
}`

	metricsDocument = `query Metrics($module: String, $collector: CollectorKind) {
  metrics(module: $module, collector: $collector) {
    name label interval unit collectors maxTtlSeconds fields { name label arity unit }
  }
}`

	publishDocument = `mutation Publish($input: PublishMetricInput!) {
  publishMetric(input: $input) { metric { name definition { digest } } userErrors { message path code } }
}`

	retireDocument = `mutation Retire($input: RetireMetricInput!) {
  retireMetric(input: $input) { retiredName userErrors { message path code } }
}`

	createDocument = `mutation Create($input: CreateInstrumentationInput!) {
  createInstrumentation(input: $input) { instrumentation { ...fields } userErrors { message path code } }
}` + instrumentationFields

	updateDocument = `mutation Update($input: UpdateInstrumentationInput!) {
  updateInstrumentation(input: $input) { instrumentation { ...fields } userErrors { message path code } }
}` + instrumentationFields

	cloneDocument = `mutation Clone($input: CloneInstrumentationInput!) {
  cloneInstrumentation(input: $input) { instrumentation { ...fields } userErrors { message path code } }
}` + instrumentationFields

	pauseDocument = `mutation Pause($input: InstrumentationIdInput!) {
  pauseInstrumentation(input: $input) { instrumentation { ...fields } userErrors { message path code } }
}` + instrumentationFields

	resumeDocument = `mutation Resume($input: InstrumentationIdInput!) {
  resumeInstrumentation(input: $input) { instrumentation { ...fields } userErrors { message path code } }
}` + instrumentationFields

	countDocument = `query Count($filter: InstrumentationFilter) { instrumentations(filter: $filter) { totalCount } }`

	placedVMsDocument = `query PlacedVms($id: ID!, $first: Int!, $after: String) {
  instrumentation(id: $id) {
    places: vms(first: $first, after: $after) {
      edges { node { uuid alias owner host state } status message }
      pageInfo { hasNextPage endCursor }
    }
  }
}`

	placedHostsDocument = `query PlacedHosts($id: ID!, $first: Int!, $after: String) {
  instrumentation(id: $id) {
    places: hosts(first: $first, after: $after) {
      edges { node { uuid name } vms status message }
      pageInfo { hasNextPage endCursor }
    }
  }
}`

	listDocument = `query List($first: Int, $after: String, $filter: InstrumentationFilter) {
  instrumentations(first: $first, after: $after, filter: $filter) {
    nodes { ...fields }
    pageInfo { hasNextPage endCursor }
  }
}` + instrumentationFields

	getDocument = `query Get($id: ID!) {
  instrumentation(id: $id) { ...fields problems { status message sources exampleVm } }
}` + instrumentationFields

	previewDocument = `query Preview($scope: ScopeInput!, $metric: String, $owner: UUID, $first: Int!) {
  previewScope(scope: $scope, metric: $metric, owner: $owner) {
    vmCount hostCount inventoryAsOf token
    vms(first: $first) { nodes { uuid alias state owner host } }
    hosts(first: $first) { nodes { uuid name } }
    problems { status message sources exampleVm }
  }
}`

	refreshDocument = `mutation Refresh($input: InstrumentationIdInput!) {
  refreshInstrumentation(input: $input) { instrumentation { ...fields } userErrors { message path code } }
}` + instrumentationFields

	refreshAllDocument = `mutation RefreshAll { refreshAll { accepted userErrors { message path code } } }`

	checkCreateDocument = `query CheckCreate($input: CreateInstrumentationInput!) { checkCreate(input: $input) { message path code } }`

	checkUpdateDocument = `query CheckUpdate($input: UpdateInstrumentationInput!) { checkUpdate(input: $input) { message path code } }`

	deleteDocument = `mutation Delete($input: InstrumentationIdInput!) {
  deleteInstrumentation(input: $input) { deletedId userErrors { message path code } }
}`

	deleteAllDocument = `mutation DeleteAll($input: DeleteInstrumentationsInput!) {
  deleteInstrumentations(input: $input) { deletedCount deletedIds userErrors { message path code } }
}`

	explainDocument = `query Explain($id: ID!, $host: UUID, $vm: UUID) {
  explainPlacement(instrumentation: $id, host: $host, vm: $vm) { placed causes { code message } }
}`

	limitsDocument = `query Limits($owner: UUID) {
  limits(owner: $owner) {
    instrumentations instrumentationsUsed tracingInstrumentations tracingInstrumentationsUsed nameBytes tags tagKeyBytes
    tagValueBytes targets scopeDepth scopeTerms scopeUuids scopeValues scopeTextBytes predicateDepth predicateComparisons
    discreteDecompositions granularitySeconds defaultTracingTtlSeconds maxTracingTtlSeconds maxTtlSeconds joinTokenTtlSeconds
  }
}`

	notifyDocument = `mutation Notify($input: NotifyVmChangedInput!) {
  notifyVmChanged(input: $input) { accepted userErrors { message path code } }
}`

	stopTracingDocument = `mutation StopTracing($input: StopTracingInput!) {
  stopTracing(input: $input) { accepted userErrors { message path code } }
}`

	guardsDocument = `query Guards { guards { id reason wouldRemove since } }`

	confirmDocument = `mutation Confirm($id: ID!) { confirmGuard(id: $id) { accepted userErrors { message path code } } }`

	revokeDocument = `mutation Revoke($host: UUID!) { revokeAgent(host: $host) { accepted userErrors { message path code } } }`

	hostDocument = `query Host($uuid: UUID!) {
  host(uuid: $uuid) {
    uuid name traits { key value }
    agent { version online lastSeenAt applied { epoch generation hash } capabilities }
  }
}`

	fleetDocument = `query Fleet($first: Int!, $after: String, $online: Boolean) {
  hosts(first: $first, after: $after, online: $online) {
    nodes { uuid name traits { key value } agent { version online lastSeenAt applied { generation } capabilities } }
    pageInfo { hasNextPage endCursor }
  }
}`

	auditDocument = `query Audit($first: Int!, $after: String) {
  auditLog(first: $first, after: $after) {
    nodes { id at caller kind owner action subject detail result }
    pageInfo { hasNextPage endCursor }
  }
}`

	joinDocument = `mutation Join($input: CreateJoinTokenInput!) {
  createJoinToken(input: $input) { token userErrors { message path code } }
}`
)
