// What Codebuff's SDK finds of the network in tests; loaded before `deploy/codebuff/redirect.mjs`. Telemetry is
// swallowed, everything else that is not on the loopback fails, and every call is noted for the program to print.
//   TEST_RUNS_URL       another edge for what is said of runs
const fetchAsIs = globalThis.fetch
const calls = (globalThis.testCalls = [])

globalThis.fetch = async (input, init) => {
  let url = new URL(input instanceof Request ? input.url : String(input))
  if (url.hostname.endsWith('posthog.com')) return new Response('{}')
  const call = { method: init?.method ?? 'GET', path: url.pathname, status: 0 }
  calls.push(call)
  if (url.hostname !== '127.0.0.1') throw new TypeError(`the test has no network: ${url}`)
  if (process.env.TEST_RUNS_URL && url.pathname === '/api/v1/agent-runs') {
    url = new URL(url.pathname, process.env.TEST_RUNS_URL)
  }
  const response = await fetchAsIs(url, init)
  call.status = response.status
  if (url.pathname === '/api/v1/token-count') call.tokens = (await response.clone().json()).inputTokens
  return response
}
