package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"edgegateway/broker/packet"
)

// A webClient is a WebSocket of the client's side as a net.Conn.
type webClient struct {
	*websocket.Conn
	message io.Reader
}

func dialWeb(url string, cfg *tls.Config, protocols ...string) (net.Conn, error) {
	if protocols == nil {
		protocols = []string{"mqtt"}
	}
	dialer := websocket.Dialer{TLSClientConfig: cfg, Subprotocols: protocols}
	conn, _, err := dialer.Dial(url, nil)
	if err != nil {
		return nil, err
	}
	return &webClient{Conn: conn}, nil
}

func (c *webClient) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.NextReader()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				err = io.EOF
			}
			if err == nil && kind != websocket.BinaryMessage {
				err = errors.New("a text message")
			}
			if err != nil {
				return 0, err
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *webClient) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *webClient) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func TestWebSocket(t *testing.T) {
	files := newServerFiles(newAuthority(t))
	c := files.certificate()
	b, _ := start(t, Config{Listen: []Listen{
		{Network: "tcp", Address: "127.0.0.1:0", WebSocket: true},
		{Network: "tcp", Address: "127.0.0.1:0", WebSocket: true, TLS: c.Config(), Path: "/broker"},
	}})
	for _, test := range []struct {
		url      string
		protocol string
		version  packet.Version
	}{
		{"ws://" + b.Addr(0).String(), "mqtt", packet.V5},
		{"ws://" + b.Addr(0).String() + "/mqtt", "mqtt", packet.V311},
		{"ws://" + b.Addr(0).String() + "/mqtt", "mqttv3.1", packet.V311},
		{"wss://" + b.Addr(1).String() + "/broker", "mqtt", packet.V5},
	} {
		conn, err := dialWeb(test.url, &tls.Config{RootCAs: files.a.pool()}, "other", test.protocol)
		if err != nil {
			t.Fatalf("%s: %v", test.url, err)
		}
		if got := conn.(*webClient).Subprotocol(); got != test.protocol {
			t.Errorf("%s: subprotocol %q, want %q", test.url, got, test.protocol)
		}
		p := newPeer(t, conn, test.version)
		p.connect("p")
		p.subscribe(qos(1, "t"))
		for _, size := range []int{0, 1, 125, 126, 5000, 65535, 65536, 200_000} {
			text := strings.Repeat("x", size)
			p.send(&packet.Publish{Topic: "t", Payload: []byte(text)})
			p.message(text)
		}
		p.send(&packet.Disconnect{})
		p.gone()
	}
}

// request is how a client asks for a WebSocket.
const request = "GET /mqtt HTTP/1.1\r\nHost: gateway:8083\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

// What is no WebSocket gets an answer that a person can use.
func TestOtherRequests(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(request, old, new, 1) }
	for _, test := range []struct {
		name, request string
		status        int
		says          string
	}{
		{"a WebSocket", request, 101, ""},
		{"at the root", change("/mqtt", "/"), 101, ""},
		{"with an origin that may", change("\r\n\r\n", "\r\nOrigin: https://panel.example\r\n\r\n"), 101, ""},
		{"through a proxy", change("\r\n\r\n", "\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"), 101, ""},
		{"a browser", "GET / HTTP/1.1\r\nHost: gateway:8083\r\n\r\n", 426, "Connect an MQTT client by WebSocket to ws://gateway:8083/\n"},
		{"another path", change("/mqtt", "/admin"), 404, "at / and /mqtt"},
		{"an origin that may not", change("\r\n\r\n", "\r\nOrigin: https://evil.example\r\n\r\n"), 403, "https://evil.example"},
		{"another protocol", change(": mqtt", ": chat"), 400, `"mqtt"`},
		{"no protocol", change("Sec-WebSocket-Protocol: mqtt\r\n", ""), 400, `"mqtt"`},
		{"an old version", change("Version: 13", "Version: 8"), 400, "13"},
		{"no key", change("dGhlIHNhbXBsZSBub25jZQ==", "x"), 400, "Key"},
		{"a POST", change("GET", "POST"), 405, "GET"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404, "WebSocket"},
		{"plain MQTT", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00\r\n\r\n", 400, "no HTTP request"},
		{"a long header", change("\r\n\r\n", "\r\nX: "+strings.Repeat("x", webHead)), 431, "8192"},
	} {
		t.Run(test.name, func(t *testing.T) {
			near, far := net.Pipe()
			l := &webListener{scheme: "ws", origins: []string{"https://panel.example"}}
			go func() {
				c := l.wrap(far)
				c.Read(make([]byte, 1))
				c.Close()
			}()
			go near.Write([]byte(test.request))
			answer, err := http.ReadResponse(bufio.NewReader(near), nil)
			if err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != test.status {
				t.Errorf("status %s, want %d", answer.Status, test.status)
			}
			if test.status == 101 {
				near.Close()
				return
			}
			body, err := io.ReadAll(answer.Body)
			if err != nil || !strings.Contains(string(body), test.says) || !answer.Close {
				t.Errorf("says %q (%v), want %q; close %v", body, err, test.says, answer.Close)
			}
		})
	}
}

