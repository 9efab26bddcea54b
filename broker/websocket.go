package broker

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	// Chosen over coder/websocket, whose deadlines close the connection, so
	// that no DISCONNECT could follow one; this one leaves them to the socket.
	"github.com/gorilla/websocket"
)

// What a WebSocket costs above its socket: a read buffer of webRead bytes, and
// about 1 KiB for the rest. Buffers to write with are shared by all.
const (
	webRead  = 512     // as large as control frames need; what is longer goes past it
	webWrite = 4 << 10 // frames that leave in one piece
	webHead  = 8 << 10 // bytes of a request
)

// webPaths are served where the configuration names no path.
var webPaths = []string{"/", "/mqtt"}

// webBuffers hold the buffers that frames are written with.
var webBuffers sync.Pool

// A webListener makes a WebSocket of each connection.
type webListener struct {
	net.Listener
	scheme  string   // "ws" or "wss"
	path    string   // "": any of webPaths
	origins []string // nil: whatever page a browser shows
}

// Accept does not wait for the request: that is read with the first Read.
func (l *webListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(conn), nil
}

func (l *webListener) wrap(conn net.Conn) net.Conn {
	c := &webConn{wire: wire{Conn: conn}, from: l}
	if secure, ok := conn.(*tls.Conn); ok {
		return &secureWebConn{c, secure}
	}
	return c
}

// A webConn is a WebSocket whose binary messages are one stream of bytes, as
// MQTT wants it: a packet may span messages, and a message hold many packets.
// Nothing is allocated for the length that a frame announces: what it holds
// passes through the reader's buffer, and there the limit of packets applies
// as on any other connection.
//
// Deadlines are those of the socket and may be set by anyone at any time. As
// with TLS, a connection of which one has passed during a Read or a Write can
// be used no more in that direction.
type webConn struct {
	wire
	from *webListener
	ws   atomic.Pointer[websocket.Conn] // nil until the request was answered
	// failed and message belong to the reader.
	failed  error
	message io.Reader // nil between messages

	writing sync.Mutex             // one frame at a time
	pong    atomic.Pointer[string] // owed; the latest counts (RFC 6455, section 5.5.3)
}

// A secureWebConn is a webConn over TLS.
type secureWebConn struct {
	*webConn
	tls *tls.Conn
}

// ConnectionState tells of the client's certificate, once something was read.
func (c *secureWebConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// Read reads what the messages hold. The first one answers the request that
// makes the connection a WebSocket.
func (c *webConn) Read(p []byte) (int, error) {
	if c.failed == nil && c.ws.Load() == nil {
		c.failed = c.open()
	}
	for c.failed == nil {
		n, err := c.readMessage(p)
		if n > 0 {
			return n, nil
		}
		c.failed = err
	}
	return 0, c.failed
}

// readMessage reads some of the present message, or begins the next.
func (c *webConn) readMessage(p []byte) (int, error) {
	if c.message == nil {
		kind, message, err := c.ws.Load().NextReader()
		if err != nil {
			return 0, webError(err)
		}
		if kind != websocket.BinaryMessage {
			c.goodbye(websocket.CloseUnsupportedData, "MQTT comes in binary frames")
			return 0, errors.New("WebSocket: a text frame, where MQTT comes in binary ones")
		}
		c.message = message
	}
	n, err := c.message.Read(p)
	if err == io.EOF {
		c.message, err = nil, nil
	}
	return n, webError(err)
}

// webError makes an end that the client announced the end of the stream.
func webError(err error) error {
	var end *websocket.CloseError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &end):
		return fmt.Errorf("WebSocket: %w", err)
	case end.Code == websocket.CloseNormalClosure || end.Code == websocket.CloseGoingAway || end.Code == websocket.CloseNoStatusReceived:
		return io.EOF
	}
	return fmt.Errorf("WebSocket: the client closed it: %d %q", end.Code, end.Text)
}

// Write sends p as one message.
func (c *webConn) Write(p []byte) (int, error) {
	ws := c.ws.Load()
	if ws == nil {
		return 0, net.ErrClosed
	}
	c.writing.Lock()
	err := ws.WriteMessage(websocket.BinaryMessage, p)
	c.writing.Unlock()
	if err != nil {
		return 0, webError(err)
	}
	c.sendPong()
	return len(p), nil
}

// ping notes that a pong is owed. It does not wait for a Write under way, as
// the reader would then read no acknowledgements: that Write sends it after.
func (c *webConn) ping(data string) error {
	c.pong.Store(&data)
	c.sendPong()
	return nil // what is wrong with writing, the writer finds
}

func (c *webConn) sendPong() {
	for c.pong.Load() != nil && c.writing.TryLock() {
		if data := c.pong.Swap(nil); data != nil {
			c.control(websocket.PongMessage, []byte(*data), writeWait)
		}
		c.writing.Unlock()
	}
}

// control sends a control frame, which may take wait; writing is held.
func (c *webConn) control(kind int, data []byte, wait time.Duration) {
	c.ws.Load().WriteControl(kind, data, time.Now().Add(wait))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Conn.SetWriteDeadline(c.until)
}

