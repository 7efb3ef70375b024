// What was missed: the rules of docs/protocol.md, "Knowing what you missed". No sockets in here.

const RUNS_REMEMBERED = 16; // daemon starts; several at a time when a relay stands in front of many

export class Sequences {
  #runs = new Map(); // run -> { last: sequence -> seq, heardHeartbeat }
  #wanted;

  /** @param {string[]} wanted Prefixes of sequences, such as "event/porch/"; others are not ours. */
  constructor(wanted) {
    this.#wanted = wanted;
  }

  /**
   * Take the next message as it arrives.
   *
   * @returns {{isNew: boolean, gaps: Gap[]}} isNew is false for a repeated last value. A gap is
   *   { run, type, stream, first, last }, both ends included.
   */
  accept(message) {
    const run = this.#run(message.run);
    if (message.type !== "heartbeat") {
      return this.#advance(message.run, run, `${message.type}/${message.stream}/`, message.seq, 0);
    }
    const gaps = [];
    for (const [sequence, seq] of Object.entries(message.last_seq)) {
      if (!this.#wanted.some((prefix) => sequence.startsWith(prefix))) continue;
      gaps.push(...this.#advance(message.run, run, sequence, seq, 1).gaps);
    }
    run.heardHeartbeat = true;
    return { isNew: true, gaps };
  }

  // The number itself is lost, too, when a heartbeat speaks of it (nLost = 1).
  #advance(runId, run, sequence, seq, nLost) {
    const unknown = run.heardHeartbeat ? -1 : seq - 1 + nLost; // rule 1
    const last = run.last.get(sequence) ?? unknown;
    run.last.set(sequence, Math.max(last, seq));
    if (seq <= last) return { isNew: false, gaps: [] }; // rule 2
    const missing = { first: last + 1, last: seq - 1 + nLost };
    if (missing.first > missing.last) return { isNew: true, gaps: [] };
    const [type, stream] = sequence.split("/");
    return { isNew: true, gaps: [{ run: runId, type, stream, ...missing }] }; // rules 3 and 4
  }

  #run(id) {
    let run = this.#runs.get(id);
    if (run === undefined) {
      run = { last: new Map(), heardHeartbeat: false }; // rule 5
      this.#runs.set(id, run);
      if (this.#runs.size > RUNS_REMEMBERED) this.#runs.delete(this.#runs.keys().next().value);
    }
    return run;
  }
}