const (
	final, more                                   = 0x80, 0
	opContinue, opText, opBinary, opClose, opPing = 0, 1, 2, 8, 9
)

// frame returns a frame as clients send them.
func frame(flags, op byte, payload []byte) []byte {
	return append(frameHead(flags, op, uint64(len(payload))), masked(payload)...)
}

var mask = [4]byte{1, 2, 3, 4}

func masked(payload []byte) []byte {
	out := bytes.Clone(payload)
	for i := range out {
		out[i] ^= mask[i%4]
	}
	return out
}

func frameHead(flags, op byte, n uint64) []byte {
	head := []byte{flags | op}
	switch {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n < 65536:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), n)
	}
	return append(head, mask[:]...)
}

// A script is a connection whose client has sent everything already. It counts
// what is read of it.
type script struct {
	net.Conn // nil: there are no deadlines to be met
	in       io.Reader
	out      bytes.Buffer
	read     int
}

func (s *script) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	s.read += n
	return n, err
}
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// scripted returns a WebSocket whose client sends those frames.
func scripted(frames ...[]byte) (net.Conn, *script) {
	s := &script{in: io.MultiReader(strings.NewReader(request), bytes.NewReader(bytes.Join(frames, nil)))}
	return (&webListener{}).wrap(s), s
}

// sent returns what came after the answer to the request.
func (s *script) sent() []byte {
	_, frames, _ := bytes.Cut(s.out.Bytes(), []byte("\r\n\r\n"))
	return frames
}

func TestFrames(t *testing.T) {
	b := func(s string) []byte { return []byte(s) }
	closing := func(code uint16, why string) []byte {
		return append(binary.BigEndian.AppendUint16(nil, code), why...)
	}
	answer := func(op byte, payload []byte) string {
		return string(append([]byte{final | op, byte(len(payload))}, payload...))
	}
	for _, test := range []struct {
		name   string
		frames [][]byte
		want   string
		err    string // "": the stream ends
		sent   string
	}{
		{"one", [][]byte{frame(final, opBinary, b("ab"))}, "ab", "EOF", ""},
		{"two", [][]byte{frame(final, opBinary, b("ab")), frame(final, opBinary, b("cd"))}, "abcd", "EOF", ""},
		{"in pieces", [][]byte{frame(more, opBinary, b("a")), frame(more, opContinue, nil), frame(final, opContinue, b("bc"))}, "abc", "EOF", ""},
		{"empty ones", [][]byte{frame(final, opBinary, nil), frame(final, opBinary, nil), frame(final, opBinary, b("a"))}, "a", "EOF", ""},
		{"ping between pieces", [][]byte{frame(more, opBinary, b("a")), frame(final, opPing, b("p")), frame(final, opContinue, b("b"))}, "ab", "EOF", answer(10, b("p"))},
		{"close", [][]byte{frame(final, opBinary, b("a")), frame(final, opClose, closing(1000, "bye")), frame(final, opBinary, b("z"))}, "a", "", answer(opClose, closing(1000, ""))},
		{"page left", [][]byte{frame(final, opClose, closing(1001, ""))}, "", "", answer(opClose, closing(1001, ""))},
		{"close without a reason", [][]byte{frame(final, opClose, nil)}, "", "", answer(opClose, nil)},
		{"close with an error", [][]byte{frame(final, opClose, closing(1002, "x"))}, "", `1002 "x"`, answer(opClose, closing(1002, ""))},
		{"text", [][]byte{frame(final, opBinary, b("a")), frame(final, opText, b("b")), frame(final, opBinary, b("z"))}, "a", "text frame", answer(opClose, closing(1003, "MQTT comes in binary frames"))},
		{"not masked", [][]byte{{final | opBinary, 1, 'a'}}, "", "MASK", answer(opClose, closing(1002, "bad MASK"))},
		{"reserved bit", [][]byte{frame(final|0x40, opBinary, b("a"))}, "", "RSV1", answer(opClose, closing(1002, "RSV1 set"))},
		{"unknown kind", [][]byte{frame(final, 3, nil)}, "", "opcode", answer(opClose, closing(1002, "bad opcode 3"))},
		{"continued without a beginning", [][]byte{frame(final, opContinue, b("a"))}, "", "continuation", answer(opClose, closing(1002, "continuation after FIN"))},
		{"long ping", [][]byte{frame(final, opPing, make([]byte, 126))}, "", "125", answer(opClose, closing(1002, "len > 125 for control"))},
		{"length below zero", [][]byte{frameHead(final, opBinary, 1<<63)}, "", "limit", ""},
		{"cut off", [][]byte{frame(final, opBinary, b("abc"))[:7]}, "a", "unexpected EOF", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, s := scripted(test.frames...)
			got, err := io.ReadAll(c)
			if string(got) != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if string(s.sent()) != test.sent {
				t.Errorf("sent %q, want %q", s.sent(), test.sent)
			}
			if n, again := c.Read(make([]byte, 1)); n != 0 || again == nil {
				t.Errorf("read on: %d, %v", n, again)
			}
		})
	}
}

