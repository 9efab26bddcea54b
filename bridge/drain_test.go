package bridge

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

// A memory is a backlog that costs nothing to read: one record again and again.
type memory struct {
	data  []byte
	total spool.Seq
	acked atomic.Uint64
}

func (m *memory) Acked() spool.Seq { return 0 }
func (m *memory) Ack(spool.Seq)    { m.acked.Add(1) }
func (m *memory) Backlog() spool.Backlog {
	return spool.Backlog{Records: uint64(m.total) - m.acked.Load()}
}
func (m *memory) Reader(after, until spool.Seq) reader { return &memoryReader{m, after} }

type memoryReader struct {
	*memory
	at spool.Seq
}

func (r *memoryReader) Close() {}

func (r *memoryReader) Next(ctx context.Context, dst []byte) (spool.Record, error) {
	if r.at == r.total {
		return spool.Record{}, io.EOF
	}
	r.at++
	return spool.Record{Seq: r.at, Stamp: fakeNow(), Boot: spool.BootRef{ID: [16]byte{1}}, Data: append(dst, r.data...)}, nil
}

// BenchmarkDrain sends a backlog of b.N messages of 200 bytes at QoS 1 to
// mosquitto over TLS, and as many from memory by the same client, half of them
// before and half after. It reports the rates and their ratio. Give it a
// million: -benchtime 1000000x.
func BenchmarkDrain(b *testing.B) {
	m := newMosquitto(b, "")
	m.start()
	clock := func() broker.Clock {
		return broker.Clock{Offset: time.Now().UnixNano() - broker.BootTime(), Quality: broker.Exact}
	}
	cfg := Config{
		Name: "cloud", URLs: []string{fmt.Sprintf("tls://localhost:%d", m.port)}, ClientID: "gw", Username: "gw", Password: "secret",
		TLS: &tls.Config{RootCAs: m.ca.pool, Certificates: []tls.Certificate{m.client}},
		QoS: 1, BootID: [16]byte{1}, Send: []Rule{{"p/#", "dt/p/#"}}, DrainTime: -1,
	}
	msg := broker.Message{Topic: "p/main/power", Payload: bytes.Repeat([]byte("x"), 200), QoS: 1, From: "meter"}

	// drain returns how long it takes until all of br's is acknowledged.
	drain := func(br *Bridge) time.Duration {
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan struct{})
		start := time.Now()
		go func() {
			defer close(ended)
			br.Run(ctx)
		}()
		for br.backlogRecords() > 0 {
			<-time.After(5 * time.Millisecond)
		}
		took := time.Since(start)
		stop()
		<-ended
		return took
	}

	var logs [broker.NumClasses]*spool.Log
	times := func() (int64, int64, bool) { return broker.BootTime(), time.Now().UnixNano(), true }
	dir := b.TempDir()
	for c := range broker.NumClasses {
		log, err := spool.Open(spool.Config{Dir: filepath.Join(dir, c.String()), Name: c.String(), Size: 16 << 30, Time: times, BootID: [16]byte{1}, Reserve: -1})
		if err != nil {
			b.Fatal(err)
		}
		logs[c] = log
	}
	local, err := broker.New(broker.Config{Logs: logs, Clock: clock})
	if err != nil {
		b.Fatal(err)
	}
	br, err := New(cfg, local, clock, nil)
	if err != nil {
		b.Fatal(err)
	}
	safe := make(chan error, b.N)
	for range b.N {
		one := msg
		if err := local.PublishFrom(b.Context(), &one, func(err error) { safe <- err }); err != nil {
			b.Fatal(err)
		}
	}
	for range b.N {
		if err := <-safe; err != nil {
			b.Fatal(err)
		}
	}
	if n := br.backlogRecords(); n != uint64(b.N) {
		b.Fatalf("%d records wait, want %d", n, b.N)
	}
	first, err := br.sources[0].consumer.(spoolConsumer).Scan(0, 0).Next(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	unspooled := func(n int) time.Duration {
		mem := &memory{data: first.Data, total: spool.Seq(n)}
		bare, err := newBridge(cfg, local, clock, nil)
		if err != nil {
			b.Fatal(err)
		}
		bare.sources = []*source{{class: broker.Telemetry, id: "memory", last: func() spool.Seq { return mem.total }, consumer: mem}}
		return drain(bare)
	}
	b.ResetTimer()
	half := b.N / 2
	bare := unspooled(half)
	spooled := drain(br)
	bare += unspooled(b.N - half)
	b.StopTimer()
	for _, l := range logs {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/spooled.Seconds(), "msg/s")
	b.ReportMetric(float64(b.N)/bare.Seconds(), "msg/s-unspooled")
	b.ReportMetric(float64(bare)/float64(spooled), "ratio")
}
