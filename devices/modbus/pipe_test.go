package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// A desk is a device with its own idea of what to do with several requests. arrive
// is called for each frame as it comes, and answers with say, whenever it likes.
type desk struct {
	mu     sync.Mutex // guards all; connections share it
	held   [][]byte   // frames without an answer
	served int
	writes []string
	arrive func(d *desk, c *deskConn, frame []byte)
}

// A deskConn is one connection to a desk.
type deskConn struct {
	conn net.Conn
	out  chan []byte
	cut  bool // an answer was cut short
}

func (c *deskConn) say(b []byte) { c.out <- b }

func (d *desk) serve(near net.Conn) {
	c := &deskConn{conn: near, out: make(chan []byte, 1024)}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case b := <-c.out:
				near.Write(b)
			case <-ended:
				return
			}
		}
	}()
	buf := make([]byte, maxTCP)
	for {
		n, err := readTCPFrame(near, buf)
		if err != nil {
			near.Close()
			d.mu.Lock()
			d.held = nil
			d.mu.Unlock()
			return
		}
		d.mu.Lock()
		d.arrive(d, c, bytes.Clone(buf[:n]))
		d.mu.Unlock()
	}
}

// after answers a frame after some time, whatever else comes.
func after(latency time.Duration) func(*desk, *deskConn, []byte) {
	return func(d *desk, c *deskConn, frame []byte) {
		time.AfterFunc(latency, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.served++
			c.say(tcpReply(&plant{}, frame))
		})
	}
}

func (d *desk) answered() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.served
}

// piped returns a line to d with so many requests outstanding. Use it in a
// synctest bubble.
func piped(t *testing.T, cfg Config, d *desk) *Line {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = "tcp://plc"
	}
	c, err := newCarrier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 200 * time.Millisecond
	}
	c.dial = func(context.Context) (Port, error) {
		near, far := net.Pipe()
		go d.serve(far)
		return near, nil
	}
	l := newLine(cfg, c)
	t.Cleanup(func() { l.Close() })
	return l
}

// blocksOf returns a device with n blocks that need a request each.
func blocksOf(n int, every time.Duration) *devices.Device {
	dev := &devices.Device{ID: "plc", Unit: Unit{ID: 1, MaxRead: 10}, Stale: time.Hour}
	for i := range n {
		reg := Register{Holding, uint16(i * 10), 10}
		dev.Points = append(dev.Points, &devices.Point{Name: reg.String(), Source: reg, Every: every})
	}
	return dev
}

// poll runs a poller on l for d of the bubble's time and returns its figures and
// what it logs. All readings must be right; how many failed is returned.
func poll(t *testing.T, l *Line, dev *devices.Device, d time.Duration, also func(p *devices.Poller)) (s devices.BusStats, failed int, logs string) {
	t.Helper()
	var text bytes.Buffer
	out := make(chan *devices.Batch, 4)
	p, err := devices.NewPoller(devices.PollerConfig{Bus: "plc", Line: l, Devices: []*devices.Device{dev}, Out: out,
		Log: slog.New(slog.NewTextHandler(&text, nil)), Now: func() devices.Stamp { return devices.Stamp(time.Now().UnixNano()) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx); close(out) })
	if also != nil {
		running.Go(func() { also(p) })
	}
	for b := range out {
		for _, r := range b.Readings {
			if r.Err != nil {
				failed++
			}
		}
		if err := verify(b); err != nil {
			t.Error(err)
		}
		b.Release()
	}
	running.Wait()
	return p.Stats(), failed, text.String()
}

// With latency in the network four requests outstanding are four times as many.
func TestPipelineMultipliesRequests(t *testing.T) {
	counts := map[int]int{}
	for _, n := range []int{1, 2, 4, 16} {
		synctest.Test(t, func(t *testing.T) {
			d := &desk{arrive: after(20 * time.Millisecond)}
			s, failed, logs := poll(t, piped(t, Config{Pipeline: n}, d), blocksOf(32, time.Millisecond), 20*time.Second, nil)
			if failed > 0 || logs != "" || s.Busy < 0.99 || s.Busy > 1 {
				t.Errorf("pipeline %d: %d failed, busy %v; %s", n, failed, s.Busy, logs)
			}
			counts[n] = d.answered()
		})
	}
	for n, c := range counts {
		if ratio := float64(c) / float64(counts[1]); ratio < 0.95*float64(n) || ratio > 1.05*float64(n) {
			t.Errorf("pipeline %d: %.2f times as many requests as with one outstanding", n, ratio)
		}
	}
}

