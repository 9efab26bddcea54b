package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool/spooltest"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/internal/writelog"
	"edgegateway/mapping"
)

// A desk is a commander with a device in memory behind it and a clock that
// tests move by waiting, in a bubble of synctest.
type desk struct {
	t      *testing.T
	c      *commander
	dev    *mapping.Device
	disk   *spooltest.Disk
	state  string
	began  time.Time
	wall   broker.Quality
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	held     map[string][]byte  // by point
	written  []string           // in their order
	busy     chan struct{}      // not nil: each write takes one from it
	fails    error              // what the bus says instead
	refuses  string             // point that the device refuses
	before   func(point string) // called at each write
	messages []broker.Message
}

// A fakeLine plans queries that its desk answers.
type fakeLine struct{ *desk }

type fakeQuery struct {
	*desk
	points []*devices.Point
	raw    []byte // nil: read
	verify bool
}

func (l fakeLine) Plan(_ *devices.Device, points []*devices.Point) ([]devices.Query, error) {
	return []devices.Query{&fakeQuery{l.desk, points, nil, false}}, nil
}

func (l fakeLine) Write(_ *devices.Device, p *devices.Point, raw []byte, verify bool) (devices.Query, error) {
	return &fakeQuery{l.desk, []*devices.Point{p}, raw, verify}, nil
}

func (l fakeLine) Close() error { return nil }

func (q *fakeQuery) Points() []*devices.Point { return q.points }
func (q *fakeQuery) String() string           { return "fake" }

func (q *fakeQuery) Do(_ context.Context, b *devices.Batch) error {
	if q.raw != nil && q.busy != nil {
		<-q.busy
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.raw != nil && q.before != nil {
		q.before(q.points[0].Name)
	}
	if q.fails != nil {
		return q.fails
	}
	at := q.c.now()
	for _, p := range q.points {
		switch {
		case q.raw != nil && q.refuses == p.Name:
			b.Fail(p, &modbus.Exception{Code: 4}, at)
			continue
		case q.raw != nil:
			q.held[p.Name] = slices.Clone(q.raw)
			q.written = append(q.written, fmt.Sprintf("%s=%x", p.Name, q.raw))
			if !q.verify {
				continue
			}
		}
		b.Add(p, q.held[p.Name], at)
	}
	return nil
}

const deskConfig = `
name = "plant"
[bus.plc]
address = "tcp://127.0.0.1:502"
[device.boiler]
bus = "plc"
unit_id = 1
[device.boiler.points]
setpoint = { holding = 1, type = "i16", scale = 0.1, unit = "°C", write = { min = 0, max = 90, step = 0.5 } }
gain     = { holding = 2, type = "f32", write = true }
pulse    = { coil = 1, write = { coalesce = false } }
limit    = { holding = 5, write = true, on_loss = { after = "30s", value = 6 } }
level    = { holding = 6 }
`

func newDesk(t *testing.T, more string) *desk {
	t.Helper()
	return newDeskOf(t, deskConfig+more)
}

func newDeskOf(t *testing.T, text string) *desk {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), text)
	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	mapper, err := mapping.New(cfg.Mapping())
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, disk: spooltest.NewDisk(), state: t.TempDir(), began: time.Now(), wall: broker.Exact, held: map[string][]byte{}, dev: cfg.Devices[0]}
	for _, p := range append(slices.Clone(d.dev.Points), setupPoints(d.dev)...) {
		d.held[p.Name] = make([]byte, p.RawLen())
	}
	p := &plant{cfg: cfg, mapper: mapper, clock: d.clock, seen: (*devices.Batch).Release}
	p.buses = map[string]*plantBus{d.dev.Bus: {line: fakeLine{d}, do: func(ctx context.Context, q devices.Query, b *devices.Batch) error { return q.Do(ctx, b) }}}
	d.build(p)
	return d
}

func setupPoints(dev *mapping.Device) (points []*mapping.Point) {
	for _, s := range dev.Setup {
		points = append(points, s.Point)
	}
	return points
}

