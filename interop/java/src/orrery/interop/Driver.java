package orrery.interop;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Drives the official Java client: create a topic, run a producer and two push consumers, scan what is stored.
 *
 * Options are key=value; see interop/run for how they are used. Exits 0 if every check held, 1 if not, 2 on wrong usage.
 */
public final class Driver {
    private static final int QUEUES = 8;
    private static final int SENDERS = 4;
    private static final String[] TAGS = {"TagA", "TagB", "TagC", "TagD"};

    private final Map<String, String> options;
    private final String namesrv;
    private final String topic;
    private final String group;
    private final String name;
    private final int count;
    private final long deadline;

    private Driver(Map<String, String> options) {
        this.options = options;
        namesrv = required("namesrv");
        topic = required("topic");
        name = options.getOrDefault("name", "java");
        group = options.getOrDefault("group", name + "-group");
        count = Integer.parseInt(options.getOrDefault("count", "10000"));
        deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(Long.parseLong(options.getOrDefault("timeout", "120")));
    }

    public static void main(String[] arguments) throws Exception {
        int code;
        try {
            Map<String, String> options = new HashMap<>();
            for (int i = 1; i < arguments.length; i++) {
                String[] pair = arguments[i].split("=", 2);
                options.put(pair[0], pair.length == 2 ? pair[1] : "true");
            }
            Driver driver = new Driver(options);
            switch (arguments[0]) {
                case "create":
                    code = driver.create();
                    break;
                case "run":
                    code = driver.run();
                    break;
                case "scan":
                    code = driver.scan();
                    break;
                default:
                    throw new IllegalArgumentException("unknown mode " + arguments[0]);
            }
        } catch (IllegalArgumentException | ArrayIndexOutOfBoundsException wrong) {
            System.err.println("usage: Driver create|run|scan namesrv=… topic=… [key=value …]: " + wrong.getMessage());
            code = 2;
        }
        // The client leaves threads behind.
        System.exit(code);
    }

    private String required(String key) {
        String value = options.get(key);
        if (value == null) {
            throw new IllegalArgumentException(key + " is missing");
        }
        return value;
    }