// goodbye says why the connection is closed, unless a Write is under way.
func (c *webConn) goodbye(code int, why string) {
	if c.ws.Load() != nil && c.writing.TryLock() {
		c.control(websocket.CloseMessage, websocket.FormatCloseMessage(code, why), lastWait)
		c.writing.Unlock()
	}
}

// Close says goodbye, if nobody did before, and closes the socket.
func (c *webConn) Close() error {
	c.goodbye(websocket.CloseNormalClosure, "")
	return c.Conn.Close()
}

// open reads the request and answers it.
func (c *webConn) open() error {
	if secure, ok := c.Conn.(*tls.Conn); ok {
		if err := secure.Handshake(); err != nil {
			return err
		}
	}
	head := &io.LimitedReader{R: c.Conn, N: webHead}
	buf := bufio.NewReaderSize(head, webRead)
	req, err := http.ReadRequest(buf)
	switch {
	case err != nil && head.N == 0:
		return c.refuse(http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("The request is longer than %d bytes.", webHead), nil)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	case err != nil && isNetError(err):
		return err
	case err != nil:
		return c.refuse(http.StatusBadRequest, "This is no HTTP request. MQTT clients connect here by WebSocket.", nil)
	}
	if status, why := c.from.judge(req); status != 0 {
		return c.refuse(status, why, http.Header{"Upgrade": {"websocket"}})
	}
	return c.upgrade(req, buf)
}

func isNetError(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// judge returns the status and the sentence that refuse a request; 0 takes it.
func (l *webListener) judge(req *http.Request) (int, string) {
	paths := webPaths
	if l.path != "" {
		paths = []string{l.path}
	}
	switch origin := req.Header.Get("Origin"); {
	case !slices.Contains(paths, req.URL.Path):
		return http.StatusNotFound, "There is nothing here but MQTT over WebSocket, at " + strings.Join(paths, " and ") + "."
	case !websocket.IsWebSocketUpgrade(req):
		return http.StatusUpgradeRequired, fmt.Sprintf("This is the MQTT broker of a gateway. Connect an MQTT client by WebSocket to %s://%s%s", l.scheme, req.Host, req.URL.Path)
	case origin != "" && l.origins != nil && !slices.Contains(l.origins, origin):
		return http.StatusForbidden, fmt.Sprintf("Pages of %q may not connect. Add it to origins in [broker] of the gateway's configuration if they should.", origin)
	case !slices.ContainsFunc(websocket.Subprotocols(req), func(p string) bool { return slices.Contains(subprotocols, p) }):
		return http.StatusBadRequest, `Ask for the subprotocol "mqtt" (header Sec-WebSocket-Protocol).`
	}
	return 0, ""
}

// subprotocols are what MQTT is called: since 3.1.1, and before.
var subprotocols = []string{"mqtt", "mqttv3.1"}

// upgrade makes the connection a WebSocket.
func (c *webConn) upgrade(req *http.Request, buf *bufio.Reader) error {
	var refused error
	u := websocket.Upgrader{
		ReadBufferSize: webRead, WriteBufferSize: webWrite, WriteBufferPool: &webBuffers,
		Subprotocols: subprotocols,
		CheckOrigin:  func(*http.Request) bool { return true }, // judge has
		Error: func(w http.ResponseWriter, _ *http.Request, status int, why error) {
			refused = c.refuse(status, strings.TrimPrefix(why.Error(), "websocket: ")+".", w.Header())
		},
	}
	ws, err := u.Upgrade(&hijacked{&c.wire, buf, http.Header{}}, req, nil)
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return webError(err)
	}
	ws.SetPingHandler(c.ping)
	ws.SetCloseHandler(func(code int, _ string) error { c.goodbye(code, ""); return nil })
	c.ws.Store(ws)
	return nil
}

// refuse answers a request with a sentence for whoever sent it.
func (c *webConn) refuse(status int, why string, header http.Header) error {
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	answer := http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: header, Close: true,
		ContentLength: int64(len(why) + 1), Body: io.NopCloser(strings.NewReader(why + "\n")),
	}
	answer.Write(c.Conn) // whether it arrives changes nothing
	return fmt.Errorf("WebSocket: answered with %d: %s", status, why)
}

// hijacked is what the library takes its connection from.
type hijacked struct {
	wire   *wire
	buf    *bufio.Reader
	header http.Header
}

func (h *hijacked) Header() http.Header         { return h.header }
func (h *hijacked) WriteHeader(int)             {}
func (h *hijacked) Write(p []byte) (int, error) { return len(p), nil }
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.wire, bufio.NewReadWriter(h.buf, bufio.NewWriterSize(io.Discard, 16)), nil
}

// A wire is the socket as the library sees it. The library clears deadlines
// after the request and before each frame: those that the broker set stay. It
// sets one for a control frame, which counts unless the broker's comes first.
type wire struct {
	net.Conn
	mu    sync.Mutex
	until time.Time // the broker's write deadline
}

// The library's.
func (w *wire) SetDeadline(time.Time) error     { return nil }
func (w *wire) SetReadDeadline(time.Time) error { return nil }
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.IsZero() || w.until.After(time.Now()) && w.until.Before(t) {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}

// The broker's.
func (c *webConn) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(t) }
func (c *webConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return c.Conn.SetWriteDeadline(t)
}
func (c *webConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
