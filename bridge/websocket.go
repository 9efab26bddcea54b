package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket" // as the broker's listeners
)

// A webConn is a WebSocket as one stream of bytes, as MQTT wants it. Reads and
// writes may go on at once, each by one goroutine at a time.
type webConn struct {
	*websocket.Conn
	message io.Reader // belongs to the reader; nil between messages
}

// A webRefusal is the HTTP answer of a server that makes no WebSocket.
type webRefusal struct {
	status string
	code   int
	path   string
	words  string // of the server, the beginning of its answer
}

func (e *webRefusal) Error() string {
	s := fmt.Sprintf("the server makes no WebSocket at %s (HTTP %s)", e.path, e.status)
	switch e.code {
	case http.StatusNotFound:
		s += ": is the path in url right? Many brokers have /mqtt"
	case http.StatusUnauthorized, http.StatusForbidden:
		s += ": it does not let us in"
	default:
		s += ": see url"
	}
	if e.words != "" {
		s += fmt.Sprintf("; it says %q", e.words)
	}
	return s
}

// upgrade makes c, which is encrypted already for wss, a WebSocket. On an error
// c is closed.
func upgrade(ctx context.Context, c net.Conn, u *url.URL) (net.Conn, error) {
	give := func(context.Context, string, string) (net.Conn, error) { return c, nil }
	d := websocket.Dialer{
		NetDialContext: give, NetDialTLSContext: give, // with no Proxy none is used
		Subprotocols: []string{"mqtt"},
	}
	ws, resp, err := d.DialContext(ctx, u.String(), nil)
	if errors.Is(err, websocket.ErrBadHandshake) && resp != nil {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		err = &webRefusal{resp.Status, resp.StatusCode, u.Path, firstLine(string(text))}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	ws.SetReadLimit(2 * maxInbound) // a frame may hold several packets; what is longer ends the link
	return &webConn{Conn: ws}, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.ToValidUTF8(strings.TrimSpace(line), "")
}

func (c *webConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.NextReader()
			if err != nil {
				return 0, webError(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("the server sent text, where MQTT comes in binary frames: no MQTT broker?")
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, webError(err)
		}
	}
}

// webError makes an end that the server announced the end of the stream.
func webError(err error) error {
	if end, ok := errors.AsType[*websocket.CloseError](err); ok {
		if end.Text != "" && end.Code != websocket.CloseAbnormalClosure {
			return fmt.Errorf("the server closed the WebSocket: %d %q: %w", end.Code, end.Text, io.EOF)
		}
		return io.EOF
	}
	return err
}

// Write sends p as one message.
func (c *webConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, webError(err)
	}
	return len(p), nil
}

func (c *webConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
