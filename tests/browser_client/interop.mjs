// The client's side of the interop test API (draft-dcook-ppm-dap-interop-test-design) with the published JavaScript client,
// @divviup/dap (DAP-09): `node interop.mjs` listens on a free port of loopback and prints its URL as a line.

import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { Task } from "@divviup/dap";

// What our library calls a VDAF, and how a measurement is given to it.
const VDAFS = {
  Prio3Count: () => ({ type: "count", read: flag }),
  Prio3Sum: ({ bits }) => ({ type: "sum", bits: whole(bits), read: whole }),
  Prio3Histogram: ({ length, chunk_length }) => ({
    type: "histogram",
    length: whole(length),
    chunkLength: whole(chunk_length),
    read: whole,
  }),
  Prio3SumVec: ({ bits, length, chunk_length }) => ({
    type: "sumVec",
    bits: whole(bits),
    length: whole(length),
    chunkLength: whole(chunk_length),
    read: (numbers) => numbers.map(whole),
  }),
};

const server = createServer(async (request, response) => {
  const [status, reply] = await answer(request.method, request.url, await text(request));
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(reply));
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));

async function answer(method, path, body) {
  if (method !== "POST") return [405, {}];
  if (path === "/internal/test/ready") return [200, {}];
  if (path !== "/internal/test/upload") return [404, {}];
  let upload;
  try {
    upload = read(JSON.parse(body));
  } catch (error) {
    return [400, { status: "error", error: error.message }];
  }
  try {
    await upload();
    return [200, { status: "success" }];
  } catch (error) {
    return [200, { status: "error", error: error.cause ? `${error.message}: ${error.cause.message}` : error.message }];
  }
}

function read({ task_id, leader, helper, vdaf, measurement, time, time_precision }) {
  if (!Object.hasOwn(VDAFS, vdaf.type)) throw new Error(`unknown VDAF ${vdaf.type}`);
  const { read, ...parameters } = VDAFS[vdaf.type](vdaf);
  const value = read(measurement);
  const options = time === undefined ? {} : { timestamp: new Date(time * 1000) };
  return async () => {
    const task = new Task({ ...parameters, id: task_id, leader, helper, timePrecisionSeconds: time_precision });
    await task.sendMeasurement(value, options);
  };
}

function flag(text) {
  if (text !== "0" && text !== "1") throw new Error(`${text} is no flag`);
  return text === "1";
}

function whole(text) {
  if (!/^[0-9]+$/.test(text)) throw new Error(`${text} is no number`);
  return Number(text);
}