    /** Creates the topic with eight queues on every broker that knows TBW102, and waits until its route is there. */
    private int create() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(name + "-creator");
        producer.setNamesrvAddr(namesrv);
        producer.start();
        Exception last = null;
        while (System.nanoTime() < deadline) {
            try {
                producer.createTopic("TBW102", topic, QUEUES, new HashMap<>());
                if (producer.fetchPublishMessageQueues(topic).size() == QUEUES) {
                    producer.shutdown();
                    return 0;
                }
            } catch (Exception notYet) {
                last = notYet;
            }
            Thread.sleep(500);
        }
        System.err.println("topic " + topic + " could not be created: " + last);
        return 1;
    }

    /** What one message carried, when it was sent. */
    private static final class Sent {
        final int sequence;
        final String content;
        volatile int queue = -1;
        volatile long offset = -1;

        Sent(int sequence, String content) {
            this.sequence = sequence;
            this.content = content;
        }
    }

    private final Map<String, Sent> sent = new java.util.concurrent.ConcurrentHashMap<>();
    private final Map<String, AtomicInteger> delivered = new java.util.concurrent.ConcurrentHashMap<>();
    private final AtomicInteger acknowledged = new AtomicInteger();
    private final AtomicInteger corrupted = new AtomicInteger();
    private final AtomicInteger disordered = new AtomicInteger();
    private final AtomicInteger repeated = new AtomicInteger();
    private final AtomicInteger retried = new AtomicInteger();
    private final Map<String, AtomicInteger> byClient = new java.util.concurrent.ConcurrentHashMap<>();
    private final Map<Integer, Long> lastOffset = new java.util.concurrent.ConcurrentHashMap<>();
    private final AtomicReference<String> firstProblem = new AtomicReference<>();

    private void problem(AtomicInteger counter, String text) {
        counter.incrementAndGet();
        firstProblem.compareAndSet(null, text);
    }

    private int run() throws Exception {
        boolean orderly = Boolean.parseBoolean(options.getOrDefault("orderly", "false"));
        String broker = required("broker");
        String header = History.header(name + " interop driver, rocketmq-client 5.5.0", "[\"sends\",\"deliveries\",\"drain\"]", broker,
            options.getOrDefault("flush", "async"), group, topic, orderly ? "orderly" : "concurrent", count,
            options.containsKey("do") ? 1 : 0);
        try (History history = new History(Path.of(required("history")), header, 1)) {
            DefaultMQProducer producer = new DefaultMQProducer(name + "-producer");
            producer.setNamesrvAddr(namesrv);
            // Retries are ours: each is an attempt in the history.
            producer.setRetryTimesWhenSendFailed(0);
            producer.setRetryTimesWhenSendAsyncFailed(0);
            producer.start();
            List<MessageQueue> queues = new ArrayList<>(producer.fetchPublishMessageQueues(topic));
            queues.sort(null);
            if (queues.size() != QUEUES) {
                System.err.println(topic + " has " + queues.size() + " queues instead of " + QUEUES);
                return 1;
            }
            // The first half waits in the queues when the consumers come; the second meets waiting consumers.
            int half = count / 2;
            send(history, producer, queues, 0, half);
            DefaultMQPushConsumer first = consumer(history, "c1", orderly);
            DefaultMQPushConsumer second = consumer(history, "c2", orderly);
            send(history, producer, queues, half, count);
            history.event("mark", "\"name\":\"workload_end\"");
            while (System.nanoTime() < deadline && delivered.size() < sent.size()) {
                Thread.sleep(100);
            }
            // Whatever comes twice has a moment to come.
            Thread.sleep(1000);
            history.event("mark", "\"name\":\"drained\"");
            first.shutdown();
            second.shutdown();
            producer.shutdown();
        }
        return verdict(orderly);
    }

    private void send(History history, DefaultMQProducer producer, List<MessageQueue> queues, int from, int to)
        throws InterruptedException {
        CountDownLatch ended = new CountDownLatch(SENDERS);
        for (int sender = 0; sender < SENDERS; sender++) {
            final int own = sender;
            new Thread(() -> {
                try {
                    // A queue has one sender, so that the order of sends is the order of its offsets.
                    for (int sequence = from; sequence < to; sequence++) {
                        if (sequence % QUEUES % SENDERS == own) {
                            sendOne(history, producer, queues.get(sequence % QUEUES), sequence);
                        }
                    }
                } finally {
                    ended.countDown();
                }
            }, "sender-" + sender).start();
        }
        ended.await();
    }

    private void sendOne(History history, DefaultMQProducer producer, MessageQueue queue, int sequence) {
        String uid = name + "-" + sequence;
        String text = uid + " " + "größer 消息 ".repeat(1 + sequence % 20);
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        String tag = TAGS[sequence % TAGS.length];
        String keys = "key" + sequence;
        String content = History.content(body, tag, keys);
        Sent message = new Sent(sequence, content);
        sent.put(uid, message);
        for (int attempt = 1; System.nanoTime() < deadline; attempt++) {
            String id = "\"uid\":" + History.quote(uid) + ",\"attempt\":" + attempt;
            history.event("send_invoke", id + ",\"producer\":" + History.quote(name) + ",\"topic\":" + History.quote(topic)
                + "," + content);
            try {
                SendResult result = producer.send(new Message(topic, tag, keys, body), queue, 3000);
                MessageQueue where = result.getMessageQueue();
                history.event("send_ok", id + ",\"status\":" + History.quote(result.getSendStatus().name()) + ","
                    + History.queue(topic, where.getBrokerName(), where.getQueueId()) + ",\"offset\":"
                    + result.getQueueOffset());
                message.offset = result.getQueueOffset();
                message.queue = where.getQueueId();
                int total = acknowledged.incrementAndGet();
                if (total == Integer.parseInt(options.getOrDefault("at", "-1"))) {
                    disturb(history);
                }
                return;
            } catch (Exception unknown) {
                retried.incrementAndGet();
                history.event("send_info", id + ",\"error\":" + History.quote(String.valueOf(unknown.getMessage())));
                try {
                    Thread.sleep(200);
                } catch (InterruptedException stop) {
                    return;
                }
            }
        }
    }

    /** Runs the command that kills and restarts the broker, beside the sends. */
    private void disturb(History history) {
        Thread thread = new Thread(() -> {
            String broker = options.get("broker");
            String fault = "\"id\":1,\"fault\":\"kill\",\"nodes\":[" + History.quote(broker) + "]";
            try {
                history.event("fault", fault + ",\"phase\":\"begin\",\"effect\":{\"processes\":1}");
                Process process = new ProcessBuilder(required("do")).inheritIO().start();
                int code = process.waitFor();
                history.event("fault", fault + ",\"phase\":\"end\"");
                System.out.println("broker killed and restarted after " + options.get("at") + " acknowledgements, exit " + code);
            } catch (Exception failed) {
                System.err.println("cannot restart the broker: " + failed);
            }
        }, "disturb");
        thread.start();
    }

    private DefaultMQPushConsumer consumer(History history, String client, boolean orderly) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName(client);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        if (orderly) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                messages.forEach(message -> deliver(history, client, message, true));
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(message -> deliver(history, client, message, false));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        consumer.start();
        return consumer;
    }

    private void deliver(History history, String client, MessageExt message, boolean orderly) {
        String text = new String(message.getBody(), StandardCharsets.UTF_8);
        String uid = text.split(" ", 2)[0];
        String content = History.content(message.getBody(), message.getTags(), message.getKeys());
        long delivery = history.nextDelivery();
        history.event("deliver_start", "\"delivery\":" + delivery + ",\"group\":" + History.quote(group) + ",\"client\":"
            + History.quote(client) + "," + History.queue(message.getTopic(), message.getBrokerName(), message.getQueueId())
            + ",\"offset\":" + message.getQueueOffset() + ",\"uid\":" + History.quote(uid) + "," + content
            + ",\"reconsume\":" + message.getReconsumeTimes());
        check(uid, content, message, orderly);
        byClient.computeIfAbsent(client, none -> new AtomicInteger()).incrementAndGet();
        history.event("deliver_done", "\"delivery\":" + delivery + ",\"verdict\":\"success\"");
    }

    private void check(String uid, String content, MessageExt message, boolean orderly) {
        Sent original = sent.get(uid);
        if (original == null || !original.content.equals(content)) {
            problem(corrupted, uid + " at " + message.getQueueId() + "/" + message.getQueueOffset() + " was not sent so: " + content);
            return;
        }
        if (original.queue >= 0 && original.offset == message.getQueueOffset() && original.queue != message.getQueueId()) {
            problem(corrupted, uid + " was stored in queue " + original.queue + " and came from " + message.getQueueId());
        }
        boolean again = delivered.computeIfAbsent(uid, none -> new AtomicInteger()).incrementAndGet() > 1;
        if (again) {
            repeated.incrementAndGet();
        }
        if (orderly) {
            Long last = lastOffset.put(message.getQueueId(), message.getQueueOffset());
            // A queue that changes its owner may come again from an older offset, never with a gap.
            if (message.getQueueOffset() > (last == null ? -1 : last) + 1) {
                problem(disordered, "queue " + message.getQueueId() + " went from " + last + " to " + message.getQueueOffset());
            }
        }
    }

    /** Offsets of a queue must rise with the order of sends. */
    private void checkOrderOfOffsets() {
        List<Sent> all = new ArrayList<>(sent.values());
        all.sort((a, b) -> Integer.compare(a.sequence, b.sequence));
        long[] last = new long[QUEUES];
        java.util.Arrays.fill(last, -1);
        for (Sent message : all) {
            if (message.queue < 0) {
                continue;
            }
            if (message.offset <= last[message.queue]) {
                problem(disordered, "queue " + message.queue + ": message " + message.sequence + " got offset "
                    + message.offset + " after " + last[message.queue]);
            }
            last[message.queue] = message.offset;
        }
    }

    private int verdict(boolean orderly) {
        checkOrderOfOffsets();
        long missing = sent.keySet().stream().filter(uid -> !delivered.containsKey(uid)).count();
        System.out.println(name + ": sent " + sent.size() + ", acknowledged " + acknowledged.get() + ", delivered "
            + delivered.size() + " " + byClient + ", repeated " + repeated.get() + ", send retries " + retried.get()
            + ", missing " + missing + ", corrupted " + corrupted.get() + ", out of order " + disordered.get());
        if (firstProblem.get() != null) {
            System.err.println("first problem: " + firstProblem.get());
        }
        boolean bothWorked = byClient.size() == 2;
        if (!bothWorked) {
            System.err.println("only " + byClient.keySet() + " received messages");
        }
        boolean held = acknowledged.get() == count && missing == 0 && corrupted.get() == 0 && disordered.get() == 0 && bothWorked;
        return held ? 0 : 1;
    }

    /** Reads every queue from its beginning, as the end of a history. */
    private int scan() throws Exception {
        String header = History.header(name + " scan, rocketmq-client 5.5.0", "[\"scan\"]",
            required("broker"), options.getOrDefault("flush", "async"), group, topic,
            options.getOrDefault("order", "concurrent"), count, 0);
        long total = 0;
        try (History history = new History(Path.of(required("history")), header, 1_000_000_000L)) {
            DefaultMQPullConsumer reader = new DefaultMQPullConsumer(name + "-scan");
            reader.setNamesrvAddr(namesrv);
            reader.start();
            boolean complete = true;
            for (MessageQueue queue : reader.fetchSubscribeMessageQueues(topic)) {
                long min = reader.minOffset(queue);
                long max = reader.maxOffset(queue);
                String where = History.queue(topic, queue.getBrokerName(), queue.getQueueId());
                history.event("scan_queue", where + ",\"min\":" + min + ",\"max\":" + max);
                long next = min;
                while (next < max && System.nanoTime() < deadline) {
                    PullResult result = reader.pull(queue, "*", next, 32);
                    if (result.getMsgFoundList() == null || result.getNextBeginOffset() <= next) {
                        break;
                    }
                    for (MessageExt message : result.getMsgFoundList()) {
                        String text = new String(message.getBody(), StandardCharsets.UTF_8);
                        history.event("scan_entry", where + ",\"offset\":" + message.getQueueOffset() + ",\"uid\":"
                            + History.quote(text.split(" ", 2)[0]) + ","
                            + History.content(message.getBody(), message.getTags(), message.getKeys()));
                        total++;
                    }
                    next = result.getNextBeginOffset();
                }
                complete &= next >= max;
            }
            history.event("scan_end", "\"complete\":" + complete);
            reader.shutdown();
            System.out.println(name + ": scanned " + total + (complete ? "" : ", incomplete"));
            return complete ? 0 : 1;
        }
    }
}
