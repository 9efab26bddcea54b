package broker

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"edgegateway/broker/packet"
)

// TCP and WebSocket, which are all that the standards say about transport, and
// MQTT 3.1, which is not in their tables.

func specTCP(t *testing.T, v packet.Version) {
	_, addr := start(t, Config{})
	p := dial(t, addr, v, "p")
	p.conn.SetDeadline(time.Now().Add(time.Minute))
	p.subscribe(qos(1, "t"))
	for _, b := range encode(&packet.Publish{QoS: 1, ID: 1, Topic: "t", Payload: []byte("in single bytes")}, v) {
		p.push([]byte{b})
	}
	p.puback(1)
	p.message("in single bytes")
	p.push(append(encode(&packet.Publish{Topic: "t", Payload: []byte("two at once")}, v), 0xC0, 0))
	if got := []packet.Type{nextType(p), nextType(p)}; got[0]+got[1] != packet.PUBLISH+packet.PINGRESP {
		t.Errorf("got %v", got)
	}
}

func nextType(p *peer) packet.Type {
	p.t.Helper()
	pk, err := p.read()
	if err != nil {
		p.t.Fatal(err)
	}
	return pk.Type()
}

// A webSocket is the client's end of one, as plain as can be.
type webSocket struct {
	t *testing.T
	net.Conn
	r      *bufio.Reader
	answer *http.Response
}

const (
	textFrame   = 1
	binaryFrame = 2
)

// dialWebSocket starts a broker that listens for WebSockets and connects.
func dialWebSocket(t *testing.T) *webSocket {
	t.Helper()
	b, err := New(Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0", WebSocket: true}}, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	addr := b.Addr(0)
	if addr == nil {
		t.Fatal("the broker does not listen for WebSockets")
	}
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "GET /mqtt HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n", addr)
	ws := &webSocket{t: t, Conn: conn, r: bufio.NewReader(conn)}
	if ws.answer, err = http.ReadResponse(ws.r, nil); err != nil || ws.answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %+v, %v", ws.answer, err)
	}
	return ws
}

// send sends a frame of less than 126 bytes, masked with zeros.
func (ws *webSocket) send(kind byte, data string) {
	ws.t.Helper()
	frame := string([]byte{0x80 | kind, 0x80 | byte(len(data)), 0, 0, 0, 0}) + data
	if _, err := io.WriteString(ws.Conn, frame); err != nil {
		ws.t.Fatal(err)
	}
}

// read returns the data of binary frames until there are n bytes, and io.EOF
// when the broker closes the WebSocket or the connection.
func (ws *webSocket) read(n int) (data string, err error) {
	for len(data) < n {
		head := make([]byte, 2)
		if _, err := io.ReadFull(ws.r, head); err != nil {
			return data, io.EOF
		}
		size := int(head[1])
		if size == 126 {
			long := make([]byte, 2)
			io.ReadFull(ws.r, long)
			size = int(binary.BigEndian.Uint16(long))
		}
		body := make([]byte, size)
		io.ReadFull(ws.r, body)
		switch kind := head[0] & 15; {
		case kind == 8: // close
			return data, io.EOF
		case kind == 9 || kind == 10: // ping, pong
		case kind > binaryFrame || kind == textFrame:
			return data, fmt.Errorf("a frame of kind %d", kind)
		default:
			data += string(body)
		}
	}
	return data, nil
}

func specWebSocket(t *testing.T, v packet.Version) {
	ws := dialWebSocket(t)
	if got := ws.answer.Header.Get("Sec-WebSocket-Protocol"); got != "mqtt" {
		t.Errorf("sub protocol %q", got)
	}
	connect := string(encode(&packet.Connect{Version: v, ClientID: "ws", CleanStart: true}, v))
	ws.send(binaryFrame, connect[:1])
	ws.send(binaryFrame, "")
	ws.send(binaryFrame, connect[1:7])
	ws.send(binaryFrame, connect[7:]+"\xC0\x00\xC0")
	ws.send(binaryFrame, "\x00")
	r := packet.Reader{Src: bufio.NewReader(&frames{ws: ws}), Version: v}
	for _, want := range []packet.Type{packet.CONNACK, packet.PINGRESP, packet.PINGRESP} {
		if pk, _, err := r.Read(); err != nil || pk.Type() != want {
			t.Fatalf("got %+v, %v, want %v", pk, err, want)
		}
	}
}

// frames reads what is in the frames of a WebSocket.
type frames struct {
	ws   *webSocket
	left string
}

func (f *frames) Read(p []byte) (int, error) {
	if f.left == "" {
		var err error
		if f.left, err = f.ws.read(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.left)
	f.left = f.left[n:]
	return n, nil
}

func specTextFrame(t *testing.T, v packet.Version) {
	ws := dialWebSocket(t)
	ws.send(textFrame, string(encode(&packet.Connect{Version: v, ClientID: "ws", CleanStart: true}, v)))
	if got, err := ws.read(1); err != io.EOF {
		t.Errorf("got % x, %v", got, err)
	}
}

func TestMQTT31(t *testing.T) {
	cfg := Config{Allow: func(_, _, topic string, a Access) bool { return a != Subscribe || topic != "no" }}
	onStage(t, packet.V31, cfg, func(t *testing.T, s *stage) {
		pub := s.join(strings.Repeat("an id of more than 23 characters ", 5))
		p := s.keep("p", withWill(1, "lost"))
		got := p.subscribe(qos(0, "a"), qos(1, "b"), qos(2, "c"), qos(1, "no"), qos(2, "a#"))
		if got[0] != 0 || got[1] != 1 || got[2] != 2 || len(got) != 5 {
			t.Errorf("granted %v", got)
		}
		for _, r := range got {
			if r.Failed() { // MQTT 3.1 has no code for a refusal
				t.Errorf("SUBACK with %v", r)
			}
		}
		for i, topic := range []string{"a", "b", "c", "no"} {
			pub.put(byte(min(i, 2)), topic, topic)
		}
		for i, m := range p.wants("a b c") {
			if m.QoS != byte(i) {
				t.Errorf("%s came with QoS %d", m.Topic, m.QoS)
			}
		}
		p.unsubscribe("a", "never")
		p.pings()
		pub.subscribe(qos(1, "will"))
		s.lose(p)
		pub.wants("lost")
		pub.put(2, "c", "queued")
		p = s.dial()
		if ack := p.connect("p", keepSession); ack.Reason != packet.Success || ack.SessionPresent { // the flag is of 3.1.1
			t.Errorf("got %+v", ack)
		}
		p.wants("queued")
		raw := rawConnect(packet.V31, 2, str("c")) // which says MQTT, not MQIsdp
		if ack := s.refusesConnect("level 3 of MQTT", raw); ack != nil && ack.Reason != packet.RefusedVersion {
			t.Errorf("got %+v", ack)
		}
	})
}
