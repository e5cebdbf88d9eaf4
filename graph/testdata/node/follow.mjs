// A real graphql-ws client: follows one instrumentation until its second event. Prints what it gets, a line of JSON each.
// Arguments: address, token, id.
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const [url, token, id] = process.argv.slice(2);
const client = createClient({ url, webSocketImpl: WebSocket, connectionParams: { authorization: `Bearer ${token}` }, retryAttempts: 0 });
let events = 0;
for await (const r of client.iterate({ query: 'subscription($id: ID!) { instrumentationUpdated(id: $id) { revision name } }', variables: { id } })) {
  console.log(JSON.stringify(r));
  if (++events === 2) break;
}
await client.dispose();
