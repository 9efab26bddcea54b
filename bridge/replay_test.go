package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	packets3 "github.com/eclipse/paho.mqtt.golang/packets"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

// arrivals returns how many messages came in each second since start.
func arrivals(t *testing.T, r *rig, start time.Time) map[int]int {
	n := make(map[int]int)
	r.up.publish = func(c *serverConn, p *packets.Publish) {
		n[int(time.Since(start)/time.Second)]++
		c.ack(p, 0)
	}
	return n
}

func TestRatesAreKept(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(*Config)
		least int // each second
		most  int
	}{
		{"messages", func(c *Config) { c.Limits.Rate = 50 }, 49, 55},
		{"slow", func(c *Config) { c.Limits.Rate = 0.5 }, 0, 1},
		{"bytes", func(c *Config) { c.Limits.ByteRate = 1000 }, 8, 13}, // of 95 bytes
		{"backlog", func(c *Config) { c.Replay, c.ReplayRate = LiveFirst, 20 }, 19, 22},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.set)
				for range 2000 {
					r.tele.add(broker.Message{Topic: "p/x", Payload: bytes.Repeat([]byte("x"), 88)})
				}
				n := arrivals(t, r, time.Now())
				r.start()
				pass(10*time.Second + time.Millisecond)
				total := 0
				for second, count := range n {
					total += count
					if second < 10 && (count > c.most || count < c.least) {
						t.Errorf("%d in second %d", count, second)
					}
				}
				if total < 10*c.least || total < 5 {
					t.Errorf("%d in all", total)
				}
				r.end()
			})
		})
	}
}

// The timer goes off when the backlog may be sent from again, though nothing of
// it has been read yet.
func TestReplayRateWakesTheSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Replay, c.ReplayRate = LiveFirst, 0.5 })
		r.tele.fill(0, 1)
		s := r.newSender(&link{}, r.newStreams())
		r.pace.take(10, true, time.Now())
		s.arm()
		start := time.Now()
		<-s.timer.C
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("the timer went off after %v", d)
		}
	})
}

// What is new is not held up by the rate of what piled up.
func TestReplayRateLeavesLiveAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Replay, c.ReplayRate = LiveFirst, 2 })
		r.tele.fill(0, 100)
		r.start()
		synctest.Wait()
		r.tele.fill(1000, 1500)
		pass(time.Second)
		live := 0
		for _, p := range r.up.payloads() {
			if len(p) == 4 {
				live++
			}
		}
		if live != 500 || len(r.up.payloads()) > 505 {
			t.Errorf("%d live of %d", live, len(r.up.payloads()))
		}
		r.end()
	})
}

// Of what is old one message in each interval goes, of each topic; the rest
// becomes a gap that counts it and is no loss. What is young all goes.
func TestOldIsThinnedOut(t *testing.T) {
	for _, replay := range []Replay{Strict, LiveFirst} {
		t.Run(replay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gaps []Gap
				r := newRig(t, func(c *Config) {
					c.Replay, c.Thin = replay, Thin{After: time.Hour, Every: 10 * time.Minute}
					c.OnGap = func(g Gap) { gaps = append(gaps, g) }
				})
				for i := range 720 { // two hours of two topics
					r.tele.add(broker.Message{Topic: []string{"p/a", "p/b"}[i%2], Payload: fmt.Append(nil, i)})
					r.crit.add(broker.Message{Topic: "p/alarm", Payload: []byte("!")})
					time.Sleep(10 * time.Second)
				}
				r.start()
				pass(10 * time.Second)
				old, young, alarms := 0, 0, 0
				for _, p := range r.up.payloads() {
					var i int
					switch fmt.Sscan(p, &i); {
					case p == "!":
						alarms++
					case i < 360:
						old++
					default:
						young++
					}
				}
				s := r.Stats()
				if old < 11 || old > 14 || young != 360 || alarms != 720 {
					t.Errorf("%d old, %d young, %d critical", old, young, alarms)
				}
				reported := 0
				for _, g := range gaps {
					reported += int(g.Count)
					if g.Reason != ReasonThinned || g.First > g.Last {
						t.Errorf("gap %+v", g)
					}
				}
				if len(gaps) != 1 || reported != 360-old || s.Lost != 0 || s.Skipped[ReasonThinned] != uint64(reported) || r.tele.Acked() != 720 {
					t.Errorf("%d gaps, %d skipped, cursor %d, stats %+v", len(gaps), reported, r.tele.Acked(), s)
				}
				r.end()
			})
		})
	}
}

