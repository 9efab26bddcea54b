package broker

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// The broker against a model that knows what has to arrive: clients that
// connect, die, take each other over, publish and subscribe at all QoS, and a
// broker that is killed and restarted meanwhile.

var (
	modelSeed  = flag.Uint64("model.seed", 0, "seed of the model test; 0: another one each time")
	modelSteps = flag.Int("model.steps", 0, "steps of the model test; 0: 4,000, or 2,000,000 in the long run")
)

func TestModel(t *testing.T) {
	steps := 4000
	if os.Getenv("GATEWAY_LONG") != "" {
		steps = 2_000_000
	}
	if *modelSteps > 0 {
		steps = *modelSteps
	}
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	const each = 1000 // in one life of a model, at whose end all is compared
	for n := 0; n < steps; n += each {
		cfg := Config{Limits: Limits{Queue: 5 + int(seed%40)}}
		inSite(t, cfg, func(t *testing.T, s *site) {
			m := &model{t: t, s: s, seed: seed, said: make([]saying, 1), rng: rand.New(rand.NewPCG(seed, 1)), retained: make(map[string]int)}
			for i := range 6 {
				m.clients = append(m.clients, newActor(m, fmt.Sprint("c", i)))
			}
			for range each {
				m.step()
				if t.Failed() {
					break
				}
			}
			m.finish()
		})
		if t.Failed() {
			return
		}
		seed++
	}
	t.Logf("%d steps, last seed %d", steps, seed-1)
}

// A model is what is known to have happened.
type model struct {
	t        *testing.T
	s        *site
	rng      *rand.Rand
	seed     uint64
	clients  []*actor
	said     []saying       // by payload
	retained map[string]int // payload by topic
	trace    []string
	lines    atomic.Int32 // of trace
}

// A saying is one message, told apart by its payload.
type saying struct {
	topic string
	qos   byte
	by    string
	sure  bool // it was acknowledged, or the gateway's own
}

// An actor is one client with its session, as it should be.
type actor struct {
	m     *model
	id    string
	v     packet.Version
	lasts bool // its session outlives the connection
	there bool // it has a session
	subs  map[string]byte
	peer  *peer
	lazy  bool // it acknowledges nothing
	ends  chan struct{}

	mu      sync.Mutex
	got     []arrival
	begun   map[uint16]bool // QoS 2 identifiers that are not released
	unacked []*packet.Publish
	acks    map[uint16]packet.Type
	nextID  uint16
	pending map[uint16]*packet.Publish // published and not acknowledged
	subAcks int

	owed map[int]byte // QoS by payload
	kept map[int]byte // bit set of QoS, by payload, of what was retained when it subscribed
	may  map[int]byte // bit set of the QoS it may come with, for its publisher did not know whether it had got through
}

type arrival struct {
	payload int
	qos     byte
	topic   string
	dup     bool
	retain  bool
	id      uint16
	step    int // of the trace
}

func newActor(m *model, id string) *actor {
	return &actor{m: m, id: id, v: packet.V5, subs: make(map[string]byte), begun: make(map[uint16]bool),
		acks: make(map[uint16]packet.Type), pending: make(map[uint16]*packet.Publish), owed: make(map[int]byte), may: make(map[int]byte), kept: make(map[int]byte)}
}

var modelTopics = []string{"a", "a/b", "a/c", "b", "b/c"}
var modelFilters = []string{"a", "a/b", "a/+", "#", "b/#", "+/c"}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
	m.lines.Add(1)
}

