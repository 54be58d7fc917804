// Summarizes standard input: node summarize.mjs [HOST:PORT] [--stream] < text
//
// The proto file is read from protos/ at run time: no code is generated. Calls that the server refuses because it is
// overloaded are retried until the deadline.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const proto = fileURLToPath(new URL("../../protos/bart/v1/bart.proto", import.meta.url));
const { bart } = grpc.loadPackageDefinition(protoLoader.loadSync(proto, { keepCase: true, enums: String, longs: Number }));

const retryPolicy = {
  maxAttempts: 5,
  initialBackoff: "0.2s",
  maxBackoff: "5s",
  backoffMultiplier: 2,
  retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
};
const serviceConfig = { methodConfig: [{ name: [{}], retryPolicy }] };

const args = process.argv.slice(2);
const stream = args.includes("--stream");
const target = args.find((arg) => !arg.startsWith("--")) ?? "localhost:50051";
const client = new bart.v1.SummarizationService(target, grpc.credentials.createInsecure(), {
  "grpc.service_config": JSON.stringify(serviceConfig),
});
const request = { text: readFileSync(0, "utf8"), options: { num_beams: 1 }, long_input: "LONG_INPUT_TRUNCATE" };
const deadline = new Date(Date.now() + 60_000);

function fail(error) {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
  client.close();
}

if (stream) {
  const call = client.StreamSummarize(request, { deadline });
  call.on("data", ({ delta }) => delta && process.stdout.write(delta.text));
  call.on("error", fail);
  call.on("end", () => {
    process.stdout.write("\n");
    client.close();
  });
} else {
  client.Summarize(request, { deadline }, (error, summary) => {
    if (error) return fail(error);
    const { output_tokens, model } = summary.usage;
    console.log(summary.text);
    console.error(`${output_tokens} tokens from ${model}`);
    client.close();
  });
}
