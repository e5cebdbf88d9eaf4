// The explorer's page: GraphiQL over this server's own transports. Give a token in the headers tab:
// {"Authorization": "Bearer …"}.
'use strict';

const url = new URL('/graphql', location.href);

async function ask(params, headers) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { ...headers, 'Content-Type': 'application/json', Accept: 'application/graphql-response+json, application/json;q=0.9' },
    body: JSON.stringify(params),
  });
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    return { errors: [{ message: `${response.status} ${text.trim()}` }] };
  }
}

// subscribe speaks graphql-transport-ws. It is an async generator of results.
async function* subscribe(params, headers) {
  const address = new URL(url);
  address.protocol = address.protocol.replace('http', 'ws');
  const socket = new WebSocket(address, 'graphql-transport-ws');
  const waiting = [];
  let wake = () => {};
  const put = (item) => { waiting.push(item); wake(); };
  socket.onopen = () => socket.send(JSON.stringify({ type: 'connection_init', payload: { authorization: headers?.Authorization } }));
  socket.onclose = (e) => put({ end: e.code === 1000 ? undefined : `The connection was closed: ${e.code} ${e.reason}` });
  socket.onmessage = (e) => {
    const message = JSON.parse(e.data);
    switch (message.type) {
      case 'connection_ack': socket.send(JSON.stringify({ id: '1', type: 'subscribe', payload: params })); break;
      case 'ping': socket.send('{"type":"pong"}'); break;
      case 'next': put({ result: message.payload }); break;
      case 'error': put({ result: { errors: message.payload } }); put({}); break;
      case 'complete': put({}); break;
    }
  };
  try {
    for (;;) {
      while (waiting.length === 0) await new Promise((resolve) => { wake = resolve; });
      const item = waiting.shift();
      if (item.result) yield item.result;
      else if (item.end) { yield { errors: [{ message: item.end }] }; return; } else return;
    }
  } finally {
    socket.close(1000);
  }
}

function fetcher(params, options) {
  const subscription = options?.documentAST?.definitions.some((d) =>
    d.kind === 'OperationDefinition' && d.operation === 'subscription' && (!params.operationName || d.name?.value === params.operationName));
  return subscription ? subscribe(params, options.headers) : ask(params, options?.headers);
}

const welcome = `# Ctrl-Enter runs. Ctrl-Space completes.
{
  metrics { name label unit fields { name arity } }
}
`;

ReactDOM.createRoot(document.getElementById('explorer')).render(
  React.createElement(GraphiQL, { fetcher, defaultQuery: welcome, shouldPersistHeaders: false }));