func pickOne[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (m *model) step() {
	c := pickOne(m.rng, m.clients)
	switch n := m.rng.IntN(1000); {
	case n < 250:
		m.publishOwn()
	case n < 500:
		c.publish()
	case n < 620:
		c.connect(m.rng.IntN(5) == 0)
	case n < 720:
		c.subscribe()
	case n < 750:
		c.unsubscribe()
	case n < 830:
		c.die()
	case n < 870:
		c.leave()
	case n < 920:
		c.setLazy(m.rng.IntN(2) == 0)
	case n < 980:
		time.Sleep(time.Duration(m.rng.IntN(1500)) * time.Millisecond)
	case n < 990:
		m.restart()
	default:
		m.kill()
	}
	synctest.Wait()
	for _, c := range m.clients {
		c.noticeEnd()
		c.settle()
	}
}

// noticeEnd takes note of a connection that the broker ended, for its client
// took nothing for too long.
func (c *actor) noticeEnd() {
	if c.peer == nil {
		return
	}
	select {
	case <-c.ends:
		c.m.note("%s was cut off", c.id)
		c.cut()
	default:
	}
}

func (m *model) restart() {
	m.note("restart")
	for _, c := range m.clients {
		c.cut()
	}
	m.s.restart()
}

func (m *model) kill() {
	m.note("kill")
	synctest.Wait()
	m.s.kill()
	for _, c := range m.clients {
		c.cut()
	}
}

// publishOwn publishes a message of the gateway.
func (m *model) publishOwn() {
	topic, qos := pickOne(m.rng, modelTopics), byte(m.rng.IntN(3))
	n := m.say(saying{topic: topic, qos: qos, by: "gateway", sure: true})
	m.s.Publish(&Message{Topic: topic, QoS: qos, Payload: fmt.Append(nil, n)})
}

// say notes a message and who is to get it.
func (m *model) say(x saying) int {
	n := len(m.said)
	m.said = append(m.said, x)
	m.note("%d: %s says %s QoS %d", n, x.by, x.topic, x.qos)
	for _, c := range m.clients {
		c.mustGet(n, x)
	}
	return n
}

func (c *actor) mustGet(n int, x saying) {
	if qos, ok := c.wants(x); ok {
		c.owed[n] = qos
	}
}

// wants returns with which QoS c is to get a message that is said now.
func (c *actor) wants(x saying) (qos byte, ok bool) {
	for f, q := range c.subs {
		if Match(f, x.topic) {
			ok, qos = true, max(qos, min(q, x.qos))
		}
	}
	return qos, ok && c.there && (c.peer != nil || qos > 0)
}

// sayAgain notes that a message is said a second time: with QoS 1 all get it who
// want it now, with QoS 2 those who wanted it both times are sure to.
func (m *model) sayAgain(n int) {
	x := m.said[n]
	m.note("%d: %s says it again", n, x.by)
	for _, c := range m.clients {
		before, was := c.owed[n]
		now, is := c.wants(x)
		if was {
			c.may[n] |= 1 << before
		}
		if is {
			c.may[n] |= 1 << now
		}
		switch {
		case is && x.qos == 1:
			c.owed[n] = now
		case !was || !is || before != now:
			delete(c.owed, n)
		}
	}
}

func (c *actor) connect(clean bool) {
	c.mu.Lock()
	v, kept := pickOne(c.m.rng, versions), c.m.rng.IntN(4) > 0
	c.mu.Unlock()
	c.v = v
	if v < packet.V5 && kept == clean {
		kept = !clean // one flag says both
	}
	present := c.there && !clean && (c.lasts || c.peer != nil && false)
	if !present {
		c.forget()
	}
	old := c.peer
	p := pipe(c.m.t, c.m.s.Broker, v)
	ack := p.connect(c.id, func(k *packet.Connect) {
		k.CleanStart = clean
		if v < packet.V5 {
			return
		}
		if kept {
			k.Props = k.Props.AddNum(packet.SessionExpiry, 100_000)
		}
		if most := c.m.rng.IntN(10); most > 0 { // so that much waits
			k.Props = k.Props.AddNum(packet.ReceiveMaximum, uint32(most))
		}
	})
	if old != nil { // taken over
		old.conn.Close()
		<-c.ends
	}
	c.m.note("%s connects as %v clean %v kept %v: present %v", c.id, v, clean, kept, ack.SessionPresent)
	if ack.Reason != packet.Success || ack.SessionPresent != present {
		c.m.fail("%s: CONNACK %+v, session present should be %v", c.id, ack, present)
	}
	c.peer, c.lasts, c.there, c.lazy = p, kept, true, false
	if !present {
		c.mu.Lock()
		clear(c.begun)
		c.mu.Unlock()
	}
	ends := make(chan struct{})
	c.ends = ends
	go func() { c.read(p); close(ends) }()
	c.resend(present)
}

// forget is what happens when a session ends: nothing more is owed.
func (c *actor) forget() {
	c.m.note("%s has no session", c.id)
	c.there = false
	clear(c.subs)
	c.mu.Lock()
	came := make(map[int]bool)
	for _, a := range c.got {
		if a.retain {
			a.payload = -a.payload
		}
		came[a.payload] = true
	}
	c.unacked = nil
	c.mu.Unlock()
	for n := range c.owed {
		if !came[n] {
			delete(c.owed, n)
		}
	}
	for n := range c.kept {
		if !came[-n] {
			delete(c.kept, n)
		}
	}
}

// resend publishes again what was not acknowledged; without a session it is
// given up.
func (c *actor) resend(present bool) {
	for id, p := range c.pending {
		if !present {
			delete(c.pending, id)
			continue
		}
		p.Dup = true
		n := -1
		fmt.Sscan(string(p.Payload), &n)
		c.m.sayAgain(n)
		c.peer.trySend(p)
		c.awaitRouting()
	}
}

// read takes what comes until the connection ends.
func (c *actor) read(p *peer) {
	for {
		pk, err := p.read()
		if err != nil {
			return
		}
		c.mu.Lock()
		switch x := pk.(type) {
		case *packet.Publish:
			c.arrive(p, x)
		case *packet.Ack:
			c.acked(p, x)
		case *packet.SubAck:
			c.subAcks++
		}
		c.mu.Unlock()
	}
}

func (c *actor) arrive(p *peer, x *packet.Publish) {
	n := -1
	fmt.Sscan(string(x.Payload), &n)
	again := x.QoS == 2 && c.begun[x.ID]
	if !again {
		c.got = append(c.got, arrival{n, x.QoS, strings.Clone(x.Topic), x.Dup, x.Retain, x.ID, int(c.m.lines.Load())})
	}
	if x.QoS == 2 {
		c.begun[x.ID] = true
	}
	if x.QoS == 0 {
		return
	}
	if c.lazy {
		c.unacked = append(c.unacked, &packet.Publish{QoS: x.QoS, ID: x.ID})
		return
	}
	c.answer(p, x.QoS, x.ID)
}

func (c *actor) answer(p *peer, qos byte, id uint16) {
	kind := packet.PUBACK
	if qos == 2 {
		kind = packet.PUBREC
	}
	go p.trySend(&packet.Ack{Kind: kind, ID: id})
}

func (c *actor) acked(p *peer, x *packet.Ack) {
	switch x.Kind {
	case packet.PUBREL:
		delete(c.begun, x.ID)
		go p.trySend(&packet.Ack{Kind: packet.PUBCOMP, ID: x.ID})
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
		c.acks[x.ID] = x.Kind
		if x.Kind == packet.PUBREC {
			go p.trySend(&packet.Ack{Kind: packet.PUBREL, ID: x.ID})
		}
	}
}

// settle takes note of what was acknowledged to c.
func (c *actor) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, kind := range c.acks {
		if p := c.pending[id]; p != nil {
			n := -1
			fmt.Sscan(string(p.Payload), &n)
			c.m.said[n].sure = true
			if kind != packet.PUBREC {
				delete(c.pending, id)
			}
		}
	}
	clear(c.acks)
}

