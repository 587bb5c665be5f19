// Frames of docs/protocol.md, section 3: one ZeroMQ message is a batch of messages for one destination.
import { decode, encode } from "@msgpack/msgpack";

export const Kind = { SYSTEM: 1, CAST: 2, CALL: 3, REPLY: 4, EVENT: 5 };
export const Status = { OK: 0, RAISED: 1, REJECTED: 2 };
const VERSION = 1;
const HEADER = 16;

export const pack = (value) => Buffer.from(encode(value, { ignoreUndefined: true }));
export const unpack = (bytes) => decode(bytes);

// messages: [{ number, mark, body }]
export function join(kind, peer, messages, flags = 0) {
  const length = messages.reduce((sum, { body }) => sum + HEADER + body.length, HEADER);
  const frame = Buffer.alloc(length);
  frame.writeUInt8(VERSION, 0);
  frame.writeUInt8(kind, 1);
  frame.writeUInt16LE(messages.length, 2);
  frame.writeUInt32LE(peer, 4);
  frame.writeUInt32LE(length, 8);
  frame.writeUInt32LE(flags, 12);
  let at = HEADER;
  for (const { number = 0, mark = 0n, body } of messages) {
    frame.writeUInt32LE(body.length, at);
    frame.writeUInt32LE(number, at + 4);
    frame.writeBigUInt64LE(BigInt(mark), at + 8);
    body.copy(frame, at + HEADER);
    at += HEADER + body.length;
  }
  return frame;
}

export const system = (...commands) => join(Kind.SYSTEM, 0, commands.map((command) => ({ body: pack(command) })));

// A frame of the broker's: { kind, peer, flags, messages }.
export function parse(frame) {
  const [kind, count, peer, length] = [frame.readUInt8(1), frame.readUInt16LE(2), frame.readUInt32LE(4), frame.readUInt32LE(8)];
  if (frame.readUInt8(0) !== VERSION || length !== frame.length) throw new Error("not a frame of protocol version 1");
  const messages = [];
  let at = HEADER;
  for (let i = 0; i < count; i += 1) {
    const size = frame.readUInt32LE(at);
    const body = frame.subarray(at + HEADER, at + HEADER + size);
    messages.push({ number: frame.readUInt32LE(at + 4), mark: frame.readBigUInt64LE(at + 8), body });
    at += HEADER + size;
  }
  return { kind, peer, flags: frame.readUInt32LE(12), messages };
}