// FuzzFrames cuts a stream of bytes into frames in any way: what is read is
// the stream. Each byte of cuts is one frame: its length, whether the message
// goes on after it, and whether a ping follows.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00\xc0\x00"), []byte{0, 1, 0x81, 0x42, 0xc3, 9}, uint8(3))
	f.Fuzz(func(t *testing.T, stream, cuts []byte, size uint8) {
		var frames []byte
		rest, op := stream, byte(opBinary)
		for _, cut := range cuts {
			n := min(int(cut&0x3f), len(rest))
			flags := byte(final)
			if cut&0x80 != 0 {
				flags = more
			}
			frames = append(frames, frame(flags, op, rest[:n])...)
			if rest, op = rest[n:], opBinary; flags == more {
				op = opContinue
			}
			if cut&0x40 != 0 {
				frames = append(frames, frame(final, opPing, nil)...)
			}
		}
		frames = append(frames, frame(final, op, rest)...)
		frames = append(frames, frame(final, opClose, nil)...)
		c, _ := scripted(frames)
		var got []byte
		buf := make([]byte, 1+int(size))
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("%d, %v", n, err)
			}
		}
		if !bytes.Equal(got, stream) {
			t.Errorf("got %q, want %q", got, stream)
		}
	})
}

// FuzzWebSocket feeds a connection anything: it ends, and what is read is not
// more than what came.
func FuzzWebSocket(f *testing.F) {
	f.Add([]byte(request), frame(final, opBinary, []byte("x")))
	f.Add([]byte("GET"), []byte{})
	f.Fuzz(func(t *testing.T, head, frames []byte) {
		s := &script{in: io.MultiReader(bytes.NewReader(head), bytes.NewReader(frames))}
		c := (&webListener{}).wrap(s)
		got, _ := io.ReadAll(c)
		c.Close()
		if len(got) > len(head)+len(frames) || s.out.Len() > 1<<10+len(head)+4*len(frames) {
			t.Errorf("%d bytes came of %d, %d were sent", len(got), len(head)+len(frames), s.out.Len())
		}
	})
}

