// An agent that reverses texts, counts how often it was asked, and crashes when told to.
import { run, Reject } from "./lib/agent.js";

let asked = 0;

run({
  calls: {
    reverse({ text }) {
      if (typeof text !== "string") throw new Reject(`argument text: expected a string, got ${typeof text}`);
      asked += 1;
      return [...text].reverse().join("");
    },
    asked: () => asked,
    crash() {
      throw new Error("asked to crash");
    },
  },
  casts: {
    reset() {
      asked = 0;
    },
  },
  terminate(reason) {
    console.log(`bye: ${reason}`);
  },
});
