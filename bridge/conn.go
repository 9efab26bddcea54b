package bridge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// maxInbound is the largest packet taken from upstream, in bytes; CONNECT
// announces it. Commands are small.
const maxInbound = 256 << 10

// burst is how many bytes of packets wait at most for those that follow at
// once: a record of TLS holds no more.
const burst = 16 << 10

// A conn is a connection as paho needs it: safe for concurrent writers, each
// packet in one write with a deadline, and no packet read that is larger than
// limit, before paho makes room for it.
//
// From hold to flush packets may wait for each other, to go in one write: that
// is fewer calls of the system here and, as each record of TLS and each segment
// has a head, fewer bytes on the link.
//
// Paho brackets the writes of one packet with Lock and Unlock if it finds
// them. The lock is a channel so that waiting for it is visible to synctest.
// After an error the connection is closed; Err tells why.
type conn struct {
	net.Conn
	timeout time.Duration // for one write
	limit   int           // bytes of one inbound packet
	count   func(n int)   // called with the bytes of each packet, out or in; nil: nobody counts

	lock chan struct{} // holds one token while someone writes
	out  []byte        // packets not written yet; belongs to the holder of lock
	done int           // bytes of out that belong to earlier packets
	held atomic.Bool   // out may wait

	in    *bufio.Reader // below: belong to paho's reader
	left  int           // bytes until the next packet begins
	shift int           // -1: packet type expected; else position in the length
	size  int           // length as far as known
	kind  byte          // first byte of the packet

	err  atomic.Pointer[error] // the first one
	dead chan struct{}         // closed when there is one
}

func newConn(c net.Conn, timeout time.Duration, limit int) *conn {
	return &conn{Conn: c, timeout: timeout, limit: limit, lock: make(chan struct{}, 1), in: bufio.NewReader(c), shift: -1, dead: make(chan struct{})}
}

func (c *conn) Lock() { c.lock <- struct{}{} }

// Unlock sends what was written, unless it may wait.
func (c *conn) Unlock() {
	if n := len(c.out) - c.done; n > 0 && c.count != nil {
		c.count(n)
	}
	if c.done = len(c.out); !c.held.Load() || len(c.out) >= burst {
		c.send()
	}
	<-c.lock
}

func (c *conn) hold() { c.held.Store(true) }

func (c *conn) flush() {
	c.held.Store(false)
	c.Lock()
	c.send()
	<-c.lock
}

// send belongs to the holder of lock.
func (c *conn) send() {
	if len(c.out) == 0 {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(c.timeout))
	if _, err := c.Conn.Write(c.out); err != nil {
		c.fail(err)
		c.Close() // part of a packet may be out: nothing may follow it
	}
	if c.out, c.done = c.out[:0], 0; cap(c.out) > maxInbound {
		c.out = nil
	}
}

// Write appends to what Unlock or flush sends.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.Err(); err != nil {
		return 0, err
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

// Err returns the error that ended the connection, nil while none has.
func (c *conn) Err() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// fail notes the first error.
func (c *conn) fail(err error) {
	if c.err.CompareAndSwap(nil, &err) {
		close(c.dead)
	}
}

// closedHere reports whether err says that we closed the connection ourselves.
func closedHere(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// Read reads within one packet and follows its framing (MQTT 5, 2.1).
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.left > 0 {
		n, err := c.in.Read(p[:min(len(p), c.left)])
		c.left -= n
		return n, c.noted(err)
	}
	b, err := c.in.ReadByte()
	if err != nil {
		return 0, c.noted(err)
	}
	if err := c.frame(b); err != nil {
		return 0, c.noted(err)
	}
	p[0] = b
	return 1, nil
}

// frame takes one byte of a fixed header.
func (c *conn) frame(b byte) error {
	if c.shift < 0 {
		c.shift, c.size, c.kind = 0, 0, b
		return nil
	}
	c.size |= int(b&0x7F) << c.shift
	c.shift += 7
	switch {
	case b >= 0x80 && c.shift > 21:
		return errors.New("the server sent a malformed packet length")
	case b >= 0x80:
		return nil
	case c.size > c.limit:
		return fmt.Errorf("the server sent a packet of %d bytes, more than the %d it was told", c.size, c.limit)
	}
	c.left, c.shift = c.size, -1
	if c.count != nil {
		c.count(c.size + 2)
	}
	return nil
}

func (c *conn) noted(err error) error {
	if err != nil {
		c.fail(err)
	}
	return err
}
