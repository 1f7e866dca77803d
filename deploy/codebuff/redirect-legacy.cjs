// Connects Codebuff's CLI of February 2025 (1.0.115) to Patchbay instead of its own server: its address is built in.
//   PATCHBAY_URL=http://127.0.0.1:8000 node --require ./redirect-legacy.cjs …/node_modules/codebuff/dist/index.js
const Module = require('node:module')

const target = new URL(process.env.PATCHBAY_URL ?? 'http://127.0.0.1:8000')
const socket = new URL('/ws', target)
socket.protocol = target.protocol === 'https:' ? 'wss:' : 'ws:'

// What the CLI sets at its start. Outside of "production" it does not replace itself by its newest version, and keeps
// its key in ~/.config/manicode-patchbay, apart from one of Codebuff's own. The web site is where it sends that key.
const fixed = { ENVIRONMENT: 'patchbay', NEXT_PUBLIC_APP_URL: target.origin }
process.env = new Proxy(Object.assign(process.env, fixed), {
  set: (env, name, value) => name in fixed || Reflect.set(env, name, value),
})

const load = Module._load
Module._load = function (name, ...rest) {
  const loaded = load.call(this, name, ...rest)
  if (name !== 'ws') return loaded
  return {
    ...loaded,
    WebSocket: class extends loaded.WebSocket {
      constructor() {
        super(socket)
      }
    },
  }
}
