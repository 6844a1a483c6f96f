// Drives the official Go client (rocketmq-client-go v2): one producer, two push consumers, checks, a history.
//
// Options are key=value; see interop/run. Exits 0 if every check held, 1 if not, 2 on wrong usage.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
	"golang.org/x/sys/unix"
)

const (
	queues  = 8
	senders = 4
)

var tags = []string{"TagA", "TagB", "TagC", "TagD"}

// history writes docs/history.md.
type history struct {
	sync.Mutex
	out      *bufio.Writer
	delivery int
}

func (h *history) event(kind, format string, values ...any) {
	h.Lock()
	defer h.Unlock()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	fmt.Fprintf(h.out, `{"t":%d,"event":{"%s":{`+format+"}}}\n", append([]any{now.Nano(), kind}, values...)...)
}

func (h *history) nextDelivery() int {
	h.Lock()
	defer h.Unlock()
	h.delivery++
	return h.delivery
}

func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		return `""`
	}
	return string(quoted)
}

func content(body []byte, tag, keys string) string {
	return fmt.Sprintf(`"content":{"crc":%d,"size":%d,"tag":%q,"keys":%q}`, crc32.ChecksumIEEE(body), len(body), tag, keys)
}

func place(topic, broker string, id int) string {
	return fmt.Sprintf(`"queue":{"topic":%q,"broker":%q,"id":%d}`, topic, broker, id)
}

// message is what was sent and where it went.
type message struct {
	content string
	queue   int
	offset  int64
}

type run struct {
	sync.Mutex
	history   *history
	name      string
	topic     string
	group     string
	deadline  time.Time
	sent      map[string]*message
	delivered map[string]int
	byClient  map[string]int
	problems  []string
	repeated  int
	retries   int
}

func (r *run) problem(format string, values ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, values...))
}

func main() {
	options := map[string]string{"count": "10000", "timeout": "120", "name": "go", "flush": "async"}
	for _, argument := range os.Args[1:] {
		key, value, _ := strings.Cut(argument, "=")
		options[key] = value
	}
	for _, key := range []string{"namesrv", "topic", "broker", "history"} {
		if options[key] == "" {
			fmt.Fprintln(os.Stderr, "usage: driver namesrv=… topic=… broker=… history=… [key=value …]:", key, "is missing")
			os.Exit(2)
		}
	}
	rlog.SetLogLevel("error")
	held, err := drive(options)
	if err != nil {
		fmt.Fprintln(os.Stderr, "go driver:", err)
	}
	if !held || err != nil {
		os.Exit(1)
	}
}

func drive(options map[string]string) (bool, error) {
	count, err := strconv.Atoi(options["count"])
	if err != nil {
		return false, err
	}
	seconds, err := strconv.Atoi(options["timeout"])
	if err != nil {
		return false, err
	}
	file, err := os.Create(options["history"])
	if err != nil {
		return false, err
	}
	defer file.Close()
	r := &run{
		history:   &history{out: bufio.NewWriterSize(file, 1<<20)},
		name:      options["name"],
		topic:     options["topic"],
		group:     options["name"] + "-group",
		deadline:  time.Now().Add(time.Duration(seconds) * time.Second),
		sent:      map[string]*message{},
		delivered: map[string]int{},
		byClient:  map[string]int{},
	}
	fmt.Fprintf(r.history.out, `{"history":1,"source":"go interop driver, rocketmq-client-go v2","records":["sends","deliveries","drain"],`+
		`"brokers":[{"name":%q,"node":%q,"flush":%q}],"groups":[{"name":%q,"topics":[%q],"order":"concurrent"}],`+
		`"limits":{},"required":{"acks":%d,"deliveries":%d}}`+"\n",
		options["broker"], options["broker"], options["flush"], r.group, r.topic, count, count)

	p, err := rocketmq.NewProducer(
		producer.WithNameServer([]string{options["namesrv"]}),
		producer.WithGroupName(r.name+"-producer"),
		producer.WithInstanceName(r.name+"-producer"),
		producer.WithQueueSelector(producer.NewManualQueueSelector()),
		// Retries are ours: each is an attempt in the history.
		producer.WithRetry(0),
	)
	if err != nil {
		return false, err
	}
	if err := p.Start(); err != nil {
		return false, err
	}
	// The first half waits in the queues when the consumers come; the second meets waiting consumers.
	r.send(p, options["broker"], 0, count/2)
	first, err := r.consumer("c1", options["namesrv"])
	if err != nil {
		return false, err
	}
	second, err := r.consumer("c2", options["namesrv"])
	if err != nil {
		return false, err
	}
	r.send(p, options["broker"], count/2, count)
	r.history.event("mark", `"name":"workload_end"`)
	for time.Now().Before(r.deadline) && r.missing() > 0 {
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Second)
	r.history.event("mark", `"name":"drained"`)
	for _, stop := range []func() error{first.Shutdown, second.Shutdown, p.Shutdown} {
		if err := stop(); err != nil {
			return false, err
		}
	}
	r.history.Lock()
	defer r.history.Unlock()
	if err := r.history.out.Flush(); err != nil {
		return false, err
	}
	return r.verdict(count), nil
}

func (r *run) missing() int {
	r.Lock()
	defer r.Unlock()
	return len(r.sent) - len(r.delivered)
}

