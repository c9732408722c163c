// A producer in Node, with amqplib:  npm install amqplib
//
//   BROKER_URL=amqp://user:password@broker/ node producer.mjs WebClient Web        everybody's rows
//   BROKER_URL=amqp://user:password@broker/ node producer.mjs WebClient Web 42     associate 42's
//
// Ends with 0 when the command is in its queue: confirmed by the broker and not returned.
import { randomUUID } from "node:crypto";
import amqplib from "amqplib";

const EXCHANGE = "configuration";
const ROUTING_KEY = "clear-configuration-cache.v1";
const TIMEOUT_MS = 5000;

// An id may be above 2^53, which a number can't hold: it goes from text to text, as digits.
function encode(application, instance, associateId) {
  const names = `"Application":${JSON.stringify(application)},"Instance":${JSON.stringify(instance)}`;
  if (associateId === undefined) return Buffer.from(`{${names},"ForAllAssociates":true}`);
  if (!/^[1-9][0-9]*$/.test(associateId)) throw new Error(`an associate's id has digits only, not ${associateId}`);
  return Buffer.from(`{${names},"ForAllAssociates":false,"AssociateId":${associateId}}`);
}

async function publish(channel, body) {
  let returned = false;
  channel.once("return", () => { returned = true; });
  channel.publish(EXCHANGE, ROUTING_KEY, body, {
    mandatory: true,
    persistent: true,
    contentType: "application/json",
    type: "ClearConfigurationCache",
    messageId: randomUUID(),
    appId: "producer.mjs",
    headers: { "published-at": Date.now() },
  });
  await channel.waitForConfirms(); // a return comes before its confirm
  if (returned) throw new Error("no queue is bound for the command: run `configcache topology` once");
}

const [application, instance, associateId] = process.argv.slice(2);
const timer = setTimeout(() => {
  console.error(`not published: no confirm within ${TIMEOUT_MS} ms`);
  process.exit(1);
}, TIMEOUT_MS);
let connection;
try {
  connection = await amqplib.connect(process.env.BROKER_URL, { timeout: TIMEOUT_MS });
  connection.on("error", () => {});
  const channel = await connection.createConfirmChannel();
  const failed = new Promise((_, reject) => channel.once("error", reject));
  await Promise.race([publish(channel, encode(application, instance, associateId)), failed]);
  console.log("published");
} catch (error) {
  console.error(`not published: ${error.message}`);
  process.exitCode = 1;
} finally {
  clearTimeout(timer);
  await connection?.close().catch(() => {});
}