// With Latest the last of each topic goes of what piled up, and all that is new.
func TestLatestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gaps []Gap
		r := newRig(t, func(c *Config) {
			c.Replay = Latest
			c.OnGap = func(g Gap) { gaps = append(gaps, g) }
		})
		for i := range 1000 {
			r.tele.add(broker.Message{Topic: fmt.Sprintf("p/%d", i%10), Payload: fmt.Append(nil, i)})
		}
		r.tele.addRecord(broker.Message{}, spool.Record{Gap: &spool.Gap{First: 1001, Last: 1001, Count: 1, Reason: "damage"}})
		r.start()
		synctest.Wait()
		r.tele.fill(2000, 2100)
		pass(time.Second)
		if got := r.up.payloads(); !slices.Equal(got, append(numbers(990, 1000), numbers(2000, 2100)...)) {
			t.Errorf("arrived %q", got)
		}
		if s := r.Stats(); len(gaps) != 2 || gaps[0].Count+gaps[1].Count != 991 || s.Skipped[ReasonSuperseded] != 990 || s.Lost != 1 || r.tele.Acked() != 1101 {
			t.Errorf("gaps %+v, stats %+v", gaps, s)
		}
		r.end()
	})
}

// When the day's bytes are spent only what is critical goes, until midnight;
// a restart does not begin the day anew.
func TestDailyBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "day")
		set := func(c *Config) {
			c.DailyBytes, c.DailyFile, c.Zone, c.KeepAlive = 100_000, file, time.UTC, 12*time.Hour
		}
		evening := func() broker.Clock { // the test begins ten minutes before midnight
			return broker.Clock{Offset: int64(24*time.Hour - 10*time.Minute), Quality: broker.Exact}
		}
		day := func(r *rig, want int) {
			t.Helper()
			r.start()
			pass(time.Minute)
			r.crit.add(broker.Message{Topic: "p/alarm", Payload: []byte("!")})
			pass(2 * time.Minute)
			got := r.up.payloads()
			if n := len(got); n < want-10 || n > want || want > 1 && got[n-1] != "!" {
				t.Errorf("%d messages, the last %q", n, got[n-1])
			}
		}
		r := newRig(t, set)
		for range 2000 {
			r.tele.add(broker.Message{Topic: "p/x", Payload: make([]byte, 850)})
		}
		r.clock = evening
		day(r, 105)
		if s := r.Stats(); s.DayBytes < 100_000 || s.DayBytes > 115_000 || s.DayLimit != 100_000 {
			t.Errorf("stats %+v", s)
		}
		r.end()
		again := newRig(t, set)
		again.tele.fill(0, 10)
		again.clock = evening
		day(again, 1)
		pass(5 * time.Minute)
		if n := len(again.up.payloads()); n != 11 {
			t.Errorf("%d messages on the next day", n)
		}
		again.end()
	})
}

