// Requests to a daemon: JSON-RPC 2.0 over a DEALER socket, one at a time.

import { Dealer } from "zeromq";

export class ControlError extends Error {
  /** @param {{code: number, message: string, data?: unknown}} error As the daemon sent it. */
  constructor({ code, message, data }) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

export class Control {
  #socket;
  #nextId = 1;

  constructor(endpoint, timeoutMs = 2000) {
    this.#socket = new Dealer({ linger: 0, sendTimeout: timeoutMs, receiveTimeout: timeoutMs });
    this.#socket.connect(endpoint);
  }

  /** Return the result of a method; ControlError when refused, code EAGAIN when nobody answers. */
  async call(method, params) {
    const id = this.#nextId++;
    await this.#socket.send(JSON.stringify({ jsonrpc: "2.0", method, params, id }));
    for (;;) {
      const frames = await this.#socket.receive();
      const reply = JSON.parse(frames.at(-1).toString());
      if (reply.id !== id && reply.id !== null) continue; // answers a call that was given up
      if (reply.error) throw new ControlError(reply.error);
      return reply.result;
    }
  }

  /**
   * Fetch what was missed, page by page.
   *
   * @returns {AsyncGenerator} Of messages, in order. What is not among them is lost for good.
   */
  async *replay({ run, type, stream, first, last }) {
    for (let next = first; next !== null; ) {
      const range = { stream, type, run, from_seq: next, to_seq: last };
      const page = await this.call("replay", range);
      yield* page.messages;
      next = page.next_seq;
    }
  }

  close() {
    this.#socket.close();
  }
}