// Each answer finds its request in whatever order it comes, among answers that
// nobody asked for, or asked for long ago.
func TestPipelineSortsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 1))
		old := [][]byte{}
		d := &desk{arrive: func(d *desk, c *deskConn, frame []byte) {
			time.AfterFunc(time.Duration(1+r.IntN(30))*time.Millisecond, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.served++
				reply := tcpReply(&plant{}, frame)
				c.say(patched(tcpReply(&plant{}, frame), 0, 0xEE, byte(r.IntN(256))))
				if len(old) > 0 {
					c.say(old[r.IntN(len(old))])
				}
				old = append(old, reply)
				c.say(reply)
			})
		}}
		l := piped(t, Config{Pipeline: 5}, d)
		_, failed, logs := poll(t, l, blocksOf(20, 50*time.Millisecond), 20*time.Second, nil)
		served := d.answered()
		if failed > 0 || logs != "" || served < 5000 {
			t.Errorf("%d failed of %d; %s", failed, served, logs)
		}
		if s := l.Stats(); s.Late < uint64(served) {
			t.Errorf("%+v, %d served", s, served)
		}
	})
}

// A device that does not bear several requests is found out, costs no reading
// once it is, and is asked one at a time from then on.
func TestPipelineFallsBack(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		arrive     func(d *desk, c *deskConn, frame []byte)
	}{
		{"closes", "closes the connection", func(d *desk, c *deskConn, frame []byte) {
			if d.held = append(d.held, frame); len(d.held) > 1 {
				d.held = nil
				c.conn.Close()
				return
			}
			time.AfterFunc(10*time.Millisecond, func() { answerHeld(d, c, frame) })
		}},
		{"drops", "does not answer", func(d *desk, c *deskConn, frame []byte) {
			if len(d.held) > 0 {
				return
			}
			d.held = append(d.held, frame)
			time.AfterFunc(10*time.Millisecond, func() { answerHeld(d, c, frame) })
		}},
		{"forgets the first", "does not answer", func(d *desk, c *deskConn, frame []byte) {
			d.held = [][]byte{frame}
			time.AfterFunc(10*time.Millisecond, func() { answerHeld(d, c, frame) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &desk{arrive: tt.arrive}
				l := piped(t, Config{Pipeline: 4}, d)
				s, failed, logs := poll(t, l, blocksOf(8, time.Second), time.Minute, nil)
				if failed > 8 {
					t.Errorf("%d readings failed", failed)
				}
				if n, why := l.Pipeline(); n != 1 || !strings.Contains(why, tt.says) || !strings.Contains(why, "pipeline = 1") {
					t.Errorf("%d outstanding: %s", n, why)
				}
				if strings.Count(logs, "one request at a time") != 1 || s.Pipeline != 1 || s.Narrowed == "" {
					t.Errorf("stats %+v; logged:\n%s", s, logs)
				}
				if n := d.answered(); n < 55*8 {
					t.Errorf("%d answers in a minute", n)
				}
			})
		})
	}
}

func answerHeld(d *desk, c *deskConn, frame []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.IndexFunc(d.held, func(f []byte) bool { return string(f) == string(frame) }); i >= 0 {
		d.held = slices.Delete(d.held, i, i+1)
		d.served++
		c.say(tcpReply(&plant{}, frame))
	}
}

// Trouble that has nothing to do with it changes nothing: a device that is
// silent now and then for all, closes an idle connection, or is away for a while.
func TestPipelineStaysInTrouble(t *testing.T) {
	for _, tt := range []struct {
		name   string
		every  time.Duration
		arrive func(d *desk, c *deskConn, frame []byte)
	}{
		{"silent for 3 s of 20", time.Second, func(d *desk, c *deskConn, frame []byte) {
			if time.Now().Unix()%20 >= 3 {
				after(10*time.Millisecond)(d, c, frame)
			}
		}},
		{"closes when idle", 5 * time.Second, func(d *desk, c *deskConn, frame []byte) {
			after(10*time.Millisecond)(d, c, frame)
			if d.held = append(d.held, frame); len(d.held) == 1 {
				time.AfterFunc(3*time.Second, func() { c.conn.Close() })
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := piped(t, Config{Pipeline: 4}, &desk{arrive: tt.arrive})
				poll(t, l, blocksOf(12, tt.every), 10*time.Minute, nil)
				if n, why := l.Pipeline(); n != 4 {
					t.Errorf("%d outstanding: %s", n, why)
				}
			})
		})
	}
}