// What the far broker does not take is kept as a dead letter, before it is sent
// if that is known, and holds up nothing.
func TestDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := NewDeadLog(filepath.Join(t.TempDir(), "cloud.dead"), 1<<20)
		r := newRig(t, func(c *Config) {
			c.Dead, c.Limits = log, Limits{Packet: 500, TopicBytes: 20, TopicLevels: 4, NoRetain: true}
			c.Status = &Status{"a/status/topic/that/is/long", []byte("on"), []byte("off")}
		})
		r.Bridge.clock = func() broker.Clock { return broker.Clock{Quality: broker.Unsynced} }
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			code := byte(0)
			if string(p.Payload) == "no" {
				code = 0x87
			}
			c.ack(p, code)
		}
		r.tele.fill(0, 5)
		for topic, payload := range map[string]string{"p/deep/deep/deep": "deep", "p/longlonglonglong": "long", "p/large": strings.Repeat("x", 500), "p/no": "no"} {
			r.tele.add(broker.Message{Topic: topic, Payload: []byte(payload), Retain: true})
		}
		r.tele.add(broker.Message{Topic: "p/x", Payload: append([]byte{0xFF}, make([]byte, 500)...)})
		r.tele.fill(5, 10)
		r.start()
		pass(time.Second)
		if got := r.up.payloads(); !slices.Equal(got, append(append([]string{"on"}, numbers(0, 5)...), append([]string{"no"}, numbers(5, 10)...)...)) {
			t.Errorf("arrived %q", got)
		}
		if r.up.got[1].Retain || r.up.connects[0].WillRetain {
			t.Error("retained where the far broker does not keep anything")
		}
		dead, err := log.Read()
		if err != nil || len(dead) != 5 || r.tele.Acked() != 15 {
			t.Fatalf("%+v, %v", dead, err)
		}
		want := map[string]string{"deep": "5 levels", "long": "21 bytes", strings.Repeat("x", 500): "too large", "no": "not authorised", "": "too large"}
		for _, d := range dead {
			if reason, ok := want[d.Text]; !ok || !strings.Contains(d.Reason, reason) || d.Bridge != "cloud" || !strings.HasPrefix(d.ID, "tele-") || d.Time.Year() != 2000 || d.Clock != "unsynced" || d.To != "dt/"+d.Topic {
				t.Errorf("%+v", d)
			}
			delete(want, d.Text)
		}
		r.end()
	})
}

func TestDeadLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := NewDeadLog(path, 64<<10)
	for i := range 200 {
		if err := log.Add(Dead{ID: fmt.Sprint(i), Reason: "x"}, bytes.Repeat([]byte{0}, 10000)); err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, name := range []string{path, path + ".1"} {
			if info, err := os.Stat(name); err == nil {
				total += info.Size()
			}
		}
		if total > 64<<10 {
			t.Fatalf("%d bytes after %d", total, i)
		}
	}
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"mid":"torn`)
	f.Close()
	list, err := log.Read()
	if err != nil || len(list) < 3 || list[len(list)-1].ID != "199" || !list[0].Truncated || list[0].Size != 10000 {
		t.Errorf("%d, %v", len(list), err)
	}
	if err := log.Purge(); err != nil {
		t.Fatal(err)
	}
	if list, err = log.Read(); len(list) != 0 || err != nil {
		t.Errorf("after a purge %v, %v", list, err)
	}
}

// A server that ends the connection upon one message, without a word, gets
// everything else.
func TestSilentPoison(t *testing.T) {
	for _, replay := range []Replay{Strict, LiveFirst} {
		for _, version := range []Version{MQTT5, MQTT311} {
			t.Run(replay.String()+" "+version.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					set := func(c *Config) { c.Version, c.Replay = version, replay }
					r := newRig(t, set)
					up := new(upstream3)
					r.up.publish = func(c *serverConn, p *packets.Publish) {
						if string(p.Payload) == "7" {
							c.send(nil)
							return
						}
						c.ack(p, 0)
					}
					if version == MQTT311 {
						up.publish = func(c *serverConn3, p *packets3.PublishPacket) {
							if string(p.Payload) == "7" {
								c.send(nil)
								return
							}
							c.ack(p.MessageID)
						}
						r.dial = up.dial
					}
					r.dialPipes()
					r.tele.fill(0, 50)
					r.start()
					pass(5 * time.Minute)
					if s := r.Stats(); r.tele.Acked() != 50 || s.Acked != 49 || len(s.Refused) != 1 || s.State != Up {
						t.Errorf("cursor %d, stats %+v", r.tele.Acked(), s)
					}
					end3(r, up)
				})
			})
		}
	}
}

// A resetConn ends as a bad network ends connections.
type resetConn struct{ net.Conn }

func (c resetConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = syscall.ECONNRESET
	}
	return n, err
}

