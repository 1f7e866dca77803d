// Runs prompts with @codebuff/sdk 0.10. A line on standard input is a JSON array of scenarios, which run side by side:
//   {name, apiKey?, cwd, agent: id or definition, prompts: [text], agentDefinitions?, options?: more of run(),
//    overrides?: {tool: its output}, abortOn?: text, connection?: whether to ask for it}
// A prompt goes on from the one before it. In definitions `handleSteps` is the source of a generator. With `abortOn`
// the run is aborted when a stream's text holds it. Standard output: JSON lines
//   {scenario, kind: "event" | "chunk" | "override" | "custom" | "connection" | "result" | "thrown", value}
// and in the end {kind: "calls", value: [{method, path, status, tokens?}]}. Then it stays until it is killed, as an editor
// would: its connections are not closed by its own end.
import { createInterface } from 'node:readline'
import { CodebuffClient, getCustomToolDefinition } from 'codebuff-sdk-http'
import { z } from 'zod/v4'

function say(line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

function definition(raw) {
  return raw.handleSteps ? { ...raw, handleSteps: (0, eval)(`(${raw.handleSteps})`) } : raw
}

function customTools(tell) {
  const lookUp = getCustomToolDefinition({
    toolName: 'look_up',
    description: 'Looks a word up.',
    inputSchema: z.object({ word: z.string(), times: z.number() }),
    exampleInputs: [{ word: 'tree', times: 1 }],
    execute: async (input) => {
      tell('custom', input)
      return [{ type: 'json', value: { meaning: `${input.word} times ${input.times}` } }]
    },
  })
  return [lookUp]
}

async function play({ name, apiKey, cwd, agent, prompts, agentDefinitions = [], options, overrides, abortOn, connection }) {
  const tell = (kind, value) => say({ scenario: name, kind, value })
  const client = new CodebuffClient({ apiKey: apiKey ?? process.env.CODEBUFF_API_KEY, cwd })
  if (connection) tell('connection', await client.checkConnection())
  const overrideTools = Object.fromEntries(
    Object.entries(overrides ?? {}).map(([tool, output]) => [
      tool,
      async (input) => {
        tell('override', { tool, input })
        return output
      },
    ]),
  )
  let previousRun
  for (const prompt of prompts) {
    const controller = new AbortController()
    try {
      previousRun = await client.run({
        agent: typeof agent === 'string' ? agent : definition(agent),
        prompt,
        previousRun,
        agentDefinitions: agentDefinitions.map(definition),
        customToolDefinitions: customTools(tell),
        overrideTools,
        signal: controller.signal,
        handleEvent: (event) => tell('event', event),
        handleStreamChunk: (chunk) => {
          tell('chunk', chunk)
          // Later, when nothing comes any more: as it is handed out, the client would see it at once.
          const said = typeof chunk === 'string' || chunk.type === 'subagent_chunk' ? (chunk.chunk ?? chunk) : ''
          if (abortOn && said.includes(abortOn)) setTimeout(() => controller.abort(), 200)
        },
        ...options,
      })
    } catch (error) {
      tell('thrown', { message: error.message, statusCode: error.statusCode })
      return
    }
    const { messageHistory, runId, creditsUsed, contextTokenCount } = previousRun.sessionState.mainAgentState
    tell('result', { output: previousRun.output, messages: messageHistory, runId, creditsUsed, contextTokenCount })
  }
}

const scenarios = await new Promise((resolve) => createInterface({ input: process.stdin }).once('line', resolve))
await Promise.all(JSON.parse(scenarios).map(play))
say({ kind: 'calls', value: globalThis.testCalls })
