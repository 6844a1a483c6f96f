'use strict';
// Drives the Node client (ali-ons): one producer, two push consumers, checks, a history (docs/history.md).
//
// Options are key=value; see interop/run. Exits 0 if every check held, 1 if not, 2 on wrong usage.

const fs = require('fs');
const { Producer, Consumer, Message } = require('ali-ons');

const TAGS = [ 'TagA', 'TagB', 'TagC', 'TagD' ];
const options = { count: '10000', timeout: '120', name: 'node', flush: 'async' };
for (const argument of process.argv.slice(2)) {
  const [ key, ...value ] = argument.split('=');
  options[key] = value.join('=');
}
for (const key of [ 'namesrv', 'topic', 'broker', 'history' ]) {
  if (!options[key]) {
    console.error(`usage: driver namesrv=… topic=… broker=… history=… [key=value …]: ${key} is missing`);
    process.exit(2);
  }
}
const { topic, broker, name } = options;
const group = `${name}-group`;
const count = Number(options.count);
const deadline = Date.now() + Number(options.timeout) * 1000;
// Asked only where name servers are found by HTTP; without it the client recurses for ever.
const httpclient = { request: async () => { throw new Error('no HTTP here'); } };
const silent = { debug() {}, info() {}, warn() {}, error() {} };

const CRC_TABLE = Array.from({ length: 256 }, (_, index) => {
  let crc = index;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc >>> 0;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

const out = fs.openSync(options.history, 'w');
let buffered = [];
function writeLine(value) {
  buffered.push(JSON.stringify(value));
  if (buffered.length === 1000) flush();
}
function flush() {
  fs.writeSync(out, buffered.map(line => line + '\n').join(''));
  buffered = [];
}
function event(kind, fields) {
  // hrtime is CLOCK_MONOTONIC; a double holds the nanoseconds of a hundred days of uptime.
  writeLine({ t: Number(process.hrtime.bigint()), event: { [kind]: fields } });
}
const content = (body, tag, keys) => ({ crc: crc32(body), size: body.length, tag, keys });
const place = id => ({ topic, broker, id });
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

const sent = new Map(); // uid -> { content, queue, offset }
const delivered = new Map();
const byClient = {};
const lastOffset = new Map();
const problems = [];
let repeated = 0;
let retries = 0;
let nextDelivery = 1;

async function send(producer, from, to) {
  // One after another, so that the order of sends is the order of offsets.
  for (let sequence = from; sequence < to; sequence++) {
    const uid = `${name}-${sequence}`;
    const body = Buffer.from(`${uid} ${'größer 消息 '.repeat(1 + sequence % 20)}`);
    const tag = TAGS[sequence % TAGS.length];
    const keys = `key${sequence}`;
    const carried = content(body, tag, keys);
    const record = { content: JSON.stringify(carried), queue: -1, offset: -1 };
    sent.set(uid, record);
    for (let attempt = 1; Date.now() < deadline; attempt++) {
      const message = new Message(topic, tag, body);
      message.keys = [ keys ];
      event('send_invoke', { uid, attempt, producer: name, topic, content: carried });
      try {
        const result = await producer.send(message);
        const queue = Number(result.messageQueue.queueId);
        const offset = Number(result.queueOffset);
        event('send_ok', { uid, attempt, status: result.sendStatus, queue: place(queue), offset });
        if (offset <= (lastOffset.has(queue) ? lastOffset.get(queue) : -1)) {
          problems.push(`queue ${queue}: message ${sequence} got offset ${offset} after ${lastOffset.get(queue)}`);
        }
        lastOffset.set(queue, offset);
        record.queue = queue;
        record.offset = offset;
        break;
      } catch (error) {
        event('send_info', { uid, attempt, error: String(error.message) });
        retries++;
        await sleep(200);
      }
    }
  }
}

async function consumer(client) {
  const subscribed = new Consumer({
    nameSrv: options.namesrv,
    consumerGroup: group,
    instanceName: client,
    clientIP: '127.0.0.1',
    consumeFromWhere: 'CONSUME_FROM_FIRST_OFFSET',
    parallelConsumeLimit: 8,
    pullTimeDelayMillsWhenFlowControl: 100,
    httpclient,
    logger: silent,
  });
  subscribed.on('error', error => console.error(`${client}: ${error.message}`));
  subscribed.subscribe(topic, '*', async message => deliver(client, message));
  await subscribed.ready();
  return subscribed;
}

function deliver(client, message) {
  const uid = message.body.toString().split(' ', 1)[0];
  const carried = content(message.body, message.tags, message.keys);
  const offset = Number(message.queueOffset);
  const delivery = nextDelivery++;
  event('deliver_start', { delivery, group, client, queue: place(message.queueId), offset, uid, content: carried, reconsume: message.reconsumeTimes });
  const record = sent.get(uid);
  if (!record || record.content !== JSON.stringify(carried)) {
    problems.push(`${uid} at ${message.queueId}/${offset} was not sent so: ${JSON.stringify(carried)}`);
  } else if (record.offset === offset && record.queue !== message.queueId) {
    problems.push(`${uid} was stored in queue ${record.queue} and came from ${message.queueId}`);
  }
  const times = (delivered.get(uid) || 0) + 1;
  delivered.set(uid, times);
  if (times > 1) repeated++;
  byClient[client] = (byClient[client] || 0) + 1;
  event('deliver_done', { delivery, verdict: 'success' });
}

async function main() {
  writeLine({
    history: 1,
    source: 'node interop driver, ali-ons 3.12.0',
    records: [ 'sends', 'deliveries', 'drain' ],
    brokers: [{ name: broker, node: broker, flush: options.flush }],
    groups: [{ name: group, topics: [ topic ], order: 'concurrent' }],
    limits: {},
    required: { acks: count, deliveries: count },
  });
  const producer = new Producer({
    nameSrv: options.namesrv,
    producerGroup: `${name}-producer`,
    retryTimesWhenSendFailed: 0,
    httpclient,
    logger: silent,
  });
  producer.on('error', error => console.error(`producer: ${error.message}`));
  await producer.ready();
  // The first half waits in the queues when the consumers come; the second meets waiting consumers.
  await send(producer, 0, count / 2);
  const consumers = [ await consumer('c1'), await consumer('c2') ];
  await send(producer, count / 2, count);
  event('mark', { name: 'workload_end' });
  while (Date.now() < deadline && delivered.size < sent.size) await sleep(100);
  await sleep(1000);
  event('mark', { name: 'drained' });
  const closing = Promise.all(consumers.map(one => one.close()).concat(producer.close()));
  await Promise.race([ closing, sleep(5000) ]);
  flush();

  const acknowledged = [ ...sent.values() ].filter(record => record.offset >= 0).length;
  const missing = [ ...sent.keys() ].filter(uid => !delivered.has(uid)).length;
  const queues = new Set([ ...sent.values() ].map(record => record.queue)).size;
  console.log(`${name}: sent ${sent.size} to ${queues} queues, acknowledged ${acknowledged}, delivered ${delivered.size} ${JSON.stringify(byClient)}, `
    + `repeated ${repeated}, send retries ${retries}, missing ${missing}, problems ${problems.length}`);
  if (problems.length) console.error(`first problem: ${problems[0]}`);
  const held = acknowledged === count && missing === 0 && problems.length === 0 && queues === 8 && Object.keys(byClient).length === 2;
  process.exit(held ? 0 : 1);
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
