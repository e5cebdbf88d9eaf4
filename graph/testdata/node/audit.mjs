// Runs the audits of graphql-http against the server whose address is the argument. Fails unless all pass.
import { auditServer } from 'graphql-http';

const results = await auditServer({ url: process.argv[2], fetchFn: fetch });
for (const r of results) {
  if (r.status !== 'ok') {
    console.log(`${r.status} ${r.id} ${r.name}: ${r.reason}`);
    if (r.response) console.log(r.response.status, await r.response.text().catch(() => ''));
  }
}
const ok = results.filter((r) => r.status === 'ok').length;
console.log(`${ok} of ${results.length} audits pass`);
process.exit(ok === results.length ? 0 : 1);