func (d *desk) now() devices.Stamp { return devices.Stamp(time.Hour + time.Since(d.began)) }

func (d *desk) clock() broker.Clock {
	return broker.Clock{Offset: d.began.UnixNano() - int64(time.Hour), Quality: d.wall}
}

// build makes a commander as a process does that starts.
func (d *desk) build(p *plant) {
	d.t.Helper()
	writes, err := writelog.Open(writelog.Config{
		FS: d.disk, Dir: "writes", Size: 128 << 10, Age: p.cfg.Commands.Remember,
		Now: func() writelog.Moment { return momentAt(d.clock(), d.now()) },
	})
	if err != nil {
		d.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(d.t.Output(), nil))
	d.c = newCommander(func() *plant { return p }, p.cfg.Commands, writes, d.publish, log)
	d.c.now = d.now
	d.c.holds = openHolds(holdsPath(d.state), &holds{
		gateway: p.cfg.Name, clock: d.clock, publish: d.publish, log: log, now: d.now,
		names: func(id string) string { return id },
	})
	d.c.mutes = openMutes(mutesPath(d.state), &mutes{clock: d.clock, now: d.now, log: log, tell: func() {}})
}

func (d *desk) start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.ended = cancel, make(chan struct{})
	go func() {
		defer close(d.ended)
		d.c.run(ctx)
	}()
	synctest.Wait()
}

func (d *desk) stop() {
	d.cancel()
	<-d.ended
}

// crash starts a process anew on what the one before left on the disk; what
// that was doing comes to nothing.
func (d *desk) crash() {
	d.disk.Kill()
	d.disk.Start()
	d.mu.Lock()
	d.messages = nil
	d.mu.Unlock()
	d.build(d.c.plant())
}

func (d *desk) publish(msg *broker.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := *msg
	m.Payload = slices.Clone(m.Payload)
	d.messages = append(d.messages, m)
}

// send publishes a command and returns whether it was acknowledged.
func (d *desk) send(topic, payload string, change ...func(*broker.Message)) *bool {
	msg := &broker.Message{Topic: "plant/boiler/" + topic, Payload: []byte(payload), QoS: 1, From: "anonymous", Client: "panel", Stamp: int64(d.now())}
	for _, f := range change {
		f(msg)
	}
	acked := new(bool)
	d.c.handle(msg, func(err error) {
		if err != nil {
			d.t.Errorf("%s: acknowledged with %v", topic, err)
		}
		*acked = true
	})
	return acked
}

func expiry(s uint32) func(*broker.Message) {
	return func(m *broker.Message) { m.Props = &broker.Properties{Expiry: &s} }
}

