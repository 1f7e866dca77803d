// Runs inside the engine, before the program: makes the generator, resumes it, and puts all that it says into JSON text.
// Nothing but texts goes in and out. What is used later is taken now, before the program can put its own in its place.
(() => {
  "use strict";
  const { parse, stringify } = JSON;
  const { apply } = Reflect;
  const { join } = Array.prototype;
  const { next } = Object.getPrototypeOf(function* () {}).prototype;
  const evaluate = globalThis.eval;
  const [Failure, Text] = [Error, String];
  // So much is logged between two yields, in UTF-16 units of JSON.
  const MOST_LOGGED = 65536;

  let generator;
  let logs = "";
  let full = false;

  // What was thrown, in words, whatever it is.
  const inWords = (thrown) => {
    try {
      return thrown instanceof Failure ? Text(thrown.name) + ": " + Text(thrown.message) : Text(thrown);
    } catch {
      return "it threw what cannot be put into words";
    }
  };

  const written = (entry) => {
    try {
      return stringify(entry) ?? "null";
    } catch (error) {
      return stringify({ level: entry.level, data: "[no JSON: " + inWords(error) + "]", message: entry.message });
    }
  };

  const write = (level, data, message) => {
    if (full) return;
    let entry = written({
      level,
      data: data instanceof Failure ? inWords(data) : data,
      message: message === undefined ? undefined : Text(message),
    });
    full = logs.length + entry.length > MOST_LOGGED;
    if (full) entry = stringify({ level: "warn", data: "[more was logged here than is passed on]" });
    logs += (logs === "" ? "" : ",") + entry;
  };

  const console = {};
  const logger = {};
  for (const level of ["debug", "info", "warn", "error"]) {
    console[level] = (...said) => write(level, said.length === 1 ? said[0] : said);
    logger[level] = (data, message) => write(level, data, message);
  }
  console.log = console.info;
  globalThis.console = console;

  const resumed = ({ source, argument, result }) => {
    if (generator !== undefined) return apply(next, generator, [result]);
    generator = evaluate("(" + source + "\n)")({ ...argument, logger });
    return apply(next, generator, []);
  };

  return (request) => {
    logs = "";
    full = false;
    let outcome;
    try {
      const { value, done } = resumed(parse(request));
      outcome = done ? '"done":true' : '"yielded":' + (stringify(value) ?? "null");
    } catch (error) {
      outcome = '"error":' + stringify(inWords(error));
    }
    // Joined, since the engine's binding cannot read what `+` makes of long texts.
    return apply(join, ['{"logs":[', logs, "],", outcome, "}"], [""]);
  };
})();