// send has one sender per queue, so that the order of sends is the order of offsets.
func (r *run) send(p rocketmq.Producer, broker string, from, to int) {
	var all sync.WaitGroup
	for sender := 0; sender < senders; sender++ {
		all.Add(1)
		go func() {
			defer all.Done()
			last := map[int]int64{}
			for sequence := from; sequence < to; sequence++ {
				if sequence%queues%senders == sender {
					r.sendOne(p, broker, sequence, last)
				}
			}
		}()
	}
	all.Wait()
}

func (r *run) sendOne(p rocketmq.Producer, broker string, sequence int, last map[int]int64) {
	uid := fmt.Sprintf("%s-%d", r.name, sequence)
	body := []byte(uid + " " + strings.Repeat("größer 消息 ", 1+sequence%20))
	tag, keys, queue := tags[sequence%len(tags)], fmt.Sprintf("key%d", sequence), sequence%queues
	carried := content(body, tag, keys)
	sent := &message{content: carried, queue: -1, offset: -1}
	r.Lock()
	r.sent[uid] = sent
	r.Unlock()
	for attempt := 1; time.Now().Before(r.deadline); attempt++ {
		m := primitive.NewMessage(r.topic, body).WithTag(tag).WithKeys([]string{keys})
		m.Queue = &primitive.MessageQueue{Topic: r.topic, BrokerName: broker, QueueId: queue}
		r.history.event("send_invoke", `"uid":%q,"attempt":%d,"producer":%q,"topic":%q,%s`, uid, attempt, r.name, r.topic, carried)
		result, err := p.SendSync(context.Background(), m)
		if err != nil {
			r.history.event("send_info", `"uid":%q,"attempt":%d,"error":%s`, uid, attempt, quote(err.Error()))
			r.Lock()
			r.retries++
			r.Unlock()
			time.Sleep(200 * time.Millisecond)
			continue
		}
		where := result.MessageQueue
		r.history.event("send_ok", `"uid":%q,"attempt":%d,"status":%q,%s,"offset":%d`, uid, attempt, status(result.Status),
			place(r.topic, where.BrokerName, where.QueueId), result.QueueOffset)
		r.Lock()
		defer r.Unlock()
		if before, known := last[where.QueueId]; known && result.QueueOffset <= before {
			r.problem("queue %d: message %d got offset %d after %d", where.QueueId, sequence, result.QueueOffset, before)
		}
		last[where.QueueId] = result.QueueOffset
		sent.queue, sent.offset = where.QueueId, result.QueueOffset
		return
	}
}

func status(status primitive.SendStatus) string {
	return []string{"SEND_OK", "FLUSH_DISK_TIMEOUT", "FLUSH_SLAVE_TIMEOUT", "SLAVE_NOT_AVAILABLE"}[status]
}

func (r *run) consumer(client, namesrv string) (rocketmq.PushConsumer, error) {
	c, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer([]string{namesrv}),
		consumer.WithGroupName(r.group),
		consumer.WithInstance(client),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	)
	if err != nil {
		return nil, err
	}
	err = c.Subscribe(r.topic, consumer.MessageSelector{}, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, m := range messages {
			r.deliver(client, m)
		}
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		return nil, err
	}
	return c, c.Start()
}

func (r *run) deliver(client string, m *primitive.MessageExt) {
	uid, _, _ := strings.Cut(string(m.Body), " ")
	carried := content(m.Body, m.GetTags(), m.GetKeys())
	delivery := r.history.nextDelivery()
	r.history.event("deliver_start", `"delivery":%d,"group":%q,"client":%q,%s,"offset":%d,"uid":%q,%s,"reconsume":%d`, delivery, r.group, client,
		place(m.Topic, m.Queue.BrokerName, m.Queue.QueueId), m.QueueOffset, uid, carried, m.ReconsumeTimes)
	r.Lock()
	sent := r.sent[uid]
	if sent == nil || sent.content != carried {
		r.problem("%s at %d/%d was not sent so: %s", uid, m.Queue.QueueId, m.QueueOffset, carried)
	} else if sent.offset == m.QueueOffset && sent.queue != m.Queue.QueueId {
		r.problem("%s was stored in queue %d and came from %d", uid, sent.queue, m.Queue.QueueId)
	}
	if r.delivered[uid]++; r.delivered[uid] > 1 {
		r.repeated++
	}
	r.byClient[client]++
	r.Unlock()
	r.history.event("deliver_done", `"delivery":%d,"verdict":"success"`, delivery)
}

func (r *run) verdict(count int) bool {
	r.Lock()
	defer r.Unlock()
	missing, acknowledged := 0, 0
	for uid, sent := range r.sent {
		if r.delivered[uid] == 0 {
			missing++
		}
		if sent.offset >= 0 {
			acknowledged++
		}
	}
	fmt.Printf("%s: sent %d, acknowledged %d, delivered %d %v, repeated %d, send retries %d, missing %d, problems %d\n",
		r.name, len(r.sent), acknowledged, len(r.delivered), r.byClient, r.repeated, r.retries, missing, len(r.problems))
	if len(r.problems) > 0 {
		fmt.Fprintln(os.Stderr, "first problem:", r.problems[0])
	}
	return acknowledged == count && missing == 0 && len(r.problems) == 0 && len(r.byClient) == 2
}