// said returns what was published on a topic, without times.
func (d *desk) said(topic string) (all []string) {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.messages {
		if m.Topic != "plant/"+topic {
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(m.Payload, &fields); len(m.Payload) > 0 && err != nil {
			d.t.Errorf("%s %s: %v", topic, m.Payload, err)
		}
		delete(fields, "time")
		text, _ := json.Marshal(fields)
		all = append(all, string(text))
	}
	return all
}

func (d *desk) want(topic string, want ...string) {
	d.t.Helper()
	if got := d.said(topic); !slices.Equal(got, want) {
		d.t.Errorf("%s:\n got %s\nwant %s", topic, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func (d *desk) wrote(want ...string) {
	d.t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.written, want) {
		d.t.Errorf("written %q, want %q", d.written, want)
	}
}

func (d *desk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func TestCommandsAreLoggedBeforeTheyAreDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.before = func(string) {
			if e, ok := d.c.writes.Latest("boiler", "setpoint"); !ok || e.State != "" {
				t.Errorf("at the write the log has %+v", e)
			}
		}
		d.start()
		defer d.stop()
		acked := d.send("setpoint/set", `{"value":21.5,"id":"a"}`)
		d.want("boiler/setpoint/set/result", `{"id":"a","status":"verified","value":21.5}`)
		d.want("_audit", `{"asked":21.5,"by":"anonymous","client":"panel","device":"boiler","id":"a","point":"setpoint","seq":1,"status":"verified","value":21.5}`)
		if !*acked {
			t.Error("not acknowledged")
		}
		d.disk.Fail(func(op spooltest.Op) error {
			if op.Kind == "sync" {
				return errors.New("the card is dying")
			}
			return nil
		})
		d.send("setpoint/set", "22")
		if got := d.said("boiler/setpoint/set/result"); len(got) != 2 || !strings.Contains(got[1], `"rejected"`) || !strings.Contains(got[1], "the card is dying") {
			t.Errorf("without a log: %q", got)
		}
		d.wrote("setpoint=00d7")
	})
}

func TestRepetitionsDoNotFire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		for range 2 {
			d.send("setpoint/set", `{"value":20,"id":"a"}`)
			d.send("setpoint/set", `{"value":20,"id":"a"}`)
			synctest.Wait()
			d.send("_set", `{"setpoint":30,"gain":1.5,"id":"a"}`) // another topic, another id
			synctest.Wait()
			d.send("_set", `{"gain":1.5,"id":"b"}`)
			synctest.Wait()
		}
		d.send("setpoint/set", `{"value":25,"id":"a"}`)
		first := `{"id":"a","status":"verified","value":20}`
		again := `{"id":"a","repeated":true,"status":"verified","value":20}`
		under := `{"id":"a","reason":"it is under way already; the result follows","repeated":true,"status":"accepted"}`
		got := d.said("boiler/setpoint/set/result")
		want := []string{again, again, again, first, `{"id":"a","reason":"the id \"a\" was used before, for another value; each command needs an id of its own","status":"rejected"}`}
		if slices.Contains(got, under) { // it came before the answer to the first
			want[0] = under
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		d.wrote("setpoint=00c8", "setpoint=012c", "gain=3fc00000", "gain=3fc00000")
		d.stop()

		d.crash()
		d.start()
		defer d.stop()
		d.send("setpoint/set", `{"value":20,"id":"a"}`)
		d.want("boiler/setpoint/set/result", again)
		time.Sleep(25 * time.Hour)
		d.set(func() { d.written = nil })
		d.send("setpoint/set", `{"value":20,"id":"a"}`)
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		if !slices.Contains(d.written, "setpoint=00c8") {
			t.Error("an id is used for ever")
		}
	})
}

// A crash at the write leaves nobody without an answer, and repeats nothing.
func TestCrashIsAnsweredUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.busy = make(chan struct{})
		d.start()
		d.send("setpoint/set", `{"value":20,"id":"a"}`, func(m *broker.Message) {
			m.Props = &broker.Properties{ResponseTopic: "panel/answers", Correlation: []byte("x")}
		})
		d.send("_set", `{"gain":2,"pulse":true,"id":"b"}`)
		synctest.Wait()
		cancel, ended := d.cancel, d.ended
		d.crash()
		d.start()
		unknown := `"reason":"` + crashed + `","status":"unknown"`
		d.mu.Lock()
		var answers []string
		for _, m := range d.messages {
			if m.Topic == "panel/answers" && string(m.Props.Correlation) == "x" || m.Topic == "plant/boiler/_set/result" {
				answers = append(answers, string(m.Payload))
			}
		}
		d.mu.Unlock()
		if len(answers) != 2 || !strings.Contains(answers[0], `"status":"unknown"`) || !strings.Contains(answers[1], `"status":"unknown"`) {
			t.Errorf("answers after the crash: %q", answers)
		}
		d.messages = nil
		d.send("setpoint/set", `{"value":20,"id":"a"}`)
		d.want("boiler/setpoint/set/result", `{"id":"a",`+strings.Replace(unknown, `","status"`, `","repeated":true,"status"`, 1)+`}`)
		d.wrote()
		d.stop()
		cancel()
		close(d.busy)
		<-ended
	})
}

func TestLastValueWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.busy = make(chan struct{})
		d.start()
		defer d.stop()
		d.send("gain/set", "1") // occupies the bus
		synctest.Wait()
		for v := range 10 {
			d.send("setpoint/set", fmt.Sprintf(`{"value":%d,"id":"%d"}`, 20+v, v))
			synctest.Wait()
		}
		d.send("pulse/set", "on")
		d.send("pulse/set", "off")
		d.send("_set", `{"setpoint":50,"gain":3}`)
		d.send("gain/set", "4")
		synctest.Wait()
		close(d.busy)
		d.wrote("gain=3f800000", "pulse=01", "pulse=00", "setpoint=01f4", "gain=40400000", "gain=40800000") // 3 and 50 were written by one command, 4 by another
		got := d.said("boiler/setpoint/set/result")
		if n := len(got); n != 10 || slices.ContainsFunc(got, func(s string) bool { return !strings.Contains(s, "superseded by a later command") }) {
			t.Errorf("%d answers: %q", n, got)
		}
		d.send("setpoint/set", `{"value":25,"id":"5"}`)
		if got := d.said("boiler/setpoint/set/result"); !strings.Contains(got[10], `"repeated":true,"status":"rejected"`) {
			t.Errorf("one that was superseded fires when it comes again: %s", got[10])
		}
	})
}

func TestCommandsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "[commands]\nmax_age = \"20s\"\n")
		d.busy = make(chan struct{})
		d.start()
		defer d.stop()
		d.send("gain/set", "1")
		d.send("setpoint/set", "20")
		time.Sleep(21 * time.Second)
		close(d.busy)
		d.want("boiler/setpoint/set/result",
			`{"reason":"waits for the bus or the device; the result follows","status":"accepted"}`,
			`{"reason":"its turn came later than it was valid","status":"expired"}`)
		d.want("boiler/gain/set/result",
			`{"reason":"waits for the bus or the device; the result follows","status":"accepted"}`, `{"status":"verified","value":1}`)
		d.send("setpoint/set", "21", func(m *broker.Message) { m.Stamp -= int64(time.Minute) })
		if got := d.said("boiler/setpoint/set/result"); got[2] != `{"reason":"it came later than it was valid","status":"expired"}` {
			t.Errorf("one that came late: %s", got[2])
		}
		d.wrote("gain=3f800000")
	})
}

// While the port is missing a command with an end of its own waits for it, and
// one without is told at once. What may have been sent is not sent again.
func TestCommandsAtAMissingPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		missing := fmt.Errorf("open /dev/ttyUSB0: no such file: %w", devices.ErrPort)
		d.fails = missing
		d.start()
		defer d.stop()
		d.send("setpoint/set", "20")
		d.want("boiler/setpoint/set/result", `{"reason":"open /dev/ttyUSB0: no such file: port unavailable","status":"failed"}`)
		d.send("setpoint/set", "21", expiry(10))
		time.Sleep(11 * time.Second)
		if got := d.said("boiler/setpoint/set/result"); len(got) != 3 || !strings.Contains(got[1], "accepted") || !strings.Contains(got[2], `"expired"`) || !strings.Contains(got[2], "ttyUSB0") {
			t.Errorf("until its end: %q", got)
		}
		d.wrote()
		d.send("setpoint/set", "22", expiry(10))
		time.Sleep(3 * time.Second)
		d.set(func() { d.fails = nil })
		time.Sleep(time.Second)
		d.wrote("setpoint=00dc")
		for i, err := range []error{
			fmt.Errorf("%w: %w", modbus.ErrUnanswered, missing), fmt.Errorf("%w: %w", modbus.ErrReadBack, missing),
		} {
			asked := 0
			d.set(func() {
				d.fails, d.before = err, func(point string) {
					if point == "gain" {
						asked++
					}
				}
			})
			d.send("gain/set", "2", expiry(10))
			time.Sleep(20 * time.Second)
			got := d.said("boiler/gain/set/result")
			if want := []string{`"unknown"`, `"written"`}[i]; asked != 1 || len(got) != i+1 || !strings.Contains(got[i], want) {
				t.Errorf("%v: asked %d times, %q", err, asked, got)
			}
		}
	})
}

func TestManyAtOnceAreAllAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.busy = make(chan struct{})
		d.start()
		defer d.stop()
		for i := range 300 {
			d.send("pulse/set", "on", func(m *broker.Message) { m.Payload = fmt.Appendf(nil, `{"value":true,"id":"%d"}`, i) })
		}
		synctest.Wait()
		close(d.busy)
		got := d.said("boiler/pulse/set/result")
		d.mu.Lock()
		defer d.mu.Unlock()
		busy := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !strings.Contains(s, "busy") })
		if len(got) != 300 || len(busy) < 200 || len(d.written) != 300-len(busy) {
			t.Errorf("%d answers, %d of them busy, %d writes", len(got), len(busy), len(d.written))
		}
	})
}

func TestStoppingAnswersWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.busy = make(chan struct{})
		d.start()
		d.send("gain/set", "1")
		d.send("setpoint/set", "20")
		synctest.Wait()
		d.cancel()
		close(d.busy) // what is under way is ended
		<-d.ended
		d.want("boiler/gain/set/result", `{"status":"verified","value":1}`)
		d.want("boiler/setpoint/set/result", `{"reason":"not written: the gateway is stopping","status":"failed"}`)
		d.wrote("gain=3f800000")
		if err := d.c.writes.Close(); err != nil {
			t.Fatal(err)
		}
		d.crash()
		d.start()
		d.stop()
		d.want("boiler/setpoint/set/result")
	})
}

func TestDeviceThatLimitsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		defer d.stop()
		q := mapping.Set{Point: d.dev.Points[0], Raw: []byte{0, 200}}
		for _, c := range []struct {
			point  int
			wrote  []byte
			holds  []byte
			state  mapping.ResultState
			reason string
		}{
			{0, []byte{0, 200}, []byte{0, 200}, mapping.Verified, ""},
			{0, []byte{2, 88}, []byte{1, 244}, mapping.Failed, "the device answered that it wrote, but holds 50 °C now: it may limit or round values by itself"},
			{1, []byte{0x3f, 0x80, 0, 0}, []byte{0x3f, 0x80, 0, 1}, mapping.Verified, ""},
			{1, []byte{0x3f, 0x80, 0, 0}, []byte{0x3f, 0x81, 0, 0}, mapping.Failed, "the device answered that it wrote, but holds 1.0078125 now: it may limit or round values by itself"},
			{1, []byte{0x3f, 0x80, 0, 0}, []byte{0x7f, 0xc0, 0, 0}, mapping.Failed, "the device answered that it wrote, but holds 7FC0 0000 (not a number) now: it may limit or round values by itself"},
			{1, []byte{0x80, 0, 0, 0}, []byte{0, 0, 0, 0}, mapping.Verified, ""},
		} {
			q.Point, q.Raw = d.dev.Points[c.point], c.wrote
			b := devices.NewBatch(d.dev.Device)
			b.Add(q.Point.Point, c.holds, 1)
			if state, reason := judge(nil, b, q); state != c.state || reason != c.reason {
				t.Errorf("wrote %x, holds %x: %v %q, want %v %q", c.wrote, c.holds, state, reason, c.state, c.reason)
			}
		}
	})
}

func TestRetainedCommands(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, fmt.Sprintf("[commands]\nretained = %v\n", allowed))
			d.start()
			defer d.stop()
			old := &broker.Message{Topic: "plant/boiler/setpoint/set", Payload: []byte("20"), Retain: true, From: "anonymous"}
			d.c.retained([]*broker.Message{old})
			d.send("gain/set", "1", func(m *broker.Message) { m.Retain = true })
			if allowed {
				d.wrote("setpoint=00c8", "gain=3f800000")
				return
			}
			d.wrote()
			if got := d.said("boiler/gain/set/result"); len(got) != 1 || !strings.Contains(got[0], "retained") {
				t.Errorf("a retained command: %q", got)
			}
			d.want("boiler/setpoint/set/result")
		})
	}
}
