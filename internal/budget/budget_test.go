package budget

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
)

// device makes one with points of so many input registers each, at intervals.
func device(unit byte, points ...*devices.Point) *devices.Device {
	for i, p := range points {
		p.Name = fmt.Sprint("p", i)
	}
	return &devices.Device{ID: fmt.Sprint("unit", unit), Unit: modbus.Unit{ID: unit}, Points: points}
}

func point(address, count uint16, every time.Duration) *devices.Point {
	return &devices.Point{Source: modbus.Register{Table: modbus.Input, Address: address, Count: count}, Every: every}
}

func rs485(baud int) modbus.Config {
	return modbus.Config{Serial: serial.Config{Path: "/dev/ttyX", Baud: baud, Format: "8N1"}}
}

func mustOf(t *testing.T, cfg modbus.Config, thinking time.Duration, devs ...*devices.Device) *Budget {
	t.Helper()
	b, err := Of(cfg, devs, thinking)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// At 9600 8N1 a character is 1.0417 ms: 8 bytes out, 5 + 2·n back, and twice
// 3.5 characters of silence.
func TestTimeIsThatOfTheWire(t *testing.T) {
	b := mustOf(t, rs485(9600), 30*time.Millisecond, device(1, point(0, 10, time.Second), point(100, 1, time.Second), point(0, 2, time.Minute), point(300, 2, time.Minute)))
	var got []string
	for _, j := range b.Jobs {
		for _, r := range j.Requests {
			got = append(got, fmt.Sprintf("%v+%d %v %v %v", Brief(j.Every), len(j.With), r.Unit, r.Register, r.Time.Round(100*time.Microsecond)))
		}
	}
	// input 0-1 comes along.
	const want = "1s+0 unit 1 input 0-9 71.7ms, 1s+0 unit 1 input 100 52.9ms, 1s+1 unit 1 input 0-9 71.7ms, 1s+1 unit 1 input 100 52.9ms, 1s+1 unit 1 input 300-301 55ms"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	if load := Percent(b.Load); load != "13 %" { // 124.6 ms each second
		t.Errorf("load %s, want 13 %%", load)
	}
	if s := b.Trouble("x"); s != "" {
		t.Errorf("trouble %q, want none", s)
	}
}

// What is due together is asked for together, where that is less and the bus has
// room for it by the time of the quickest.
func TestGroupsThatMeetAreAskedTogether(t *testing.T) {
	points := func() []*devices.Point {
		return []*devices.Point{point(0, 2, time.Second), point(10, 2, 2*time.Second), point(20, 2, 10*time.Second)}
	}
	for _, c := range []struct {
		name   string
		others int
		want   string
	}{
		{"alone", 0, "1s 0.5: 0-1; 1s+2s 0.4: 0-11; 1s+2s+10s 0.1: 0-21"},
		{"beside others", 18, "1s 0.5: 0-1; 1s+2s 0.5: 0-11; 10s 0.1: 20-21"},
		{"where there is none anyway", 19, "1s 0.5: 0-1; 1s+2s 0.4: 0-11; 1s+2s+10s 0.1: 0-21"},
	} {
		devs := []*devices.Device{device(1, points()...)}
		devs[0].Unit = modbus.Unit{ID: 1, Gaps: true}
		for unit := range byte(c.others) {
			devs = append(devs, device(unit+2, point(0, 5, time.Second)))
		}
		b := mustOf(t, rs485(9600), 0, devs...)
		var got []string
		var load float64
		for _, j := range b.Jobs {
			load += j.Load
			if j.Device != devs[0] {
				continue
			}
			s := Brief(j.Every)
			for _, w := range j.With {
				s += "+" + Brief(w)
			}
			s += fmt.Sprintf(" %.1f:", j.Rate)
			for _, r := range j.Requests {
				s += " " + strings.TrimPrefix(r.Register.String(), "input ")
			}
			got = append(got, s)
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%s, load %s:\ngot  %s\nwant %s", c.name, Percent(b.Load), s, c.want)
		}
		if load/b.Load < 0.999 || load/b.Load > 1.001 || b.Load > total(b.Groups)+1e-9 {
			t.Errorf("%s: load %v, of jobs %v, of groups %v", c.name, b.Load, load, total(b.Groups))
		}
	}
}

// Intervals meet as often as their least common multiple says.
func TestMeetings(t *testing.T) {
	var groups []devices.Group
	for _, every := range []time.Duration{2 * time.Second, 3 * time.Second, 7 * time.Second} {
		groups = append(groups, devices.Group{Every: every})
	}
	rates := map[int]float64{}
	for _, m := range meetings(groups) {
		rates[len(m.groups)] += m.rate
	}
	for n, want := range map[int]float64{3: 1. / 42, 2: 1./6 + 1./14 + 1./21 - 3./42} {
		if d := rates[n] - want; d < -1e-9 || d > 1e-9 {
			t.Errorf("%d meet %v times a second, want %v", n, rates[n], want)
		}
	}
}

func TestPauseAndNetworkCount(t *testing.T) {
	d := device(1, point(0, 1, time.Second))
	d.Unit = modbus.Unit{ID: 1, Pause: 100 * time.Millisecond}
	// The pause is in the place of the 3.6 ms of silence before the request.
	if got := mustOf(t, rs485(9600), 0, d).Jobs[0].Time().Round(100 * time.Microsecond); got != 139300*time.Microsecond {
		t.Errorf("on a serial line with a pause: %v, want 139.3ms", got)
	}
	tcp := modbus.Config{URL: "tcp://127.0.0.1:502"}
	if got := mustOf(t, tcp, 0, d).Jobs[0].Time(); got != 105*time.Millisecond {
		t.Errorf("on the network with a pause: %v, want 105ms", got)
	}
	tcp.Behind = &serial.Config{Baud: 9600}
	if got := mustOf(t, tcp, 0, d).Jobs[0].Time().Round(100 * time.Microsecond); got != 139300*time.Microsecond {
		t.Errorf("behind a gateway: %v, want 139.3ms", got)
	}
}

func TestFullBusSaysWhatToDo(t *testing.T) {
	// 100 registers take 249 ms at 9600, 20 of it thinking.
	var devs []*devices.Device
	for unit := range byte(5) {
		devs = append(devs, device(unit+1, point(0, 100, time.Second), point(200, 1, time.Minute)))
	}
	for _, c := range []struct {
		name  string
		cfg   modbus.Config
		count int
		want  string
	}{
		{"fits", rs485(9600), 3, ""},
		{"overloaded", rs485(9600), 5, `bus x needs 125 % of its time, so that intervals will be skipped: raise the baud rate to 19200, where it needs 68 %, or set every = "2s" in place of "1s", or move devices to another port`},
		{"no faster line helps", rs485(115200), 1, ""},
		{"behind a gateway", modbus.Config{URL: "tcp://127.0.0.1:502", Behind: &serial.Config{Baud: 9600}}, 5, `bus x needs 125 % of its time, so that intervals will be skipped: raise the baud rate to 19200, where it needs 68 %, or set every = "2s" in place of "1s"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := mustOf(t, c.cfg, 0, devs[:c.count]...).Trouble("x"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// A fast interval is missed on a bus that is nearly idle when one request of
// another device takes longer.
func TestLongRequestMakesShortIntervalLate(t *testing.T) {
	fast, slow := device(1, point(0, 1, 200*time.Millisecond)), device(2, point(0, 125, time.Minute))
	b := mustOf(t, rs485(9600), 0, slow, fast)
	if len(b.Late) != 1 || b.Late[0].Job.Device != fast || b.Late[0].Other.Device != slow || b.Load > 0.3 {
		t.Fatalf("load %v, late %+v, want unit1 late by unit2", b.Load, b.Late)
	}
	// 43 ms of its own and 301 ms of the other.
	if by := b.Late[0].By; by < 143*time.Millisecond || by > 145*time.Millisecond {
		t.Errorf("late by %v, want 144 ms", by)
	}
	const want = "bus x cannot always ask unit1 every 200ms: it may be 144ms late, when a request to unit2 is under way, which takes 301ms; a smaller max_read there makes it shorter"
	if got := b.Trouble("x"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	slow.Unit = modbus.Unit{ID: 2, MaxRead: 50}
	slow.Points = []*devices.Point{point(0, 50, time.Minute), point(50, 50, time.Minute), point(100, 25, time.Minute)}
	if b := mustOf(t, rs485(9600), 0, slow, fast); len(b.Late) != 0 {
		t.Errorf("with shorter requests: late %+v, want none", b.Late)
	}
}

func TestPercentNeverHidesAnOverload(t *testing.T) {
	for share, want := range map[float64]string{0: "0 %", 0.004: "0.4 %", 0.126: "13 %", 1: "100 %", 1.001: "101 %", 1.37: "137 %"} {
		if got := Percent(share); got != want {
			t.Errorf("Percent(%v) = %q, want %q", share, got, want)
		}
	}
}
