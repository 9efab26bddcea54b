package modbus

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// TestLateAnswerIsNeverAnotherRegistersValue asks for random registers of
// devices that are often slower than the timeout, some of them much slower,
// and that queue what they are asked meanwhile.
func TestLateAnswerIsNeverAnotherRegistersValue(t *testing.T) {
	for _, tt := range []struct {
		name     string
		slowest  time.Duration
		knows    func(fn byte) bool // keeps silent on other functions
		minGood  int
		lossRate float64
		places   int // registers to choose from
	}{
		{"a little late", 190 * time.Millisecond, func(byte) bool { return true }, 900, 0, 100},
		{"later than twice the timeout", 700 * time.Millisecond, func(byte) bool { return true }, 300, 0, 3},
		{"lost and late", 400 * time.Millisecond, func(byte) bool { return true }, 300, 0.3, 3},
		{"only function 3", 300 * time.Millisecond, func(fn byte) bool { return fn == fnReadHolding }, 300, 0.1, 3},
		{"much later than the timeout", 700 * time.Millisecond, func(byte) bool { return true }, 300, 0, 100},
		{"seconds late, few registers", 5 * time.Second, func(byte) bool { return true }, 1, 0.2, 2},
		{"seconds late", 5 * time.Second, func(byte) bool { return true }, 1, 0.2, 100},
	} {
		inEachSerialFraming(t, tt.name, func(t *testing.T, url string, reply func(Store, []byte) []byte, function func([]byte) byte) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(1, 2)) // the device's; the line's has its own
				l := scripted(t, Config{URL: url, Serial: at9600}, func(frame []byte) []piece {
					if !tt.knows(function(frame)) || rnd.Float64() < tt.lossRate {
						return nil
					}
					think := time.Duration(rnd.Int64N(int64(tt.slowest)))
					return []piece{{think, reply(&plant{}, frame)}}
				})
				good, wrong := pollRandomly(t, l, tt.places, 1000)
				t.Logf("good %d, wrong %d, %+v", good, wrong, l.Stats())
				if wrong != 0 {
					t.Errorf("%d wrong values", wrong)
				}
				if good < tt.minGood {
					t.Errorf("%d good of 1000, want %d", good, tt.minGood)
				}
			})
		})
	}
}

// inEachSerialFraming runs test for the framings whose answers do not say
// what they answer.
func inEachSerialFraming(t *testing.T, name string,
	test func(t *testing.T, url string, reply func(Store, []byte) []byte, function func([]byte) byte)) {
	t.Run(name+"/RTU", func(t *testing.T) {
		test(t, "rtu+tcp://device", rtuReply, func(frame []byte) byte { return frame[1] })
	})
	t.Run(name+"/RTU over UDP", func(t *testing.T) {
		test(t, "rtu+udp://device", rtuReply, func(frame []byte) byte { return frame[1] })
	})
	t.Run(name+"/ASCII", func(t *testing.T) {
		test(t, "ascii+tcp://device", asciiReply, func(frame []byte) byte {
			_, req, _ := nextASCIIRequest(frame, true)
			return req.function()
		})
	})
}

// pollRandomly reads n times some registers, of one of two lengths, of one of
// two units.
func pollRandomly(t *testing.T, l *Line, places, n int) (good, wrong int) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range n {
		reg := Register{Holding, uint16(rnd.IntN(places)), uint16(1 + rnd.IntN(2))}
		b, err := read(t, l, meter(Unit{ID: byte(1 + rnd.IntN(2))}, reg))
		switch {
		case err == nil && verify(b) != nil:
			wrong++
		case err == nil:
			good++
		case !errors.Is(err, devices.ErrTimeout) && !errors.Is(err, devices.ErrReply):
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
	}
	return good, wrong
}

// A lasting port is one end of a wire to a device, which does not notice when a
// line closes it and another opens it.
type lastingPort struct{ Port }

func (lastingPort) Close() error { return nil }

