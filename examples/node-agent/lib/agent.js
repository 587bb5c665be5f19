// What runs an agent in JavaScript: init, ready, messages one at a time, terminate. See docs/protocol.md.
import { constants } from "node:os";
import { Dealer } from "zeromq";
import { Kind, Status, join, pack, parse, system, unpack } from "./wire.js";
import { Root } from "./root.js";

const MESSAGES = 256;
const BYTES = 256 * 1024;
const LARGE = 64 * 1024;
const BEATS_PER_WATCHDOG = 4;

// Thrown by a handler: an answer, not a crash.
export class Reject extends Error {
  constructor(text, data = null, name = "Reject") {
    super(text);
    [this.data, this.name] = [data, name];
  }
}

export function run(agent) {
  new Life(agent, Root.open()).live();
}

// One of the two sockets. zeromq.js allows one send at a time, so they queue.
class Lane {
  constructor(letter, options, endpoint) {
    this.letter = letter;
    this.socket = new Dealer(options);
    this.socket.connect(endpoint);
    this.sent = Promise.resolve();
  }

  send(frame) {
    this.sent = this.sent.then(() => this.socket.send(frame)).catch(() => {});
  }

  async close(linger) {
    await this.sent;
    this.socket.linger = linger;
    this.socket.close();
  }
}

class Life {
  #agent;
  #root;
  #job;
  #broker = null; // { epoch, control: lane, data: lane, taken: [messages, bytes], granted: [messages, bytes] }
  #mailbox = [];
  #busy = false;
  #stopping = "shutdown";

  constructor(agent, root) {
    [this.#agent, this.#root, this.#job] = [agent, root, root.job];
  }

  async live() {
    const stop = Object.keys(constants.signals).find((name) => constants.signals[name] === this.#job.stop_signal);
    for (const signal of new Set([stop, "SIGTERM"])) process.on(signal, () => this.#stop());
    process.on("uncaughtException", (error) => this.#crash(error));
    this.#root.listen((packet) => this.#hear(packet));
    if (this.#job.broker) this.#connect(...this.#job.broker);
    await this.#agent.init?.(this.#job.args);
    this.#root.say("ready");
    if (this.#job.watchdog) setInterval(() => this.#root.say("beat"), (this.#job.watchdog * 1000) / BEATS_PER_WATCHDOG);
    this.#work();
  }

  #hear([verb, ...rest]) {
    if (verb === "broker") this.#connect(...rest);
    else if (verb === "stopping") [this.#stopping] = rest;
  }

  async #stop() {
    await this.#agent.terminate?.(this.#stopping);
    await this.#close(0);
    this.#root.say("exit", "shutdown");
    this.#root.leave(0);
  }

  // The reply that tells the caller must leave first, but nothing may hold the end up.
  #crash(error) {
    console.error(error);
    this.#root.say("exit", `error(${error.name}: ${error.message})`);
    return Promise.race([this.#close(200), new Promise((late) => setTimeout(late, 250))]).finally(() => this.#root.leave(1));
  }

  // --- the broker ---

  // A new epoch: fresh sockets, and a hello on each. Nothing is sent again on the old ones.
  #connect(epoch, endpoint) {
    this.#close(0);
    if (!epoch) return;
    const options = { routingId: Buffer.from(this.#job.identity), linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0 };
    const open = (letter) => new Lane(letter, options, `${endpoint}-${letter}`);
    const broker = { epoch, control: open("s"), data: open("d"), taken: [0, 0], granted: [MESSAGES, BYTES] };
    this.#broker = broker;
    for (const lane of [broker.control, broker.data]) {
      lane.send(system(["hello", this.#hello(lane.letter)]));
      this.#receive(lane, broker);
    }
  }

  #hello(lane) {
    const { name, life, generation, token } = this.#job;
    return { v: 1, name, inc: life * 2 ** 32 + generation, token, lane };
  }

  async #receive(lane, broker) {
    try {
      for await (const [frame] of lane.socket) this.#take(parse(frame), broker);
    } catch (error) {
      if (this.#broker === broker) throw error;
    }
  }

  async #close(linger) {
    const broker = this.#broker;
    this.#broker = null;
    if (broker) await Promise.all([broker.control.close(linger), broker.data.close(linger)]);
  }

  #take({ kind, messages }, broker) {
    if (kind === Kind.SYSTEM) messages.forEach(({ body }) => this.#command(unpack(body), broker));
    else if (kind === Kind.CALL || kind === Kind.CAST) {
      for (const message of messages) this.#mailbox.push({ kind, broker, ...message, body: Buffer.from(message.body) });
      this.#work();
    }
  }

  #command([verb, ...rest], broker) {
    if (verb === "welcome") broker.control.send(system(["credit", ...broker.granted]));
    else if (verb === "stale") this.#crash(new Error(`stale: ${rest[0]}`));
    else if (verb === "cancel") this.#mailbox = this.#mailbox.filter((each) => each.kind !== Kind.CALL || each.number !== rest[0]);
  }

  // --- the mailbox: one message at a time ---

  async #work() {
    if (this.#busy) return;
    this.#busy = true;
    for (let message; (message = this.#mailbox.shift()); ) {
      if (message.kind === Kind.CAST || message.mark === 0n || message.mark > process.hrtime.bigint()) await this.#handle(message);
      this.#handled(message);
    }
    this.#busy = false;
  }

  async #handle({ kind, number, body, broker }) {
    const [method, args] = unpack(body);
    const isCall = kind === Kind.CALL;
    const handler = (isCall ? this.#agent.calls : this.#agent.casts)?.[method];
    try {
      if (isCall && method === "otpd.describe") return this.#reply(broker, number, Status.OK, this.#describe());
      if (!handler) throw new Reject(`no ${isCall ? "call" : "cast"} named '${method}'`, null, "NoMethod");
      const value = await handler(args);
      if (isCall) this.#reply(broker, number, Status.OK, value ?? null);
    } catch (error) {
      const rejected = error instanceof Reject;
      const answer = [error.name, error.message, rejected ? error.data : (error.stack ?? "")];
      if (isCall) this.#reply(broker, number, rejected ? Status.REJECTED : Status.RAISED, answer);
      if (!rejected) await this.#crash(error);
      else if (!isCall) console.error(error.message);
    }
  }

  #describe() {
    const rows = (handlers = {}) => Object.keys(handlers).map((name) => ({ name, signature: "(...)", doc: "" }));
    return { name: this.#job.name, class: "JavaScript", doc: "", calls: rows(this.#agent.calls), casts: rows(this.#agent.casts), topics: [] };
  }

  #reply(broker, call, status, value) {
    const body = pack(value);
    const lane = body.length > LARGE ? broker.data : broker.control;
    lane.send(join(Kind.REPLY, 0, [{ number: call, mark: status, body }]));
  }

  // What was handled gives the broker credit for more: cumulative totals of the epoch, renewed at a quarter of the window.
  #handled({ broker, body }) {
    broker.taken[0] += 1;
    broker.taken[1] += 16 + body.length;
    const wanted = [broker.taken[0] + MESSAGES, broker.taken[1] + BYTES];
    if (wanted[0] - broker.granted[0] < MESSAGES / 4 && wanted[1] - broker.granted[1] < BYTES / 4) return;
    broker.granted = wanted;
    if (broker === this.#broker) broker.control.send(system(["credit", ...wanted]));
  }
}
