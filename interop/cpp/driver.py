"""Drives the C++ client through the wheel `rocketmq`: one producer, two push consumers, checks, a history (docs/history.md).

Options are key=value; see interop/run. Exits 0 if every check held, 1 if not, 2 on wrong usage.
"""

import json
import os
import sys
import threading
import time
import zlib

from rocketmq.client import Message, Producer, PushConsumer, SendStatus

QUEUES = 8
SENDERS = 4
TAGS = ["TagA", "TagB", "TagC", "TagD"]
STATUS = {
    SendStatus.OK: "SEND_OK",
    SendStatus.FLUSH_DISK_TIMEOUT: "FLUSH_DISK_TIMEOUT",
    SendStatus.FLUSH_SLAVE_TIMEOUT: "FLUSH_SLAVE_TIMEOUT",
    SendStatus.SLAVE_NOT_AVAILABLE: "SLAVE_NOT_AVAILABLE",
}


class History:
    """Writes the header and one event a line."""

    def __init__(self, path, header):
        self.out = open(path, "w", encoding="utf-8")
        self.lock = threading.Lock()
        self.delivery = 0
        self.out.write(json.dumps(header) + "\n")

    def event(self, kind, **fields):
        with self.lock:
            self.out.write(json.dumps({"t": time.monotonic_ns(), "event": {kind: fields}}) + "\n")

    def next_delivery(self):
        with self.lock:
            self.delivery += 1
            return self.delivery


def content(body, tag, keys):
    return {"crc": zlib.crc32(body), "size": len(body), "tag": tag, "keys": keys}