// A lost connection fails all that is outstanding; a write is never repeated.
func TestPipelineLosesItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := false
		d := &desk{arrive: func(d *desk, c *deskConn, frame []byte) {
			if frame[7] == fnWriteRegister {
				d.writes = append(d.writes, string(frame[8:]))
				c.conn.Close()
				lost = true
				return
			}
			after(20*time.Millisecond)(d, c, frame)
		}}
		l := piped(t, Config{Pipeline: 4}, d)
		dev := blocksOf(8, 100*time.Millisecond)
		dev.Points = append(dev.Points, &devices.Point{Name: "w", Source: Register{Holding, 500, 1}, Every: time.Second})
		_, _, logs := poll(t, l, dev, 10*time.Second, func(p *devices.Poller) {
			time.Sleep(2 * time.Second)
			q, err := l.Write(dev, dev.Points[8], []byte{0, 1}, true)
			if err != nil {
				t.Error(err)
				return
			}
			b := devices.NewBatch(dev)
			if err := p.Do(t.Context(), q, b); !errors.Is(err, ErrUnanswered) {
				t.Errorf("the write: %v", err)
			}
		})
		if len(d.writes) != 1 || !lost {
			t.Errorf("%d writes; %s", len(d.writes), logs)
		}
		if n := d.answered(); n < 700 {
			t.Errorf("only %d answers: it did not go on", n)
		}
	})
}

// Writes have the line to themselves, in their order, and their read-back
// follows each at once.
func TestPipelineKeepsWritesInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		outstanding := 0
		d := &desk{arrive: func(d *desk, c *deskConn, frame []byte) {
			outstanding++
			if frame[7] == fnWriteRegister {
				seen = append(seen, fmt.Sprintf("write %d", frame[11]))
				if outstanding > 1 {
					t.Errorf("a write came beside %d other requests", outstanding-1)
				}
			} else if n := len(seen); n > 0 && strings.HasPrefix(seen[n-1], "write") {
				if frame[8] != 1 || frame[9] != 0xF4 { // register 500
					t.Errorf("% x follows a write", frame)
				}
				seen = append(seen, "read")
			}
			time.AfterFunc(20*time.Millisecond, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				outstanding--
				c.say(tcpReply(&plant{}, frame))
			})
		}}
		l := piped(t, Config{Pipeline: 8}, d)
		dev := blocksOf(16, 10*time.Millisecond)
		point := &devices.Point{Name: "w", Source: Register{Holding, 500, 1}}
		poll(t, l, dev, 10*time.Second, func(p *devices.Poller) {
			var writers sync.WaitGroup
			for i := range 20 {
				q, err := l.Write(dev, point, []byte{0, byte(i)}, true)
				if err != nil {
					t.Error(err)
				}
				writers.Go(func() {
					time.Sleep(time.Duration(1000+10*i) * time.Millisecond)
					p.Do(t.Context(), q, devices.NewBatch(dev))
				})
			}
			writers.Wait()
		})
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprintf("write %d", i), "read")
		}
		if !slices.Equal(seen, want) {
			t.Errorf("the device saw %v", seen)
		}
	})
}

// What is hostile with one outstanding is so with four: no wrong value, no
// panic, no hang.
func TestPipelineAgainstHostileAnswers(t *testing.T) {
	served := 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			d := &desk{arrive: func(d *desk, c *deskConn, frame []byte) {
				reply := tcpReply(&plant{}, frame)
				time.AfterFunc(time.Duration(r.IntN(30))*time.Millisecond, func() {
					d.mu.Lock()
					defer d.mu.Unlock()
					d.served++
					i, way := r.IntN(len(reply)), r.IntN(12)
					if c.cut { // what else is made up of something is beyond proof
						way = 12
					}
					switch way {
					case 0: // the data, and which request is answered, the device alone can know
						i = 2 + i%7
						c.say(patched(reply, i, reply[i]^byte(1<<r.IntN(8))))
					case 1:
						c.cut = true
						c.say(reply[:i])
					case 2:
						c.conn.Close()
					case 3:
						c.say(reply[:i])
						c.conn.Close()
					case 4:
						c.say(reply)
						c.say(reply)
					case 5:
					case 6:
						c.say(bytes.Repeat([]byte{byte(i)}, 300))
					default:
						c.say(reply)
					}
				})
			}}
			l := piped(t, Config{Pipeline: 1 + r.IntN(16)}, d)
			poll(t, l, blocksOf(12, 100*time.Millisecond), 10*time.Second, nil)
			served += d.answered()
		})
	}
	if served < 60*30 {
		t.Errorf("only %d requests: this shows little", served)
	}
}

func TestPipelineIsRefusedWhereItCannotBe(t *testing.T) {
	for _, cfg := range []Config{
		{URL: "tcp://a:502", Pipeline: 17},
		{URL: "tcp://a:502", Pipeline: -1},
		{URL: "rtu+tcp://a:502", Pipeline: 2},
		{URL: "ascii+tcp://a:502", Pipeline: 2},
		{URL: "tcp://a:502", Pipeline: 2, Behind: &serial.Config{Baud: 9600}},
	} {
		if _, err := NewLine(cfg); err == nil || !strings.Contains(err.Error(), "pipeline of") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
