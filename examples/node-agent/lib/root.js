// The channel to root: docs/protocol.md, section 1. Node knows no SOCK_SEQPACKET, but read and write keep packets whole.
import fs from "node:fs";
import { pack, unpack } from "./wire.js";

const PACKET = 200_001;

export class Root {
  #channel;
  #status = null; // how this process ends, once it does

  // Who this process is; says how it is meant when it was started by hand.
  static open() {
    const { OTPD_CONTROL_FD: channel, OTPD_JOB_FD: job } = process.env;
    if (channel === undefined || job === undefined) {
      console.error("an agent of otpd, started without it: put it into otpd.toml with command = [...] and run: otpd start");
      process.exit(2);
    }
    const root = new Root();
    root.#channel = Number(channel);
    root.job = unpack(fs.readFileSync(Number(job)));
    return root;
  }

  say(...packet) {
    try {
      fs.writeSync(this.#channel, pack(packet));
    } catch (error) {
      if (error.code !== "EPIPE") throw error;
    }
  }

  // The end of the channel is the end of root: this process must not outlive it.
  listen(onPacket) {
    const buffer = Buffer.alloc(PACKET);
    fs.read(this.#channel, buffer, 0, PACKET, null, (error, size) => {
      if (error || size === 0) process.exit(this.#status ?? 1);
      if (this.#status !== null) process.exit(this.#status);
      onPacket(unpack(buffer.subarray(0, size)));
      this.listen(onPacket);
    });
  }

  // Exit with this status. At exit Node joins its threads, and one of them sits in read(2): any answer of root's wakes it.
  leave(status) {
    this.#status = status;
    this.say("child", 0, "which");
    setTimeout(() => process.kill(process.pid, "SIGKILL"), 500);
  }
}
