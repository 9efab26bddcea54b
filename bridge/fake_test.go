package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

// A fakeLog is a class log in memory with one consumer.
type fakeLog struct {
	mu      sync.Mutex
	records []spool.Record // Seq is the index + 1
	acked   map[spool.Seq]bool
	changed chan struct{} // closed at each append
}

func newFakeLog() *fakeLog {
	return &fakeLog{acked: make(map[spool.Seq]bool), changed: make(chan struct{})}
}

// add appends a message of this boot, stamped now.
func (l *fakeLog) add(m broker.Message) { l.addRecord(m, spool.Record{Stamp: fakeNow()}) }

func (l *fakeLog) addRecord(m broker.Message, r spool.Record) {
	r.Data, _ = json.Marshal(m)
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Seq = spool.Seq(len(l.records) + 1)
	l.records = append(l.records, r)
	close(l.changed)
	l.changed = make(chan struct{})
}

func fakeDecode(r *spool.Record, m *broker.Message) error {
	err := json.Unmarshal(r.Data, m)
	m.Stamp = r.Stamp
	return err
}

func fakeNow() int64 { return time.Now().UnixNano() }

func (l *fakeLog) last() spool.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return spool.Seq(len(l.records))
}

func (l *fakeLog) Ack(s spool.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[s] = true
}

func (l *fakeLog) Acked() spool.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := spool.Seq(0)
	for l.acked[n+1] {
		n++
	}
	return n
}

func (l *fakeLog) Backlog() spool.Backlog {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := spool.Backlog{Records: uint64(len(l.records) - len(l.acked))}
	for _, r := range l.records {
		if !l.acked[r.Seq] {
			b.OldestStamp, b.OldestBoot = r.Stamp, r.Boot
			break
		}
	}
	return b
}

func (l *fakeLog) Reader(after, until spool.Seq) reader { return &fakeReader{l, after, until} }

type fakeReader struct {
	l            *fakeLog
	after, until spool.Seq
}

func (r *fakeReader) Close() {}

func (r *fakeReader) Next(ctx context.Context, dst []byte) (spool.Record, error) {
	for {
		r.l.mu.Lock()
		changed := r.l.changed
		for int(r.after) < len(r.l.records) && (r.until == 0 || r.after < r.until) {
			rec := r.l.records[r.after]
			r.after++
			if !r.l.acked[rec.Seq] {
				rec.Data = append(dst, rec.Data...)
				r.l.mu.Unlock()
				return rec, nil
			}
		}
		r.l.mu.Unlock()
		if r.until != 0 && r.after >= r.until {
			return spool.Record{}, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return spool.Record{}, ctx.Err()
		}
	}
}

// A fakeLocal is the local broker of a bridge: it keeps what is published.
type fakeLocal struct {
	mu     sync.Mutex
	got    []broker.Message
	refuse error // returned by PublishFrom
	hold   bool  // done is kept in held
	held   []func(err error)
}

func (l *fakeLocal) PublishFrom(_ context.Context, m *broker.Message, done func(error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		return l.refuse
	}
	l.got = append(l.got, *m)
	if l.hold {
		l.held = append(l.held, done)
	} else {
		go done(nil)
	}
	return nil
}

// An upstream is a far broker over net.Pipe. Its hooks run in the goroutine
// of the connection; nil means the usual: accept, and acknowledge at once.
type upstream struct {
	dialed  func(n int) error                                // before a connection, from 1
	connack func(n int, c *packets.Connect) *packets.Connack // n as above
	publish func(c *serverConn, p *packets.Publish)
	deaf    func(n int) bool // reads nothing after CONNACK

	mu       sync.Mutex
	dials    []string // hosts, in order
	times    []time.Time
	connects []*packets.Connect
	subs     []*packets.Subscribe
	got      []*packets.Publish
	acks     []*packets.Puback // for what we sent
	goodbyes []*packets.Disconnect
	conns    []*serverConn
}

// A serverConn is the far broker's end of one connection. Its packets are
// written by a goroutine of their own, so that its hooks never wait.
type serverConn struct {
	net.Conn
	n   int
	out chan io.WriterTo
}

func (c *serverConn) send(p io.WriterTo) { c.out <- p }

func (c *serverConn) ack(p *packets.Publish, code byte) {
	c.send(&packets.Puback{PacketID: p.PacketID, ReasonCode: code})
}

func (u *upstream) dial(ctx context.Context, to *url.URL) (net.Conn, error) {
	u.mu.Lock()
	u.dials = append(u.dials, to.Host)
	u.times = append(u.times, time.Now())
	n := len(u.dials)
	u.mu.Unlock()
	if u.dialed != nil {
		if err := u.dialed(n); err != nil {
			return nil, err
		}
	}
	near, far := net.Pipe()
	c := &serverConn{far, n, make(chan io.WriterTo, 10000)}
	u.mu.Lock()
	u.conns = append(u.conns, c)
	u.mu.Unlock()
	go u.serve(c)
	return near, nil
}