class Run:
    def __init__(self, options):
        self.name = options["name"]
        self.namesrv = options["namesrv"]
        self.topic = options["topic"]
        self.broker = options["broker"]
        self.group = self.name + "-group"
        self.count = int(options["count"])
        self.deadline = time.monotonic() + int(options["timeout"])
        self.lock = threading.Lock()
        self.sent = {}  # uid -> [content, queue, offset]
        self.delivered = {}
        self.by_client = {}
        self.problems = []
        self.repeated = 0
        self.retries = 0
        self.history = History(options["history"], {
            "history": 1,
            "source": "cpp interop driver, rocketmq wheel 0.4.4",
            "records": ["sends", "deliveries", "drain"],
            "brokers": [{"name": self.broker, "node": self.broker, "flush": options["flush"]}],
            "groups": [{"name": self.group, "topics": [self.topic], "order": "concurrent"}],
            "limits": {},
            "required": {"acks": self.count, "deliveries": self.count},
        })

    def place(self, queue):
        return {"topic": self.topic, "broker": self.broker, "id": queue}

    def drive(self):
        producer = Producer(self.name + "-producer")
        producer.set_namesrv_addr(self.namesrv)
        producer.start()
        # The first half waits in the queues when the consumers come; the second meets waiting consumers.
        self.send(producer, 0, self.count // 2)
        consumers = [self.consumer("c1"), self.consumer("c2")]
        self.send(producer, self.count // 2, self.count)
        self.history.event("mark", name="workload_end")
        while time.monotonic() < self.deadline and len(self.delivered) < len(self.sent):
            time.sleep(0.1)
        time.sleep(1)
        self.history.event("mark", name="drained")
        for consumer in consumers:
            consumer.shutdown()
        producer.shutdown()
        self.history.out.flush()
        return self.verdict()

    def send(self, producer, start, end):
        def sender(own):
            # A queue has one sender, so that the order of sends is the order of offsets.
            for sequence in range(start, end):
                if sequence % QUEUES % SENDERS == own:
                    self.send_one(producer, sequence)

        senders = [threading.Thread(target=sender, args=(own,)) for own in range(SENDERS)]
        for thread in senders:
            thread.start()
        for thread in senders:
            thread.join()

    def send_one(self, producer, sequence):
        uid = "%s-%d" % (self.name, sequence)
        body = (uid + " " + "größer 消息 " * (1 + sequence % 20)).encode("utf-8")
        tag, keys, queue = TAGS[sequence % len(TAGS)], "key%d" % sequence, sequence % QUEUES
        carried = content(body, tag, keys)
        with self.lock:
            self.sent[uid] = [carried, -1, -1]
        attempt = 0
        while time.monotonic() < self.deadline:
            attempt += 1
            message = Message(self.topic)
            message.set_body(body)
            message.set_tags(tag)
            message.set_keys(keys)
            sizes = []

            def selector(size, _message, _argument):
                sizes.append(size)
                return queue

            self.history.event("send_invoke", uid=uid, attempt=attempt, producer=self.name, topic=self.topic, content=carried)
            try:
                # One try: retries are ours, each is an attempt in the history.
                result = producer.send_orderly(message, queue, retry_times=0, queue_selector=selector)
            except Exception as error:  # the wheel has a class per failure
                self.history.event("send_info", uid=uid, attempt=attempt, error=str(error))
                with self.lock:
                    self.retries += 1
                time.sleep(0.2)
                continue
            self.history.event("send_ok", uid=uid, attempt=attempt, status=STATUS[result.status], queue=self.place(queue),
                               offset=result.offset)
            with self.lock:
                self.sent[uid][1:] = [queue, result.offset]
                if sizes != [QUEUES]:
                    self.problems.append("the selector saw %s queues" % sizes)
            return

    def consumer(self, client):
        consumer = PushConsumer(self.group)
        consumer.set_namesrv_addr(self.namesrv)
        consumer.set_instance_name(client)
        consumer.set_thread_count(4)
        consumer.subscribe(self.topic, lambda message: self.deliver(client, message))
        consumer.start()
        return consumer

    def deliver(self, client, message):
        body = message.body
        uid = body.split(b" ", 1)[0].decode("utf-8")
        carried = content(body, message.tags.decode("utf-8"), message.keys.decode("utf-8"))
        queue, offset = message.queue_id, message.queue_offset
        delivery = self.history.next_delivery()
        self.history.event("deliver_start", delivery=delivery, group=self.group, client=client, queue=self.place(queue),
                           offset=offset, uid=uid, content=carried, reconsume=message.reconsume_times)
        with self.lock:
            record = self.sent.get(uid)
            if record is None or record[0] != carried:
                self.problems.append("%s at %d/%d was not sent so: %s" % (uid, queue, offset, carried))
            elif record[2] == offset and record[1] != queue:
                self.problems.append("%s was stored in queue %d and came from %d" % (uid, record[1], queue))
            self.delivered[uid] = self.delivered.get(uid, 0) + 1
            if self.delivered[uid] > 1:
                self.repeated += 1
            self.by_client[client] = self.by_client.get(client, 0) + 1
        self.history.event("deliver_done", delivery=delivery, verdict="success")

    def verdict(self):
        last = {}
        for uid, (_, queue, offset) in self.sent.items():
            if queue >= 0 and offset <= last.get(queue, -1):
                self.problems.append("queue %d: %s got offset %d after %d" % (queue, uid, offset, last[queue]))
            last[queue] = offset
        acknowledged = sum(1 for record in self.sent.values() if record[2] >= 0)
        missing = sum(1 for uid in self.sent if uid not in self.delivered)
        print("%s: sent %d, acknowledged %d, delivered %d %s, repeated %d, send retries %d, missing %d, problems %d" % (
            self.name, len(self.sent), acknowledged, len(self.delivered), self.by_client, self.repeated, self.retries, missing,
            len(self.problems)))
        if self.problems:
            print("first problem:", self.problems[0], file=sys.stderr)
        held = acknowledged == self.count and missing == 0 and not self.problems and len(self.by_client) == 2
        return 0 if held else 1


def main():
    options = {"count": "10000", "timeout": "120", "name": "cpp", "flush": "async"}
    options.update(argument.split("=", 1) for argument in sys.argv[1:])
    for key in ("namesrv", "topic", "broker", "history"):
        if key not in options:
            print("usage: driver namesrv=… topic=… broker=… history=… [key=value …]: %s is missing" % key, file=sys.stderr)
            return 2
    return Run(options).drive()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # The library's destructors may hang at exit.
    os._exit(code)