// A pipeConn says of a far end that is gone what TCP says: whoever is writing
// hears of it first.
type pipeConn struct{ net.Conn }

func (c pipeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		time.Sleep(time.Millisecond)
	}
	return n, err
}

func (c pipeConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		err = syscall.EPIPE
	}
	return n, err
}

// dialPipes has a bridge dial pipeConns.
func (r *rig) dialPipes() {
	dial := r.dial
	r.dial = func(ctx context.Context, u *url.URL) (net.Conn, error) {
		c, err := dial(ctx, u)
		return pipeConn{c}, err
	}
}

// A network that breaks again and again, whatever is sent, costs no message.
func TestBadLinkIsNoPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.dial = func(ctx context.Context, u *url.URL) (net.Conn, error) {
			c, err := r.up.dial(ctx, u)
			return resetConn{c}, err
		}
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if c.n < 30 {
				c.send(nil)
				return
			}
			c.ack(p, 0)
		}
		r.tele.fill(0, 100)
		r.start()
		pass(30 * time.Minute)
		if s := r.Stats(); s.Acked != 100 || len(s.Refused) != 0 || s.Reconnects < 29 {
			t.Errorf("stats %+v", s)
		}
		r.end()
	})
}

// A far broker that ends the connection upon everything, for want of rights or
// while it is in trouble, costs no message, however long that lasts.
func TestServerThatTakesNothingCostsNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		first int  // messages accepted before the trouble
		words byte // of DISCONNECT; 0: in silence
	}{{"from the start", 0, 0}, {"later", 20, 0}, {"from the start, with a reason", 0, 0x87}, {"later, with a reason", 20, 0x87}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *Config) { c.Window = 5 })
				r.dialPipes()
				const trouble = 60 // connections
				accepted := 0
				r.up.publish = func(conn *serverConn, p *packets.Publish) {
					if accepted >= c.first && conn.n < trouble {
						if c.words != 0 {
							conn.send(&packets.Disconnect{ReasonCode: c.words, Properties: &packets.Properties{}})
						}
						conn.send(nil)
						return
					}
					accepted++
					conn.ack(p, 0)
				}
				r.tele.fill(0, 100)
				r.start()
				pass(3 * time.Hour)
				if s := r.Stats(); r.tele.Acked() != 100 || s.Acked != 100 || len(s.Refused) != 0 || s.State != Up || r.up.attempts() != trouble {
					t.Errorf("cursor %d, %d connections, stats %+v", r.tele.Acked(), r.up.attempts(), s)
				}
				if n := r.lines("upon every message"); n != 1 {
					t.Errorf("told %d times", n)
				}
				r.end()
				var first []string
				for _, p := range r.up.payloads() {
					if !slices.Contains(first, p) {
						first = append(first, p)
					}
				}
				if !slices.Equal(first, numbers(0, 100)) {
					t.Errorf("arrived %v", first)
				}
			})
		})
	}
}

// The very first message may be the poison. That the far broker takes the
// bridge's status shows that it is; where there is none, it is kept.
func TestPoisonAtTheStart(t *testing.T) {
	for _, status := range []bool{true, false} {
		t.Run(fmt.Sprint("status ", status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *Config) {
					if status {
						c.Status = &Status{Topic: "dt/p/_status", Online: []byte("on"), Offline: []byte("off")}
					}
				})
				r.up.publish = func(c *serverConn, p *packets.Publish) {
					if string(p.Payload) == "0" {
						c.send(nil)
						return
					}
					c.ack(p, 0)
				}
				r.dialPipes()
				r.tele.fill(0, 50)
				r.start()
				pass(10 * time.Minute)
				if s := r.Stats(); status && (r.tele.Acked() != 50 || s.Acked != 49 || len(s.Refused) != 1) || !status && (r.tele.Acked() != 0 || len(s.Refused) != 0) {
					t.Errorf("cursor %d, stats %+v", r.tele.Acked(), s)
				}
				if n := r.lines("upon every message"); status != (n == 0) {
					t.Errorf("told %d times", n)
				}
				r.end()
			})
		})
	}
}