func (u *upstream) serve(c *serverConn) {
	stop := make(chan struct{})
	defer close(stop)
	defer c.Close()
	go func() {
		for {
			select {
			case p := <-c.out:
				if p == nil {
					c.Close()
					return
				}
				var buf bytes.Buffer
				p.WriteTo(&buf)
				c.Write(buf.Bytes())
			case <-stop:
				return
			}
		}
	}()
	for {
		p, err := packets.ReadPacket(c)
		if err != nil || !u.handle(c, p) {
			return
		}
	}
}

func (u *upstream) handle(c *serverConn, recv *packets.ControlPacket) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch p := recv.Content.(type) {
	case *packets.Connect:
		u.connects = append(u.connects, p)
		ca := &packets.Connack{Properties: &packets.Properties{}}
		if u.connack != nil {
			ca = u.connack(c.n, p)
		}
		c.send(ca)
		if u.deaf != nil && u.deaf(c.n) {
			u.mu.Unlock()
			time.Sleep(time.Hour)
			u.mu.Lock()
		}
	case *packets.Subscribe:
		u.subs = append(u.subs, p)
		c.send(&packets.Suback{PacketID: p.PacketID, Properties: &packets.Properties{}, Reasons: make([]byte, len(p.Subscriptions))})
	case *packets.Publish:
		u.got = append(u.got, p)
		if u.publish != nil {
			u.publish(c, p)
		} else if p.QoS == 1 {
			c.ack(p, 0)
		}
	case *packets.Puback:
		u.acks = append(u.acks, p)
	case *packets.Pingreq:
		c.send(packets.NewControlPacket(packets.PINGRESP))
	case *packets.Disconnect:
		u.goodbyes = append(u.goodbyes, p)
		return false
	}
	return true
}

// attempts returns how often the bridge has tried to connect.
func (u *upstream) attempts() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.dials)
}

// payloads returns what arrived, in order.
func (u *upstream) payloads() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []string
	for _, p := range u.got {
		list = append(list, string(p.Payload))
	}
	return list
}

func property(p *packets.Publish, key string) string {
	for _, u := range p.Properties.User {
		if u.Key == key {
			return u.Value
		}
	}
	return ""
}

// A rig is a bridge between fakes.
type rig struct {
	*Bridge
	up       *upstream
	tele     *fakeLog
	crit     *fakeLog
	here     *fakeLocal
	logged   *bytes.Buffer
	stop     context.CancelFunc
	finished chan struct{}
}

var testClock = broker.Clock{Quality: broker.Exact}

// newRig returns a bridge that is not running yet. It is to be called inside
// a synctest bubble.
func newRig(t testing.TB, change func(*Config)) *rig {
	cfg := Config{
		Name: "cloud", URLs: []string{"tcp://up:1883"}, ClientID: "gw", QoS: 1,
		Send: []Rule{{"p/#", "dt/p/#"}}, Replay: Strict, Now: fakeNow,
	}
	if change != nil {
		change(&cfg)
	}
	r := &rig{up: &upstream{}, tele: newFakeLog(), crit: newFakeLog(), here: &fakeLocal{}, logged: new(bytes.Buffer), finished: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(r.logged, t.Output()), nil))
	b, err := newBridge(cfg, r.here, func() broker.Clock { return testClock }, log)
	if err != nil {
		t.Fatal(err)
	}
	b.decode, b.dial, b.random = fakeDecode, r.up.dial, func() float64 { return 0 }
	b.sources = []*source{
		{broker.Telemetry, "tele", r.tele.last, r.tele},
		{broker.Critical, "crit", r.crit.last, r.crit},
	}
	r.Bridge = b
	return r
}

func (r *rig) start() {
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		r.Run(ctx)
		close(r.finished)
	}()
}

// end stops the bridge and all that belongs to it.
func (r *rig) end() {
	r.stop()
	<-r.finished
	r.up.mu.Lock()
	defer r.up.mu.Unlock()
	for _, c := range r.up.conns {
		c.Close()
	}
}

// fill appends messages with the payloads from..to-1 and topic p/x.
func (l *fakeLog) fill(from, to int) {
	for i := from; i < to; i++ {
		l.add(broker.Message{Topic: "p/x", Payload: fmt.Append(nil, i), Retain: true})
	}
}

// numbers returns from..to-1 as they arrive.
func numbers(from, to int) []string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

// lines returns how many log lines hold part.
func (r *rig) lines(part string) int { return strings.Count(r.logged.String(), part) }

// pass lets time pass and then all that is due happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
