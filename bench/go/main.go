// franz-go's transactions, for the benchmarks and for the tests on our broker:
//
//	produce SERVER TOPIC RECORDS PER_TRANSACTION BYTES
//	copy SERVER GROUP INPUT OUTPUT RECORDS PER_TRANSACTION ABORT_EVERY
//
// produce does what `kafka perf transactions` does. copy consumes INPUT in a group, writes each record to OUTPUT and
// commits both as one transaction; every ABORT_EVERYth is aborted first and its records are read again. It ends when
// RECORDS records are committed.
package main

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func must(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func number(argument string) int {
	n, err := strconv.Atoi(argument)
	must("argument", err)
	return n
}

func producing(server string) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(server),
		kgo.TransactionalID(fmt.Sprintf("franz-go-%d", os.Getpid())),
		kgo.ProducerLinger(5 * time.Millisecond),
		kgo.ProducerBatchMaxBytes(128 << 10),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	}
}

func produce(ctx context.Context, server, topic string, records, perTransaction, bytes int) {
	client, err := kgo.NewClient(append(producing(server), kgo.DefaultProduceTopic(topic))...)
	must("client", err)
	defer client.Close()
	value := make([]byte, bytes)
	for at := range value {
		value[at] = byte('A' + rand.Intn(26))
	}
	for records > 0 {
		count := min(records, perTransaction)
		must("begin", client.BeginTransaction())
		for range count {
			client.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) { must("produce", err) })
		}
		must("flush", client.Flush(ctx))
		must("commit", client.EndTransaction(ctx, kgo.TryCommit))
		records -= count
	}
}

func copyRecords(ctx context.Context, server, group, input, output string, records, perTransaction, abortEvery int) {
	session, err := kgo.NewGroupTransactSession(append(producing(server),
		kgo.DefaultProduceTopic(output),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(input),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.RequireStableFetchOffsets(),
	)...)
	must("session", err)
	defer session.Close()
	for ends, committed := 1, 0; committed < records; ends++ {
		fetches := session.PollRecords(ctx, min(perTransaction, records-committed))
		must("consume", fetches.Err0())
		must("begin", session.Begin())
		copied := 0
		fetches.EachRecord(func(record *kgo.Record) {
			copied++
			session.Produce(ctx, &kgo.Record{Key: record.Key, Value: record.Value}, nil)
		})
		done, err := session.End(ctx, kgo.TransactionEndTry(ends%abortEvery != 0))
		must("end", err)
		if done {
			committed += copied
		}
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	switch a := os.Args; {
	case len(a) == 7 && a[1] == "produce":
		produce(ctx, a[2], a[3], number(a[4]), number(a[5]), number(a[6]))
	case len(a) == 9 && a[1] == "copy":
		copyRecords(ctx, a[2], a[3], a[4], a[5], number(a[6]), number(a[7]), number(a[8]))
	default:
		must("usage", fmt.Errorf("produce SERVER TOPIC RECORDS PER_TRANSACTION BYTES | "+
			"copy SERVER GROUP INPUT OUTPUT RECORDS PER_TRANSACTION ABORT_EVERY"))
	}
}
