// Uploads measurements with the published JavaScript client, @divviup/dap (DAP-09).
//
// Parameters are one JSON object, as the first argument or on standard input:
//
//   {
//     "taskId": "base64url, 32 bytes",
//     "leader": "http://127.0.0.1:8080/dap-09/",
//     "helper": "http://127.0.0.1:8081/dap-09/",
//     "vdaf": { "type": "count" }
//           | { "type": "sum", "bits": 8 }
//           | { "type": "histogram", "length": 4, "chunkLength": 2 }
//           | { "type": "sumVec", "bits": 1, "length": 10, "chunkLength": 3 },
//     "timePrecisionSeconds": 3600,
//     "timestamp": 1700000000,            (optional: seconds, for all reports; the clock if absent)
//     "measurements": [true, false]       (flags, numbers, bin indices or vectors of numbers)
//   }
//
// Prints one JSON object a line for each measurement, in order:
//
//   { "index": 0, "ok": true }
//   { "index": 1, "ok": false, "error": "reportRejected: …", "type": "urn:…", "status": 400 }
//
// `type` and `status` are there if the aggregator sent a problem document that the client could read.
// Exits with 0 if all uploads succeeded, 1 if any failed, 2 if the parameters are no good.

import { text } from "node:stream/consumers";
import { DAPError, Task } from "@divviup/dap";

const { task, measurements, options } = await parameters();
let failed = false;
for (const [index, measurement] of measurements.entries()) {
  const result = await upload(measurement);
  failed ||= !result.ok;
  console.log(JSON.stringify({ index, ...result }));
}
process.exitCode = failed ? 1 : 0;

async function upload(measurement) {
  try {
    await task.sendMeasurement(measurement, options);
    return { ok: true };
  } catch (error) {
    // A failed fetch says why only in its cause.
    const message = error.cause ? `${error.message}: ${error.cause.message}` : error.message;
    const problem = error instanceof DAPError ? { type: error.type, status: error.status } : {};
    return { ok: false, error: message, ...problem };
  }
}

async function parameters() {
  try {
    const given = JSON.parse(process.argv[2] ?? (await text(process.stdin)));
    const { taskId, leader, helper, vdaf, timePrecisionSeconds, timestamp, measurements } = given;
    if (!Array.isArray(measurements)) throw new Error("measurements must be an array");
    const task = new Task({ ...vdaf, id: taskId, leader, helper, timePrecisionSeconds });
    return { task, measurements, options: timestamp === undefined ? {} : { timestamp: new Date(timestamp * 1000) } };
  } catch (error) {
    console.error(`upload.mjs: ${error.message}`);
    process.exit(2);
  }
}
