package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"

	"edgegateway/broker/packet"
)

// BenchmarkIdle tells what one client costs that is connected, has one
// subscription and says nothing: run it with -benchtime 1000x. The figures
// are those of the broker's side and of a socket that is not read.
func BenchmarkIdle(b *testing.B) {
	files := newServerFiles(newAuthority(b))
	c := files.certificate()
	for _, test := range []struct {
		name   string
		listen Listen
	}{
		{"tcp", Listen{}},
		{"ws", Listen{WebSocket: true}},
		{"tls", Listen{TLS: c.Config()}},
		{"wss", Listen{WebSocket: true, TLS: c.Config()}},
	} {
		b.Run(test.name, func(b *testing.B) {
			test.listen.Network, test.listen.Address = "tcp", "127.0.0.1:0"
			broker, addr := start(b, Config{Limits: Limits{Connections: 100_000}, Listen: []Listen{test.listen}})
			before, conns := measure(), []net.Conn(nil)
			for b.Loop() {
				conns = append(conns, idle(b, addr, &test.listen, len(conns)))
			}
			for broker.Stats().Subscriptions < b.N {
				runtime.Gosched()
			}
			after := measure()
			for i := range after {
				b.ReportMetric(float64(after[i]-before[i])/float64(b.N), []string{"heap-B/conn", "stack-B/conn", "rss-B/conn"}[i])
			}
			for _, c := range conns {
				c.Close()
			}
		})
	}
}

// idle connects a client that subscribes, and drops all it had for that but the
// socket.
func idle(b *testing.B, addr string, l *Listen, n int) net.Conn {
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	conn := raw
	if l.TLS != nil {
		conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	}
	buf := bufio.NewReader(conn)
	send := func(p []byte) {
		if l.WebSocket {
			p = frame(final, opBinary, p)
		}
		if _, err := conn.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	if l.WebSocket {
		conn.Write([]byte(request))
		for line := []byte(nil); !bytes.Equal(line, []byte("\r\n")); {
			if line, err = buf.ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
		}
	}
	hello, _ := (&packet.Connect{Version: packet.V5, ClientID: fmt.Sprint("meter-", n), CleanStart: true}).Append(nil, packet.V5)
	send(hello)
	buf.ReadByte() // CONNACK begins
	wish, _ := (&packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(1, fmt.Sprint("meters/", n, "/set"))}}).Append(nil, packet.V5)
	send(wish)
	return raw
}

// measure returns the bytes of the heap, of stacks, and of the process.
func measure() [3]int64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.ParseInt(string(bytes.Fields(status)[1]), 10, 64)
	return [3]int64{int64(m.HeapAlloc), int64(m.StackInuse), pages * int64(os.Getpagesize())}
}