func (c *actor) publish() {
	if c.peer == nil {
		return
	}
	topic, qos := pickOne(c.m.rng, modelTopics), byte(c.m.rng.IntN(3))
	n := c.m.say(saying{topic: topic, qos: qos, by: c.id, sure: qos == 0})
	p := &packet.Publish{Topic: topic, QoS: qos, Payload: fmt.Append(nil, n), Retain: c.m.rng.IntN(5) == 0}
	if qos > 0 {
		c.nextID++
		p.ID = c.nextID
		c.pending[p.ID] = p
	}
	c.peer.trySend(p)
	if !p.Retain && c.m.rng.IntN(30) == 0 {
		c.die() // at once: it may have got through
		return
	}
	c.awaitRouting()
	if p.Retain {
		c.m.retained[topic] = n
	}
}

// awaitRouting returns when what c published was routed: a subscriber that takes
// nothing may hold it up for a while.
func (c *actor) awaitRouting() {
	for {
		synctest.Wait()
		b := c.m.s.Broker
		b.mu.Lock()
		client := b.clients[c.id]
		b.mu.Unlock()
		if client == nil {
			return
		}
		client.held.mu.Lock()
		active := client.held.active
		client.held.mu.Unlock()
		if !active {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (c *actor) subscribe() {
	if c.peer == nil {
		return
	}
	f, q := pickOne(c.m.rng, modelFilters), byte(c.m.rng.IntN(3))
	c.m.note("%s subscribes to %s QoS %d", c.id, f, q)
	for topic, n := range c.m.retained {
		if Match(f, topic) {
			c.kept[n] |= 1 << min(q, c.m.said[n].qos)
		}
	}
	err := c.peer.trySend(&packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(q, f)}})
	if synctest.Wait(); err == nil {
		c.subs[f] = q
	}
}

func (c *actor) unsubscribe() {
	if c.peer == nil || len(c.subs) == 0 {
		return
	}
	names := make([]string, 0, len(c.subs))
	for f := range c.subs {
		names = append(names, f)
	}
	sort.Strings(names)
	f := pickOne(c.m.rng, names)
	c.m.note("%s unsubscribes from %s", c.id, f)
	err := c.peer.trySend(&packet.Unsubscribe{ID: 2, Filters: []string{f}})
	if synctest.Wait(); err == nil {
		delete(c.subs, f)
	}
}

// die cuts the connection.
func (c *actor) die() {
	if c.peer == nil {
		return
	}
	c.m.note("%s dies", c.id)
	c.cut()
	synctest.Wait()
}

// cut notes that the connection is gone.
func (c *actor) cut() {
	if c.peer == nil {
		return
	}
	c.peer.conn.Close()
	<-c.ends
	c.peer = nil
	c.settle()
	c.mu.Lock()
	c.unacked = nil
	c.mu.Unlock()
	if !c.lasts {
		c.forget()
	}
}

func (c *actor) leave() {
	if c.peer == nil {
		return
	}
	c.m.note("%s leaves", c.id)
	c.peer.trySend(&packet.Disconnect{})
	<-c.ends
	c.cut()
	synctest.Wait()
}

func (c *actor) setLazy(lazy bool) {
	c.mu.Lock()
	list := c.unacked
	c.lazy = lazy
	if !lazy {
		c.unacked = nil
	}
	c.mu.Unlock()
	if lazy || c.peer == nil {
		return
	}
	for _, x := range list {
		c.answer(c.peer, x.QoS, x.ID)
		synctest.Wait()
	}
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf(format, args...)
}

// finish has all take what they are owed, and compares.
func (m *model) finish() {
	for _, c := range m.clients {
		if c.peer == nil && c.there {
			c.reconnect()
		}
		c.setLazy(false)
	}
	for range 20 {
		time.Sleep(time.Second)
		synctest.Wait()
	}
	for _, c := range m.clients {
		c.compare()
	}
	if m.t.Failed() {
		m.t.Logf("go test -run TestModel ./broker -model.seed=%d -model.steps=1", m.seed)
		for i, line := range m.trace {
			m.t.Logf("%4d %s", i, line)
		}
	}
	for _, c := range m.clients {
		if c.peer != nil {
			c.peer.conn.Close()
		}
	}
}

// reconnect comes back for what its session has.
func (c *actor) reconnect() {
	p := pipe(c.m.t, c.m.s.Broker, packet.V5)
	ack := p.connect(c.id, keepSession)
	c.m.note("%s comes for the rest: present %v", c.id, ack.SessionPresent)
	if !ack.SessionPresent {
		c.m.fail("%s: its session is gone", c.id)
	}
	c.v, c.peer, c.lazy = packet.V5, p, false
	ends := make(chan struct{})
	c.ends = ends
	go func() { c.read(p); close(ends) }()
	c.resend(true)
}

// compare fails for what is missing, came without need or out of order.
func (c *actor) compare() {
	c.mu.Lock()
	defer c.mu.Unlock()
	times := make(map[int]int)
	last := make(map[string]int)
	for _, a := range c.got {
		x := c.m.said[a.payload]
		if a.retain {
			if c.kept[a.payload]&(1<<a.qos) == 0 || a.topic != x.topic {
				c.m.fail("%s got %+v, which it had not to get so", c.id, a)
			}
			times[-a.payload]++
			continue
		}
		times[a.payload]++
		qos, owed := c.owed[a.payload]
		may, maybe := c.may[a.payload]
		if (!owed || a.qos != qos) && may&(1<<a.qos) == 0 || a.topic != x.topic {
			c.m.fail("%s got %+v, owed %v with QoS %d", c.id, a, owed, qos)
		}
		if times[a.payload] > 1 || maybe {
			continue
		}
		stream := fmt.Sprint(x.by, x.topic, a.qos)
		if a.payload < last[stream] {
			c.m.fail("%s got %d of %s after %d", c.id, a.payload, stream, last[stream])
		}
		last[stream] = a.payload
	}
	var missing []int
	for n, qos := range c.owed {
		switch {
		case times[n] == 0 && c.m.said[n].sure && qos > 0:
			missing = append(missing, n)
		case times[n] > 1 && qos == 2 && c.m.said[n].by == "gateway":
			c.m.fail("%s got %d of QoS 2 %d times: %+v", c.id, n, times[n], slices.DeleteFunc(slices.Clone(c.got), func(a arrival) bool { return a.payload != n }))
		}
	}
	for n, qos := range c.kept {
		if times[-n] == 0 && qos > 1 { // not of QoS 0, which may go with a connection
			missing = append(missing, -n) // retained
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		c.m.fail("%s is missing %v", c.id, missing)
	}
}