// TestAnswersToALineBefore has lines take each other's places in the middle of
// exchanges, as reloads of the configuration do, or a program that a port is lent
// to, or a process that is killed and begins anew: none takes for its own what was
// asked by the one before.
func TestAnswersToALineBefore(t *testing.T) {
	for _, tt := range []struct {
		name     string
		think    time.Duration
		strange  bool // lines know nothing of each other
		lent     bool // there is one line, and the port is lent between
		leastGot int
	}{
		{"of this process, within the timeout", 60 * time.Millisecond, false, false, 30},
		{"of this process, later", 250 * time.Millisecond, false, false, 30},
		{"of another process", 60 * time.Millisecond, true, false, 50},
		{"lent", 60 * time.Millisecond, true, true, 30},
	} {
		inEachSerialFraming(t, tt.name, func(t *testing.T, url string, reply func(Store, []byte) []byte, _ func([]byte) byte) {
			synctest.Test(t, func(t *testing.T) {
				c, err := newCarrier(Config{URL: url})
				if err != nil {
					t.Fatal(err)
				}
				near, far := net.Pipe()
				frameLen := frameLenOf(c)
				var running sync.WaitGroup
				running.Go(func() {
					runScript(far, frameLen, func(frame []byte) []piece { return []piece{{tt.think, reply(&plant{}, frame)}} })
				})
				defer running.Wait()
				defer near.Close()
				c.dial = func(context.Context) (Port, error) { return lastingPort{near}, nil }
				cfg := Config{URL: url, Serial: at9600, Timeout: 100 * time.Millisecond, Unanswered: new(Unanswered)}
				lender := newLine(cfg, c)
				rnd := rand.New(rand.NewPCG(5, 6))
				good := 0
				for i := range 300 {
					if tt.strange {
						cfg.Unanswered = new(Unanswered)
					}
					l := newLine(cfg, c)
					if tt.lent && i%2 == 0 {
						l = lender
						l.Lent()
					}
					dev := meter(Unit{ID: 1}, Register{Holding, uint16(rnd.IntN(50)), 1})
					qs, err := l.Plan(dev, dev.Points)
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					if i%3 > 0 { // stopped in the middle, most of all just before the answer comes
						wait := tt.think
						if tt.strange {
							wait += cfg.Timeout // which it waits before it asks
						}
						time.AfterFunc(time.Duration(rnd.Int64N(int64(wait))), cancel)
					}
					b := devices.NewBatch(dev)
					if qs[0].Do(ctx, b); b.Readings[0].Err == nil {
						good++
					}
					if err := verify(b); err != nil {
						t.Fatalf("line %d: %v", i, err)
					}
					cancel()
					l.Close()
				}
				if good < tt.leastGot {
					t.Errorf("%d of 300 reads were good", good)
				}
			})
		})
	}
}

// What nobody waits for any more is kept for no longer than an answer may come.
func TestUnansweredIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := new(Unanswered)
		left := map[byte]*lateReplies{7: {}}
		left[7].add(readRequest(7, Register{Holding, 5, 1}), time.Now(), time.Second, false)
		u.leave("a", left)
		got := map[byte]*lateReplies{}
		if u.recall("b", got); len(got) > 0 {
			t.Error("of another port")
		}
		if u.recall("a", got); !got[7].confuses(readRequest(7, Register{Holding, 6, 1})) {
			t.Error("it is not expected")
		}
		time.Sleep(2 * horizon)
		if u.leave("b", nil); len(u.ports) > 0 {
			t.Errorf("still there: %v", u.ports)
		}
	})
}

// TestSlowDeviceIsLearned: after one timeout the late answer is dropped, the
// timeout raised, and every value right.
func TestSlowDeviceIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{Serial: at9600}, func(frame []byte) []piece {
			return []piece{{170 * time.Millisecond, rtuReply(&plant{}, frame)}}
		})
		for i := range 20 {
			b, err := read(t, l, meter(Unit{ID: 1}, Register{Holding, uint16(100 + 2*i), 1}))
			if i == 0 {
				if !errors.Is(err, devices.ErrTimeout) {
					t.Fatalf("first: %v", err)
				}
				continue
			}
			if err != nil {
				t.Errorf("read %d: %v", i, err)
			}
			if err := verify(b); err != nil {
				t.Error(err)
			}
		}
		if s := l.Stats(); s.Timeouts != 1 || s.Late != 1 || s.Requests != 20 {
			t.Errorf("%+v", s)
		}
	})
}

// TestOthersGoOnWhileOneIsLate: a unit that does not answer costs the next
// request to another unit nothing.
func TestOthersGoOnWhileOneIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{Serial: at9600}, func(frame []byte) []piece {
			return atOnce(rtuReply(&plant{silent: map[byte]bool{1: true}}, frame))
		})
		for range 5 {
			if _, err := read(t, l, meter(Unit{ID: 1}, Register{Holding, 7, 1})); !errors.Is(err, devices.ErrTimeout) {
				t.Fatal(err)
			}
			start := time.Now()
			b, err := read(t, l, meter(Unit{ID: 2}, Register{Holding, 7, 1}))
			if err != nil || verify(b) != nil {
				t.Fatal(err, verify(b))
			}
			if d := time.Since(start); d > 30*time.Millisecond { // virtual time
				t.Errorf("took %v", d)
			}
		}
	})
}

// TestStaleWriteAnswer: the late answer to writing several registers does not
// confirm writing other values to them.
func TestStaleWriteAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		l := scripted(t, Config{Serial: at9600}, func(frame []byte) []piece {
			if frame[1] != fnWriteHoldings {
				return atOnce(rtuReply(&plant{}, frame))
			}
			if n++; n > 1 {
				return nil
			}
			return []piece{{1300 * time.Millisecond, rtuReply(&plant{}, frame)}}
		})
		dev := meter(Unit{ID: 1}, Register{Holding, 10, 2})
		for _, raw := range []string{"\x00\x01\x00\x02", "\x00\x03\x00\x04"} {
			q, err := l.Write(dev, dev.Points[0], []byte(raw), false)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := run(t, dev, writeOnly{q}); !errors.Is(err, ErrUnanswered) {
				t.Errorf("write % x: %v", raw, err)
			}
			time.Sleep(250 * time.Millisecond)
		}
	})
}

