package broker

import (
	"bufio"
	"net"
	"testing"

	"edgegateway/broker/packet"
)

// benchPeer is a connection that subscribes and publishes as fast as it can.
type benchPeer struct {
	conn net.Conn
	r    packet.Reader
	w    *bufio.Writer
	buf  []byte
}

func newBenchPeer(b *testing.B, addr, id string, filter string, qos byte) *benchPeer {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	p := &benchPeer{conn: conn, r: packet.Reader{Src: bufio.NewReaderSize(conn, 64<<10), Version: packet.V311}, w: bufio.NewWriterSize(conn, 16<<10)}
	p.send(&packet.Connect{Version: packet.V311, ClientID: id, CleanStart: true})
	if filter != "" {
		p.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Filter: filter, QoS: qos}}})
	}
	p.w.Flush()
	p.r.Read()
	if filter != "" {
		p.r.Read()
	}
	return p
}

func (p *benchPeer) send(pk packet.Packet) {
	p.buf, _ = pk.Append(p.buf[:0], packet.V311)
	p.w.Write(p.buf)
}

func benchmarkOneToOne(b *testing.B, qos byte) {
	_, addr := start(b, Config{})
	sub := newBenchPeer(b, addr, "sub", "bench/#", qos)
	pub := newBenchPeer(b, addr, "pub", "", 0)
	done := make(chan struct{})
	b.ResetTimer()
	n := b.N
	go func() {
		defer close(done)
		for range n {
			p, _, err := sub.r.Read()
			if err != nil {
				b.Error(err)
				return
			}
			if m := p.(*packet.Publish); m.QoS == 1 {
				sub.send(&packet.Ack{Kind: packet.PUBACK, ID: m.ID})
				if sub.r.Src.(*bufio.Reader).Buffered() == 0 {
					sub.w.Flush()
				}
			}
		}
	}()
	window := make(chan struct{}, 100)
	if qos == 1 {
		go func() {
			for range n {
				if _, _, err := pub.r.Read(); err != nil {
					return
				}
				<-window
			}
		}()
	}
	msg := &packet.Publish{Topic: "bench/device/point", QoS: qos, Payload: make([]byte, 100)}
	for i := range n {
		if qos == 1 {
			msg.ID = uint16(i%65535 + 1)
			select {
			case window <- struct{}{}:
			default:
				pub.w.Flush()
				window <- struct{}{}
			}
		}
		pub.send(msg)
	}
	pub.w.Flush()
	<-done
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
}

func BenchmarkOneToOneQoS0(b *testing.B) { benchmarkOneToOne(b, 0) }
func BenchmarkOneToOneQoS1(b *testing.B) { benchmarkOneToOne(b, 1) }

// BenchmarkPublish is the gateway's own publish of a retained reading that
// nobody has subscribed to.
func BenchmarkPublish(b *testing.B) {
	br, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	m := &Message{Topic: "plant/meter/power", Payload: make([]byte, 100), Retain: true}
	b.ReportAllocs()
	for b.Loop() {
		br.Publish(m)
	}
}
