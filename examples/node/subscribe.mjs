// Listen to a streamcls daemon: print predictions, events, and what was missed.
//
//   npm ci && node subscribe.mjs
//   node subscribe.mjs --stream porch --type event --type health
//
// Written from docs/protocol.md alone; the sections are named where they matter.

import { parseArgs } from "node:util";
import { Subscriber } from "zeromq";
import { Control } from "./control.mjs";
import { Sequences } from "./sequences.mjs";

const SCHEMA = "streamcls/1";
const DEAD_MS = 3000; // without a sign of life: three heartbeats

const { values: options } = parseArgs({
  options: {
    endpoint: { type: "string", default: "tcp://127.0.0.1:5570" },
    control: { type: "string", default: "tcp://127.0.0.1:5571" },
    "no-replay": { type: "boolean", default: false },
    stream: { type: "string", multiple: true, default: [] },
    type: { type: "string", multiple: true, default: ["prediction", "event", "health"] },
  },
});

const topics = options.type.flatMap((type) =>
  options.stream.length ? options.stream.map((stream) => `${type}/${stream}/`) : [`${type}/`],
);
const sequences = new Sequences(topics);
const control = options["no-replay"] ? null : new Control(options.control);
const socket = new Subscriber({
  receiveHighWaterMark: 1000,
  receiveBufferSize: 64 * 1024,
  receiveTimeout: DEAD_MS,
  maxMessageSize: 16 * 1024 * 1024, // a heartbeat of thousands of streams
  linger: 0,
});
socket.connect(options.endpoint);
socket.subscribe(...topics, "heartbeat/"); // the heartbeat last: "Knowing what you missed"

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    socket.close();
    control?.close();
  });
}

let isAlive = true; // until proved otherwise, so that a missing daemon is reported too
let currentRun = "";
while (!socket.closed) {
  const message = await receive();
  if (message === null) continue;
  if (message.run !== currentRun) {
    currentRun = message.run;
    console.log(`daemon start ${text(currentRun)}`);
  }
  const { isNew, gaps } = sequences.accept(message);
  // First what was missed, then what came: so the order is kept, and nothing comes twice.
  for (const gap of gaps) await recover(gap);
  if (isNew) print(message);
}

/** Return the next message, or null when there is none: the daemon is silent or we are closing. */
async function receive() {
  let frames;
  try {
    frames = await socket.receive();
  } catch (error) {
    if (socket.closed) return null;
    if (error.code !== "EAGAIN") throw error;
    if (isAlive) console.log(`no heartbeat for ${DEAD_MS / 1000} s: the daemon is gone`);
    isAlive = false; // the socket stays: ZeroMQ connects again by itself
    return null;
  }
  isAlive = true;
  const payload = frames[1].toString();
  if (!payload.startsWith("{")) throw new Error('not JSON: set encoding = "json" in the daemon');
  const message = JSON.parse(payload);
  if (message.schema !== SCHEMA) {
    throw new Error(`the daemon speaks ${message.schema}, this program ${SCHEMA}`);
  }
  return message;
}

/** Fetch and print what a gap stands for, and say what stays lost. */
async function recover(gap) {
  let next = gap.first;
  let why = "nobody was asked";
  try {
    for await (const message of control?.replay(gap) ?? []) {
      if (message.seq > next) reportLost(gap, next, message.seq - 1, "not kept by the daemon");
      next = message.seq + 1;
      print(message, " (recovered)");
    }
    if (control) why = "not kept by the daemon";
  } catch (error) {
    if (socket.closed) return;
    why = error.code === "EAGAIN" ? "control did not answer" : error.message;
  }
  if (next <= gap.last) reportLost(gap, next, gap.last, why);
}

function reportLost({ type, stream }, first, last, why) {
  console.log(`missed ${type} ${stream} ${first}-${last}: ${text(why)}`);
}

function print(message, remark = "") {
  const where = `${message.type} ${message.stream} ${message.seq}`;
  switch (message.type) {
    case "prediction": {
      // Objects do not keep the order of labels such as "7".
      const best = Object.entries(message.scores).sort(([, a], [, b]) => b - a)[0];
      const ageMs = Date.now() - message.t_end_ns / 1e6;
      const flags = message.flags.map((flag) => ` ${text(flag)}`).join("");
      const heard = best ? `${text(best[0])} ${best[1].toFixed(3)}` : "nothing";
      console.log(`${where}: ${heard}, ${ageMs.toFixed(0)} ms old${flags}${remark}`);
      break;
    }
    case "event": {
      const lastedMs = message.offset_ns === null ? 0 : (message.offset_ns - message.onset_ns) / 1e6;
      const end = message.offset_ns === null ? "" : ` after ${lastedMs.toFixed(0)} ms`;
      console.log(`${where}: ${text(message.label)} ${message.state}${end}${remark}`);
      break;
    }
    case "health":
      console.log(`${where}: ${text(message.state)} (${text(message.reason)})${remark}`);
      break;
    case "rejected":
      console.log(`${where}: ${text(message.label)} ${text(message.reason)}${remark}`);
      break;
    default: // a heartbeat has done its work; a type that is newer than this program is ignored
  }
}

/** Return what came over the network without anything a terminal would act upon. */
function text(value) {
  return String(value).replace(/\p{C}/gu, "?");
}
