package orrery.interop;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicLong;
import java.util.zip.CRC32;

/** Writes a history as docs/history.md describes it: a header line, then one event a line. */
final class History implements AutoCloseable {
    private final PrintWriter out;
    private final AtomicLong nextDelivery;

    History(Path file, String header, long firstDelivery) throws IOException {
        out = new PrintWriter(Files.newBufferedWriter(file, StandardCharsets.UTF_8));
        out.println(header);
        nextDelivery = new AtomicLong(firstDelivery);
    }

    long nextDelivery() {
        return nextDelivery.getAndIncrement();
    }

    /** System.nanoTime is CLOCK_MONOTONIC: one clock for all drivers of a host. */
    synchronized void event(String kind, String fields) {
        out.print("{\"t\":");
        out.print(System.nanoTime());
        out.print(",\"event\":{\"");
        out.print(kind);
        out.print("\":{");
        out.print(fields);
        out.println("}}}");
    }

    @Override
    public synchronized void close() {
        out.close();
    }

    static String header(String source, String records, String broker, String flush, String group, String topic,
        String order, long required, int faults) {
        return "{\"history\":1,\"source\":" + quote(source) + ",\"records\":" + records
            + ",\"brokers\":[{\"name\":" + quote(broker) + ",\"node\":" + quote(broker) + ",\"flush\":" + quote(flush)
            + "}],\"groups\":[{\"name\":" + quote(group) + ",\"topics\":[" + quote(topic) + "],\"order\":" + quote(order)
            + "}],\"limits\":{},\"required\":{\"acks\":" + required + ",\"deliveries\":" + required
            + ",\"fault_effects\":" + faults + "}}";
    }

    static String queue(String topic, String broker, int id) {
        return "\"queue\":{\"topic\":" + quote(topic) + ",\"broker\":" + quote(broker) + ",\"id\":" + id + "}";
    }

    static String content(byte[] body, String tag, String keys) {
        CRC32 crc = new CRC32();
        crc.update(body);
        return "\"content\":{\"crc\":" + crc.getValue() + ",\"size\":" + body.length + ",\"tag\":" + quote(tag)
            + ",\"keys\":" + quote(keys) + "}";
    }

    static String quote(String text) {
        if (text == null) {
            return "null";
        }
        StringBuilder quoted = new StringBuilder("\"");
        for (int i = 0; i < text.length(); i++) {
            char letter = text.charAt(i);
            if (letter == '"' || letter == '\\') {
                quoted.append('\\').append(letter);
            } else if (letter < 0x20) {
                quoted.append(String.format("\\u%04x", (int) letter));
            } else {
                quoted.append(letter);
            }
        }
        return quoted.append('"').toString();
    }
}
