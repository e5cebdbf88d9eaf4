// A real graphql-ws client: one query, then the agents' subscription until the second assignment. Prints what it gets, a
// line of JSON each. Arguments: address, token, host, session.
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const [url, token, host, session] = process.argv.slice(2);
const client = createClient({ url, webSocketImpl: WebSocket, connectionParams: { authorization: `Bearer ${token}` }, retryAttempts: 0, lazy: false, keepAlive: 200 });
const print = (v) => console.log(JSON.stringify(v));

for await (const r of client.iterate({ query: '{ __typename }' })) print(r);
let events = 0;
for await (const r of client.iterate({
  query: 'subscription($h: UUID!, $s: UUID!) { assignments(host: $h, session: $s) { ... on Assignment { version { generation } } } }',
  variables: { h: host, s: session },
})) {
  print(r);
  if (++events === 2) break;
}
try {
  for await (const r of client.iterate({ query: '{ nothing }' })) print(r);
} catch (errors) {
  print({ refused: errors[0].extensions.code });
}
await client.dispose();