// A frame costs no memory for the length it announces, and the packet within
// is refused before its body is read.
func TestLongFrameIsRefusedBeforeItCosts(t *testing.T) {
	for _, connect := range []bool{false, true} {
		in := []io.Reader{strings.NewReader(request)}
		if connect {
			raw, _ := (&packet.Connect{Version: packet.V5, ClientID: "p", CleanStart: true}).Append(nil, packet.V5)
			in = append(in, bytes.NewReader(frame(final, opBinary, raw)))
		}
		packet := "\x30\xff\xff\xff\x7f" // a PUBLISH of 256 MiB
		if !connect {
			packet = "\x10\xff\xff\xff\x7f"
		}
		in = append(in, bytes.NewReader(frameHead(final, opBinary, 1<<40)), bytes.NewReader(masked([]byte(packet))), endless{})
		synctest.Test(t, func(t *testing.T) {
			s := &script{in: io.MultiReader(in...)}
			b, err := New(Config{})
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if c := b.enter(t.Context(), &patient{(&webListener{}).wrap(s)}); c != nil {
				c.serve()
			}
			runtime.ReadMemStats(&after)
			if s.read > len(request)+16<<10 {
				t.Errorf("connected %v: %d bytes were read", connect, s.read)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 200<<10 {
				t.Errorf("connected %v: %d bytes were allocated", connect, n)
			}
		})
	}
}

// endless is more than anybody wants.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// patient is a conn whose deadlines never pass.
type patient struct{ net.Conn }

func (patient) SetDeadline(time.Time) error      { return nil }
func (patient) SetReadDeadline(time.Time) error  { return nil }
func (patient) SetWriteDeadline(time.Time) error { return nil }
func (patient) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// webPipe returns both ends of a WebSocket over a pipe, which holds nothing.
func webPipe(t *testing.T) (server net.Conn, client *bufio.ReadWriter) {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	server = (&webListener{}).wrap(far)
	client = bufio.NewReadWriter(bufio.NewReader(near), bufio.NewWriter(near))
	client.WriteString(request)
	opened := make(chan error)
	go func() {
		_, err := server.Read(make([]byte, 1))
		opened <- err
	}()
	client.Flush()
	if answer, err := http.ReadResponse(client.Reader, nil); err != nil || answer.StatusCode != 101 {
		t.Fatalf("%+v, %v", answer, err)
	}
	client.Write(frame(final, opBinary, []byte("x")))
	client.Flush()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	return server, client
}

// Deadlines that others set end a Read and a Write under way, each without
// harm to the other direction.
func TestWebSocketDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := webPipe(t)
		read := make(chan error)
		go func() { _, err := server.Read(make([]byte, 1)); read <- err }()
		synctest.Wait()
		server.SetReadDeadline(time.Now())
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) && !timedOut(err) {
			t.Errorf("read: %v", err)
		}
		go server.Write([]byte("bye"))
		got := make([]byte, 5)
		if _, err := io.ReadFull(client, got); err != nil || string(got) != "\x82\x03bye" {
			t.Errorf("%q, %v", got, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		server, client := webPipe(t)
		wrote := make(chan error)
		start := time.Now()
		server.SetWriteDeadline(start.Add(time.Hour))
		go func() { _, err := server.Write(make([]byte, 1<<20)); wrote <- err }()
		synctest.Wait()
		server.SetWriteDeadline(start.Add(time.Second)) // by another, as client.end does
		if err := <-wrote; !timedOut(err) || time.Since(start) != time.Second {
			t.Errorf("write: %v after %v", err, time.Since(start))
		}
		go func() {
			client.Write(frame(final, opBinary, []byte("y")))
			client.Flush()
		}()
		if n, err := server.Read(make([]byte, 8)); n != 1 || err != nil {
			t.Errorf("read: %d, %v", n, err)
		}
	})
}

// The library does not take back a deadline that was set before a frame.
func TestWebSocketKeepsTheWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, _ := webPipe(t)
		start := time.Now()
		server.SetDeadline(start.Add(time.Second))
		if _, err := server.Write(make([]byte, 100)); !timedOut(err) || time.Since(start) != time.Second {
			t.Errorf("write: %v after %v", err, time.Since(start))
		}
		if server.Close(); time.Since(start) != time.Second {
			t.Errorf("closed after %v", time.Since(start))
		}
	})
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// A ping during a long Write does not stop the reader, and is answered after
// it. A write deadline long gone does not stop a pong, nor does a pong leave
// one behind.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := webPipe(t)
		wrote := make(chan error, 1)
		go func() { _, err := server.Write(make([]byte, 10_000)); wrote <- err }()
		synctest.Wait()
		for _, s := range []string{"one", "two"} {
			client.Write(frame(final, opPing, []byte(s)))
		}
		client.Write(frame(final, opBinary, []byte("y")))
		flushed := make(chan error)
		go func() { flushed <- client.Flush() }()
		if n, err := server.Read(make([]byte, 8)); n != 1 || err != nil {
			t.Fatalf("read: %d, %v", n, err)
		}
		<-flushed
		got := make([]byte, 4+10_000+2+3)
		if _, err := io.ReadFull(client, got); err != nil || string(got[10_004:]) != "\x8a\x03two" {
			t.Errorf("%q, %v", got[10_004:], err)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		go io.Copy(io.Discard, server)
		for _, until := range []time.Time{time.Now().Add(-time.Hour), {}} {
			server.SetWriteDeadline(until)
			client.Write(frame(final, opPing, []byte("three")))
			flushed := make(chan error)
			go func() { flushed <- client.Flush() }()
			got = make([]byte, 7)
			if _, err := io.ReadFull(client, got); err != nil || string(got) != "\x8a\x05three" {
				t.Errorf("%q, %v", got, err)
			}
			<-flushed
		}
		time.Sleep(time.Hour) // of the bubble
		go server.Write([]byte("z"))
		if _, err := io.ReadFull(client, got[:3]); err != nil || string(got[:3]) != "\x82\x01z" {
			t.Errorf("%q, %v", got, err)
		}
	})
}
