package bridge

import (
	"context"
	"encoding/binary"
	"net"
	"net/url"
	"sync"
)

// A wiretap stands between the bridge and TLS and notes, by a reading of MQTT
// of its own, what goes out and what the far broker says to it. So it is known
// what a far broker has acknowledged, whatever that broker makes of it later.
type wiretap struct {
	version Version

	mu    sync.Mutex
	sent  []string       // payloads at QoS 1 in the order of their first PUBLISH
	acked map[string]int // how often each was acknowledged with success
	again int            // PUBLISH of a payload that was sent before
}

// tap has a bridge dial through a new wiretap.
func (r *rig) tap() *wiretap {
	w := &wiretap{version: r.cfg.Version, acked: make(map[string]int)}
	seen := make(map[string]bool)
	dial := r.dial
	r.dial = func(ctx context.Context, u *url.URL) (net.Conn, error) {
		c, err := dial(ctx, u)
		if err != nil {
			return nil, err
		}
		return &tappedConn{Conn: c, w: w, seen: seen, flying: make(map[uint16]string)}, nil
	}
	return w
}

// unacknowledged returns what was sent and never acknowledged.
func (w *wiretap) unacknowledged() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.sent {
		if w.acked[p] == 0 {
			list = append(list, p)
		}
	}
	return list
}

type tappedConn struct {
	net.Conn
	w       *wiretap
	seen    map[string]bool
	flying  map[uint16]string
	out, in []byte // of a packet that is not complete yet
}

func (c *tappedConn) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	c.out = eachPacket(append(c.out, p...), c.published) // before its answer can come
	c.w.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *tappedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.in = eachPacket(append(c.in, p[:n]...), c.answered)
	return n, err
}

// published notes a PUBLISH of QoS 1 (3.3).
func (c *tappedConn) published(first byte, body []byte) {
	if first>>4 != 3 || first&6 != 2 {
		return
	}
	topic := 2 + int(binary.BigEndian.Uint16(body))
	id, rest := binary.BigEndian.Uint16(body[topic:]), body[topic+2:]
	if c.w.version == MQTT5 {
		size, n := binary.Uvarint(rest)
		rest = rest[n+int(size):]
	}
	payload := string(rest)
	c.flying[id] = payload
	if c.seen[payload] {
		c.w.again++
		return
	}
	c.seen[payload] = true
	c.w.sent = append(c.w.sent, payload)
}

// answered notes a PUBACK (3.4).
func (c *tappedConn) answered(first byte, body []byte) {
	if first>>4 != 4 || len(body) > 2 && body[2] >= 0x80 {
		return
	}
	id := binary.BigEndian.Uint16(body)
	if payload, ok := c.flying[id]; ok {
		c.w.acked[payload]++
		delete(c.flying, id)
	}
}

// eachPacket calls do for each complete packet in p and returns the rest.
func eachPacket(p []byte, do func(first byte, body []byte)) []byte {
	for len(p) > 1 {
		size, n := binary.Uvarint(p[1:])
		if n <= 0 || len(p) < 1+n+int(size) {
			break
		}
		do(p[0], p[1+n:][:size])
		p = p[1+n+int(size):]
	}
	return p
}
