// Runs jobs in onnxruntime-node or onnxruntime-web (WebAssembly, one thread) under Node (see `asking`):
// node ask_node.mjs PACKAGE JOBS RESULTS, in the folder that has PACKAGE in its node_modules.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

const [name, jobs, results] = process.argv.slice(2);
const ort = createRequire(path.join(process.cwd(), "package.json"))(name);
ort.env.logLevel = "fatal";
const isWeb = name === "onnxruntime-web";
if (isWeb) ort.env.wasm.numThreads = 1;
const options = { logSeverityLevel: 4, executionProviders: [isWeb ? "wasm" : "cpu"] };

const NAMES = { // numpy's names of dtypes → those of onnxruntime, and the arrays of JavaScript
  bool: ["bool", Uint8Array],
  int8: ["int8", Int8Array],
  int16: ["int16", Int16Array],
  int32: ["int32", Int32Array],
  int64: ["int64", BigInt64Array],
  uint8: ["uint8", Uint8Array],
  uint16: ["uint16", Uint16Array],
  uint32: ["uint32", Uint32Array],
  uint64: ["uint64", BigUint64Array],
  float16: ["float16", Uint16Array],
  float32: ["float32", Float32Array],
  float64: ["float64", Float64Array],
};

function tensor([, dtype, shape, data]) {
  const [type, kind] = NAMES[dtype];
  const bytes = new Uint8Array(Buffer.from(data, "base64"));
  return new ort.Tensor(type, new kind(bytes.buffer), shape);
}

function packed(value) {
  const dtype = Object.keys(NAMES).find((one) => NAMES[one][0] === value.type);
  const { buffer, byteOffset, byteLength } = value.data;
  return [dtype, value.dims, Buffer.from(buffer, byteOffset, byteLength).toString("base64")];
}

async function answer(job) {
  let session;
  try {
    const bytes = job.path ? fs.readFileSync(job.path) : Buffer.from(job.model, "base64");
    session = await ort.InferenceSession.create(new Uint8Array(bytes), options);
    if (!job.feeds) return {};
    const feeds = Object.fromEntries(job.feeds.map((feed) => [feed[0], tensor(feed)]));
    const found = await session.run(feeds);
    return { outputs: session.outputNames.map((output) => packed(found[output])) };
  } catch (error) {
    return { error: String(error.message ?? error).replace(/\s+/g, " ").slice(0, 300) };
  } finally {
    await session?.release?.();
  }
}

for (const line of fs.readFileSync(jobs, "utf8").split("\n")) {
  if (line) fs.appendFileSync(results, JSON.stringify(await answer(JSON.parse(line))) + "\n");
}
process.exit(0);
