package orrery.interop;

import java.net.Inet6Address;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.broker.BrokerController;
import org.apache.rocketmq.broker.BrokerStartup;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.store.OffsetStore;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.store.DefaultMessageStore;
import org.apache.rocketmq.store.SelectMappedBufferResult;
import org.apache.rocketmq.store.queue.ConsumeQueueInterface;
import org.apache.rocketmq.store.queue.CqUnit;
import org.apache.rocketmq.store.queue.ReferredIterator;

/**
 * Writes messages of every kind to a broker, and prints what is stored: through a broker, or by the classes of Apache
 * RocketMQ's broker from the directory alone. Both print the same lines, so that two accounts are compared by diff.
 *
 * Lines: T topic, queues · Q queue, first and next offset · M one per message · O committed offset · K positions by key.
 * Options are key=value; see interop/run for how they are used. Exits 0 if all went well, 1 if not.
 */
public final class StoreCheck {
    private static final String[] TOPICS = {"store-wide", "store-batch", "store-late"};
    private static final int[] QUEUES = {4, 1, 2};
    private static final String SCHEDULE = "SCHEDULE_TOPIC_XXXX";
    /** Level 1 is one second, level 18 two hours. */
    private static final int[] LEVELS = {1, 18};
    private static final String GROUP = "store-readers";
    private static final String[] TAGS = {null, "TagA", "TagB", "\u6807\u7b7e", "\ud83d\ude80"};
    /** What the client adds to a message it has pulled. */
    private static final Set<String> ADDED = new HashSet<>(List.of(MessageConst.PROPERTY_MIN_OFFSET, MessageConst.PROPERTY_MAX_OFFSET));

