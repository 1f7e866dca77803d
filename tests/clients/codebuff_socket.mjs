// Runs prompts with Codebuff's SDK (0.3), as the lines of its input say, any number side by side.
//
// In, a JSON object a line: what `run()` takes, as far as JSON can say it, and
//   id                 names the run in all that is said of it
//   agent              a definition may have `handleSteps`, as the text of a function
//   customTools        names of the tools below
//   overrides          tool -> {returns: value}, {throws: message}, or {hangs: true};
//                      with `cancels: true` the call cancels the prompt
//   cancelAfterChunks  cancels the prompt after so many chunks of text
//   cwd                null: the client has no project; default: the directory it was started in
// Out, a JSON object a line, with `id`, and `kind`: `event`, `chunk`, `tool` (a tool of the client's was called), `result`.
//
// With `--survive` a rejection that nobody handles is said (`kind` `unhandled`, no `id`) and is not the end.

import { createInterface } from 'node:readline'

import { CodebuffClient, WebSocketHandler, getCustomToolDefinition } from 'codebuff-sdk-websocket'
import { z } from 'zod/v4'

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')

if (process.argv.includes('--survive')) {
  process.on('unhandledRejection', (error) => say({ kind: 'unhandled', message: String(error?.message ?? error) }))
}

const json = (value) => [{ type: 'json', value }]

const TOOLS = {
  add: {
    description: 'Adds two numbers.',
    inputSchema: z.object({ a: z.number(), b: z.number() }),
    exampleInputs: [{ a: 1, b: 2 }],
    execute: ({ a, b }) => json({ sum: a + b }),
  },
  photograph: {
    description: 'Takes a photograph.',
    inputSchema: z.object({}),
    execute: () => [
      {
        type: 'media',
        mediaType: 'image/png',
        data: 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
      },
    ],
  },
  mumble: {
    description: 'Gives what it is given, and not in the form of an output.',
    inputSchema: z.object({ say: z.any() }),
    execute: ({ say }) => say,
  },
  explode: {
    description: 'Never answers.',
    inputSchema: z.object({ timeout_seconds: z.number() }),
    execute: () => {
      throw new Error('the tool exploded')
    },
  },
}

function customTools(run, names) {
  return names.map((toolName) => {
    const tool = TOOLS[toolName]
    const execute = async (input) => {
      say({ id: run, kind: 'tool', name: toolName, input })
      return tool.execute(input)
    }
    return getCustomToolDefinition({ ...tool, toolName, execute })
  })
}

// The SDK's own run() tells nobody of its socket, but the class of its sockets is exported.
const sockets = new Map()
const sendInput = WebSocketHandler.prototype.sendInput
WebSocketHandler.prototype.sendInput = function (action) {
  sockets.set(action.fingerprintId, { socket: this, promptId: action.promptId })
  return sendInput.call(this, action)
}

function cancel(run) {
  const { socket, promptId } = sockets.get(run)
  socket.cancelInput({ promptId })
}

function overrides(run, wanted) {
  const replaced = Object.entries(wanted).map(([name, what]) => [
    name,
    async (input) => {
      say({ id: run, kind: 'tool', name, input })
      if (what.cancels) cancel(run)
      if (what.hangs) return new Promise(() => {})
      if (what.throws) throw new Error(what.throws)
      return what.returns
    },
  ])
  return Object.fromEntries(replaced)
}

// The SDK wants a function, whose text it sends.
function withProgram(agent) {
  return agent.handleSteps ? { ...agent, handleSteps: (0, eval)(`(${agent.handleSteps})`) } : agent
}

async function run({ id, apiKey, agent, customTools: tools = [], overrides: replaced = {}, cancelAfterChunks, ...options }) {
  // By the fingerprint, `cancel` finds the socket.
  const client = new CodebuffClient({ apiKey, fingerprintId: id })
  let chunks = 0
  const result = await client.run({
    ...options,
    agent: withProgram(agent),
    cwd: options.cwd === null ? undefined : process.cwd(),
    customToolDefinitions: customTools(id, tools),
    overrideTools: overrides(id, replaced),
    handleEvent: (event) => say({ id, kind: 'event', event }),
    handleStreamChunk: (chunk) => {
      say({ id, kind: 'chunk', chunk })
      chunks += 1
      if (chunks === cancelAfterChunks) cancel(id)
    },
  })
  say({ id, kind: 'result', result })
}

for await (const line of createInterface({ input: process.stdin })) run(JSON.parse(line))