// writeOnly hides that a failed write has a reading.
type writeOnly struct{ devices.Query }

func TestProbeIsUnmistakable(t *testing.T) {
	l := &lateReplies{}
	now := time.Now()
	ask := readRequest(1, Register{Holding, 5, 1})
	for i := range 3 * maxOpen {
		l.nextProbe = i
		p := l.probe(Unit{}, ask)
		for _, o := range l.open {
			if !o.r.same(p) && o.r.alike(p) {
				t.Fatalf("probe %v is like open %v", p, o.r)
			}
		}
		if p.alike(ask) {
			t.Fatalf("probe %v is like %v", p, ask)
		}
		l.add(p, now, time.Second, false)
		l.add(readRequest(1, Register{Table: Table(1 + i%4), Address: uint16(i), Count: uint16(1 + i%20)}), now, time.Second, false)
	}
	if !l.confuses(ask) {
		t.Error("full, and more may be sent")
	}
	l.expire(now.Add(2 * horizon))
	if len(l.open) != 0 {
		t.Errorf("%d open beyond the horizon", len(l.open))
	}
}

// TestSameQuestionTwiceHasTwoAnswers: after the first of them, the second may
// still be taken for an answer to another question.
func TestSameQuestionTwiceHasTwoAnswers(t *testing.T) {
	l := &lateReplies{}
	now := time.Now()
	asked, other := readRequest(1, Register{Holding, 1, 1}), readRequest(1, Register{Holding, 2, 1})
	for range 2 {
		l.add(asked, now, time.Second, false)
	}
	for answers := range 3 {
		if want := answers < 2; l.confuses(other) != want || l.confuses(asked) {
			t.Errorf("after %d answers confused: %v", answers, !want)
		}
		l.settle(nil, PDU{3, 2, 0, 1}, now)
	}

	// An answer to the same question asked again may be either's.
	l.add(asked, now, time.Second, false)
	if mine, _ := l.settle(&exchanging{r: asked, sent: now}, PDU{3, 2, 0, 1}, now); !mine || !l.confuses(other) {
		t.Errorf("mine %v, confused %v", mine, l.confuses(other))
	}
	// One to a later question settles all before it.
	if mine, _ := l.settle(&exchanging{r: readRequest(1, Register{Input, 0, 1}), sent: now}, PDU{4, 2, 0, 1}, now); !mine || l.confuses(other) {
		t.Errorf("mine %v, confused %v", mine, l.confuses(other))
	}
}

// A probe keeps to what the device's map says, and reads what its points declare
// where it can.
func TestProbeRespectsQuirks(t *testing.T) {
	ask := readRequest(1, Register{Holding, 30, 2})
	for _, tt := range []struct {
		name     string
		unit     Unit
		declared []Register
		want     []string // by how many probes had no answer
	}{
		{"none", Unit{}, []Register{{Input, 12, 2}, {Holding, 30, 2}}, []string{"input 12-13", "coil 0", "discrete 0", "holding 30"}},
		{"a forbidden beginning", Unit{Quirks: forbid("0-10")}, []Register{{Holding, 30, 2}}, []string{"holding 30"}},
		{"one of a table", Unit{Quirks: forbid("coil 0", "holding 31")}, []Register{{Holding, 30, 1}}, []string{"input 0", "discrete 0", "holding 30"}},
		{"from zero", Unit{Quirks: &Quirks{FromZero: []Table{Input, Holding}}}, []Register{{Input, 12, 2}}, []string{"input 0-13", "coil 0", "discrete 0", "holding 0-30"}},
		{"blocks", Unit{Quirks: blocks("input 0-3", "coil 0-7")}, nil, []string{"input 0-3", "coil 0-7", "discrete 0", "holding 30"}},
		{"all forbidden but what is asked", Unit{MaxRead: 2, Quirks: forbid("0-29", "32-65535")}, []Register{{Holding, 30, 2}}, []string{"holding 30"}},
		{"all forbidden", Unit{MaxRead: 2, Quirks: forbid("0-65535")}, []Register{{Holding, 30, 2}}, []string{"none"}},
	} {
		l := &lateReplies{declared: tt.declared}
		for i, want := range tt.want {
			l.nextProbe = i
			got := "none"
			if p := l.probe(tt.unit, ask); p != nil {
				got = p.reg.String()
			}
			if got != want {
				t.Errorf("%s: probe %d reads %s, want %s", tt.name, i, got, want)
			}
		}
	}
}
