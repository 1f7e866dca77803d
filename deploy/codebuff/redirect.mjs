// Sends what @codebuff/sdk (0.10) asks of its own server to Patchbay instead: its address is built in.
//   PATCHBAY_URL=http://127.0.0.1:8000 node --import ./redirect.mjs your-program.mjs
const target = new URL(process.env.PATCHBAY_URL ?? 'http://127.0.0.1:8000')
const hosts = new Set(['www.codebuff.com', 'codebuff.com'])
const fetchAsIs = globalThis.fetch

globalThis.fetch = (input, init) => {
  const url = new URL(input instanceof Request ? input.url : String(input))
  if (!hosts.has(url.hostname)) return fetchAsIs(input, init)
  const there = new URL(url.pathname + url.search, target)
  return fetchAsIs(input instanceof Request ? new Request(there, input) : there, init)
}

// Node before 22 has none, and the SDK needs it.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}