    private final Map<String, String> options = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        StoreCheck check = new StoreCheck();
        for (int i = 1; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            check.options.put(pair[0], pair[1]);
        }
        int code = 0;
        try {
            switch (arguments[0]) {
                case "write":
                    check.write();
                    break;
                case "scan":
                    check.scan();
                    break;
                case "dump":
                    check.dump();
                    break;
                default:
                    throw new IllegalArgumentException("usage: StoreCheck write|scan|dump key=value…");
            }
        } catch (Exception failed) {
            failed.printStackTrace();
            code = 1;
        }
        // Client and broker leave threads behind.
        System.out.flush();
        Runtime.getRuntime().halt(code);
    }

    private DefaultMQProducer producer() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("store-writer");
        producer.setNamesrvAddr(options.get("namesrv"));
        producer.setSendMsgTimeout(10_000);
        // An automatic batch would hide which message went where.
        producer.setRetryTimesWhenSendFailed(5);
        producer.start();
        return producer;
    }

    private void write() throws Exception {
        int round = Integer.parseInt(options.get("round"));
        int count = Integer.parseInt(options.get("count"));
        DefaultMQProducer producer = producer();
        for (int i = 0; i < TOPICS.length; i++) {
            create(producer, TOPICS[i], QUEUES[i]);
        }
        String broker = producer.fetchPublishMessageQueues(TOPICS[0]).get(0).getBrokerName();
        for (int i = 0; i < count; i++) {
            send(producer, new MessageQueue(TOPICS[0], broker, i % QUEUES[0]), message(TOPICS[0], round, i));
            if (i % 10 == 0) {
                List<Message> batch = new ArrayList<>();
                for (int j = 0; j < 5; j++) {
                    batch.add(message(TOPICS[1], round, i + j));
                }
                expect(producer.send(batch, new MessageQueue(TOPICS[1], broker, 0)));
            }
            if (i % 50 == 0) {
                Message late = message(TOPICS[2], round, i);
                late.setDelayTimeLevel(LEVELS[i / 50 % LEVELS.length]);
                send(producer, new MessageQueue(TOPICS[2], broker, i / 50 % QUEUES[2]), late);
            }
        }
        producer.shutdown();
        DefaultMQPullConsumer consumer = consumer();
        for (int queue = 0; queue < QUEUES[0]; queue++) {
            MessageQueue mq = new MessageQueue(TOPICS[0], broker, queue);
            consumer.fetchSubscribeMessageQueues(TOPICS[0]);
            // Makes the group known.
            consumer.pull(mq, "*", consumer.minOffset(mq), 1);
            OffsetStore offsets = consumer.getDefaultMQPullConsumerImpl().getOffsetStore();
            // Answered, unlike what the client commits by itself.
            offsets.updateConsumeOffsetToBroker(mq, round * 10L + queue, false);
        }
        consumer.shutdown();
        // What is due soon is delivered before anybody compares.
        Thread.sleep(4000);
    }

    private void create(DefaultMQProducer producer, String topic, int queues) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
        while (true) {
            try {
                if (producer.fetchPublishMessageQueues(topic).size() == queues) {
                    return;
                }
            } catch (MQClientException notYet) {
                if (System.nanoTime() > deadline) {
                    throw notYet;
                }
            }
            try {
                producer.createTopic("TBW102", topic, queues, new HashMap<>());
            } catch (MQClientException notYet) {
                if (System.nanoTime() > deadline) {
                    throw notYet;
                }
            }
            Thread.sleep(300);
        }
    }

    private static Message message(String topic, int round, int i) throws Exception {
        // Some bodies are long enough for the client to compress them.
        int size = i % 97 == 0 ? 9000 : i % 31 * 37 + 1;
        StringBuilder body = new StringBuilder("\u00fc\u6d88\u606f-" + round + "-" + i + "-");
        while (body.length() < size) {
            body.append((char) ('a' + (body.length() + i) % 26));
        }
        Message message = new Message(topic, body.toString().getBytes(StandardCharsets.UTF_8));
        if (TAGS[i % TAGS.length] != null) {
            message.setTags(TAGS[i % TAGS.length]);
        }
        message.setKeys(List.of("k-" + round + "-" + i, "shared-" + i % 40));
        message.setFlag(i * 7 - 3);
        message.putUserProperty("gr\u00f6\u00dfe", "\u503c " + i);
        message.putUserProperty("plain", Integer.toString(i % 5));
        return message;
    }

    private static void send(DefaultMQProducer producer, MessageQueue queue, Message message) throws Exception {
        expect(producer.send(message, queue));
    }

    private static void expect(SendResult result) {
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException("sent: " + result);
        }
    }

    private DefaultMQPullConsumer consumer() throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(GROUP);
        consumer.setNamesrvAddr(options.get("namesrv"));
        consumer.start();
        return consumer;
    }

    /** The account of a running broker. */
    private void scan() throws Exception {
        DefaultMQPullConsumer consumer = consumer();
        TreeSet<String> lines = new TreeSet<>();
        TreeSet<String> keys = new TreeSet<>();
        // The first registration of a broker that has just started may still be on its way.
        String broker = null;
        for (int attempt = 0; broker == null; attempt++) {
            try {
                broker = consumer.fetchSubscribeMessageQueues(TOPICS[0]).iterator().next().getBrokerName();
            } catch (MQClientException notYet) {
                if (attempt > 200) {
                    throw notYet;
                }
                Thread.sleep(200);
            }
        }
        for (int i = 0; i < TOPICS.length; i++) {
            Collection<MessageQueue> queues = consumer.fetchSubscribeMessageQueues(TOPICS[i]);
            lines.add("T " + TOPICS[i] + " " + queues.size());
            for (MessageQueue queue : queues) {
                scan(consumer, queue, lines, keys);
                if (i == 0) {
                    lines.add("O " + GROUP + " " + name(queue.getTopic(), queue.getQueueId()) + " " + consumer.fetchConsumeOffset(queue, true));
                }
            }
        }
        for (int level : LEVELS) {
            scan(consumer, new MessageQueue(SCHEDULE, broker, level - 1), lines, keys);
        }
        for (String key : keys) {
            TreeSet<Long> positions = new TreeSet<>();
            QueryResult result;
            try {
                result = consumer.queryMessage(TOPICS[0], key, 64, 0, Long.MAX_VALUE);
                result.getMessageList().forEach(message -> positions.add(message.getCommitLogOffset()));
            } catch (MQClientException nothing) {
                // The line says so.
            }
            lines.add("K " + key + " " + positions);
        }
        consumer.shutdown();
        print(lines);
    }

    private static void scan(DefaultMQPullConsumer consumer, MessageQueue queue, Set<String> lines, Set<String> keys) throws Exception {
        long offset = consumer.minOffset(queue);
        long max = consumer.maxOffset(queue);
        lines.add("Q " + name(queue.getTopic(), queue.getQueueId()) + " " + offset + " " + max);
        while (offset < max) {
            PullResult result = consumer.pull(queue, "*", offset, 32);
            if (result.getMsgFoundList() != null) {
                for (MessageExt message : result.getMsgFoundList()) {
                    lines.add(line(message.getTopic(), message));
                    collect(message, keys);
                }
            }
            if (result.getNextBeginOffset() <= offset) {
                throw new IllegalStateException(queue + " stands still at " + offset + ": " + result);
            }
            offset = result.getNextBeginOffset();
        }
    }

    /** A sample: every key of one message in ten. */
    private static void collect(MessageExt message, Set<String> keys) {
        if (message.getTopic().equals(TOPICS[0]) && message.getQueueOffset() % 10 == 0 && message.getKeys() != null) {
            for (String key : message.getKeys().split(" ")) {
                if (key.startsWith("k-")) {
                    keys.add(key);
                }
            }
        }
    }

    /** The account of the directory, by the stock broker's own classes: load, recovery, dispatch, and no delivery. */
    private void dump() throws Exception {
        BrokerController broker = BrokerStartup.buildBrokerController(BrokerStartup.parseCmdLine(new String[] {"-c", options.get("conf")}));
        if (!broker.initialize()) {
            throw new IllegalStateException("the stock broker does not open " + options.get("conf"));
        }
        DefaultMessageStore store = (DefaultMessageStore) broker.getMessageStore();
        store.start();
        for (int i = 0; i < 300 && (store.dispatchBehindBytes() > 0 || store.getReputFromOffset() < store.getMaxPhyOffset()); i++) {
            Thread.sleep(50);
        }
        Thread.sleep(300);
        TreeSet<String> lines = new TreeSet<>();
        TreeSet<String> keys = new TreeSet<>();
        for (String topic : TOPICS) {
            TopicConfig config = broker.getTopicConfigManager().selectTopicConfig(topic);
            lines.add("T " + topic + " " + config.getReadQueueNums());
            for (int queue = 0; queue < config.getReadQueueNums(); queue++) {
                dump(store, topic, queue, lines, keys);
                if (topic.equals(TOPICS[0])) {
                    lines.add("O " + GROUP + " " + name(topic, queue) + " " + broker.getConsumerOffsetManager().queryOffset(GROUP, topic, queue));
                }
            }
        }
        for (int level : LEVELS) {
            dump(store, SCHEDULE, level - 1, lines, keys);
        }
        for (String key : keys) {
            TreeSet<Long> positions = new TreeSet<>();
            for (long position : store.getIndexService().queryOffset(TOPICS[0], key, 64, 0, Long.MAX_VALUE).getPhyOffsets()) {
                // Hashes collide: as the client does, look at the key itself.
                MessageExt message = store.lookMessageByOffset(position);
                if (message != null && message.getTopic().equals(TOPICS[0]) && List.of(message.getKeys().split(" ")).contains(key)) {
                    positions.add(position);
                }
            }
            lines.add("K " + key + " " + positions);
        }
        print(lines);
        store.shutdown();
    }

    private static void dump(DefaultMessageStore store, String topic, int queueId, Set<String> lines, Set<String> keys) throws Exception {
        ConsumeQueueInterface queue = store.getConsumeQueue(topic, queueId);
        long offset = queue == null ? 0 : queue.getMinOffsetInQueue();
        long max = queue == null ? 0 : queue.getMaxOffsetInQueue();
        lines.add("Q " + name(topic, queueId) + " " + offset + " " + max);
        while (offset < max) {
            long before = offset;
            ReferredIterator<CqUnit> units = queue.iterateFrom(offset);
            while (units != null && units.hasNext()) {
                CqUnit unit = units.next();
                SelectMappedBufferResult bytes = store.getCommitLog().getMessage(unit.getPos(), unit.getSize());
                MessageExt message = bytes == null ? null : MessageDecoder.decode(bytes.getByteBuffer(), true, true, false, false, false);
                if (message == null) {
                    throw new IllegalStateException(topic + "/" + queueId + " " + unit.getQueueOffset() + " cannot be read");
                }
                bytes.release();
                if (!topic.equals(SCHEDULE)) {
                    String tags = message.getTags();
                    long code = tags == null ? 0 : tags.hashCode();
                    if (unit.getTagsCode() != code) {
                        throw new IllegalStateException(topic + "/" + queueId + " " + unit.getQueueOffset() + ": tags code " + unit.getTagsCode());
                    }
                }
                lines.add(line(topic, message));
                collect(message, keys);
                offset = unit.getQueueOffset() + 1;
            }
            if (units != null) {
                units.release();
            }
            if (offset == before) {
                throw new IllegalStateException(topic + "/" + queueId + " stands still at " + offset);
            }
        }
    }

    private static String name(String topic, int queueId) {
        return topic + "/" + queueId;
    }

    private static String line(String topic, MessageExt m) throws Exception {
        TreeMap<String, String> properties = new TreeMap<>(m.getProperties());
        properties.keySet().removeAll(ADDED);
        byte[] body = m.getBody() == null ? new byte[0] : m.getBody();
        StringBuilder hash = new StringBuilder();
        for (byte b : MessageDigest.getInstance("SHA-256").digest(body)) {
            hash.append(String.format("%02x", b));
        }
        return "M " + name(topic, m.getQueueId()) + String.format(" %08d ", m.getQueueOffset()) + m.getCommitLogOffset() + " " + m.getStoreSize()
            + " flag=" + m.getFlag() + " sys=" + m.getSysFlag() + " born=" + m.getBornTimestamp() + "@" + host(m.getBornHost()) + " stored="
            + m.getStoreTimestamp() + "@" + host(m.getStoreHost()) + " again=" + m.getReconsumeTimes() + " half=" + m.getPreparedTransactionOffset()
            + " crc=" + m.getBodyCRC() + " " + body.length + ":" + hash + " " + properties;
    }

    private static String host(SocketAddress address) {
        InetSocketAddress inet = (InetSocketAddress) address;
        String text = inet.getAddress().getHostAddress();
        return (inet.getAddress() instanceof Inet6Address ? "[" + text + "]" : text) + ":" + inet.getPort();
    }

    private void print(Set<String> lines) throws Exception {
        Files.write(Path.of(options.get("out")), lines, StandardCharsets.UTF_8);
    }
}
